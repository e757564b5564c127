"""What a log should say of a call, by what was sent, and where it says another thing.

The measure is what becomes of the same body as a line of OpenAI's batch, whose reader has tests of its own:
its content, its settings, and the reason why it is refused.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from tasks.extract.readers.openai_batch import READER
from tests.producers.asking import body_of
from tests.producers.calls import CALLS
from tests.support.parsing import Outcome, read_records

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.producers.calls import Call
    from tests.producers.logs import Log

BY_NAME = {call.name: call for call in CALLS}
COLUMNS = ("messages_json", "prompt", "endpoint", "max_tokens", "sampling", "answer_key")
TOLERANCE = timedelta(milliseconds=1)
"""Some tools keep milliseconds."""
_URLS = {"chat": "/v1/chat/completions", "text": "/v1/completions"}
Record = dict[str, Any]


def left_out(log: Log, call: Call) -> set[str]:
    """Return the fields of a call that the log is known to leave out."""
    body = body_of(call)
    return {
        name
        for name, where in log.leaves_out.items()
        if name in body and (where is None or call.name in where)
    }


def expected(call: Call, without: Iterable[str] = (), changes: Mapping[str, Any] | None = None) -> Record:
    """Return what becomes of a call as a line of OpenAI's batch, without some of its fields."""
    body = {name: value for name, value in body_of(call).items() if name not in set(without)}
    line = {"custom_id": "x", "url": _URLS[call.kind], "body": {**body, **(changes or {})}}
    return read_records([line], READER)[0]


def expected_of(log: Log, call: Call) -> Record:
    """Return what should become of a call in a log."""
    unset = {name: value for name, value in log.changed.get("", {}).items() if name not in call.body}
    return expected(call, left_out(log, call), {**unset, **log.changed.get(call.name, {})})


def differences(log: Log, sent: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Tell where a record is not what was sent."""
    call = BY_NAME[sent["call"]]
    wanted: dict[str, Any] = {"requested_model": log.model}
    if call.name in log.lengths:
        wanted |= {"outcome": Outcome.REQUEST, "input_tokens": sent["prompt_tokens"], "messages_json": None}
    elif call.name in log.refused_as:
        wanted |= {"outcome": Outcome.ERROR, "field": log.refused_as[call.name]}
    elif "tools" in call.body and found.get("outcome") is Outcome.ERROR:
        # Definitions that a log keeps in a form or a place of its own.
        wanted |= {"outcome": Outcome.ERROR, "field": "tools"}
    else:
        plain = expected_of(log, call)
        names = ("outcome", "code", "field", *(COLUMNS if plain["outcome"] is Outcome.REQUEST else ()))
        wanted |= {name: plain[name] for name in names}
        if "api" in sent and "endpoint" in names:
            # It is answered in the form of the API that it was sent for.
            wanted["endpoint"] = sent["api"]
    if log.outputs and call.name not in log.no_output:
        wanted["observed_output_tokens"] = None if call.fails else sent["completion_tokens"]
    wrong = [
        f"{call.name}: {name} is {found.get(name)!r}, not {value!r}"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    if log.times and not _in_time(log, sent, found):
        wrong.append(
            f"{call.name}: made at {found.get('event_time')}, took {found.get('observed_latency_s')} s"
        )
    return wrong


def _in_time(log: Log, sent: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Tell whether a record's time and duration are those of the call."""
    at = found.get("event_time")
    if at is None:
        return False
    if "at" in sent:
        return abs(at - datetime.fromisoformat(sent["at"])) <= TOLERANCE
    started, ended = _window(sent)
    took, most = found.get("observed_latency_s"), ended - started
    lasted = took is not None and 0 < took <= most.total_seconds()
    return started <= at <= ended and (lasted or not log.latency or sent["fails"])


def _window(sent: Mapping[str, Any]) -> tuple[datetime, datetime]:
    started, ended = (datetime.fromisoformat(sent[name]) for name in ("started", "ended"))
    return started - TOLERANCE, ended


def paired(sent: list[Record], found: list[Record]) -> list[tuple[Record, list[Record]]]:
    """Return each call with its records: by its name in the log, else by its time."""
    pairs = []
    for one in sent:
        if "custom_id" in one:
            own = [row for row in found if row.get("custom_id") == one["custom_id"]]
        else:
            started, ended = _window(one)
            own = [row for row in found if row.get("event_time") and started <= row["event_time"] <= ended]
        pairs.append((one, own))
    return pairs
