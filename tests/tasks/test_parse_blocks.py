"""The quick way and the ways over blocks and processes give the rows of the plain way."""

from __future__ import annotations

import io
import json
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import extract as extract_module
from tasks import lines as lines_module
from tasks import parse_object
from tasks.extract import ExtractResult, ExtractSettings, extract
from tasks.identities import Identities
from tasks.lines import LineReader
from tasks.object_parser import Drafts, ParseSettings, Place, RecordParser
from tasks.parse_pool import ParseProcessError
from tasks.readers.registry import DEFAULT
from tasks.sampling import SamplingDefaults

if TYPE_CHECKING:
    from pathlib import Path

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
        b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"metadata":'
        + b"[" * 120
        + b"]" * 120
        + b',"messages":[{"role":"user","content":"x"}]}}',
    ]
)


def drafts_of(data: bytes, *, quick: bool) -> tuple[Any, ...]:
    place = Place("job", DAY, "file:///x")
    parser = RecordParser(place, ParseSettings(SamplingDefaults()), DEFAULT)
    assert parser._quick is not None
    if not quick:
        parser._quick = None
    drafts = Drafts()
    for line in LineReader(io.BytesIO(data), codec="plain", max_line_bytes=1 << 20):
        parser.add_line(line, drafts)
    parser.settle(drafts, Identities().resolve(*drafts.digests()))
    rows = [drafts.row(index) for index in range(len(drafts.rows))]
    return rows, [str(error) for error in drafts.errors], drafts.quarantine, drafts.counts


@settings(deadline=None)
@given(st.lists(LINE | BROKEN, max_size=12))
def test_the_quick_way_is_the_general_way(found: list[bytes]) -> None:
    data = b"\n".join(found)
    assert drafts_of(data, quick=True) == drafts_of(data, quick=False)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=60), st.integers(1, 7))
def test_repeats_are_counted_over_blocks(pairs: list[tuple[int, int]], step: int) -> None:
    identities = Identities()
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
        found += identities.resolve(np.ascontiguousarray(names), np.ascontiguousarray(bodies)).tolist()
    assert found == expected


def test_a_growing_table_forgets_nothing() -> None:
    identities = Identities()
    names = np.random.default_rng(3).integers(0, 2**63, (20_000, 2)).astype(np.uint64)
    bodies = np.zeros_like(names)
    assert not identities.resolve(names[:5000], bodies[:5000]).any()
    assert not identities.resolve(names[5000:], bodies[5000:]).any()
    assert (identities.resolve(names, bodies) == 1).all()


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
    monkeypatch.setattr(extract_module, "SMALL_BYTES", 1000)
    monkeypatch.setattr(extract_module, "POOL_BYTES", 1000)
    reader = parse_object.BlockReader
    monkeypatch.setattr(parse_object, "BlockReader", lambda text, most: reader(text, most, 8000))
    monkeypatch.setattr("tasks.decompress.CHUNK_BYTES", 3000)
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
    monkeypatch.setattr(extract_module, "SMALL_BYTES", 1000)
    monkeypatch.setattr(extract_module, "POOL_BYTES", 1000)
    monkeypatch.setattr("sys.executable", str(dies))
    with pytest.raises(ParseProcessError, match="ended with 1"):
        extract(str(path), job="j", run_date=DAY, scratch=tmp_path / "s", processes=1)


def test_a_block_is_never_much_longer_than_a_line_may_be() -> None:
    text = lines_module.TextStream(io.BytesIO(b"a" * (3 << 20) + b"\n" + b"b\n" * (1 << 20)), "plain")
    blocks = list(lines_module.BlockReader(text, 10_000, 4000))
    assert blocks[0].length == 3 << 20
    assert max(len(block.data) for block in blocks) <= 10_000 + (1 << 20)
