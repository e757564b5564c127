"""The fold, apart from any store."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.runlog.parts import request_parts
from tasks.runlog.records import (
    Attempt,
    AttemptEnded,
    Claim,
    LogFormatError,
    LogRecord,
    Owner,
    Part,
    Published,
    Released,
    Step,
    StopRequested,
    Unknown,
)
from tasks.runlog.state import EMPTY, RunState, current_publication, describe, fold

ids = st.sampled_from(["a", "b", "c", "d"])
owners = st.builds(Owner, host=st.sampled_from(["h1", "h2"]), pid=st.integers(1, 9), start_time=st.none())
small = st.dictionaries(ids, st.integers(0, 5), max_size=2)
bodies = st.one_of(
    st.builds(Claim, owner=owners, params=small),
    st.builds(Released, reason=ids),
    st.builds(Attempt, id=ids, fresh=st.booleans(), policy=ids),
    st.builds(
        Step,
        name=st.sampled_from(["extract", "plan", "infer"]),
        attempt_id=ids,
        results=small,
        parts=st.dictionaries(st.just("outputs"), st.lists(st.sampled_from(["outputs/1", "outputs/2"]))),
    ),
    st.builds(
        Part,
        kind=st.sampled_from(["outputs", "errors"]),
        name=st.sampled_from(["outputs/1", "outputs/2", "errors/1"]),
        sha256=ids,
        count=st.integers(0, 9),
    ),
    st.builds(StopRequested, reason=ids),
    st.builds(
        AttemptEnded,
        attempt_id=ids,
        status=st.just("completed"),
        exit_code=st.sampled_from([0, 2]),
        summary=small,
    ),
    st.builds(Published, publication_id=ids),
    st.builds(Unknown, kind=st.just("from_the_future"), body=small),
)
records = st.builds(
    LogRecord,
    epoch=st.integers(0, 3),
    nonce=st.uuids().map(lambda value: value.hex),
    at=st.just("2026-01-01T00:00:00.000+00:00"),
    body=bodies,
)
logs = st.lists(records, max_size=30)


def log_of(*bodies: object, epoch: int = 1) -> list[LogRecord]:
    return [LogRecord.new(epoch, body) for body in bodies]  # type: ignore[arg-type]


CLAIM = Claim(Owner("h", 1))


@given(logs, logs)
def test_fold_is_a_left_fold_and_leaves_its_input_alone(
    first: list[LogRecord], second: list[LogRecord]
) -> None:
    middle = fold(first)
    before = describe(middle)
    assert fold(second, middle) == fold(first + second)
    assert describe(middle) == before
    assert fold(first).next_seq == len(first)
    one_by_one = EMPTY
    for record in first:
        one_by_one = fold([record], one_by_one)
    assert one_by_one == middle


@given(logs, st.data())
def test_a_record_repeated_at_once_changes_nothing(log: list[LogRecord], data: st.DataObject) -> None:
    doubled = [record for record in log for _ in range(data.draw(st.integers(1, 2)))]
    assert without_numbers(fold(doubled)) == without_numbers(fold(log))


@given(logs)
def test_only_the_current_epoch_counts(log: list[LogRecord]) -> None:
    kept, epoch = [], 0
    for record in log:
        if isinstance(record.body, Claim) and record.epoch > epoch:
            epoch = record.epoch
            kept.append(record)
        elif not isinstance(record.body, Claim | Unknown) and record.epoch == epoch:
            kept.append(record)
    assert without_numbers(fold(log)) == without_numbers(fold(kept))


@given(logs, ids, logs)
def test_nothing_made_before_a_fresh_attempt_counts(
    before: list[LogRecord], attempt_id: str, after: list[LogRecord]
) -> None:
    claim = LogRecord.new(4, CLAIM)
    fresh = LogRecord.new(4, Attempt("fresh-" + attempt_id, fresh=True))
    state = fold([*before, claim, fresh])
    assert state.parts == {}
    assert state.steps == {}
    assert state.ended is None
    later = [replace(record, epoch=4) for record in after]
    full, short = fold(later, state), fold([claim, fresh, *later])
    # Attempts of before keep their ids, so that one opened again under an old id does not count.
    if not any(isinstance(record.body, Attempt) for record in later):
        assert full.parts == short.parts
        assert full.steps == short.steps


@given(records)
def test_records_survive_json(record: LogRecord) -> None:
    assert LogRecord.from_json(record.to_json()) == record


def test_a_resumed_attempt_keeps_the_parts_and_a_fresh_one_does_not() -> None:
    part, other = Part("outputs", "outputs/1", "s", 3), Part("outputs", "outputs/2", "t", 4)
    first = log_of(CLAIM, Attempt("a"), Step("plan"), part)
    resumed = fold([*first, *log_of(CLAIM, Attempt("b"), other, epoch=2)])
    assert resumed.parts_of("outputs") == [part, other]
    assert set(resumed.steps) == {"plan"}
    assert [attempt.id for attempt in resumed.unended_attempts] == ["a", "b"]
    fresh = fold([*first, *log_of(CLAIM, Attempt("b", fresh=True), other, epoch=2)])
    assert fresh.parts_of("outputs") == [other]
    assert fresh.steps == {}
    # The same content written again counts again.
    again = fold(log_of(part, epoch=2), fresh)
    assert again.parts_of("outputs") == [other, part]


def test_a_fresh_attempt_that_ends_on_a_wrong_setting_takes_nothing_away() -> None:
    part, other = Part("outputs", "outputs/1", "s", 3), Part("requests", "requests/1", "t", 4)
    first = log_of(CLAIM, Attempt("a"), Step("infer"), part, AttemptEnded("a", "completed", 0))
    fresh = fold([*first, *log_of(CLAIM, Attempt("b", fresh=True), Step("extract"), other, epoch=2)])
    ended = fold(log_of(AttemptEnded("b", "failed", 2), epoch=2), fresh)
    assert ended.parts_of("outputs") == [part]
    assert set(ended.steps) == {"infer"}
    assert not ended.finished
    # Any other end, or an answer computed by it, and it stands.
    for records in (
        [AttemptEnded("b", "failed", 1)],
        [AttemptEnded("b", "stopped", 4), AttemptEnded("b", "failed", 2)],
        [Part("outputs", "outputs/2", "u", 1), AttemptEnded("b", "failed", 2)],
        [Attempt("c"), AttemptEnded("c", "failed", 2)],
    ):
        state = fold(log_of(*records, epoch=2), fresh)
        assert part not in state.parts_of("outputs")
        assert set(state.steps) == {"extract"}


def test_extract_of_the_last_release_is_two_steps() -> None:
    extracted = {
        "account": {"lines": 3, "blank": 0, "filtered": 0, "quarantined": 1, "requests": 2, "errors": 1},
        "objects": 1,
        "objects_parsed_before": 0,
        "object_errors": [],
        "ignored": 0,
        "formats": ["openai-batch"],
        "late_objects": 0,
        "outside_of_date": 0,
    }
    tokenized = {
        "requests": 1,
        "refused": 1,
        "tokens": 9,
        "parts": ["requests/1.parquet", "requests/tokens-2.npy", "requests/offsets-3.npy"],
    }
    parts = [Part("requests", name, "s", 1) for name in tokenized["parts"]]
    log = log_of(
        CLAIM, Attempt("a"), *parts, Step("extract", "a", {**extracted, **tokenized}), Step("profile")
    )
    state = fold([LogRecord.from_json(record.to_json()) for record in log])
    assert state.steps["extract"] == Step("extract", "a", extracted)
    assert state.steps["tokenize"] == Step("tokenize", "a", tokenized)
    assert list(state.steps) == ["extract", "tokenize", "profile"]
    assert request_parts(state) == parts
    assert describe(state)["steps"]["tokenize"] == tokenized
    # As this release records them.
    both = log_of(CLAIM, Attempt("a"), *parts, Step("extract", "a", extracted))
    assert set(fold(both).steps) == {"extract"}
    assert fold([*both, *log_of(Step("tokenize", "a", tokenized), Step("profile"))]).steps == state.steps


def test_ends_and_stops() -> None:
    log = log_of(CLAIM, Attempt("a"), StopRequested("maintenance"))
    state = fold(log)
    assert state.stop_requested == StopRequested("maintenance")
    assert state.holder == log[0]
    assert not state.finished
    state = fold(log_of(AttemptEnded("a", "stopped", 4), Released()), state)
    assert state.holder is None
    assert state.ended is not None
    assert not state.finished
    state = fold(log_of(CLAIM, Attempt("b"), epoch=2), state)
    assert state.stop_requested is None
    assert state.ended is None
    # The next one records the end of an attempt that was killed without letting go of its own claim.
    state = fold(log_of(AttemptEnded("a", "failed", 1), epoch=2), state)
    assert state.endings["a"].status == "stopped"
    assert state.holder is not None
    state = fold(log_of(AttemptEnded("b", "completed_with_errors", 3), epoch=2), state)
    assert state.finished


def test_the_last_publication_is_current() -> None:
    one, two = Published("p1", "k1"), Published("p2", "k2")
    assert current_publication(EMPTY) is None
    state = fold(log_of(CLAIM, one, two))
    assert current_publication(state) == two
    assert current_publication(fold(log_of(one), state)) == one


def test_fields_and_kinds_of_later_versions_are_ignored() -> None:
    record = json.loads(LogRecord.new(1, Part("outputs", "outputs/1", "s", 3)).to_json())
    record["body"]["colour"] = "blue"
    record["note"] = "new"
    assert LogRecord.from_json(json.dumps(record).encode()).body == Part("outputs", "outputs/1", "s", 3)
    record["kind"] = "weather"
    later = LogRecord.from_json(json.dumps(record).encode())
    assert later.kind == "weather"
    assert json.loads(later.to_json())["body"]["colour"] == "blue"
    assert fold([later]).next_seq == 1


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b'{"version":1,"kind":"part","body":{}}'])
def test_damaged_records_are_named(data: bytes) -> None:
    with pytest.raises(LogFormatError, match=r"log/3 is damaged .* move the folder above log/ away"):
        LogRecord.from_json(data, "log/3")


def test_a_newer_format_is_refused() -> None:
    record = json.loads(LogRecord.new(1, Released()).to_json()) | {"version": 99}
    with pytest.raises(LogFormatError, match="upgrade"):
        LogRecord.from_json(json.dumps(record).encode())


def test_description_is_plain_json() -> None:
    log = log_of(
        CLAIM, Attempt("a"), Step("plan", "a", {"n": 1}), Part("outputs", "outputs/1", "s", 3, size=7)
    )
    view = json.loads(json.dumps(describe(fold(log))))
    assert view["held_by"] == "h pid 1"
    assert view["attempts"][0]["status"] == "unended"
    assert view["parts"]["outputs"] == {"files": 1, "count": 3, "bytes": 7, "names": ["outputs/1"]}


def without_numbers(state: RunState) -> RunState:
    return replace(state, next_seq=0, holder_seq=0)


def test_a_finished_step_says_which_parts_of_its_kinds_count() -> None:
    def part(name: str) -> Part:
        return Part(name.partition("/")[0], name, "sha", 1)

    named = Step("tokenize", "a", {}, {"errors": ["errors/2", "errors/1"], "quarantine": []})
    wrote = [part(name) for name in ("errors/0", "errors/1", "outputs/1", "quarantine/1", "errors/2")]
    state = fold(log_of(CLAIM, Attempt("a"), *wrote))
    assert [p.name for p in state.parts_of("errors")] == ["errors/0", "errors/1", "errors/2"]
    state = fold(log_of(named), state)
    # In the order of the step, not in that of the log.
    assert [p.name for p in state.parts_of("errors")] == ["errors/2", "errors/1"]
    assert [p.name for p in state.parts_of("outputs")] == ["outputs/1"]
    assert state.parts_of("quarantine") == []
    # Later ones are of later steps; content that was set aside may be written once more.
    state = fold(log_of(part("errors/3"), part("errors/0")), state)
    assert [p.name for p in state.parts_of("errors")] == ["errors/2", "errors/1", "errors/3", "errors/0"]


def test_a_step_of_an_earlier_release_names_no_parts_and_sets_none_aside() -> None:
    wrote = [Part("errors", f"errors/{i}", "sha", 1) for i in range(2)]
    record = LogRecord.new(1, Step("tokenize", "a", {"parts": ["requests/1"]}))
    stored = json.loads(record.to_json())
    del stored["body"]["parts"]
    read = LogRecord.from_json(json.dumps(stored).encode())
    state = fold([*log_of(CLAIM, Attempt("a"), *wrote), read])
    assert state.parts_of("errors") == wrote
