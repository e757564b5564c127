"""The quick way and the ways over blocks and processes give the rows of the plain way."""

from __future__ import annotations

import io
import json
import tracemalloc
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.base.worker_processes import WorkerError
from tasks.extract import group_parser
from tasks.extract.extract import ExtractSettings, extract
from tasks.extract.parse import one_object, quick_lines
from tasks.extract.parse.drafts import Drafts
from tasks.extract.parse.record_parser import ParseSettings, Place, RecordParser
from tasks.extract.parse.repeats import RepeatCounter
from tasks.extract.parse.row_files import RowFiles
from tasks.extract.readers.registry import DEFAULT
from tasks.extract.text.decompress import TextStream
from tasks.extract.text.lines import BlockReader
from tasks.requests.sampling import SamplingDefaults

if TYPE_CHECKING:
    from tasks.extract.result import ExtractResult

DAY = date(2026, 3, 1)
TEXT = st.sampled_from(["hi", "Grüße", 'a "quoted"\nline', "\x01\x7f", "", "\u2028", "🙂"])
TURN = st.one_of(
    st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "system"]), TEXT),
    st.builds(lambda text: {"content": text, "role": "user"}, TEXT),
    st.sampled_from(
        [
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "tool", "content": "x"},
            {"role": [], "content": "x"},
            {"role": "user", "content": None},
            {"role": "user", "content": "x", "name": "n"},
            {"role": "user"},
            "x",
            5,
            None,
        ]
    ),
)
SETTING = st.sampled_from(
    [
        {},
        {"model": "m"},
        {"model": "m", "max_tokens": 5},
        {"max_tokens": 5, "model": "m"},
        {"max_tokens": 5.0, "model": "m"},
        {"temperature": 0.5, "seed": 2**64 - 1},
        {"seed": 2**64},
        {"seed": 2**70},
        {"metadata": {"workload": "w", "id": 2**70}},
        {"metadata": {"workload": "w", "id": 1e22}},
        {"metadata": {"a": {"b": [[[1]]]}}},
        {"tools": [1]},
        {"model": 5},
        {"stop": ["b", "a"], "top_p": 0.5},
        {"prompt": "x"},
        {"user": "é"},
    ]
)
ENVELOPE = st.sampled_from(
    [
        {"method": "POST", "url": "/v1/chat/completions"},
        {"url": "/v1/chat/completions"},
        {"method": "GET", "url": "/v1/chat/completions"},
        {"method": "POST", "url": "/v1/completions"},
        {"method": "POST", "url": "/v1/chat/completions", "extra": 1},
        {"method": "POST", "url": "/v1/chat/completions", "extra": 10**30},
        {"method": "POST"},
    ]
)
NAME = st.sampled_from(["a", "b", "ü", "", None, 5])
LINE = st.builds(
    lambda envelope, name, settings, turns: {
        **envelope,
        "custom_id": name,
        "body": {**settings, "messages": turns},
    },
    ENVELOPE,
    NAME,
    SETTING,
    st.lists(TURN, max_size=3) | st.none(),
).map(lambda record: json.dumps(record).encode())
BROKEN = st.sampled_from(
    [
        b"",
        b" ",
        b"[]",
        b"{",
        b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":[]}}',
        b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":{"role":1}}}',
        b'{"custom_id":"\\ud800","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"x"}]}}',
        b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"a":NaN,"messages":[]}}',
        b'{"custom_id":"a","url":"/v1/chat/completions","extra":123456789012345678901,"body":{"a":NaN}}',
        b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"metadata":'
        + b"[" * 120
        + b"]" * 120
        + b',"messages":[{"role":"user","content":"x"}]}}',
    ]
)


QUICK_ROLE = st.sampled_from(["user", "system", "assistant", "developer"])
QUICK_TEXT = st.one_of(TEXT, st.text(max_size=40), st.text('"\\/\b\f\n\r\t\x00\x1f\x7f u00e9', max_size=20))
QUICK_FRAME = st.sampled_from(
    [
        ({"method": "POST", "url": "/v1/chat/completions"}, {"model": "m", "max_tokens": 5}),
        ({"method": "POST", "url": "/v1/chat/completions", "extra": [{"custom_id": "y"}]}, {"top_p": 0.5}),
        ({"url": "/v1/chat/completions"}, {"metadata": {"workload": "w", "messages": "no"}, "stop": ["b"]}),
        ({"method": "POST", "url": "/v1/chat/completions"}, {"tools": [1]}),
        ({"method": "POST", "url": "/v1/chat/completions"}, {"continue_final_message": True}),
        ({"method": "POST", "url": "/v1/chat/completions"}, {"add_generation_prompt": True}),
        ({"method": "GET", "url": "/v1/chat/completions"}, {}),
        ({"method": "POST", "url": "/v1/completions"}, {"prompt": "x"}),
    ]
)
STYLE = st.sampled_from(
    [
        {},
        {"ensure_ascii": False},
        {"separators": (",", ":"), "ensure_ascii": False},
        {"separators": (" ,\t", " : ")},
        {"sort_keys": True},
    ]
)


@st.composite
def quick_log(draw: st.DrawFn) -> list[bytes]:
    """Lines that share frames, many of them for the quick way, some with bytes changed."""
    frames = draw(st.lists(st.tuples(QUICK_FRAME, STYLE, st.booleans()), min_size=1, max_size=2))
    found = []
    for _ in range(draw(st.integers(2, 12))):
        (envelope, sampling), style, name_last = draw(st.sampled_from(frames))
        roles = draw(st.lists(QUICK_ROLE, min_size=1, max_size=3))
        turns = [{"role": role, "content": draw(QUICK_TEXT)} for role in roles]
        if draw(st.booleans()):
            turns = [dict(reversed(turn.items())) for turn in turns]
        name = {"custom_id": draw(st.sampled_from(["a", "b", "ü", "a/b", "\n", "c"]))}
        body = {**sampling, "messages": turns} if draw(st.booleans()) else {"messages": turns, **sampling}
        record = {**envelope, "body": body, **name} if name_last else {**name, **envelope, "body": body}
        try:
            line = json.dumps(record, **style).encode()
        except UnicodeEncodeError:
            continue
        if draw(st.integers(0, 5)) == 0:
            at = draw(st.integers(0, len(line) - 1))
            change = draw(
                st.sampled_from([b"", b'"', b"\\", b"\\/", b"\x01", b"\xff", b"\\ud83d", b"{", b"]", b" "])
            )
            line = line[:at] + change + line[at + draw(st.integers(0, 1)) :]
        found.append(line.replace(b"\n", b" "))
    return found


def rows_of(data: bytes, folder: Path, *, quick: bool, most: int = 1 << 20) -> tuple[Any, ...]:
    """Return the rows of all tables, the counts, and how many rows came the quick way."""
    place = Place("job", DAY, "file:///x")
    parser = RecordParser(place, ParseSettings(SamplingDefaults()), DEFAULT)
    assert parser._quick is not None
    if not quick:
        parser._quick = None
    repeats, counts, came = RepeatCounter(), [], 0
    with RowFiles(folder) as files:
        for block in BlockReader(TextStream(io.BytesIO(data), "plain"), most, 2000):
            drafts = Drafts()
            parser.add_block(block, most, drafts)
            came += len(drafts.quick) if drafts.quick is not None else 0
            parser.settle(drafts, repeats.resolve(*drafts.digests()))
            files.add(drafts)
            counts.append(drafts.counts)
    tables = {name: pq.read_table(path).to_pylist() for name, path in files.files.items()}
    for table in ("errors", "quarantine"):
        tables.setdefault(table, [])
    return (tables.get("requests", []), tables["errors"], tables["quarantine"], counts), came


def both_ways(data: bytes, most: int = 1 << 20) -> int:
    """Hold the two ways together; return how many rows came the quick way."""
    with TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick_lines, "FEWEST_LINES", 1)
        folders = [Path(place) / name for name in ("quick", "general")]
        for folder in folders:
            folder.mkdir()
        found, came = rows_of(data, folders[0], quick=True, most=most)
        assert found == rows_of(data, folders[1], quick=False, most=most)[0]
    return came


@settings(deadline=None, max_examples=60)
@given(st.lists(LINE | BROKEN, max_size=8).map(lambda found: found * 2) | quick_log())
def test_the_quick_way_is_the_general_way(found: list[bytes]) -> None:
    both_ways(b"\n".join(found), most=600)


def test_heads_that_are_found_one_after_the_other() -> None:
    """More beginnings in one block than are looked for, with broken ones among them, and repeats of names."""
    one, two, three = (
        f'"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {{{body}}}}}'.encode()
        for body in (
            '"messages": [{"role": "user", "content": "hi"}], "model": "m"',
            '"model": "m", "messages": [{"role": "user", "content": "hi"}]',
            '"model": "m", "messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": "u"}]',
        )
    )
    starts = [b"", b"{", b'"{', b"{ ", b" {", b"{  ", b"  {"]
    lines = [start + line for start in starts for line in (one, three, two, three, one)]
    assert both_ways(b"\n".join(lines), most=600) > 0
    assert both_ways(b"\n".join(reversed(lines)), most=600) > 0


@pytest.mark.parametrize(
    "style",
    [{}, {"ensure_ascii": False}, {"separators": (",", ":"), "ensure_ascii": False}, {"sort_keys": True}],
)
@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "Grüße, 漢字 🙂",
        'a "quote"\n\\ \x01\x1f\x7f\b\f\r\t/',
        "\u2028 \ud7ff \ue000 \uffff",
        "x" * 5000,
    ],
)
def test_all_lines_but_the_first_go_the_quick_way(style: dict[str, Any], text: str) -> None:
    """Whatever JSON writer they come from; else the test above would hold nothing together."""
    lines = []
    for number in range(20):
        turns = [{"role": role, "content": text + str(number)} for role in ("system", "user")]
        body = {"model": "m", "messages": turns, "max_tokens": 5, "metadata": {"workload": "ü"}}
        record = {"custom_id": f"e{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        lines.append(json.dumps(record, **style).encode())
    data = b"\n".join(lines)
    assert both_ways(data) == 19
    # Longer escapes than needed, as other writers have them.
    longer = data.replace(b"\\n", b"\\u000A").replace(b"/", b"\\/").replace(b"\\/v1\\/chat\\/", b"/v1/chat/")
    assert both_ways(longer) == 19


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=60), st.integers(1, 7))
def test_repeats_are_counted_over_blocks(pairs: list[tuple[int, int]], step: int) -> None:
    repeats = RepeatCounter()
    first: dict[int, int] = {}
    seen: dict[int, int] = {}
    expected = []
    for name, body in pairs:
        if first.setdefault(name, body) != body:
            expected.append(-1)
            continue
        expected.append(seen.get(name, 0))
        seen[name] = expected[-1] + 1
    found: list[int] = []
    for at in range(0, len(pairs), step):
        part = np.array(pairs[at : at + step], np.uint64)
        names = np.stack([part[:, 0], part[:, 0] * 7], 1)
        bodies = np.stack([part[:, 1], part[:, 1]], 1)
        found += repeats.resolve(np.ascontiguousarray(names), np.ascontiguousarray(bodies)).tolist()
    assert found == expected


def test_a_growing_table_forgets_nothing() -> None:
    repeats = RepeatCounter()
    names = np.random.default_rng(3).integers(0, 2**63, (20_000, 2)).astype(np.uint64)
    bodies = np.zeros_like(names)
    assert not repeats.resolve(names[:5000], bodies[:5000]).any()
    assert not repeats.resolve(names[5000:], bodies[5000:]).any()
    assert (repeats.resolve(names, bodies) == 1).all()


def test_names_take_few_bytes() -> None:
    """What `RepeatCounter` says of its memory, while it grows and afterwards."""
    repeats = RepeatCounter()
    names = np.random.default_rng(4).integers(0, 2**63, (200_000, 2)).astype(np.uint64)
    bodies = np.zeros_like(names[:1000])
    tracemalloc.start()
    for at in range(0, len(names), 1000):
        repeats.resolve(names[at : at + 1000], bodies)
        if at == 100_000:
            tracemalloc.reset_peak()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Not all that is allocated has been written to: an array grows by a quarter.
    assert held < 58 * len(names)
    assert peak < 66 * len(names)


def log(count: int) -> bytes:
    out = []
    for index in range(count):
        name = f"r{index}" if index % 10 else "same"
        text = f"Question {index}" if index % 20 else "again"
        body = {
            "messages": [{"role": "user", "content": text * (1 + index % 5)}],
            "max_tokens": 1 + index % 3,
        }
        record = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
        out.append(json.dumps(record).encode() if index % 37 else b"broken")
    out[count // 2] = b"x" * 50_000
    return b"\n".join(out)


def rows(result: ExtractResult) -> dict[str, list[dict[str, Any]]]:
    return {
        table: [row for path in result.files(table) for row in pq.read_table(path).to_pylist()]
        for table in ("requests", "errors", "quarantine")
    }


def test_processes_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "day.jsonl"
    path.write_bytes(log(3000))
    wanted = ExtractSettings(max_line_bytes=20_000)
    alone = extract(str(path), job="j", run_date=DAY, scratch=tmp_path / "alone", settings=wanted)
    monkeypatch.setattr(group_parser, "SMALL_BYTES", 1000)
    monkeypatch.setattr(group_parser, "POOL_BYTES", 1000)
    reader = one_object.BlockReader
    monkeypatch.setattr(one_object, "BlockReader", lambda text, most: reader(text, most, 8000))
    monkeypatch.setattr("tasks.extract.text.decompress.CHUNK_BYTES", 3000)
    many = extract(str(path), job="j", run_date=DAY, scratch=tmp_path / "many", settings=wanted, processes=2)
    assert len(many.files("requests")) > 10
    assert rows(many) == rows(alone)
    assert many.account == alone.account
    assert many.input_digest == alone.input_digest
    codes = {row["code"] for row in rows(many)["quarantine"]}
    assert codes == {"invalid_json", "line_too_long", "duplicate_custom_id_conflict"}


@pytest.mark.parametrize("seconds", ["0", "0.3"])
def test_a_process_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    """At once, or only when it has been sent what it never reads."""
    dies = tmp_path / "dies"
    dies.write_text(f"#!/bin/sh\nsleep {seconds}\nexit 1\n")
    dies.chmod(0o755)
    path = tmp_path / "day.jsonl"
    path.write_bytes(log(500))
    monkeypatch.setattr(group_parser, "SMALL_BYTES", 1000)
    monkeypatch.setattr(group_parser, "POOL_BYTES", 1000)
    monkeypatch.setattr("sys.executable", str(dies))
    with pytest.raises(WorkerError, match="ended with 1"):
        extract(str(path), job="j", run_date=DAY, scratch=tmp_path / "s", processes=1)


def test_a_block_is_never_much_longer_than_a_line_may_be() -> None:
    text = TextStream(io.BytesIO(b"a" * (3 << 20) + b"\n" + b"b\n" * (1 << 20)), "plain")
    blocks = list(BlockReader(text, 10_000, 4000))
    assert blocks[0].length == 3 << 20
    assert max(len(block.data) for block in blocks) <= 10_000 + (1 << 20)
