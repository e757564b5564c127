"""A table with a column `prompt` goes in, the same rows with the answer come out."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import polars as pl
import pytest

from flows.parameters.nightly import NightlyParameters
from flows.parameters.to_request import night_request
from flows.run.sequence import run_night
from tasks.warehouse.replace import open_warehouse
from tests.support.demo_nights import DAY
from tests.support.paths import DEMO_MODEL

pytestmark = pytest.mark.slow

ROWS = 6


def test_a_table_goes_in_and_comes_out_answered(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "source.duckdb")) as connection:
        connection.execute(
            "create table questions as select 'q' || i as custom_id, "
            f"'Count from ' || i || ' to ' || (i + 2) || '.' as prompt, i * 1.5 as price, "
            f"'{DAY}'::date as day from range(1, {ROWS + 1}) numbers(i)"
        )
        connection.execute(f"insert into questions values ('empty', null, 0, '{DAY}')")
        connection.execute("insert into questions values ('other day', 'No', 0, '1999-01-01')")
    # The demo's model knows chats; a column `prompt` alone is a completion.
    turn = """'[' || json_object('role', 'user', 'content', prompt) || ']'"""
    query = f"select *, {turn} as messages from questions where day = '{{run_date}}' and prompt is not null"
    source = f"duckdb:///{tmp_path}/source.duckdb?query={query}"
    asked = {"job": "t", "source": source, "store": str(tmp_path / "store"), "model": str(DEMO_MODEL)}
    asked |= {"run_date": DAY.isoformat(), "max_tokens": "16"}
    result = run_night(night_request(NightlyParameters.parse(asked)))
    assert (result["requests"], result["outputs"], result["quarantined"]) == (ROWS, ROWS, 0)
    # By the tables, by a join on the rows' own name.
    table = open_warehouse(f"sqlite:///{tmp_path}/store/_warehouse/catalog.db", str(tmp_path / "store"))
    location = table.load_table("nightblend.llm_outputs").metadata_location
    answers = pl.scan_iceberg(location, reader_override="native").select("custom_id", "text").collect()
    with duckdb.connect(str(tmp_path / "source.duckdb")) as connection:
        connection.register("answers", answers.to_arrow())
        joined = "select prompt, text from questions join answers using (custom_id)"
        pairs = connection.execute(joined).fetchall()
    assert len(pairs) == ROWS
    for prompt, text in pairs:
        first = int(prompt.split()[2])
        assert text.split() == [str(first + i) for i in range(3)]
    # By the lines: every column that is no field of a request is there as it was.
    with Path(result["output_file"]).open() as lines:
        kept = {line["custom_id"]: line["nightblend"]["envelope"] for line in map(json.loads, lines)}
    assert kept == {f"q{i}": {"price": i * 1.5, "day": DAY.isoformat()} for i in range(1, ROWS + 1)}
