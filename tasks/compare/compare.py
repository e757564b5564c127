"""Engines and orders measured against each other, on a sample of a date's requests."""

from __future__ import annotations

import logging
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tasks.attempt.extract_inputs import extract_inputs
from tasks.attempt.open import open_night
from tasks.attempt.tokenize_inputs import tokenize_inputs
from tasks.compare.measure import Measured, measure
from tasks.compare.variants import answerable, facts_of, night_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engine.backends.facts import EngineFacts
    from tasks.compare.variants import Variant
    from tasks.night.night import Night
    from tasks.night.request import NightRequest
    from tasks.plan.work import NightWork

log = logging.getLogger(__name__)
SEED: Final = 0
"""Of the sample."""
MILLION: Final = 1_000_000


def compare(
    request: NightRequest,
    variants: Sequence[Variant],
    scratch: Path,
    *,
    rounds: int = 3,
    sample: int = 200,
    price: float | None = None,
    on_run: Callable[[int, Variant], None] | None = None,
) -> dict[str, Any]:
    """Send the same requests through each variant, in alternating rounds.

    Parameters
    ----------
    request
        The night that has the requests; its store keeps nothing that is needed later.
    sample
        Most requests, drawn once; those that share an answer count once. 0 takes all.
    price
        Of an hour of the device, of whatever currency.
    on_run
        Hears of each run before it begins: its round, and what is measured.

    Returns
    -------
    dict
        `requests`, `prompt_tokens`, `refused` (requests that one of the engines cannot answer), `rounds`, and
        `rows`: one per variant, with medians over the rounds (`_row`).

    Raises
    ------
    ConfigurationError
        If an engine is not there, or no request is left.
    EngineError
        If an engine ends before it has answered.
    """
    inputs = extract_inputs(request, scratch)
    with open_night(inputs, request, scratch) as night:
        tokenize_inputs(night, inputs)
        facts = [facts_of(night, request.model, variant) for variant in variants]
        work, refused = _sampled(night, facts, sample)
        nights = [night_of(night, v, f) for v, f in zip(variants, facts, strict=True)]
        found: list[list[Measured]] = [[] for _ in variants]
        for number in range(rounds):
            for i, one in enumerate(nights):
                if on_run is not None:
                    on_run(number, variants[i])
                found[i].append(measure(one, work, scratch / f"run-{number}-{i}"))
    first = found[0][0]
    return {
        "requests": len(work.members),
        "prompt_tokens": first.prompt_tokens,
        "refused": refused,
        "rounds": rounds,
        "price": price,
        "rows": [_row(v, f, m, first, price) for v, f, m in zip(variants, facts, found, strict=True)],
    }


def _sampled(night: Night, facts: Sequence[EngineFacts], sample: int) -> tuple[NightWork, int]:
    """Return the work of a sample of the requests that every engine can answer, and how many cannot be."""
    work, refused = answerable(night, facts)
    keys = list(work.members)
    if 0 < sample < len(keys):
        chosen = np.sort(np.random.default_rng(SEED).choice(len(keys), sample, replace=False))
        keys = [keys[i] for i in chosen.tolist()]
    return replace(work, members={key: work.members[key] for key in keys}), refused


def _row(
    variant: Variant, facts: EngineFacts, runs: Sequence[Measured], first: Measured, price: float | None
) -> dict[str, Any]:
    """Return the figures of a variant: medians over its runs; None is what the engine does not tell.

    `equal_answers` is the share of its answers that are those of the first run of all, by token ids where
    both have them and by text else.
    """
    seconds = _median([run.seconds for run in runs])
    tokens = _median([float(run.tokens) for run in runs])
    rates = [None if run.hit_tokens is None else run.hit_tokens / max(run.prompt_tokens, 1) for run in runs]
    mixed = [
        None if run.mixed_steps is None or not run.steps else run.mixed_steps / run.steps for run in runs
    ]
    return {
        "engine": variant.engine,
        "version": facts.version,
        "order": variant.policy,
        "seconds": seconds,
        "tokens_per_second": _median([run.tokens / run.seconds for run in runs]),
        "output_tokens": _median([run.output_tokens for run in runs]),
        "hit_rate": _median(rates),
        "preemptions": _median([run.preemptions for run in runs]),
        "mixed_steps": _median(mixed),
        "peak_bytes": _median([run.peak_bytes for run in runs]),
        "equal_answers": _median([_equal(run, first) for run in runs]),
        "cost_per_million_tokens": None
        if price is None or not seconds or not tokens
        else price * seconds / 3600.0 / tokens * MILLION,
    }


def _median(values: Sequence[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return float(median(told)) if len(told) == len(values) else None


def _equal(run: Measured, first: Measured) -> float:
    same = 0
    for name, (ids, text) in first.answers.items():
        others, other = run.answers.get(name, (None, None))
        same += text == other if ids is None or others is None else ids == others
    return same / max(len(first.answers), 1)
