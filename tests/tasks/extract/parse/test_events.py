"""Events of model calls are joined to their spans, in whichever order they come; each record comes once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tasks.extract.examine import Examination, examine
from tasks.extract.parse import events
from tasks.extract.parse.events import joined
from tasks.extract.text.lines import RawLine
from tests.support.parsing import Outcome, read_records

if TYPE_CHECKING:
    from pathlib import Path

DETAILS = "gen_ai.client.inference.operation.details"
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 9}


def any_value(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {"kvlistValue": {"values": pairs(value)}}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(item) for item in value]}}
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}


def pairs(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": any_value(value)} for name, value in values.items()]


def span(call: str, **more: Any) -> dict[str, Any]:
    times = {"startTimeUnixNano": "1772353800000000000", "endTimeUnixNano": "1772353801500000000"}
    return {"traceId": "t", "spanId": call, **times, "attributes": pairs({**CHAT, **more})}


def event(call: str, name: str, body: Any, **attributes: Any) -> dict[str, Any]:
    made = {"traceId": "t", "spanId": call, "observedTimeUnixNano": "1772353801400000000", "eventName": name}
    return {**made, "body": any_value(body), "attributes": pairs({"gen_ai.system": "x", **attributes})}


def details(call: str, text: str) -> dict[str, Any]:
    parts = [{"role": "user", "parts": [{"type": "text", "content": text}]}]
    return event(
        call, DETAILS, {}, **{**CHAT, "gen_ai.request.max_tokens": 7, "gen_ai.input.messages": parts}
    )


def batch(*records: dict[str, Any]) -> dict[str, Any]:
    if "eventName" in records[0]:
        return {"resourceLogs": [{"scopeLogs": [{"logRecords": list(records)}]}]}
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(records)}]}]}


OLDER = [
    event("a", "gen_ai.system.message", {"content": "Be brief."}),
    event("a", "gen_ai.user.message", {"content": "One?"}),
    event("a", "gen_ai.choice", {"message": {"content": "Two"}}),
    event("b", "gen_ai.user.message", {"content": [{"type": "text", "text": "Three?"}]}),
]


def look(tmp_path: Path, batches: list[dict[str, Any]], indent: int | None = None) -> Examination:
    path = tmp_path / "day.json"
    text = "".join(json.dumps(one) + "\n" for one in batches)
    path.write_text(text if indent is None else json.dumps(batches, indent=indent))
    return examine(str(path))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("spans_first", [False, True])
def test_events_are_read_with_their_spans(tmp_path: Path, spans_first: bool, indent: int | None) -> None:
    batches = [batch(*OLDER[:2]), batch(*OLDER[2:]), batch(details("c", "Five?"))]
    spans = [batch(span("a"), span("b"), span("c")), batch(span("d"))]
    found = look(tmp_path, spans + batches if spans_first else batches + spans, indent)
    assert found.objects[0].format == "otel"
    assert (found.account["lines"], found.answerable, found.lengths_only) == (9, 3, 1)
    reasons = {reason.message: reason.count for reason in found.reasons}
    assert reasons == {"event, read with its span": 4, "event gen_ai.choice": 1}


def rows(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    line = RawLine(1, 0, 1, b"{", too_long=False)
    return read_records([record for record, _ in joined((record, line) for record in records)])  # type: ignore[misc]


def test_the_chat_is_that_of_the_events_with_the_settings_of_the_span() -> None:
    found = rows([*OLDER, span("a", **{"gen_ai.request.max_tokens": 20}), span("b")])
    asked = [row for row in found if row["outcome"] is Outcome.REQUEST]
    assert [json.loads(row["messages_json"]) for row in asked] == [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}],
        [{"role": "user", "content": "Three?"}],
    ]
    assert [row["max_tokens"] for row in asked] == [20, None]
    assert asked[0]["observed_latency_s"] == 1.5


def test_the_result_of_a_tool_is_of_its_call() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    found = rows(
        [
            event("a", "gen_ai.user.message", {"content": "One?"}),
            event("a", "gen_ai.assistant.message", {"tool_calls": [call]}),
            event("a", "gen_ai.tool.message", {"content": "Two", "id": "c1"}),
            span("a"),
        ]
    )
    (asked,) = (row for row in found if row["outcome"] is Outcome.REQUEST)
    assert json.loads(asked["messages_json"])[1:] == [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "Two", "tool_call_id": "c1"},
    ]


def test_events_without_their_spans() -> None:
    found = rows([details("c", "Five?"), *OLDER])
    outcomes = {row["outcome"]: row for row in found}
    assert outcomes.keys() == {Outcome.REQUEST, Outcome.QUARANTINED, Outcome.FILTERED}
    whole = outcomes[Outcome.REQUEST]
    assert (whole["max_tokens"], whole["custom_id"], whole["observed_latency_s"]) == (7, "t/c", None)
    assert whole["event_time"] is not None
    assert (outcomes[Outcome.QUARANTINED]["code"], outcomes[Outcome.QUARANTINED]["field"]) == (
        "missing_field",
        "spanId",
    )


def test_a_span_that_has_its_content_waits_for_nothing() -> None:
    text = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Own?"}]}])
    (row,) = rows([span("a", **{"gen_ai.input.messages": text})])
    assert json.loads(row["messages_json"])[0]["content"] == "Own?"
    line = RawLine(1, 0, 1, b"{", too_long=False)
    held = joined(iter([(span("a", **{"gen_ai.input.messages": text}), line)]))
    assert next(held)[0] is not None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_HELD", 3)
    calls = [str(number) for number in range(9)]
    found = rows([*(details(call, "x") for call in calls), *(span(call) for call in reversed(calls))])
    # Those that were let go are read by themselves; none is lost, and no record comes twice.
    assert len(found) == 18
    joined_ones = [row for row in found if row["outcome"] is Outcome.FILTERED]
    assert len(joined_ones) == 3
