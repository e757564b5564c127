"""What real tools were seen to write, each kind by a record of our own (`make test-producers` runs them)."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from tasks.extract.examine import Examination, examine
from tests.support.parsing import Outcome, read_records

if TYPE_CHECKING:
    from pathlib import Path

WRAPPER = {
    "temperature": 1,
    "max_tokens": "Infinity",
    "top_p": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
}
QUESTION = [{"role": "user", "content": "Name a hill."}]


def one(record: dict[str, Any]) -> dict[str, Any]:
    (found,) = read_records([record])
    return found


def observation(given: object, output: object, parameters: dict[str, Any]) -> dict[str, Any]:
    record = {"type": "GENERATION", "trace_id": "t", "id": "o", "start_time": "2026-03-01 08:30:00.125"}
    return {**record, "input": given, "output": output, "model_parameters": json.dumps(parameters)}


@pytest.mark.parametrize(
    ("output", "parameters", "endpoint"),
    [
        (" there was", WRAPPER, "completions"),
        ("", WRAPPER, "completions"),
        ('{"town": "Ulm"}', WRAPPER, "completions"),
        # An answer of `/v1/responses`, whose input may be a text as well.
        ({"type": "message", "role": "assistant", "content": []}, WRAPPER, "chat"),
        ('{"type": "message", "content": []}', WRAPPER, "chat"),
        ('[{"type": "reasoning"}, {"type": "message"}]', WRAPPER, "chat"),
        # Of a call that failed nobody can know.
        (None, WRAPPER, "chat"),
        # Others than the wrapper write texts for chats.
        ("there was", {"temperature": 1}, "chat"),
    ],
)
def test_a_text_completion_of_langfuse_s_wrapper_is_one(
    output: object, parameters: dict[str, Any], endpoint: str
) -> None:
    found = one(observation("Once", output, parameters))
    assert found["outcome"] is Outcome.REQUEST
    assert found["endpoint"] == endpoint
    assert found["prompt"] == ("Once" if endpoint == "completions" else None)


def trace_span(given: dict[str, Any]) -> dict[str, Any]:
    attributes = {"mlflow.spanType": json.dumps("CHAT_MODEL"), "mlflow.spanInputs": json.dumps(given)}
    return {"trace_id": "t", "span_id": "s", "attributes": attributes}


def test_the_arguments_of_a_traced_call_are_the_body_that_was_sent() -> None:
    plain = {"messages": QUESTION, "model": "m"}
    found = one(
        trace_span(
            {**plain, "extra_body": {"top_k": 20, "min_p": 0}, "timeout": 5, "extra_headers": {"a": "b"}}
        )
    )
    assert (found["outcome"], found["sampling"]["top_k"]) == (Outcome.REQUEST, 20)
    held = one(trace_span({**plain, "extra_body": {"guided_regex": "a+"}}))
    assert (held["outcome"], held["settings_json"]) == (
        Outcome.REQUEST,
        json.dumps({"constraint": '{"regex":"a+"}'}, separators=(",", ":")),
    )
    # What is no object of fields stays, and is refused.
    assert one(trace_span({**plain, "extra_body": "x"}))["field"] == "extra_body"


def test_lines_for_responses_may_lie_behind_chats() -> None:
    lines: list[dict[str, Any]] = [
        {"custom_id": "a", "url": "/v1/chat/completions", "body": {"messages": QUESTION}},
        {"custom_id": "b", "url": "/v1/responses", "body": {"input": "Name a hill.", "max_output_tokens": 9}},
        {"custom_id": "c", "url": "/v1/responses", "body": {"input": "x", "tools": [{"type": "function"}]}},
        {"custom_id": "d", "url": "https://h/openai/responses?api-version=1", "body": {"input": QUESTION}},
        {"custom_id": "e", "url": "/v1/responses", "method": "GET", "body": {"input": "x"}},
        {"custom_id": "f", "url": "/v1/responses", "body": "x"},
        {"custom_id": "g", "url": "/v1/responses"},
    ]
    found = read_records(lines)
    assert {row["format"] for row in found} == {"openai-batch"}
    assert [row["outcome"] for row in found] == [
        *(Outcome.REQUEST, Outcome.REQUEST, Outcome.ERROR, Outcome.REQUEST),
        *[Outcome.ERROR] * 3,
    ]
    assert found[0]["messages_json"] == found[1]["messages_json"] == found[3]["messages_json"]
    assert (found[1]["max_tokens"], found[1]["custom_id"]) == (9, "b")
    assert found[2]["field"] == "tools[0].function.name"
    assert [row["field"] for row in found[4:]] == ["method", "body", "body"]


def look(tmp_path: Path, text: str, name: str = "day.json", **options: Any) -> Examination:
    (tmp_path / name).write_text(text)
    return examine(str(tmp_path / name), **options)


def sum_of(found: Examination) -> tuple[str, str, int, int]:
    (one,) = found.objects
    return one.format, one.made_of, one.lines, found.answerable


def langfuse_span(kind: str, **given: Any) -> dict[str, Any]:
    attributes = {f"langfuse.observation.{name}": value for name, value in {"type": kind, **given}.items()}
    times = {"startTimeUnixNano": "1772353800000000000", "endTimeUnixNano": "1772353801500000000"}
    return {"traceId": "t", "spanId": kind, "name": "ask", **times, "attributes": attributes}


def test_spans_of_langfuse_s_clients_are_observations() -> None:
    asked = {
        "input": json.dumps(QUESTION),
        "model.name": "m",
        "model.parameters": json.dumps({**WRAPPER, "max_tokens": 9}),
        "usage_details": json.dumps({"input": 5, "output": 4}),
    }
    tooled = {"input": json.dumps({"messages": QUESTION, "tools": [{"type": "function"}]})}
    formed = {**asked, "metadata.response_format": json.dumps({"type": "json_schema"})}
    masked = {"input": "<fully masked due to failed mask function>", "usage_details": '{"input": 5}'}
    kinds = [("generation", asked), ("span", {}), ("generation", tooled), ("generation", formed)]
    found = read_records([langfuse_span(kind, **given) for kind, given in [*kinds, ("generation", masked)]])
    row = found[0]
    assert (row["format"], row["outcome"], row["custom_id"]) == ("otel", Outcome.REQUEST, "t/generation")
    assert (row["requested_model"], row["max_tokens"], row["sampling"]) == ("m", 9, None)
    assert (row["observed_output_tokens"], row["observed_latency_s"], row["workload"]) == (4, 1.5, "ask")
    assert row["event_time"].isoformat() == "2026-03-01T08:30:00+00:00"
    assert (found[1]["outcome"], found[1]["reason"]) == (Outcome.FILTERED, "observation of type SPAN")
    assert [one["field"] for one in found[2:4]] == ["tools", "response_format"]
    assert (found[4]["input_tokens"], found[4]["messages_json"]) == (5, None)


def test_traces_of_mlflow_over_several_lines(tmp_path: Path) -> None:
    trace = {
        "info": {"trace_id": "t"},
        "data": {"spans": [trace_span({"messages": QUESTION}), trace_span({})]},
    }
    for text, count in (
        (json.dumps(trace, indent=2), 1),
        (json.dumps([trace, trace], indent=2), 2),
        (json.dumps([trace, trace]), 2),
        (json.dumps(trace, indent=1) + "\n" + json.dumps(trace, indent=1), 2),
    ):
        name, made_of, lines, answerable = sum_of(look(tmp_path, text))
        assert (name, made_of, lines, answerable) == ("otel", "traces", 2 * count, count)
    # One that is longer than what is looked at.
    trace["info"]["tags"] = {"x": "y" * 300_000}
    assert sum_of(look(tmp_path, json.dumps(trace, indent=2))) == ("otel", "traces", 2, 1)
    cut = look(tmp_path, json.dumps([trace, trace], indent=2)[:-400])
    assert cut.answerable == 1
    assert cut.objects[0].unreadable is not None


ROWS = [{"id": "a", "question": "One?"}, {"id": "b", "question": "Two?"}]


@pytest.mark.parametrize(
    "document",
    [
        {"id": {"0": "a", "1": "b"}, "question": {"0": "One?", "1": "Two?"}},
        {"0": ROWS[0], "1": ROWS[1]},
        {"columns": ["id", "question"], "index": [0, 1], "data": [["a", "One?"], ["b", "Two?"]]},
        {"columns": ["id", "question"], "data": [["a", "One?"], ["b", "Two?"]]},
    ],
)
def test_a_table_in_one_object_has_its_rows(tmp_path: Path, document: dict[str, Any]) -> None:
    for text in (json.dumps(document), json.dumps(document, indent=2)):
        columns = ["prompt=question", "custom_id=id"]
        found = look(tmp_path, text, columns=columns)
        assert sum_of(found) == ("generic", "frame", 2, 2)
        found = look(tmp_path, text)
        assert (found.account["quarantined"], found.objects[0].how_sure) == (2, "unknown")
        assert "has the fields id, question;" in found.reasons[0].message


def test_what_is_no_such_table_is_left_as_it_is(tmp_path: Path) -> None:
    for document in (
        {"a": {"x": 1}, "b": {"x": 2}},
        {"0": {"1": "x"}},
        {"a": {"0": 1}, "b": {"1": 1}},
        {"columns": ["a"], "data": [["x", "y"]]},
        {"columns": ["a"], "data": "x"},
        {"a": {}},
        {"custom_id": "0", "body": {"0": 1}},
    ):
        (one,) = look(tmp_path, json.dumps(document)).objects
        assert (one.made_of, one.lines) == ("jsonl", 1)


def as_csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def test_a_csv_table_is_told_by_its_rows_too(tmp_path: Path) -> None:
    found = [
        observation(json.dumps(QUESTION), "Brocken", {**WRAPPER, "max_tokens": 9}),
        {**observation("[]", "", {}), "type": "SPAN"},
    ]
    made = look(tmp_path, as_csv([{**one, "latency": "", "note": "a\nb, c"} for one in found]), "day.csv")
    assert sum_of(made) == ("langfuse", "csv", 2, 1)
    assert [reason.message for reason in made.reasons] == ["observation of type SPAN"]


def test_a_csv_table_without_known_columns_says_which_it_has(tmp_path: Path) -> None:
    text = as_csv([{"question": "One, or\ntwo?", "lang": "en"}, {"question": "Three?", "lang": "de"}])
    for given in (text, "\ufeff" + text, text.replace("question", ",question", 1).replace("\n", "\n0,")):
        found = look(tmp_path, given, "day.csv")
        assert found.objects[0].made_of == "csv"
        assert "has the fields" in found.reasons[0].message
        assert "question, lang" in found.reasons[0].message
    (reason,) = look(tmp_path, text, "day.csv", columns=["prompt=qestion"]).reasons
    assert (reason.code, reason.field, reason.count) == ("missing_field", "qestion", 2)
    assert "among the fields question, lang" in reason.message
    # A broken first line of JSON is one line.
    (one,) = look(tmp_path, 'a,b\n{"prompt": "x", "model": "m"}\n', "day.jsonl").objects
    assert (one.format, one.made_of, one.quarantined) == ("openai-body", "jsonl", 1)
