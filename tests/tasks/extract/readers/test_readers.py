from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tasks.base.errors import ConfigurationError
from tasks.base.schema import SCHEMAS
from tasks.extract.extract import ExtractSettings, extract
from tasks.extract.readers.contract import event_time
from tasks.extract.readers.registry import READERS, find_reader
from tasks.requests.formats import FORMATS
from tasks.store.folder import FolderStore
from tests.support.log_samples import EXPECTED, FORMAT, SAMPLES, T0, TABLES_OF_TEXT

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.extract.result import ExtractResult

DAY = date(2026, 3, 1)


def as_lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def as_csv(records: list[dict[str, Any]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().encode()


def run(tmp_path: Path, data: bytes, name: str = "day.jsonl", **settings: Any) -> ExtractResult:
    folder = tmp_path / "source"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    made = ExtractSettings(**settings)
    scratch = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    return extract(str(folder / name), job="job", run_date=DAY, scratch=scratch, settings=made)


def rows(result: ExtractResult) -> dict[int, dict[str, Any] | str]:
    """Return what became of each record by its number: its row, or the code of its refusal."""
    found: dict[int, dict[str, Any] | str] = {}
    for table in ("requests", "errors", "quarantine"):
        for path in result.files(table):
            data = pq.read_table(path)
            assert data.schema.equals(SCHEMAS[table])
            for row in data.to_pylist():
                assert row["source_line"] not in found
                found[row["source_line"]] = row if table == "requests" else row["code"]
    return found


def check(result: ExtractResult, name: str) -> None:
    expected = EXPECTED[name]
    assert {found.format for found in result.objects} == {FORMAT.get(name, name)}
    found = rows(result)
    assert result.account.lines == len(expected)
    assert result.account.filtered == expected.count("filtered")
    for number, wanted in enumerate(expected, 1):
        row = found.get(number, "filtered")
        if isinstance(wanted, str) or isinstance(row, str):
            assert row == wanted
        else:
            assert {key: row[key] for key in wanted} == wanted
    shapes = [row for row in found.values() if not isinstance(row, str) and row["block_size"]]
    assert result.shapes == len(shapes)


PACKING = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("packed", PACKING)
@pytest.mark.parametrize("name", SAMPLES)
def test_every_format_is_known_by_its_content(tmp_path: Path, name: str, packed: str) -> None:
    as_file = as_csv if name in TABLES_OF_TEXT else as_lines
    data = PACKING[packed](as_file(SAMPLES[name]))
    check(run(tmp_path, data, f"day.json{packed}"), name)


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in TABLES_OF_TEXT])
def test_the_same_as_a_document(tmp_path: Path, name: str) -> None:
    check(run(tmp_path, json.dumps(SAMPLES[name]).encode(), "array.json"), name)
    check(run(tmp_path, json.dumps(SAMPLES[name], indent=2).encode(), "pretty.json"), name)
    several = "\n".join(json.dumps(record, indent=1) for record in SAMPLES[name])
    check(run(tmp_path, several.encode(), "several.json"), name)


@pytest.mark.parametrize(
    "name", ["helicone", "wildchat", "sharegpt", "mooncake", "azure-multimodal", "databricks"]
)
def test_the_same_as_parquet(tmp_path: Path, name: str) -> None:
    records = [dict(record) for record in SAMPLES[name]]
    for record in records:
        for key, value in record.items():
            if name in ("helicone", "databricks") and isinstance(value, dict):
                record[key] = json.dumps(value)
    names = list(dict.fromkeys(key for record in records for key in record))
    table = pa.Table.from_pylist([{key: record.get(key) for key in names} for record in records])
    if name == "wildchat":
        times = pa.array([T0] * len(records), pa.timestamp("us", tz="UTC"))
        table = table.set_column(table.column_names.index("timestamp"), "timestamp", times)
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=1)
    check(run(tmp_path, out.getvalue(), "day.parquet"), name)
    check(run(tmp_path, gzip.compress(out.getvalue()), "day.parquet.gz"), name)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_row_written_again_is_the_same_request(tmp_path: Path, name: str) -> None:
    """Round trip through canonical Parquet: content, settings and answer keys stay."""
    as_file = as_csv if name in TABLES_OF_TEXT else as_lines
    first = run(tmp_path, as_file(SAMPLES[name]))
    (path,) = first.files("requests")
    again = run(tmp_path, path.read_bytes(), "requests.parquet")
    assert again.objects[0].format == "canonical"
    before, after = (
        pl.DataFrame(pl.from_arrow(pq.read_table(r.files("requests")[0]))) for r in (first, again)
    )
    own = ["request_id", "source_uri", "source_line"]
    assert before.drop(own).equals(after.drop(own))
    assert again.account.requests == first.account.requests - first.account.errors


FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}}
TURNS = [
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "r"},
]


@pytest.mark.parametrize(
    "asked",
    [
        {"presence_penalty": 1.0, "logit_bias": {"5": 2.0, "7": -1}},
        {"min_p": 0.1, "min_tokens": 3, "include_stop_str_in_output": True, "stop": ["a"]},
        {"chat_template_kwargs": {"a": 1}, "reasoning_effort": "low", "add_generation_prompt": False},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": "[0-9]+"}},
        {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tools": TOOLS, "messages": TURNS},
    ],
)
def test_every_setting_of_a_row_is_read_again(tmp_path: Path, asked: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **asked}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    first = run(tmp_path, as_lines([line]))
    (path,) = first.files("requests")
    (again,) = run(tmp_path, path.read_bytes(), "requests.parquet").files("requests")
    (before,), (after,) = (pq.read_table(file).to_pylist() for file in (path, again))
    assert before["settings_json"] is not None
    own = {"request_id", "source_uri", "source_line"}
    assert {k: v for k, v in before.items() if k not in own} == {
        k: v for k, v in after.items() if k not in own
    }


def test_no_secret_and_no_address_is_kept(tmp_path: Path) -> None:
    for name in ("litellm", "wildchat", "bedrock-logs"):
        result = run(tmp_path, as_lines(SAMPLES[name]), f"{name}.jsonl")
        for path in result.files("requests"):
            assert "never-shown" not in str(pq.read_table(path).to_pylist())


def test_litellm_one_object_per_key(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "2026-03-01"
    folder.mkdir(parents=True)
    for index, record in enumerate(SAMPLES["litellm"]):
        (folder / f"time-{index}_{record['id']}.json").write_text(json.dumps(record))
    source = f"{tmp_path}/logs/{{run_date}}/"
    result = extract(source, job="job", run_date=DAY, scratch=tmp_path / "out")
    assert len(result.objects) == 4
    assert (result.account.lines, result.account.requests, result.account.filtered) == (4, 3, 1)
    assert len(result.files("requests")) == 1


def test_reasons_are_kept_with_the_rows(tmp_path: Path) -> None:
    source = tmp_path / "day.jsonl"
    source.write_bytes(as_lines(SAMPLES["langfuse"]))
    store = FolderStore(tmp_path / "store")
    made = [
        extract(str(source), job="job", run_date=DAY, scratch=tmp_path / name, store=store)
        for name in ("first", "second")
    ]
    assert [result.objects[0].reused for result in made] == [False, True]
    assert [result.filtered_by for result in made] == [{"observation of type SPAN": 1}] * 2


def test_otlp_batches_are_spans(tmp_path: Path) -> None:
    spans = SAMPLES["otel"]
    batches = [
        {"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": spans[:2]}, {"spans": spans[2:3]}]}]},
        {"resourceSpans": [{"scopeSpans": [{"spans": spans[3:]}]}]},
    ]
    check(run(tmp_path, as_lines(batches)), "otel")


def test_traces_of_mlflow_are_spans(tmp_path: Path) -> None:
    spans = SAMPLES["mlflow"]
    traces = [
        {"info": {"trace_id": "t1"}, "data": {"spans": spans[:3]}},
        {"trace_id": "t1", "state": "OK", "request": "x", "spans": spans[3:]},
    ]
    check(run(tmp_path, as_lines(traces)), "mlflow")


def test_the_older_single_prompt_of_a_span(tmp_path: Path) -> None:
    def span(prompt: object, kind: str) -> dict[str, Any]:
        return {"span_id": "x", "attributes": {"gen_ai.operation.name": kind, "gen_ai.prompt": prompt}}

    texts = [
        span("Name a river.", "chat"),
        span(json.dumps([{"role": "user", "content": "Name a river."}]), "chat"),
        span("Once", "text_completion"),
    ]
    for index, text in enumerate(texts):
        text["span_id"] = str(index)
    found = rows(run(tmp_path, as_lines(texts)))
    assert [found[n]["messages_json"] == EXPECTED["otel"][0]["messages_json"] for n in (1, 2)] == [True, True]
    assert found[3]["prompt"] == "Once"


def test_lines_that_are_known_late(tmp_path: Path) -> None:
    # The first lines are of no format; they are told what they lack in that of the rest.
    data = b'\n{"a": 1}\nbroken\n' + as_lines(SAMPLES["mooncake"])
    result = run(tmp_path, data)
    assert result.objects[0].format == "mooncake"
    assert rows(result)[2] == "missing_field"
    assert result.account.requests == 2


def test_a_format_that_is_asked_for(tmp_path: Path) -> None:
    data = as_lines(SAMPLES["mooncake"])
    result = run(tmp_path, data, format="openai-batch")
    assert set(rows(result).values()) == {"missing_field"}
    with pytest.raises(ConfigurationError, match=r"--format: 'csv' is unknown"):
        run(tmp_path, data, format="csv")
    assert set(FORMATS) == {"auto", "generic", *READERS}


@pytest.mark.parametrize("container", ["csv", "jsonl", "parquet"])
def test_columns_of_any_table(tmp_path: Path, container: str) -> None:
    records = [
        {
            "question": 'Say "a, b"\nand c',
            "limit": "5",
            "key": "k1",
            "lang": "en",
            "at": "2026-03-01T08:30:00Z",
        },
        {"question": "", "limit": "", "key": "k2", "lang": "de", "at": ""},
        {"question": "Grüße", "limit": "x", "key": "k3", "lang": "de", "at": "2026-03-01T08:30:00Z"},
    ]
    if container == "csv":
        data = as_csv(records)
    elif container == "jsonl":
        data = as_lines(records)
    else:
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(records), out)
        data = out.getvalue()
    columns = {
        "prompt": "question",
        "max_tokens": "limit",
        "custom_id": "key",
        "workload": "lang",
        "event_time": "at",
    }
    result = run(tmp_path, data, f"t.{container}", columns=columns)
    found = rows(result)
    assert result.objects[0].format == "generic"
    assert found[1]["prompt"] == 'Say "a, b"\nand c'
    assert (found[1]["max_tokens"], found[1]["workload"], found[1]["event_time"]) == (5, "en", T0)
    assert (found[2], found[3]) == ("missing_field", "invalid_parameter")


def test_nested_columns_chats_and_lengths(tmp_path: Path) -> None:
    records = [
        {"in": {"chat": [{"role": "user", "content": "Hi"}], "n": 4}, "sys": "Be brief.", "q": "One?"},
    ]
    chat = rows(run(tmp_path, as_lines(records), columns={"messages": "in.chat"}))[1]
    assert json.loads(chat["messages_json"]) == [{"content": "Hi", "role": "user"}]
    chat = rows(run(tmp_path, as_lines(records), columns={"prompt": "q", "system": "sys"}))[1]
    assert [turn["role"] for turn in json.loads(chat["messages_json"])] == ["system", "user"]
    shape = rows(run(tmp_path, as_lines(records), columns={"input_tokens": "in.n"}))[1]
    assert (shape["input_tokens"], shape["prefix_block_hashes"]) == (4, [])


def test_columns_that_cannot_be_used() -> None:
    for columns, message in [
        ({"prompts": "q"}, "prompts is no field"),
        ({"model": "m"}, "no column of prompts"),
        ({}, "go together"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            find_reader("generic", columns)
    with pytest.raises(ConfigurationError, match="go together"):
        find_reader("litellm", {"prompt": "q"})


def test_requests_of_another_day(tmp_path: Path) -> None:
    window = (T0 - timedelta(hours=1), T0 + timedelta(seconds=1))
    result = run(tmp_path, as_lines(SAMPLES["litellm"]), window=window)
    assert (result.outside, result.account.filtered, result.account.requests) == (1, 2, 2)
    assert result.filtered_by == {"another date": 1, "call of type aembedding": 1}
    by_model = run(tmp_path, as_lines(SAMPLES["litellm"]), model_filter=("other",))
    assert by_model.filtered_by == {"another model": 3, "call of type aembedding": 1}
    result = run(tmp_path, as_lines(SAMPLES["litellm"]), window=window, window_filters=False)
    assert (result.outside, result.account.filtered, result.account.requests) == (1, 1, 3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-03-01 08:30:00.1234567", T0.replace(microsecond=123456)),
        ("2026-03-01T10:30:00+02:00", T0),
        ("2026-03-01T08:30:00Z", T0),
        ("2026-03-01T08:30:00", T0),
        (T0.timestamp(), T0),
        (str(int(T0.timestamp())), T0),
        (T0.replace(tzinfo=None), T0),
        (int(T0.timestamp() * 1000), T0),
        (None, None),
        ("", None),
        # Zero is a time that was not set.
        (0, None),
        ("0", None),
        (0.0, None),
        ("0001-01-01T00:00:00Z", None),
        ("1970-01-01T00:00:00Z", None),
    ],
)
def test_times(value: object, expected: datetime | None) -> None:
    assert event_time({"at": value}, "at") == expected


NO_TIMES = ["yesterday", "2026-13-01 00:00:00", 1e300, True, False, [], "NaN", "9" * 50, {}, 12345, "-1"]


@pytest.mark.parametrize("value", NO_TIMES)
def test_what_is_no_time_is_quarantined(tmp_path: Path, value: object) -> None:
    record = SAMPLES["litellm"][0] | {"startTime": value}
    assert rows(run(tmp_path, as_lines([SAMPLES["litellm"][1], record])))[2] == "invalid_field"


def test_one_column_may_hold_times_of_several_writers(tmp_path: Path) -> None:
    at = int(T0.timestamp())
    forms = [
        f"{T0:%Y-%m-%d %H:%M:%S}+00",
        at * 1000,
        str(at),
        f"{T0:%Y-%m-%dT%H:%M}Z",
        f"{T0:%F %T} +0000 UTC",
    ]
    records = [{"q": f"Number {n}?", "t": form} for n, form in enumerate(forms)]
    window = (T0, T0 + timedelta(seconds=1))
    columns = {"prompt": "q", "event_time": "t"}
    found = rows(run(tmp_path, as_lines(records), columns=columns, window=window))
    assert [found[n]["event_time"] for n in range(1, len(forms) + 1)] == [T0] * len(forms)
    days = as_lines([{"q": "One?", "t": f"{T0:%F}"}, {"q": "Two?", "t": "2026-02-28"}])
    result = run(tmp_path, days, columns=columns, window=(T0.replace(hour=0, minute=0), T0))
    assert (result.account.requests, result.outside) == (1, 1)


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("mooncake", "input_length", [-1, 1.5, "x", True, 2**31, None, [], {}]),
        ("mooncake", "hash_ids", [None, 3, [-1], [1.5], [2**64], [True], [0, 1, 2]]),
        ("azure-llm", "ContextTokens", ["", "-3", "1.5", "inf", "nan", "1_0", "x", "9" * 30]),
        ("burstgpt", "Response tokens", ["", "-3", "x"]),
        ("bedrock", "modelInput", [None, 3, []]),
        ("sharegpt", "conversations", [3, [3]]),
        ("wildchat", "conversation", [None, "x", ["x"]]),
        ("helicone", "request_body", ["not json", 5, [1]]),
    ],
)
def test_bad_fields_are_quarantined_by_name(
    tmp_path: Path, name: str, field: str, values: list[object]
) -> None:
    good = SAMPLES[name][0]
    records = [good, *({**good, field: value} for value in values)]
    as_file = as_csv if name in TABLES_OF_TEXT else as_lines
    result = run(tmp_path, as_file(records))
    (path,) = result.files("quarantine")
    table = pq.read_table(path).to_pylist()
    assert [row["source_line"] for row in table] == list(range(2, len(values) + 2))
    assert {row["field"] for row in table} == {field}
    assert {row["code"] for row in table} <= {"missing_field", "invalid_field"}


def test_a_table_with_broken_rows(tmp_path: Path) -> None:
    head = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    good = b"XXX,5,6\r\n"
    data = (
        head
        + good
        + b"XXX,5\r\n\r\nXXX,1,2,3\r\nXXX,\xff,2\r\n"
        + good
        + b'XXX,"5"6,1\r\n'
        + good
        + b'X,"5,1'
    )
    result = run(tmp_path, data, "t.csv")
    found = rows(result)
    assert {n: row for n, row in found.items() if isinstance(row, str)} == {
        2: "invalid_row",
        4: "invalid_row",
        5: "invalid_utf8",
        7: "invalid_row",
        9: "invalid_row",
    }
    assert (result.account.blank, result.account.requests) == (1, 3)


def test_a_document_that_breaks_off_or_is_broken(tmp_path: Path) -> None:
    whole = json.dumps(SAMPLES["sharegpt"]).encode()
    cut = run(tmp_path, whole[:-30], "cut.json")
    assert (cut.account.lines, cut.account.object_errors) == (2, 1)
    (error,) = cut.object_errors
    assert whole[error.byte_offset - 1 :].startswith(b' {"id": "c3"') or error.text_offset < len(whole)
    bad = whole.replace(b'"Hello"', b"NaN").replace(b'"v1"', b'"\xff"')
    found = run(tmp_path, bad, "bad.json")
    assert rows(found)[1] == "invalid_json"
    assert rows(found)[2] == "invalid_utf8"
    assert found.account.object_errors == 0
    long = run(
        tmp_path,
        json.dumps([SAMPLES["sharegpt"][0], {"x": "y" * 5000}]).encode(),
        "l.json",
        max_line_bytes=900,
    )
    assert rows(long)[2] == "line_too_long"
    mixed = run(tmp_path, b'[{"id": "a", "conversations": []}, 3, "x", null, {"a": 1e999}]', "m.json")
    assert [rows(mixed)[n] for n in range(2, 6)] == ["not_an_object"] * 3 + ["invalid_json"]


def test_a_damaged_parquet_file_is_an_object_error(tmp_path: Path) -> None:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(SAMPLES["mooncake"] * 500), out, row_group_size=100)
    data = out.getvalue()
    for bad in (data[: len(data) // 2], b"PAR1" + b"\0" * 50, b"PAR1"):
        result = run(tmp_path, bad, "d.parquet")
        assert (result.account.lines, result.account.object_errors) == (0, 1)
    middle = bytearray(data)
    middle[len(data) // 3 : len(data) // 3 + 400] = b"\xff" * 400
    result = run(tmp_path, bytes(middle), "d.parquet")
    assert result.account.object_errors == 1
    assert result.account.lines == result.account.requests < 1000


def test_utc_is_what_a_naive_time_means() -> None:
    assert event_time({"at": datetime(2026, 3, 1, 8, 30)}, "at") == datetime(2026, 3, 1, 8, 30, tzinfo=UTC)  # noqa: DTZ001


def test_requests_without_line_ends(tmp_path: Path) -> None:
    text = b"".join(json.dumps(record).encode() for record in SAMPLES["openai-batch"])
    check(run(tmp_path, text, "firehose.json"), "openai-batch")
    check(run(tmp_path, gzip.compress(text), "firehose.json.gz"), "openai-batch")


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in TABLES_OF_TEXT])
def test_records_in_a_list_that_an_api_returned(tmp_path: Path, name: str) -> None:
    page = {"object": "list", "data": SAMPLES[name], "meta": {"page": 1}}
    for indent in (None, 2):
        check(run(tmp_path, json.dumps(page, indent=indent).encode(), "page.json"), name)
        text = json.dumps(page, indent=indent).encode()
        check(run(tmp_path, text, "page.json", format=FORMAT.get(name, name)), name)


def test_columns_of_a_list_that_is_wrapped(tmp_path: Path) -> None:
    page = {"rows": [{"q": "One?"}, {"q": "Two?"}], "total": 2}
    result = run(tmp_path, json.dumps(page).encode(), "page.json", columns={"prompt": "q"})
    assert [row["prompt"] for row in rows(result).values()] == ["One?", "Two?"]
    result = run(tmp_path, json.dumps(page).encode(), "page.json")
    assert (result.account.lines, result.account.quarantined) == (1, 1)


def test_an_otlp_document_over_several_lines(tmp_path: Path) -> None:
    batch = {"resourceSpans": [{"scopeSpans": [{"spans": SAMPLES["otel"]}]}]}
    check(run(tmp_path, json.dumps(batch, indent=2).encode(), "pretty.json"), "otel")
    # A batch may be far longer than a line, as long as its spans are not.
    batch["resourceSpans"] *= 20
    longest = max(len(json.dumps(span, indent=4)) for span in SAMPLES["otel"])
    text = json.dumps(batch, indent=4).encode()
    result = run(tmp_path, text, "pretty.json", max_line_bytes=2 * longest)
    assert len(text) > 20 * longest
    assert (result.account.lines, result.account.object_errors) == (20 * len(SAMPLES["otel"]), 0)
    assert result.account.quarantined == 0
