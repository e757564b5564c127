"""Runs nights on the demo model, step by step, for tests."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING

from tasks.attempt.extract_inputs import extract_inputs
from tasks.attempt.open import open_night
from tasks.attempt.tokenize_inputs import tokenize_inputs
from tasks.infer.infer import infer
from tasks.night.night import NightSettings
from tasks.night.request import NightRequest
from tasks.plan.plan import plan
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from pathlib import Path

DAY = date(2026, 11, 22)


def batch_line(custom_id: str, text: str, **body) -> str:
    messages = [{"role": "user", "content": text}]
    request = {"model": "m", "messages": messages, **body}
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": request}
    )


def write_lines(folder: Path, name: str, lines: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n")


def night_request(root: Path, model: Path = DEMO_MODEL, *, rerun: bool = False, **settings) -> NightRequest:
    merged = {"kv_tokens": 4096, "lease_s": 1.0, "heartbeat_s": 0.2, "part_answers": 5, **settings}
    return NightRequest(
        "t",
        str(root / "logs"),
        str(root / "store"),
        str(model),
        DAY,
        NightSettings(**merged),
        rerun=rerun,
    )


@contextmanager
def opened(request: NightRequest, scratch: Path):
    """Open a night with its inputs recorded."""
    scratch.mkdir(parents=True, exist_ok=True)
    inputs = extract_inputs(request, scratch)
    with open_night(inputs, request, scratch) as night:
        if not night.log.state.finished:
            tokenize_inputs(night, inputs)
        yield night


def answer(night, on_progress=None) -> dict:
    plan(night)
    results = infer(night, on_progress)
    night.log.end_attempt("completed", 0)
    return results


def outputs_of(night) -> dict[str, str]:
    """custom_id -> text; fails if a request was answered twice."""
    rows = night.read_table("outputs").to_pylist()
    assert len({row["request_id"] for row in rows}) == len(rows)
    return {row["custom_id"]: row["text"] for row in rows}
