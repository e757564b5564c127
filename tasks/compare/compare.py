"""Engines and orders measured against each other, on a sample of a date's requests."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.choices import ELSEWHERE, ENDPOINT, ENGINES, POLICIES
from tasks.attempt.extract_inputs import extract_inputs
from tasks.attempt.open import open_night
from tasks.attempt.tokenize_inputs import tokenize_inputs
from tasks.base.errors import ConfigurationError
from tasks.compare.measure import Measured, measure
from tasks.infer.backends.engines import find_engine, refusal_of
from tasks.plan.work import NightWork, load_work
from tasks.profile.tokenize import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engine.backends.facts import EngineFacts
    from tasks.night.night import Night
    from tasks.night.request import NightRequest

log = logging.getLogger(__name__)
SEED: Final = 0
"""Of the sample."""
MILLION: Final = 1_000_000


@dataclass(frozen=True)
class Variant:
    """An engine with its options, and an order.

    Attributes
    ----------
    options
        Of the engine, as KEY=VALUE.
    python
        Its interpreter; None is this one.
    """

    engine: str
    policy: str
    options: tuple[str, ...] = ()
    python: str | None = None


def variants_of(
    engines: Sequence[str], policies: Sequence[str], options: Sequence[str], pythons: Sequence[str]
) -> list[Variant]:
    """Return every engine in every order.

    Parameters
    ----------
    options
        As ``ENGINE:KEY=VALUE``: each is for one of the engines.
    pythons
        Interpreters as ``ENGINE:PATH``, or PATH where one engine alone has one.

    Raises
    ------
    ConfigurationError
        If an option is for none of them, or a name is given twice or unknown.
    """
    for name, given, known in (
        ("--engines", engines, tuple(ENGINES)),
        ("--policies", policies, tuple(POLICIES)),
    ):
        unknown = [one for one in given if one not in known]
        if unknown or not given or len(set(given)) < len(given):
            said = f"{unknown[0]!r} is unknown" if unknown else "names none, or one twice"
            raise ConfigurationError(name, said, f"Name some of {', '.join(known)}")
    of: dict[str, list[str]] = {engine: [] for engine in engines}
    for one in options:
        engine, colon, option = one.partition(":")
        if not colon or engine not in of:
            # Not repeated: it may hold what is secret.
            raise ConfigurationError(
                "--engine-option", "one is for none of the engines", "Give it as ENGINE:KEY=VALUE"
            )
        of[engine].append(option)
    python = _interpreters(engines, pythons)
    return [
        Variant(engine, policy, tuple(of[engine]), python.get(engine))
        for engine in engines
        for policy in policies
    ]


def _interpreters(engines: Sequence[str], pythons: Sequence[str]) -> dict[str, str]:
    """Return the interpreter of each engine that is given one."""
    having = [engine for engine in engines if engine in ELSEWHERE]
    found: dict[str, str] = {}
    for one in pythons:
        engine, colon, path = one.partition(":")
        if not colon and len(having) == 1:
            engine, path = having[0], one
        if engine not in having or engine in found:
            raise ConfigurationError(
                "--engine-python", "one is for none of the engines, or for two", "Give it as ENGINE:PATH"
            )
        found[engine] = path
    return found


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
        facts = [_facts(night, request.model, variant) for variant in variants]
        work, refused = _sampled(night, facts, sample)
        nights = [_night_of(night, v, f) for v, f in zip(variants, facts, strict=True)]
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


def _facts(night: Night, model: str, variant: Variant) -> EngineFacts:
    return find_engine(
        variant.engine,
        variant.options,
        None,
        night.model_dir,
        load_tokenizer(str(night.model_dir)).encode,
        model,
        python=variant.python,
        device=night.settings.device,
    )


def _night_of(night: Night, variant: Variant, facts: EngineFacts) -> Night:
    settings = replace(
        night.settings,
        policy=variant.policy,
        engine=variant.engine,
        engine_python=variant.python,
        engine_options=variant.options,
        device=ENDPOINT if variant.engine == ENDPOINT else night.settings.device,
        # All orders are made for one device, or they would be compared along with what is asked.
        device_profile=night.settings.planned_on,
    )
    return replace(night, engine=facts, settings=settings)


def _sampled(night: Night, facts: Sequence[EngineFacts], sample: int) -> tuple[NightWork, int]:
    """Return the work of a sample of the requests that every engine can answer, and how many cannot be."""
    work = load_work(night)
    refusals = [refusal_of(one, night.settings.defaults) for one in facts]
    refused = {
        row["request_id"]
        for row in night.read_table("requests").to_pylist()
        if any(refusal(row) is not None for refusal in refusals)
    }
    open_keys = set(work.open_keys())
    keys = [
        key
        for key, rows in work.members.items()
        if key in open_keys and not any(work.rows[i]["request_id"] in refused for i in rows)
    ]
    if not keys:
        raise ConfigurationError("--source", "no request is left that all engines answer", "Name other logs")
    if 0 < sample < len(keys):
        chosen = np.sort(np.random.default_rng(SEED).choice(len(keys), sample, replace=False))
        keys = [keys[i] for i in chosen.tolist()]
    return replace(work, members={key: work.members[key] for key in keys}), len(refused)


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
