"""What a night by rules tells Prefect of its candidate, and who hears that one was taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.deploy.automations import taken_back
from flows.views import events

if TYPE_CHECKING:
    import pytest

STAGE = {
    "candidate": "policy=dfs",
    "percent": 0.0,
    "stage": "fallen back",
    "good_nights": 0,
    "run_date": "2026-03-27",
    "action": "fall back",
    "reason": "700 tokens/s instead of 1,000 (at most 10% slower)",
    "by": "rules",
    "at": "2026-03-28T04:00:00+00:00",
    "taken_back": True,
}
RESULT = {"job": "triage", "run_date": "2026-03-27"}


def test_a_candidate_that_was_taken_back_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "emit_event", lambda **given: told.append(given))
    events.tell_candidate(RESULT)
    assert told == []
    for _ in range(2):
        events.tell_candidate({**RESULT, "canary": STAGE})
    first, again = told
    # However often the night is asked for, it is one event.
    assert first == again
    assert first["event"] == "nightblend.candidate.fall-back"
    assert first["payload"]["reason"] == STAGE["reason"]
    assert {first["event"]} == taken_back(None).trigger.expect
    events.tell_candidate({**RESULT, "canary": {**STAGE, "action": "good night"}})
    assert told[-1]["event"] == "nightblend.candidate.good-night"
    assert told[-1]["id"] != first["id"]


def test_without_a_block_nobody_is_sent_a_message() -> None:
    assert taken_back(None).actions[0].type == "do-nothing"
