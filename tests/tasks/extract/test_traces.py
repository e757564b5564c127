"""Published traces, read with exact row counts and sums."""

from __future__ import annotations

import csv
import json
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from tasks.base.accounting import Account
from tasks.extract.extract import ExtractSettings, extract
from tests.support.paths import trace

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.extract.result import ExtractResult

DAY = date(2026, 3, 1)


def read(path: Path, tmp_path: Path, **settings: Any) -> tuple[ExtractResult, pl.DataFrame]:
    result = extract(
        str(path), job="job", run_date=DAY, scratch=tmp_path / "out", settings=ExtractSettings(**settings)
    )
    frames = [pl.DataFrame(pl.from_arrow(pq.read_table(path))) for path in result.files("requests")]
    return result, pl.concat(frames)


@pytest.mark.parametrize(
    ("name", "rows", "prompt", "answer"),
    [
        ("AzureLLMInferenceTrace_code.csv", 8819, 18_059_974, 245_896),
        ("AzureLLMInferenceTrace_conv.csv", 19366, 22_361_870, 4_088_665),
        ("sharegpt_lengths.csv", 58787, 17_565_463, 19_030_929),
    ],
)
def test_lengths(tmp_path: Path, name: str, rows: int, prompt: int, answer: int) -> None:
    path = trace(name)
    result, table = read(path, tmp_path)
    assert result.account == Account(lines=rows, requests=rows)
    assert result.objects[0].format == "azure-llm"
    assert result.shapes == rows == table.height
    assert table["input_tokens"].sum() == prompt
    assert table["observed_output_tokens"].sum() == answer
    assert table["request_id"].n_unique() == rows
    with path.open() as file:
        source = list(csv.DictReader(file))
    assert table["input_tokens"].to_list() == [int(row["ContextTokens"]) for row in source]
    times = table["event_time"].to_list()
    if name.startswith("Azure"):
        # Seven fractional digits: the last is below a microsecond.
        expected = [datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=UTC) for row in source]
        assert times == expected
    else:
        assert set(times) == {None}


def test_mooncake(tmp_path: Path) -> None:
    path = trace("mooncake_conversation_trace.jsonl")
    result, table = read(path, tmp_path)
    assert result.account == Account(lines=12031, requests=12031)
    assert (result.objects[0].format, result.shapes) == ("mooncake", 12031)
    source = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert table["input_tokens"].sum() == sum(row["input_length"] for row in source) == 144_793_823
    assert table["observed_output_tokens"].sum() == sum(row["output_length"] for row in source) == 4_122_048
    blocks = table["prefix_block_hashes"].explode()
    assert (blocks.len(), blocks.n_unique()) == (288_500, 182_790)
    assert table["prefix_block_hashes"].to_list() == [row["hash_ids"] for row in source]
    assert set(table["block_size"]) == {512}


def test_mmlu_by_columns(tmp_path: Path) -> None:
    path = trace("mmlu.parquet")
    columns = {"prompt": "question", "workload": "subject"}
    result, table = read(path, tmp_path, format="generic", columns=columns)
    source = pl.read_parquet(path)
    assert result.account == Account(lines=14327, requests=14327)
    assert table["prompt"].to_list() == source["question"].to_list()
    assert table["prompt"].str.len_bytes().sum() == source["question"].str.len_bytes().sum()
    assert table["workload"].to_list() == source["subject"].to_list()
    assert table["source_line"].to_list() == list(range(1, 14328))


def test_mmlu_is_no_known_format(tmp_path: Path) -> None:
    path = trace("mmlu.parquet")
    result = extract(str(path), job="job", run_date=DAY, scratch=tmp_path)
    assert result.account == Account(lines=14327, quarantined=14327)
