"""Nights of which a candidate answers a share, with a step infer whose two sides behave as a test says."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError
from flows.parameters.to_request import night_request
from flows.run.sequence import Steps, run_night
from tasks.base.errors import ErrorCode, RequestError
from tasks.infer.part_writer import PartWriter
from tasks.plan.work import load_work
from tests.support.dated_nights import answer, instead, night_of
from tests.support.demo_nights import batch_line, write_lines

if TYPE_CHECKING:
    from datetime import date

    from tasks.night.night import Night

CANDIDATE = "dfs"
"""The policy of the candidate; that of the night is the blend."""


@dataclass(frozen=True)
class Behaviour:
    """What a side does.

    Attributes
    ----------
    speed
        Tokens a second.
    failing
        Of a hundred requests so many have no answer.
    differing
        Of a hundred answers so many are others than the baseline's.
    tokens
        Of an answer.
    dies
        The engine ends with an error after half of the requests.
    """

    speed: float = 1000.0
    failing: int = 0
    differing: int = 0
    tokens: int = 4
    dies: bool = False


def write_day(root: Path, when: date, count: int = 200, *, tenants: int = 7) -> None:
    """Write a day of requests of so many tenants and three workloads.

    With a tenant for each request (`tenants` at least `count`), a share by tenant is of the same requests
    wherever the logs are; one by request depends on the place of its log.
    """
    lines = [
        batch_line(
            f"r{i}", f"Count from {i}.", metadata={"tenant": f"t{i % tenants}", "workload": f"w{i % 3}"}
        )
        for i in range(count)
    ]
    # A line that asks for nothing, and one that cannot be answered.
    lines += ["{broken", batch_line("tools", "Hello", tools=[{"type": "function"}])]
    write_lines(root / "logs" / when.isoformat(), "day.jsonl", lines)


def steps_of(candidate: Behaviour, baseline: Behaviour = Behaviour()) -> Steps:
    """Return steps whose infer behaves as one of the two, by the policy of the night."""

    def infer(night: Night, _: object) -> dict[str, Any]:
        how = candidate if night.settings.policy == CANDIDATE else baseline
        work, tokens = load_work(night), 0
        writer = PartWriter(night, work)
        keys = work.open_keys()
        for place, key in enumerate(keys):
            if how.dies and place >= len(keys) // 2:
                writer.close()
                raise EngineError("the engine died")
            row = work.rows[work.members[key][0]]
            number = number_of(row["custom_id"])
            if place % 100 < how.failing:
                error = RequestError(ErrorCode.ENGINE_ERROR, None, "it died", retryable=True)
                writer.add_error(key, error)
                continue
            said = "other" if number < how.differing else "said"
            made = answer(night, row["input_tokens"])
            usage = made["usage"] | {"completion_tokens": how.tokens}
            writer.add_answer(key, made | {"text": f"{said} {row['custom_id']}", "usage": usage})
            tokens += row["input_tokens"] + how.tokens
        writer.close()
        seconds = tokens / how.speed
        night.log.finish_step("infer", {"seconds": seconds, "engine_seconds": seconds})
        return {}

    return replace(instead(), infer=infer)


def number_of(name: str) -> int:
    """Return the number below 100 that decides whether a request's answer differs (`Behaviour.differing`)."""
    return int(name[1:]) * 37 % 100


def run(root: Path, when: date, steps: Steps, **given: Any) -> dict[str, Any]:
    """Run a night of a candidate that answers a share of it."""
    parameters = night_of(root, run_date=when, **{"report": False, "max_bad_fraction": 0.5, **given})
    return run_night(night_request(parameters), steps=steps)


def names(result: dict[str, Any]) -> tuple[dict[str, str], set[str]]:
    """Return name -> text of the answers, and the names of the errors; each request is there once."""
    rows = [json.loads(line) for line in Path(result["output_file"]).read_text().splitlines()]
    failed = [json.loads(line)["custom_id"] for line in Path(result["error_file"]).read_text().splitlines()]
    texts = {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in rows}
    assert len(texts) == len(rows)
    assert len(set(failed)) == len(failed)
    assert not texts.keys() & set(failed)
    return texts, set(failed)
