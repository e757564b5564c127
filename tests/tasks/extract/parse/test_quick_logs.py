"""The quick way for logs of tools gives the rows of the general way."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.extract.parse import quick_logs, quick_texts
from tasks.extract.parse.drafts import Drafts
from tasks.extract.parse.record_parser import ParseSettings, Place, RecordParser
from tasks.extract.parse.repeats import RepeatCounter
from tasks.extract.parse.row_files import RowFiles
from tasks.extract.readers.registry import READERS
from tasks.extract.readers.stand_ins import MARKS
from tasks.extract.text.decompress import TextStream
from tasks.extract.text.lines import Block, BlockReader
from tasks.requests.sampling import SamplingDefaults
from tests.benchmarks.lib.logged_calls import lines
from tests.support.log_samples import SAMPLES

PLAIN = ParseSettings(SamplingDefaults())
LONG = "Sort these tickets by how urgent they are, and say why. " * 3
TEXT = st.one_of(
    st.sampled_from(
        [
            LONG,
            LONG + "\n",
            "\n\n" + LONG,
            "漢字" * 30,
            "\u2003" + LONG,
            '"quoted" ' + LONG,
            "Name a river.",
            "",
            " ",
            "\n" * 50,
            json.dumps({"messages": [{"role": "user", "content": LONG}]}),
            json.dumps([{"role": "user", "content": LONG}]),
            '{"messages": ' + LONG,
            LONG + "(litellm_truncated 57 chars)" + LONG,
            "12345",
            "null",
            "{}",
        ]
    ),
    st.builds(
        lambda mark, before, after: before + mark + after,
        st.sampled_from(sorted(MARKS)),
        st.sampled_from(["", " ", "\n", "\x1c" * 9, "\u00a0" * 40, "\t" * 60]),
        st.sampled_from(["", " " * 80, "\n" * 45, "\x1c" * 9, "\u3000" * 40, "x"]),
    ),
    st.text(max_size=80),
    st.text(' ghijklmn\n\r\t\\"{[<\x1c\x85\u00a0', max_size=60),
)
PARTS = st.lists(
    st.one_of(
        st.builds(lambda text: {"type": "text", "text": text}, TEXT),
        st.builds(lambda text: {"text": text}, TEXT),
        st.just({"type": "image_url", "text": LONG}),
    ),
    max_size=2,
)
CONTENT = st.one_of(TEXT, TEXT, PARTS, st.none())
TURN = st.one_of(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["user", "system", "assistant", "tool"]),
        CONTENT,
    ),
    st.builds(lambda text: {"content": text, "role": "user", "name": text}, TEXT),
    st.builds(lambda text: {"role": "assistant", "content": text, "prefix": True}, TEXT),
)
TURNS = st.lists(TURN, min_size=1, max_size=3)
PARAMETERS = st.one_of(
    st.sampled_from(
        [
            {},
            {"temperature": 0, "max_tokens": 5},
            {"temperature": "inf", "stop": ["a"]},
            {"seed": 2**70},
            {"tools": [{"type": "function"}]},
            {"instructions": LONG, "max_output_tokens": 5},
            {"text": LONG},
            {"system": [{"type": "text", "text": LONG}]},
        ]
    ),
    st.builds(lambda text: {"user": "u", "content": text}, TEXT),
)
TIME = st.sampled_from(
    [
        1_772_353_800.25,
        1_772_353_800,
        1_772_440_200_000,
        0,
        "2026-03-01T08:30:00.5Z",
        "2026-03-02 08:30:00+02:00",
        "no time",
        None,
        10**30,
    ]
)
COUNT = st.sampled_from([0, 7, "8", 3.0, -1, None, 10**30, True])
NAME = st.sampled_from(["a", "b", 'q"ü', "", None, 5, 10**30, LONG])
LABEL = st.sampled_from(["m", "gpt", None, LONG])
MORE = st.sampled_from(
    [
        {},
        {"content": LONG, "text": LONG, "response": {"choices": [{"message": {"content": LONG}}]}},
        {"request_tags": [LONG], "end_user": "u"},
        {"request_tags": [{"text": LONG}]},
        {"a": 10**40},
        {"tools": [{"text": LONG}]},
        {"llm.tools.0": "x"},
    ]
)
METADATA = st.one_of(
    st.sampled_from(
        [
            {},
            None,
            {"workload": "w", "user_api_key_team_id": "t"},
            json.dumps({"workload": "w"}),
            {"text": LONG, "workload": {"content": LONG}},
            {"attributes": {"gen_ai.output.type": "json"}},
            {"response_format": {"type": "json_object", "text": LONG}},
            {"tools": []},
        ]
    ),
    st.builds(lambda number: {"number": number}, st.integers(0, 9)),
)
LITELLM = st.fixed_dictionaries(
    {
        "id": NAME,
        "call_type": st.sampled_from(["acompletion", "acompletion", "atext_completion", "aresponses"]),
        "startTime": TIME,
        "endTime": TIME,
        "messages": TURNS | TEXT | st.just({}),
        "model": LABEL,
        "model_parameters": PARAMETERS,
        "metadata": METADATA,
        "completion_tokens": COUNT,
        "prompt_tokens": COUNT,
    },
    optional={
        "status": st.sampled_from(["success", "failure"]),
        "cache_hit": st.booleans(),
        "team_id": st.just("t"),
        "proxy_server_request": st.builds(lambda turns: {"body": {"messages": turns}}, TURNS),
    },
)
LANGFUSE = st.fixed_dictionaries(
    {
        "id": NAME,
        "trace_id": st.just("t"),
        "type": st.sampled_from(["GENERATION", "GENERATION", "GENERATION", "SPAN"]),
        "start_time": TIME,
        "input": TURNS
        | TEXT
        | TURNS.map(lambda turns: {"messages": turns, "max_tokens": 5})
        | TURNS.map(lambda turns: {"contents": turns})
        | TURNS.map(json.dumps)
        | TURN,
        "provided_model_name": LABEL,
        "model_parameters": PARAMETERS,
        "metadata": METADATA,
        "usage_details": st.sampled_from(
            [
                {"input": 7, "output": 4, "total": 11},
                {"input": 7, "output": 4, "input_cached_tokens": 3, "total": 14},
                {"promptTokens": 7, "completionTokens": 2},
                {"output": "5"},
                json.dumps({"input": 3, "output": 1}),
                None,
            ]
        ),
    },
    optional={
        "end_time": TIME,
        "latency": st.sampled_from([1.5, "2", -1, None]),
        "name": LABEL,
        "modelParameters": PARAMETERS,
    },
)


def rows_of(data: bytes, form: str, folder: Path, settings: ParseSettings, *, quick: bool) -> tuple[Any, int]:
    """Return the rows of all tables and the counts, and how many rows came the quick way."""
    parser = RecordParser(Place("job", date(2026, 3, 1), "file:///x"), settings, READERS[form])
    assert parser._quick is not None
    if not quick:
        parser._quick = None
    repeats, counts, came = RepeatCounter(), [], 0
    folder.mkdir()
    with RowFiles(folder) as files:
        for block in BlockReader(TextStream(io.BytesIO(data), "plain"), 8000, 9000):
            drafts = Drafts()
            parser.add_block(block, 8000, drafts)
            came += len(drafts.quick) if drafts.quick is not None else 0
            parser.settle(drafts, repeats.resolve(*drafts.digests()))
            files.add(drafts)
            counts.append(drafts.counts)
    tables = {name: pq.read_table(path).to_pylist() for name, path in files.files.items()}
    return ([tables.get(name, []) for name in ("requests", "errors", "quarantine")], counts), came


def both_ways(data: bytes, form: str, settings: ParseSettings = PLAIN) -> int:
    """Hold the two ways together; return how many rows came the quick way."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick_logs, "FEWEST_LINES", 1)
        found, came = rows_of(data, form, Path(folder) / "quick", settings, quick=True)
        assert found == rows_of(data, form, Path(folder) / "general", settings, quick=False)[0]
    return came


@st.composite
def some_log(draw: st.DrawFn, record: st.SearchStrategy[dict[str, Any]]) -> bytes:
    """Records, most of which come again with other names, times and texts; some with bytes changed."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        one = draw(record)
        for _ in range(draw(st.integers(1, 4))):
            drawn = draw(record)
            other = draw(st.sets(st.sampled_from(sorted(drawn)), max_size=3))
            written = {**one, **{name: drawn[name] for name in other}, **draw(MORE)}
            data = json.dumps(written, ensure_ascii=draw(st.booleans())).encode(errors="replace")
            if draw(st.integers(0, 9)) == 0:
                at = draw(st.integers(0, len(data) - 1))
                change = draw(st.sampled_from([b"", b'"', b"\\", b"\x01", b"\xff", b"\\ud83d", b"{", b"]"]))
                data = data[:at] + change + data[at + draw(st.integers(0, 1)) :]
            found += [data] * draw(st.integers(1, 3))
    return b"\n".join(found)


@settings(deadline=None, max_examples=50)
@given(some_log(LITELLM))
def test_the_quick_way_is_the_general_way_for_litellm(data: bytes) -> None:
    both_ways(data, "litellm")


@settings(deadline=None, max_examples=50)
@given(some_log(LANGFUSE))
def test_the_quick_way_is_the_general_way_for_langfuse(data: bytes) -> None:
    both_ways(data, "langfuse")


@pytest.mark.parametrize("form", ["litellm", "langfuse"])
def test_samples_read_both_ways(form: str) -> None:
    both_ways(b"\n".join(json.dumps(one).encode() for one in SAMPLES[form] * 3), form)


@pytest.mark.parametrize(
    ("form", "wanted"), [("litellm", ParseSettings(SamplingDefaults(), ("gpt-4*",))), ("langfuse", PLAIN)]
)
def test_nearly_all_lines_of_an_ordinary_log_go_the_quick_way(form: str, wanted: ParseSettings) -> None:
    data = b"".join(lines(400_000, 4000, form))
    # A kind of request is learnt when it comes for the second time; with seven teams there are 21.
    assert both_ways(data, form, wanted) >= data.count(b"\n") - 2 * 21


@pytest.mark.parametrize("filters", [True, False])
def test_the_window_and_the_filter_of_models_decide_the_same(*, filters: bool) -> None:
    data = b"".join(lines(400_000, 4000, "litellm"))
    begin = datetime.fromtimestamp(1_790_000_000, UTC)
    window = (begin, begin + timedelta(seconds=1))
    came = both_ways(data, "litellm", ParseSettings(SamplingDefaults(), (), window, filters))
    assert 0 < came <= 55
    assert both_ways(data, "litellm", ParseSettings(SamplingDefaults(), ("x*",))) == 0


def test_a_log_without_repeating_kinds_is_soon_left_to_the_general_way() -> None:
    """Else every line would cost both ways."""
    record = {"call_type": "completion", "startTime": 1_772_353_800, "messages": "Name a river."}
    lines = [
        json.dumps({**record, "id": str(number), "model_parameters": {"user": f"u{number}"}}).encode()
        for number in range(2500)
    ]
    parser = RecordParser(
        Place("job", date(2026, 3, 1), "x"), ParseSettings(SamplingDefaults()), READERS["litellm"]
    )
    tried = 0
    outline = READERS["litellm"].outline
    assert outline is not None
    assert isinstance(parser._quick, quick_logs.QuickLogs)

    def counted(record: Any) -> Any:
        nonlocal tried
        tried += 1
        return outline.key(record)

    parser._quick._outline = replace(outline, key=counted)
    for _ in range(3):
        parser.add_block(Block(1, 0, (b"\n".join(lines),), len(lines)), 3000, Drafts())
        lines = [line.replace(b'"u', b'"v') for line in lines]
    assert tried == 2500


class Looked(dict[str, Any]):
    """An object that knows which of its members were looked at."""

    def __init__(self, members: dict[str, Any]) -> None:
        super().__init__(members)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)


@pytest.mark.parametrize("form", ["litellm", "langfuse"])
def test_a_reader_looks_at_no_more_than_its_outline_says(form: str) -> None:
    reader = READERS[form]
    outline = reader.outline
    assert outline is not None
    told = 0
    for line in lines(40_000, 1000, form):
        given = json.loads(line)
        part = Looked(given["metadata"])
        whole = Looked({**given, "metadata": part})
        assert outline.key(whole) is not None
        reader.read(whole)
        allowed = {name for name in outline.decides if not name.endswith("*")} | set(outline.own)
        assert whole.names <= allowed
        assert part.names <= set(outline.decides["metadata"])
        mine = Looked(given)
        outline.told(mine)
        assert mine.names <= set(outline.own)
        told += 1
    assert told > 20


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**30), 10**30),
        st.floats(),
        st.text(max_size=12),
        st.sampled_from([0.1, 1e-05, -0.0, 1e300, 5]),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
CHANGES = [b"\xff", b"\x01", b"\\ud83d", *(bytes([sign]) for sign in b'"\\{}[],:0-.e '), b""]


@settings(deadline=None, max_examples=150)
@given(VALUES, st.sampled_from(CHANGES), st.integers(0, 10**6), st.integers(0, 1), st.booleans())
def test_what_nobody_looks_at_must_be_json_all_the_same(
    value: Any, change: bytes, at: int, taken: int, spaced: bool
) -> None:
    """A line is quarantined for a byte that is wrong anywhere, also in what is left out."""
    wrong = json.dumps(value, separators=None if spaced else (",", ":")).encode()
    at %= len(wrong)
    wrong = wrong[:at] + change + wrong[at + taken :]
    line = (
        b'{"id": "r-%d", "call_type": "acompletion", "startTime": 1772353800.5, "messages": [{"role": "user",'
    )
    line += b' "content": "Name a river."}], "response": %s, "metadata": {"workload": "w", "more": %s}}\n'
    good = b"".join(line % (number, b"1", b"{}") for number in range(3))
    came = both_ways(good + line % (3, wrong, b"1") + line % (4, b"1", wrong), "litellm")
    assert came >= 1


def test_lines_whose_answers_differ_in_form_are_of_one_kind() -> None:
    """What a reader does not look at may be anything: tools, numbers with exponents, many brackets."""
    answers = [
        {"choices": [{"message": {"content": LONG, "tool_calls": [{"id": "c", "arguments": '{"a": [1]}'}]}}]},
        {"logprobs": [[{"token": "ü", "logprob": -1.5e-05}] * 60]},
        [],
        {},
        'a \\ " b',
        None,
        -0.25,
    ]
    record = {
        "call_type": "acompletion",
        "startTime": 1772353800,
        "messages": [{"role": "user", "content": "Hi."}],
    }
    data = b"".join(
        json.dumps({"id": f"r-{number}", "response": answer, **record}).encode() + b"\n"
        for number, answer in enumerate(answers * 2)
    )
    assert both_ways(data, "litellm") == 2 * len(answers) - 1, "the first one is not learnt"


def test_no_mark_could_be_taken_for_prose() -> None:
    for mark in MARKS:
        letters = sum(letter in "ghijklmnopqrstuvwxyz" for letter in mark.lower())
        assert mark.isascii()
        assert letters <= quick_texts.MOST_LETTERS
        assert " " not in mark or mark[0] in "<["


def test_blocks_of_about_one_size_share_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is new costs more than what is done with it."""
    made: list[int] = []

    class Room(quick_logs._Room):
        def __init__(self, size: int, stand_in: int) -> None:
            made.append(size)
            super().__init__(size, stand_in)

    monkeypatch.setattr(quick_logs, "_Room", Room)
    parser = RecordParser(Place("j", date(2026, 3, 1), "s"), PLAIN, READERS["litellm"])
    log = list(lines(200_000, 1000, "litellm"))
    sizes = [100, 101, 103, 99, 108, 115, 120]
    for size in sizes:
        text = TextStream(io.BytesIO(b"".join(log[:size])), "plain")
        for block in BlockReader(text, 1 << 20):
            parser.add_block(block, 1 << 20, Drafts())
    assert len(made) == 2, "none, and one for the first block"
