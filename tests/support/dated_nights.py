"""Nights of several dates, with a step infer that needs no engine."""

from __future__ import annotations

import time
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from flows.parameters.nightly import NightlyParameters
from flows.run.sequence import Steps
from tasks.infer.part_writer import PartWriter
from tasks.plan.work import load_work
from tests.support.demo_nights import batch_line, write_lines
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from tasks.night.night import Night

FIRST = date(2026, 3, 27)


def day(n: int) -> date:
    return FIRST + timedelta(days=n)


def write_day(root: Path, when: date, count: int = 3, name: str = "day.jsonl") -> None:
    lines = [batch_line(f"r{i}", f"Count from {i} to {i + 4}.", max_tokens=32) for i in range(count)]
    write_lines(root / "logs" / when.isoformat(), name, lines)


def night_of(root: Path, **changed: Any) -> NightlyParameters:
    given: dict[str, Any] = {
        "job": "triage",
        "source": f"{root}/logs/{{run_date}}/",
        "store": str(root / "store"),
        "model": str(DEMO_MODEL),
        "catalog": "none",
        "lease_s": 2.0,
        "heartbeat_s": 0.2,
    }
    return NightlyParameters.parse(given | changed)


def instead(
    before: Callable[[Night], object] = lambda _: None,
    *,
    answers: int | None = None,
    text: Callable[[Mapping[str, Any]], str] = lambda _: "yes",
) -> Steps:
    """Steps whose infer answers every request (or `answers` of them) by itself, with `text` of its row.

    `before` is called when it begins.
    """

    def plan(night: Night) -> dict[str, Any]:
        results = {"policy": "fcfs", "remaining": 0}
        night.log.finish_step("plan", results)
        return results

    def infer(night: Night, _: object) -> dict[str, Any]:
        before(night)
        work = load_work(night)
        writer = PartWriter(night, work)
        keys: Iterable[str] = work.open_keys()[:answers]
        for key in keys:
            row = work.rows[work.members[key][0]]
            writer.add_answer(key, answer(night, row["input_tokens"]) | {"text": text(row)})
            writer.flush_if_due()
        writer.close()
        if answers is not None and work.open_keys():
            raise SimulatedError
        night.log.finish_step("infer", {"seconds": 10.0, "output_tokens": 3, "input_tokens": 9})
        return {"output_tokens": 3, "hit_rate": 0.0}

    return Steps(plan=plan, infer=infer)


class SimulatedError(Exception):
    """The night fails here."""


def answer(night: Night, prompt_tokens: int) -> dict[str, Any]:
    from datetime import UTC, datetime

    now = datetime.fromtimestamp(time.time(), UTC)
    return {
        "text": "yes",
        "token_ids": [1],
        "finish_reason": "stop",
        "choices": None,
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": 1, "cached_tokens": 0},
        "run_key": night.run_key,
        "attempt_id": night.attempt.id,
        "started_at": now,
        "finished_at": now,
    }
