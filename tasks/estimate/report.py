"""The estimate of one machine: every figure that a manager or an engineer asks for, as plain data.

Nights of up to `WHOLE` requests are simulated whole wherever it matters; of larger ones only today's way,
ours and the best other one are, the rest is taken from a sample of so many and says so. Budgets and bounds
are found on a smaller sample, in which the longest answer takes but a part of the time (`DRAINS`).
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.plan.tree import node_costs
from tasks.estimate.case import OURS, Case, Way
from tasks.estimate.gain_parts import Chain, sources_of
from tasks.estimate.gainmap import DENSITIES, SHARINGS, make_map
from tasks.estimate.read import ASSUMED
from tasks.estimate.replicas import divided_seconds
from tasks.estimate.savings import (
    ASSUMED_ERROR,
    LENGTH_ERROR,
    device_error_of,
    effects,
    gain_range,
    seconds_range,
)
from tasks.estimate.trust import Corrections
from tasks.estimate.verdict import judge

if TYPE_CHECKING:
    from tasks.estimate.machine import Machine
    from tasks.estimate.requests import Requests

WHOLE: Final = 40_000
SAMPLE: Final = 2_000
"""Requests that budgets and ranges are found with, at least."""
DRAINS: Final = 10.0
"""A sample takes so many times as long as its longest answer by itself, or else it is as large as can be.

In a smaller one the end, in which little runs, is most of it, and it says nothing of budgets.
"""
ORDERS: Final = ("fcfs", "dfs", "interleave", "blend")
AUTO_ORDERS: Final = ("blend", "dfs")
"""Those that policy `auto` chooses from (`engine.simulate.schedules.candidates`)."""
BETTER: Final = 1.01
"""Another order is told to be better from this much on."""
REPLICAS: Final = (1, 2, 4, 8, 16, 32, 64)
SIMULATED, SAMPLED = "simulated", "sampled"


@dataclass(frozen=True)
class Question:
    """What is asked beside requests and machine.

    Attributes
    ----------
    today
        The order that the team runs now, a key of `engine.choices.POLICIES`.
    most_gpus
        Most GPUs to say the duration for.
    length_error
        Relative error of the mean answer length; None: by where the lengths come from.
    sample
        Requests of the sample, at least.
    whole
        Of larger nights a sample of so many is simulated where it stands for the whole.
    """

    today: str = "fcfs"
    most_gpus: int = 8
    length_error: float | None = None
    sample: int = SAMPLE
    whole: int = WHOLE
    corrections: Corrections = field(default_factory=Corrections)


def estimate_machine(requests: Requests, machine: Machine, question: Question) -> dict[str, Any]:
    """Return the estimate of all requests on one machine; keys are explained in `tasks.estimate.words`."""
    begin = time.perf_counter()
    distinct = requests.distinct
    study = Study(distinct, machine, question)
    today, ours, base = study.today, study.ours, study.base
    factor = 1.0
    if len(distinct) < len(requests):
        factor = Case(requests, machine).seconds(today) / study.case.seconds(today)
    sources = sources_of(base, study.chain(), factor)
    device_error = device_error_of(machine.measured, question.corrections.error)
    found = effects(study.case, study.sample, today, ours, _length_error(requests, question), device_error)
    seconds = {"today": study.case.seconds(today) * factor, "ours": study.case.seconds(ours)}
    gain = gain_range(seconds["today"] / seconds["ours"], found)
    nature = _nature(study.case)
    kept = min(1.0, study.case.run(today).hit_rate / max(nature["hit_rate_optimum"], 1e-12))
    gains = make_map(
        machine,
        study.case.cost(ours),
        nature["density"],
        nature["sharing"],
        kept,
        gain.central / factor,
    )
    rows = study.rows()
    best = min(rows, key=lambda row: float(row["seconds"]) * (1.0 if row["order"] == OURS else BETTER))
    correct = question.corrections
    ranges = {
        name: seconds_range(seconds[name] * correct.factor, found, ours=name == "ours")
        for name in ("today", "ours")
    }
    hours = {
        name: {
            key: (value + correct.overhead_seconds) * machine.gpus / 3600
            for key, value in asdict(bounds).items()
        }
        for name, bounds in ranges.items()
    }
    result: dict[str, Any] = {
        "machine": machine.name,
        "gpus": machine.gpus,
        "price_per_gpu_hour": machine.price,
        "device": {"source": machine.device.source, "error": device_error},
        "kv_tokens": machine.kv_tokens,
        "overlap": _overlap(machine),
        "label": SIMULATED,
        "today": {"way": asdict(today), **_figures(requests, machine, seconds["today"], correct)},
        "ours": {"way": asdict(ours), **_figures(requests, machine, seconds["ours"], correct)},
        "best_order": best["order"],
        "auto": _auto(rows, overlap=machine.overlaps),
        "gpu_hours": hours,
        "money": _money(hours, machine.price),
        "gain": asdict(gain),
        "saving": {
            "low": 1 - 1 / gain.low,
            "central": 1 - 1 / gain.central,
            "high": 1 - 1 / gain.high,
        },
        "effects": [{**asdict(effect), "gain": gain.central * effect.gain} for effect in found],
        "sources": [asdict(source) for source in sources],
        "sources_label": SIMULATED if base is study.case else SAMPLED,
        "orders": rows,
        "optimum": asdict(study.case.limits(overlap=machine.overlaps)),
        "replicas": _replicas(study, today, ours, question, factor),
        "workload": nature,
        "map": {**asdict(gains), "densities": DENSITIES, "sharings": SHARINGS},
        "sample": len(study.sample.requests),
        "base": len(base.requests),
        "took_seconds": 0.0,
    }
    result["verdict"] = judge(result)
    result["took_seconds"] = time.perf_counter() - begin
    return result


class Study:
    """The ways that are compared: tuned on a sample, run over everything where it matters."""

    def __init__(self, requests: Requests, machine: Machine, question: Question) -> None:
        self.question = question
        self.case = Case(requests, machine)
        self.base = self._sampled(question.whole)
        size = _sample_size(self.case, question)
        self.sample = self.base if size >= question.whole else self._sampled(size)
        self.ways: dict[tuple[str, bool], Way] = {}
        for overlap in (False, True) if machine.overlaps else (False,):
            for order in dict.fromkeys((*ORDERS, question.today)):
                self.ways[order, overlap] = self.sample.tuned(order, overlap=overlap)
        key = question.today, False
        # What today's engine is tuned to must not be an accident of the sample.
        self.ways[key] = self.base.fixed(question.today, overlap=False, start=self.ways[key].budget)
        self.today = self.ways[key]
        start = self.sample.fixed(OURS, overlap=machine.overlaps).budget
        self.fixed = self.base.fixed(OURS, overlap=machine.overlaps, start=start)
        paced = Way(OURS, machine.overlaps, machine.budgets[-1], paced=True)
        ours = (self.fixed, paced) if machine.overlaps else (self.fixed,)
        self.ways[OURS, machine.overlaps] = self.ours = min(ours, key=self.base.seconds)
        rivals = [way for way in self.ways.values() if way.overlap == machine.overlaps and way.order != OURS]
        self.rival = min(rivals, key=self.base.seconds)

    def _sampled(self, count: int) -> Case:
        sample = self.case.requests.sample(count)
        return self.case if sample is self.case.requests else Case(sample, self.case.machine)

    def chain(self) -> Chain:
        """Return the ways from today's to ours."""
        overlapped = self.sample.fixed("dfs", overlap=self.ours.overlap)
        return Chain(self.today, self.ways["dfs", False], overlapped, self.fixed, self.ours)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row of figures for each order, with and without overlap."""
        exact = {self.today, self.ours, self.rival}
        scale = self.case.seconds(self.ours) / self.base.seconds(self.ours)
        rows = []
        for way in self.ways.values():
            case = self.case if way in exact else self.base
            seconds = self.case.seconds(way) if way in exact else self.base.seconds(way) * scale
            optimum = self.case.limits(overlap=way.overlap).practical
            rows.append(
                {
                    **asdict(way),
                    **_figures(self.case.requests, self.case.machine, seconds, self.question.corrections),
                    "hit_rate": case.run(way).hit_rate,
                    "optimum_share": optimum / seconds,
                    "label": SIMULATED if case is self.case else SAMPLED,
                }
            )
        return rows


def _sample_size(case: Case, question: Question) -> int:
    """Return how many requests the sample should have."""
    cost = case.cost(Way(OURS, case.machine.overlaps, case.machine.budgets[-1]))
    alone = float(case.requests.output.max()) * cost.weight_bytes / cost.read_bytes
    part = DRAINS * alone / case.limits(overlap=case.machine.overlaps).practical
    return min(max(math.ceil(part * len(case.requests)), question.sample), question.whole)


def _length_error(requests: Requests, question: Question) -> float:
    if question.length_error is not None:
        return question.length_error
    return ASSUMED_ERROR if requests.about.get("length_source") == ASSUMED else LENGTH_ERROR


def _figures(requests: Requests, machine: Machine, seconds: float, correct: Corrections) -> dict[str, Any]:
    engine = seconds * correct.factor
    whole = engine + correct.overhead_seconds
    hours = whole * machine.gpus / 3600
    return {
        "seconds": seconds,
        "corrected_seconds": whole,
        "hours": whole / 3600,
        "gpu_hours": hours,
        "money": None if machine.price is None else hours * machine.price,
        "tokens_per_second": requests.total_tokens / engine,
    }


def _money(hours: dict[str, dict[str, float]], price: float | None) -> dict[str, dict[str, float]] | None:
    if price is None:
        return None
    return {name: {key: price * value for key, value in bounds.items()} for name, bounds in hours.items()}


def _overlap(machine: Machine) -> dict[str, Any]:
    if not machine.overlaps:
        return {"possible": False, "source": None, "interference": None}
    source = "measured" if machine.interference is None else "assumed"
    return {"possible": True, "source": source, "interference": machine.interference}


def _auto(rows: list[dict[str, Any]], *, overlap: bool) -> dict[str, Any]:
    """Return which of the orders that `auto` chooses from is the fastest, and what the other would take.

    The night's own search goes by its own budget, on samples; this is of the rows above.
    """
    mine = [row for row in rows if row["overlap"] == overlap and row["order"] in AUTO_ORDERS]
    best, second = sorted(mine, key=lambda row: float(row["seconds"]))[:2]
    return {
        "order": best["order"],
        "budget": best["budget"],
        "paced": best["paced"],
        "seconds": best["seconds"],
        "runner_up": second["order"],
        "runner_up_seconds": second["seconds"],
        "vs_runner_up": second["seconds"] / best["seconds"] - 1.0,
    }


def _nature(case: Case) -> dict[str, Any]:
    """Return density and sharing of all requests and of each workload."""
    requests, shape, device = case.requests, case.machine.shape, case.machine.device
    output = requests.output.astype(np.float64)
    _, compute, memory = node_costs(requests.tree, output, shape, device.flops, device.read_bytes)
    prompt = np.diff(requests.start).astype(np.float64)
    alone = shape.request_flops(prompt, np.zeros_like(prompt), output) / device.flops
    plan = case.plan("dfs")

    def figures(mine: np.ndarray[Any, Any]) -> dict[str, Any]:
        density = float(compute[mine].sum() / max(memory[mine].sum(), 1e-12))
        return {
            "requests": int(mine.sum()),
            "prompt_tokens": int(prompt[mine].sum()),
            "output_tokens": int(output[mine].sum()),
            "compute_seconds": float(compute[mine].sum()),
            "memory_seconds": float(memory[mine].sum()),
            "density": density,
            "bound": "compute" if density > 1.0 else "memory",
            "sharing": float(1.0 - compute[mine].sum() / max(alone[mine].sum(), 1e-12)),
        }

    everything = figures(np.ones(len(requests), np.bool_))
    by_name = {
        name: figures(requests.workload == i)
        for i, name in enumerate(requests.workloads)
        if (requests.workload == i).any()
    }
    return {**everything, "hit_rate_optimum": plan.hit_rate_optimum, "workloads": by_name}


def _replicas(study: Study, today: Way, ours: Way, question: Question, factor: float) -> list[dict[str, Any]]:
    """Return the duration by number of replicas, up to `most_gpus` GPUs, always of at least one."""
    machine, correct = study.case.machine, question.corrections
    most = max(1, question.most_gpus // machine.gpus)
    rows = []
    for count in sorted({n for n in REPLICAS if n <= most} | {most}):
        row: dict[str, Any] = {"replicas": count, "gpus": count * machine.gpus}
        for name, way, balanced, times in (("today", today, False, factor), ("ours", ours, True, 1.0)):
            seconds = divided_seconds(study.case, way, count, balanced=balanced) * times
            row[f"{name}_hours"] = (seconds * correct.factor + correct.overhead_seconds) / 3600
        rows.append(row)
    return rows
