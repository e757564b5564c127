"""Nights in engines by others: how they are run, compared with ours, and ended on the way."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import psutil

from engine.backends.contract import DONE
from tasks.infer.backends import engine_process
from tests.support.demo_nights import answer, batch_line, opened, outputs_of, write_lines

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tasks.night.request import NightRequest

COUNTS = [batch_line(f"r{i}", f"Count from {i} to {i + 9}.", max_tokens=24) for i in range(60)]
SEEN = 16
"""Answers after which a night is disturbed."""


def night_of(root: Path, lines: list[str], request: NightRequest) -> tuple[dict, dict[str, dict], list[dict]]:
    """Return the results of step infer, the rows of the outputs by custom_id, and the steps."""
    write_lines(root / "logs", "a.jsonl", lines)
    with opened(request, root / "scratch") as night:
        results = answer(night)
        outputs_of(night)
        rows = {row["custom_id"]: row for row in night.read_table("outputs").to_pylist()}
        return results, rows, night.read_table("steps").to_pylist()


def recorded_engines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what every engine process is appended to that is started from now on."""
    engines: list[Any] = []
    started = engine_process.EngineProcess.__init__

    def start(engine: Any, *given: Any, **more: Any) -> None:
        started(engine, *given, **more)
        engines.append(engine)

    monkeypatch.setattr(engine_process.EngineProcess, "__init__", start)
    return engines


def told(row: dict) -> tuple:
    """What an answer is, without its log probabilities and what it took."""
    choices = row["choices"] and [(one["text"], one["token_ids"]) for one in row["choices"]]
    return row["text"], row["token_ids"], row["finish_reason"], choices


def same_log_probabilities(mine: dict, theirs: dict) -> bool:
    """Tell whether two answers have the same tokens with log probabilities within a thousandth."""
    pairs = zip(*(row["choices"][0]["logprobs"] for row in (mine, theirs)), strict=True)
    return all(
        (one["token_id"], one["bytes"]) == (other["token_id"], other["bytes"])
        and abs(one["logprob"] - other["logprob"]) < 1e-3
        and [top["token_id"] for top in one["top"]] == [top["token_id"] for top in other["top"]]
        for one, other in pairs
    )


def _process_of(engine: int, inside: str) -> int:
    """Return the id of an engine's process, or of the one inside of it whose name begins so."""
    if not inside:
        return engine
    (found,) = (
        one.pid
        for one in psutil.Process(engine).children(recursive=True)
        if " ".join(one.cmdline()).startswith(inside)
    )
    return found


def ended_night(
    root: Path,
    request: NightRequest,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
    code: int,
    *,
    inside: str = "",
) -> dict[str, tuple]:
    """Run a night on `COUNTS` whose first engine ends before its time, and check that it lost nothing.

    Parameters
    ----------
    end
        Name of the signal that the engine's process gets; another word: it ends by itself.
    code
        The exit code that the first engine has to have.
    inside
        What the name of the process begins with that gets the signal, of those that the engine has started;
        '': the engine's own.

    Returns
    -------
    dict
        custom_id -> what the answer is (`told`).
    """
    engines = recorded_engines(monkeypatch)
    ended: list[int] = []

    def disturb(seen: Any) -> None:
        if end.startswith("SIG") and seen.answered >= SEEN and not ended:
            ended.append(seen.answered)
            os.kill(_process_of(engines[-1].process.pid, inside), getattr(signal, end))

    write_lines(root / "logs", "a.jsonl", COUNTS)
    with opened(request, root / "scratch") as night:
        results = answer(night, disturb)
        rows = {row["custom_id"]: row for row in night.read_table("outputs").to_pylist()}
        assert len(outputs_of(night)) == len(COUNTS)
    # The first one did not get to the end, and the second one did.
    assert results["engine_starts"] == 2
    assert [engine.process.returncode for engine in engines] == [code, DONE]
    if end.startswith("SIG"):
        assert SEEN <= ended[0] < len(COUNTS)
    return {name: told(row) for name, row in rows.items()}
