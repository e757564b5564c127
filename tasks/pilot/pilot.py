"""A sample of a real date on the real device, in today's order and in the blend; the whole night from it."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.choices import NATIVE
from tasks.attempt.extract_inputs import extract_inputs
from tasks.attempt.open import open_night
from tasks.attempt.tokenize_inputs import tokenize_inputs
from tasks.base.errors import ConfigurationError
from tasks.compare.measure import Measured, measure
from tasks.compare.variants import Variant, answerable, facts_of, night_of
from tasks.estimate.case import OURS
from tasks.estimate.estimate import EstimateRequest, estimate_requests
from tasks.estimate.machine import choose_model
from tasks.estimate.read import Source, read_requests
from tasks.estimate.report import Question
from tasks.estimate.requests import Requests
from tasks.pilot.lengths import Learnt, learn_lengths
from tasks.pilot.whole import Sequences, around, fitted_device, levels, rounds_error
from tasks.pilot.words import decide

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from engine.cost.profiles import DeviceProfile
    from tasks.night.night import Night
    from tasks.night.request import NightRequest
    from tasks.plan.work import NightWork

log = logging.getLogger(__name__)
FORMAT: Final = 1
"""Of the JSON; raise it when a key changes its meaning."""
LEAST: Final = 8
"""Requests of each workload in the sample, at least: fewer say little of how long its answers are."""


@dataclass(frozen=True)
class PilotSettings:
    """What is asked beside the night.

    Attributes
    ----------
    today
        The order that the team runs now, a key of `engine.choices.POLICIES`.
    sample
        Requests to answer, about; 0 takes all.
    rounds
        Runs in each order.
    price, currency
        Of an hour of the device.
    past
        Store and job whose runs correct the estimate.
    """

    today: str = "fcfs"
    sample: int = 500
    rounds: int = 3
    price: float | None = None
    currency: str = "USD"
    past: tuple[str, str] | None = None


def pilot(
    request: NightRequest,
    settings: PilotSettings,
    scratch: Path,
    *,
    on_run: Callable[[int, str], None] | None = None,
) -> dict[str, Any]:
    """Answer a sample in both orders, in alternating rounds, and tell what the whole night would take.

    Parameters
    ----------
    request
        The night; its store keeps nothing that is needed later, and nothing is published.
    on_run
        Hears of each run before it begins: its round, and the order.

    Returns
    -------
    dict
        `requests`, `sampled`, `refused` (requests that the engine cannot answer), `strata` (workload and
        tenant, with how many of all are sampled), `lengths` (of answers, by workload), `orders` (today's,
        then the blend: `_order`), `gain` and `saving` with bounds, `estimate` or `no_estimate` (why), and
        `decision` with `reason`. Seconds are of step infer: loading, and the engine's steps.

    Raises
    ------
    ConfigurationError
        If a setting is wrong, no request is left, or the memory does not hold the longest one.
    EngineError
        If an engine ends before it has answered.
    """
    if settings.today == OURS:
        raise ConfigurationError("--today", "is the blend itself", "Name the order in use today, as fcfs")
    orders = (settings.today, OURS)
    inputs = extract_inputs(request, scratch)
    with open_night(inputs, request, scratch) as night:
        tokenize_inputs(night, inputs)
        variants = [_variant(night, order) for order in orders]
        facts = facts_of(night, request.model, variants[0])
        work, refused = answerable(night, [facts])
        sample = stratified(work, settings.sample)
        nights = {v.policy: night_of(night, v, facts) for v in variants}
        found: dict[str, list[Measured]] = {order: [] for order in orders}
        for number in range(settings.rounds):
            # What grows slower or faster with time does so for both.
            for order in orders if number % 2 == 0 else orders[::-1]:
                if on_run is not None:
                    on_run(number, order)
                found[order].append(measure(nights[order], sample, scratch / f"run-{number}-{order}"))
        return _told(request, settings, night, nights, (work, sample, refused), found, scratch)


def _variant(night: Night, order: str) -> Variant:
    settings = night.settings
    return Variant(settings.engine, order, settings.engine_options, settings.engine_python)


def stratified(work: NightWork, count: int) -> NightWork:
    """Return about `count` requests: workloads and tenants in proportion, shared prefixes kept together.

    Of every workload there are `LEAST` at least, or all that it has.
    """
    keys = list(work.members)
    if not 0 < count < len(keys):
        return work
    rows = [work.members[key][0] for key in keys]
    names = [(work.rows[i]["workload"], work.rows[i]["tenant"] or "") for i in rows]
    known = sorted(set(names))
    number = {name: i for i, name in enumerate(known)}
    tokens, start = work.prompts(rows)
    whole = Requests(
        "sample",
        tokens,
        start,
        np.maximum([_expected(work.rows[i]) for i in rows], 1).astype(np.int32),
        np.array([number[name] for name in names], np.int64),
        tuple("/".join(name) for name in known),
        np.arange(len(rows)),
    )
    chosen = set(whole.choose(count).tolist())
    for workload in sorted({name[0] for name in names}):
        mine = [i for i, name in enumerate(names) if name[0] == workload]
        missing = min(LEAST, len(mine)) - len(chosen.intersection(mine))
        others = [i for i in mine if i not in chosen]
        if missing > 0:
            chosen.update(others[len(others) * k // missing] for k in range(missing))
    return replace(work, members={keys[i]: work.members[keys[i]] for i in sorted(chosen)})


def _expected(row: Mapping[str, Any]) -> int:
    """Return tokens of an answer, as far as the log tells."""
    return int(row["observed_output_tokens"] or row["max_tokens"] or 0)


def _told(
    request: NightRequest,
    settings: PilotSettings,
    night: Night,
    nights: Mapping[str, Night],
    works: tuple[NightWork, NightWork, int],
    found: Mapping[str, list[Measured]],
    scratch: Path,
) -> dict[str, Any]:
    work, sample, refused = works
    whole, part = Sequences.of(night, work), Sequences.of(night, sample)
    lengths = found[OURS][0].lengths
    measured = np.array([lengths.get(name, np.nan) for name in whole.names], np.float64)
    learnt = learn_lengths(measured, whole.logged, whole.limit, whole.group)
    of_part = np.array([max(lengths[name], 1) for name in part.names], np.int32)
    device, fitted = fitted_device(night, [run for runs in found.values() for run in runs])
    scatter = rounds_error([[run.seconds for run in runs] for runs in found.values()])
    # How long loading takes does not depend on the order.
    load = median(run.load_seconds for runs in found.values() for run in runs)
    runs = [_simulated(nights[order], order, (whole, learnt), (part, of_part), device) for order in found]
    factors = levels([[run.seconds for run in one] for one in found.values()], [one.sample for one in runs])
    rows = [
        _order(order, found[order], load, simulated, factor, scatter, settings.price)
        for order, simulated, factor in zip(found, runs, factors, strict=True)
    ]
    today, ours = (row["seconds"]["central"] for row in rows)
    gain = around(today / ours, scatter * 2**0.5, rows[0]["length_effect"] - rows[1]["length_effect"])
    estimate, why = _estimated(request, settings, night, scratch)
    workloads = {
        number: row["workload"] for number, row in zip(whole.group.tolist(), whole.rows, strict=True)
    }
    result: dict[str, Any] = {
        "format": FORMAT,
        "run_date": night.run_date.isoformat(),
        "requests": sum(len(members) for members in work.members.values()),
        "sampled": sum(len(members) for members in sample.members.values()),
        "refused": refused,
        "rounds": settings.rounds,
        "engine": night.settings.engine,
        "device": {"name": device.name, "fitted": fitted},
        "price": settings.price,
        "currency": settings.currency,
        "strata": _strata(work, sample),
        "lengths": [
            dict(
                zip(
                    ("workload", "answers", "sampled", "logged_mean", "measured_mean", "others_from"),
                    (workloads[number], *others),
                    strict=True,
                )
            )
            for number, *others in learnt.groups
        ],
        "length_error": learnt.error,
        "rounds_error": scatter,
        "equal_answers": _equal(found),
        "orders": rows,
        "gain": asdict(gain),
        "saving": {name: 1.0 - 1.0 / value for name, value in asdict(gain).items()},
        "estimate": estimate,
        "no_estimate": why,
    }
    return {**result, **decide(result)}


@dataclass(frozen=True)
class _Simulated:
    """Seconds of sample, whole, and whole with longer answers; tokens and hit rate of the whole."""

    sample: float
    whole: float
    longer: float
    tokens: int
    hit_rate: float


def _simulated(
    night: Night,
    order: str,
    whole: tuple[Sequences, Learnt],
    part: tuple[Sequences, np.ndarray[Any, np.dtype[np.int32]]],
    device: DeviceProfile,
) -> _Simulated:
    """Simulate an order on the sample, and on the whole with the lengths learnt and with longer ones."""
    sequences, learnt = whole
    longer = np.minimum(np.rint(learnt.output * (1.0 + learnt.error)), np.maximum(sequences.limit, 1))
    simulated = [
        one.simulated(night, order, output.astype(np.int32), device)
        for one, output in ((part[0], part[1]), (sequences, learnt.output), (sequences, longer))
    ]
    seconds = [run.seconds for run in simulated if run is not None]
    if len(seconds) < len(simulated) or simulated[1] is None:
        raise ConfigurationError(
            "--kv-tokens", "is too small for the longest request of the whole date", "Raise it"
        )
    tokens = int(np.diff(sequences.offsets).sum()) + int(learnt.output.sum(dtype=np.int64))
    of_part, of_whole, of_longer = seconds
    return _Simulated(of_part, of_whole, of_longer, tokens, simulated[1].hit_rate)


def _order(
    order: str,
    runs: list[Measured],
    load: float,
    simulated: _Simulated,
    factor: float,
    scatter: float,
    price: float | None,
) -> dict[str, Any]:
    """Return the figures of an order: what the sample took, and what the whole would take.

    `factor` is measured over simulated seconds of the sample (`levels`); `length_effect` the relative change
    of the whole's seconds if answers are longer by their error.
    """
    effect = simulated.longer / simulated.whole - 1.0
    bounds = around(simulated.whole * factor + load, scatter, effect)
    return {
        "order": order,
        "round_seconds": [run.seconds for run in runs],
        "load_seconds": load,
        "simulated_sample_seconds": simulated.sample,
        "simulated_seconds": simulated.whole,
        "factor": factor,
        "length_effect": effect,
        "seconds": asdict(bounds),
        "tokens_per_second": simulated.tokens / (simulated.whole * factor),
        "hit_rate": simulated.hit_rate,
        "cost": None if price is None else bounds.central / 3600.0 * price,
    }


def _strata(work: NightWork, sample: NightWork) -> list[dict[str, Any]]:
    counts = []
    for one in (work, sample):
        rows = [one.rows[i] for members in one.members.values() for i in members]
        counts.append(Counter((row["workload"], row["tenant"]) for row in rows))
    return [
        {"workload": name[0], "tenant": name[1], "requests": counts[0][name], "sampled": counts[1][name]}
        for name in sorted(counts[0], key=lambda name: (name[0], name[1] or ""))
    ]


def _equal(found: Mapping[str, list[Measured]]) -> float:
    """Return the share of answers that are the same in both orders, in their first rounds."""
    one, other = (runs[0].answers for runs in found.values())
    return sum(answer == other.get(name) for name, answer in one.items()) / max(len(one), 1)


def _estimated(
    request: NightRequest, settings: PilotSettings, night: Night, scratch: Path
) -> tuple[dict[str, Any] | None, str | None]:
    """Return what the estimate says of the whole date on this device, or None and why it says nothing."""
    if night.settings.engine != NATIVE:
        return None, f"an estimate is about our own engine, not about {night.settings.engine}"
    source = Source(
        request.source,
        run_date=request.run_date,
        timezone=request.timezone,
        log_format=request.log_format,
        columns=dict(request.columns),
        max_tokens=night.settings.defaults.max_tokens,
    )
    asked = EstimateRequest(
        source,
        str(night.model_dir),
        kv_tokens=night.settings.kv_tokens,
        kv_dtype=night.settings.kv_dtype,
        question=Question(today=settings.today),
        past=settings.past,
    )
    model = choose_model(str(night.model_dir))
    try:
        requests = read_requests(source, model, scratch / "estimate")
        made = estimate_requests(requests, model, [night.settings.planned_on], {}, asked)
    except ConfigurationError as error:
        return None, f"{error.field}: {error.message}"
    machine = made["machines"][0]
    hours = machine["gpu_hours"]
    return {
        "measured_device": machine["device"]["source"] == "measured",
        "past_runs": made["past_runs"],
        "seconds": {
            name: {bound: value * 3600.0 / machine["gpus"] for bound, value in hours[key].items()}
            for name, key in ((settings.today, "today"), (OURS, "ours"))
        },
        "saving": machine["saving"],
    }, None
