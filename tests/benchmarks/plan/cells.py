"""One cell of the planner's benchmark: a mix, an order with its settings, and what the simulator says.

Cells are kept in a folder named after a digest of the code they depend on, so that a run that was cut off
goes on where it stopped, and a changed scheduler starts afresh.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.cost.optimum import optimum
from engine.cost.step import NOMINAL, step_cost
from engine.plan.features import Features
from engine.plan.length_model import History, LengthModel
from engine.plan.lengths import SAMPLE as SAMPLE_FRACTION
from engine.plan.lengths import estimate_lengths
from engine.plan.partition import partition
from engine.plan.policies import plan_tree
from engine.plan.replan import Replanning
from engine.plan.sampled import choose_sample
from engine.plan.scan import HALF_RESERVE, WHOLE_RESERVE
from engine.plan.stratified import sample_workloads
from engine.plan.tree import build_tree, cached_tokens, node_costs
from engine.runtime.core import EngineSettings
from engine.runtime.schedule.revision import Reviser
from engine.simulate.schedules import THREE_QUARTERS
from engine.simulate.simulate import simulate
from tests.benchmarks.lib import digest, workloads
from tests.benchmarks.plan.mixes import MODEL, SHAPE, Mix
from tests.benchmarks.plan.orders import plan_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from engine.cost.step import StepCost
    from engine.plan.policies import Plan
    from engine.plan.tree import NodeCosts, PrefixTree
    from tests.benchmarks.lib.workloads import Workload

    Float64 = npt.NDArray[np.float64]

__all__ = ["MODEL", "NOMINAL", "SHAPE", "Bench", "MissingError", "Mix", "Run"]

BUDGETS = (256, 512, 1024, 2048, 4096, 8192)
PACED_BUDGET = 8192
SAMPLE = 5_000
SLOTS = 1024
PAGE_SIZE = 16
MEMORY_BYTES = {"a100": 80e9, "h200": 141e9}
MEMORY_USED = 0.9
"""Part of the device's memory for weights and KV; the rest is for activations and the CUDA context."""
MOST_TOKENS = 65_536
"""Most tokens of an answer, all that a first night knows of its length."""
RESERVES = {"half": HALF_RESERVE, "three_quarters": THREE_QUARTERS, "whole": WHOLE_RESERVE}
"""Name -> reserve of the blend."""


def kv_tokens(device: str) -> int:
    """Return how many tokens of KV a device holds beside the weights (embedding and LM head are two)."""
    weights = SHAPE.weight_bytes + 2 * SHAPE.head_parameters
    return int((MEMORY_USED * MEMORY_BYTES[device] - weights) / SHAPE.kv_bytes_per_token)


@dataclass(frozen=True)
class Run:
    """How it is answered.

    Attributes
    ----------
    order
        A key of `orders.ORDERS`.
    budget, paced
        Tokens per step, at most; and whether the scheduler chooses fewer by itself.
    interference
        Of compute and memory work given together: 0 is perfect overlap, None is none at all.
    memory
        Factor on the KV memory.
    lengths
        Where expected answer lengths come from: a key of `LENGTHS` or `AGAIN`.
    admission
        The rule by which a request fits: ``peak``, ``total`` (p + d) or ``average`` (p + d / 2).
    sample
        Requests of a stratified sample; 0 for all.
    reserve
        Of the blend: a key of `RESERVES`, or empty for the default.
    seed
        Of the sample that is answered first.
    """

    order: str
    budget: int = PACED_BUDGET
    paced: bool = True
    interference: float | None = 0.0
    memory: float = 1.0
    lengths: str = "known"
    admission: str = "peak"
    sample: int = 0
    reserve: str = ""
    seed: int = 0

    @property
    def key(self) -> str:
        """A name that is a file name as well."""
        parts = [self.order, f"b{self.budget}", "paced" if self.paced else "fixed"]
        parts.append("serial" if self.interference is None else f"i{self.interference:g}")
        defaults = Run(self.order)
        parts += [
            f"{name}{getattr(self, name)}"
            for name in ("memory", "lengths", "admission", "sample", "reserve", "seed")
            if getattr(self, name) != getattr(defaults, name)
        ]
        return "-".join(parts)


def _noisy(mix: Workload) -> Float64:
    factor = np.random.default_rng(8).uniform(0.5, 1.5, mix.requests)
    return factor * mix.output


def _sampled(mix: Workload, fraction: float) -> Float64:
    """Return the mean length of each workload's sample; the sampled requests have their own."""
    observed = np.full(mix.requests, np.nan)
    chosen = np.random.default_rng(9).random(mix.requests) < fraction
    observed[chosen] = mix.output[chosen]
    most = np.full(mix.requests, int(mix.output.max()), np.int64)
    estimate, _ = estimate_lengths(observed, most, mix.workload.astype(np.int64))
    return estimate


def _means(mix: Workload) -> Float64:
    total = np.bincount(mix.workload, mix.output)
    return (total / np.maximum(np.bincount(mix.workload), 1))[mix.workload]


AGAIN = {
    "sampled_again": "a sample of each subtree is answered first, its means serve the rest",
    "combined_again": "the estimator of a first night, which learns from running answers as well",
    "workloads_again": "the same with something of every workload in the sample",
    "history_again": "the same on a later night: it knows the answers of a night before, of other requests",
}
"""Lengths that a run learns, planning again as it goes on (the blend only), as the engine does."""
LENGTHS: dict[str, Callable[[Workload], Float64]] = {
    "known": lambda mix: mix.output.astype(np.float64),
    "x0.5": lambda mix: 0.5 * mix.output,
    "x1.5": lambda mix: 1.5 * mix.output,
    "noise50": _noisy,
    "sampled1": lambda mix: _sampled(mix, 0.01),
    "sampled100": _means,
}
"""Expected answer lengths: the true ones; all too short or too long by half; each wrong by up to half; the
means of the workloads in a sample of 1 %, and in all of it."""


def code_digest() -> str:
    """Return a digest of the code that a cell's figures depend on."""
    return digest.code_digest("tests/benchmarks/plan/cells.py")


def features_of(mix: Workload) -> Features:
    """Return what the estimator knows requests by: their workload and how their prompts begin."""
    return Features.of(mix.tokens, mix.start, mix.workload.astype(np.int64))


class MissingError(Exception):
    """A cell is not in the folder and was not to be simulated."""


class Bench:
    """A mix in this process: its requests and plans, made when first needed, and its cells.

    With `kept` nothing is simulated: a cell that is not in the folder raises `MissingError`.
    """

    def __init__(self, mix: Mix, scratch: Path, *, kept: bool = False) -> None:
        self.mix = mix
        self.folder = scratch / mix.key
        self._only_kept = kept
        self.device = NOMINAL[mix.device]
        self._parts: dict[int, Workload] = {}
        self._trees: dict[int, PrefixTree] = {}
        self._plans: dict[tuple[str, str, int], Plan] = {}

    @cached_property
    def whole(self) -> Workload:
        """All requests."""
        return self.mix.build()

    def part(self, sample: int) -> Workload:
        """Return all requests (0) or a stratified sample."""
        if sample not in self._parts:
            self._parts[sample] = self.whole.sample(sample) if sample else self.whole
        return self._parts[sample]

    def plan(self, run: Run) -> Plan:
        """Return the plan of a run."""
        key = (run.order, run.lengths, run.sample)
        if key not in self._plans:
            part = self.part(run.sample)
            estimate = np.maximum(LENGTHS[run.lengths](part), 1.0)
            tree = self.tree(run.sample)
            self._plans[key] = plan_of(run.order, part, tree, estimate, SHAPE, self.device)
        return self._plans[key]

    def tree(self, sample: int) -> PrefixTree:
        """Return the prefix tree of all requests (0) or of a sample."""
        if sample not in self._trees:
            part = self.part(sample)
            self._trees[sample] = build_tree(part.tokens, part.start)
        return self._trees[sample]

    def cost(self, interference: float | None) -> StepCost:
        """Return the modelled device."""
        if interference is None:
            return step_cost(SHAPE, self.device, overlap=False)
        return step_cost(SHAPE, self.device, overlap=True, interference=interference)

    def cell(self, run: Run) -> dict[str, Any]:
        """Return the figures of a run, from the folder if they are there."""
        return self.kept(run.key, lambda: self._simulate(run))

    def measured(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return figures that are measured, not simulated: anew, unless only what is kept is asked for."""
        if not self._only_kept:
            (self.folder / f"{name}.json").unlink(missing_ok=True)
        return self.kept(name, measure)

    def kept(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        file = self.folder / f"{name}.json"
        if file.exists():
            found: dict[str, Any] = json.loads(file.read_text())
            return found
        if self._only_kept:
            raise MissingError(f"{self.mix.key}/{name}")
        figures = compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(figures))
        partial.replace(file)
        return figures

    def _simulate(self, run: Run) -> dict[str, Any]:
        part = self.part(run.sample)
        if run.lengths in AGAIN:
            reviser = self._reviser(run, part)
            return self._figures(run, part, reviser.plan, reviser)
        plan = self.plan(run)
        if run.reserve:
            plan = replace(plan, reserve=RESERVES[run.reserve])
        return self._figures(run, part, plan)

    def _reviser(self, run: Run, part: Workload) -> Reviser:
        tree, limit = self.tree(run.sample), np.full(part.requests, MOST_TOKENS, np.int64)
        model = None
        if run.lengths != "sampled_again":
            history = self._night_before() if run.lengths == "history_again" else None
            model = LengthModel.of(features_of(part), limit, history)
        if run.lengths == "workloads_again":
            sample = sample_workloads(tree, part.workload.astype(np.int64), SAMPLE_FRACTION, run.seed)
        else:
            sample = choose_sample(tree, SAMPLE_FRACTION, run.seed)
        again = Replanning(run.order, 0, tree, limit, None, None, model, sample)
        nothing = np.zeros(part.requests, np.int32), np.zeros(part.requests, np.int8)
        estimate = np.maximum(again.estimate(*nothing), 1.0)
        plan = plan_tree(run.order, tree, estimate, SHAPE, self.device, first=again.sample)
        return Reviser(again, plan, SHAPE, self.device)

    def _night_before(self) -> History:
        before = replace(self.mix, requests=min(self.mix.requests, workloads.REQUESTS)).build(seed=2)
        ended, weight = np.ones(before.requests, np.int8), np.ones(before.requests)
        return History(features_of(before), before.output.astype(np.float64), ended, weight)

    def _figures(
        self, run: Run, part: Workload, plan: Plan, reviser: Reviser | None = None
    ) -> dict[str, Any]:
        begin = time.perf_counter()
        device, settings = self.cost(run.interference), self.settings(run)
        done = simulate(plan, part.tokens, part.start, part.output, settings, device, reviser=reviser)
        figures = {k: v for k, v in asdict(done).items() if isinstance(v, int | float)}
        # The results' name is older than the engine's word for it.
        figures["retractions"] = figures.pop("preemptions")
        return {
            **figures,
            "hit_rate_optimum": plan.hit_rate_optimum,
            "tokens_per_second": part.total_tokens / done.seconds,
            "simulated_in_s": time.perf_counter() - begin,
        }

    def divide(self, replicas: int) -> dict[str, Any]:
        """Return the parts of a partition: makespans of the replicas with known lengths, and its balance."""
        return self.kept(f"partition-{replicas}", lambda: self._divide(replicas))

    def _divide(self, replicas: int) -> dict[str, Any]:
        whole, run = self.whole, Run("blend")
        output = whole.output.astype(np.float64)

        def cost_of(tree: PrefixTree) -> tuple[NodeCosts, Float64, Float64]:
            return node_costs(tree, output, SHAPE, self.device.flops, self.device.read_bytes)

        begin = time.perf_counter()
        found = partition(self.tree(0), output, cost_of, replicas)
        took = time.perf_counter() - begin
        seconds = []
        for requests in found.requests:
            part = whole.take(requests.astype(np.int64))
            tree = build_tree(part.tokens, part.start)
            plan = plan_of("blend", part, tree, part.output.astype(np.float64), SHAPE, self.device)
            seconds.append(self._figures(run, part, plan)["seconds"])
        return {
            "seconds": seconds,
            "imbalance": found.imbalance,
            "recomputed_tokens": found.recomputed_tokens,
            "divided_in_s": took,
        }

    def settings(self, run: Run) -> EngineSettings:
        """Return the engine's settings for a run."""
        return EngineSettings(
            kv_tokens=int(kv_tokens(self.mix.device) * run.memory),
            page_size=PAGE_SIZE,
            token_budget=run.budget,
            max_sequences=min(SLOTS, run.budget),
            pacing=run.paced,
            admission=run.admission,
        )

    def bounds(self, interference: float | None = 0.0) -> dict[str, Any]:
        """Return what no schedule can beat on the modelled device (`engine.cost.optimum`)."""
        name = "serial" if interference is None else f"i{interference:g}"
        return self.kept(f"bounds-{name}", lambda: self._bounds(interference))

    def _bounds(self, interference: float | None) -> dict[str, Any]:
        whole, tree = self.whole, self.tree(0)
        found = optimum(
            self.cost(interference),
            np.diff(whole.start).astype(np.float64),
            cached_tokens(tree).astype(np.float64),
            whole.output.astype(np.float64),
            kv_tokens(self.mix.device),
        )
        terms = ("compute", "memory", "longest", "kv_read", "practical")
        return {
            **{name: getattr(found, name) for name in terms},
            "binds": found.plain_limit,
            "requests": whole.requests,
            "tokens": whole.total_tokens,
            "density": whole.density,
            "sharing": whole.hit_rate,
            "by_workload": {
                name: int(np.count_nonzero(whole.workload == w)) for w, name in enumerate(whole.workloads)
            },
        }
