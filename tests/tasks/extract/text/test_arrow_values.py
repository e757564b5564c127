"""Every Arrow type becomes something that JSON has."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.base.errors import QuarantineCode, QuarantineError
from tasks.extract.extract import ExtractSettings, extract
from tasks.extract.text.arrow_values import json_values
from tasks.extract.text.parquet_rows import ParquetRows

if TYPE_CHECKING:
    from pathlib import Path

NS = 1_796_000_400_123_456_789
AT = datetime(2026, 11, 30, 1, 0, 0, 123456, tzinfo=UTC)
NAIVE = AT.replace(tzinfo=None).isoformat()
BAD_TEXT = pa.StringArray.from_buffers(
    2, pa.py_buffer(np.array([0, 2, 4], np.int32)), pa.py_buffer(b"ok\xff\xfe")
)
INTERVAL = pa.array([(1, -2, 1_500_000_000), (14, 0, 0), (0, 0, 0), None], pa.month_day_nano_interval())

CASES: list[tuple[pa.Array, list[Any]]] = [
    (pa.nulls(2), [None, None]),
    (pa.array([True, None]), [True, None]),
    (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
    (pa.array([1.5, float("nan"), float("inf"), float("-inf")]), [1.5, None, "Infinity", "-Infinity"]),
    (pa.array(np.array([0.5, np.nan], np.float16)), [0.5, None]),
    (pa.array([Decimal("1.50"), Decimal("2.00")], pa.decimal128(5, 2)), [1.5, 2]),
    (
        pa.array([Decimal(2**100), Decimal("0.1234567890123456789")], pa.decimal256(60, 19)),
        [str(2**100), "0.1234567890123456789"],
    ),
    (pa.array(["a", None], pa.large_string()), ["a", None]),
    (pa.array(["a"], pa.string_view()), ["a"]),
    (pa.array([b"abc", b"\xff"]), ["abc", "/w=="]),
    (pa.array([b"\0\xff"], pa.binary(2)), ["AP8="]),
    (pa.array([date(2026, 11, 30)]), ["2026-11-30"]),
    (pa.array([1_796_000_400_000], pa.date64()), ["2026-11-30"]),
    (pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), ["<value out of range: 2147483647>"]),
    (pa.array([36_672], pa.time32("s")), ["10:11:12"]),
    (pa.array([time(10, 11, 12, 5)]), ["10:11:12.000005"]),
    (pa.array([36_672_123_456_789], pa.time64("ns")), ["10:11:12.123456"]),
    (pa.array([NS], pa.timestamp("ns")), [NAIVE]),
    (pa.array([NS], pa.timestamp("ns", "UTC")), [AT.isoformat()]),
    (pa.array([NS // 1000], pa.timestamp("us", "Nowhere/Land")), [AT.isoformat()]),
    (pa.array([NS // 10**6], pa.timestamp("ms")), ["2026-11-30T01:00:00.123000"]),
    (pa.array([2**62], pa.timestamp("us")), [f"<value out of range: {2**62}>"]),
    (pa.array([1_500_000_001, -1000, 0], pa.duration("ns")), ["PT1.5S", "PT-0.000001S", "PT0S"]),
    (pa.array([93_784], pa.duration("s")), ["PT26H3M4S"]),
    (INTERVAL, ["P1M-2DT1.5S", "P1Y2M", "PT0S", None]),
    (pa.array([[NS, None], None], pa.list_(pa.timestamp("ns"))), [[NAIVE, None], None]),
    (pa.array([[1.0, float("nan")]], pa.list_(pa.float64(), 2)), [[1.0, None]]),
    (pa.array([[{"a": float("inf")}]], pa.large_list(pa.struct({"a": pa.float32()}))), [[{"a": "Infinity"}]]),
    (
        pa.array([{"at": NS, "d": "x"}], pa.struct({"at": pa.timestamp("ns"), "d": pa.string()})),
        [{"at": NAIVE, "d": "x"}],
    ),
    (pa.array([[("a", 1), ("b", 2)]], pa.map_(pa.string(), pa.int32())), [{"a": 1, "b": 2}]),
    (pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int32())), [[["a", 1], ["a", 2]]]),
    (pa.array([[(NS, 1)]], pa.map_(pa.timestamp("ns"), pa.int32())), [{NAIVE: 1}]),
    (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
    (pa.array([NS], pa.timestamp("ns")).dictionary_encode(), [NAIVE]),
    (pa.RunEndEncodedArray.from_arrays([2, 3], [1.5, float("nan")]), [1.5, 1.5, None]),
    (
        pa.array([b"0123456789abcdef"], pa.binary(16)).cast(pa.uuid()),
        ["30313233-3435-3637-3839-616263646566"],
    ),
    (
        pa.UnionArray.from_sparse(
            pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array([None, b"\xff"], pa.binary())]
        ),
        [1, "/w=="],
    ),
]


@pytest.mark.parametrize(("array", "expected"), CASES, ids=[str(array.type)[:40] for array, _ in CASES])
def test_every_type_becomes_what_json_has(array: pa.Array, expected: list[Any]) -> None:
    found = json_values("column", array)
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]
    json.dumps(found, allow_nan=False)


def test_a_text_that_is_no_utf8_is_an_error_of_its_row() -> None:
    good, bad = json_values("note", BAD_TEXT)
    assert good == "ok"
    assert isinstance(bad, QuarantineError)
    assert (bad.code, bad.field) == (QuarantineCode.INVALID_UTF8, "note")


@pytest.mark.parametrize("int96", [False, True])
def test_nanoseconds_of_parquet_are_cut_to_microseconds(tmp_path: Path, int96: bool) -> None:
    late = datetime(2500, 1, 1)  # noqa: DTZ001 - beyond what 64 bits of nanoseconds hold
    table = pa.table({"q": ["one", "two"], "t": pa.array([NS, NS + 1000], pa.timestamp("ns"))})
    if int96:
        table = table.append_column("late", pa.array([late, late], pa.timestamp("us")))
    path = tmp_path / "day.parquet"
    pq.write_table(table, path, use_deprecated_int96_timestamps=int96)
    settings = ExtractSettings(columns={"prompt": "q", "event_time": "t"})
    made = extract(
        str(path), job="j", run_date=date(2026, 11, 30), scratch=tmp_path / "out", settings=settings
    )
    assert (made.account.requests, made.object_errors) == (2, [])
    rows = [row for file in made.files("requests") for row in pq.read_table(file).to_pylist()]
    assert [row["event_time"] for row in rows] == [AT, AT.replace(microsecond=123457)]
    if int96:
        assert [record["late"] for record, _ in ParquetRows(path).records(None)] == [late.isoformat()] * 2


def test_one_bad_text_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "day.parquet"
    pq.write_table(pa.table({"prompt": ["one", "two"], "note": BAD_TEXT}), path)
    found = [record for record, _ in ParquetRows(path).records(None)]
    assert found[0] == {"prompt": "one", "note": "ok"}
    assert isinstance(found[1], QuarantineError)
    assert found[1].field == "note"
    assert ParquetRows(path).first() == [{"prompt": "one", "note": "ok"}]
