"""Several replicas: the makespan over that of one, with work that moves, simulated.

    python -m tests.benchmarks.plan.fleet --write       # about 20 minutes on one core
    python -m tests.benchmarks.plan.fleet --requests 20000 --trace '#1'

Known lengths, lengths that are each wrong by up to half, and one replica of eight on a device of half the
speed, with its share moved away from it and not. `possible` is the speed-up that the longest answer allows,
which is computed a token at a time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.cost.step import NOMINAL, step_cost
from engine.plan.moves import divide, part_to_move
from engine.plan.order import arrange, leaf_of
from engine.plan.policies import plan_tree
from engine.simulate.fleet import simulate_fleet
from engine.simulate.simulate import simulate
from tests.benchmarks.lib import places, workloads
from tests.benchmarks.plan.cells import LENGTHS, SHAPE, Bench, Run, code_digest
from tests.benchmarks.plan.mixes import MODEL
from tests.benchmarks.plan.sections import trace

if TYPE_CHECKING:
    import numpy.typing as npt

    from engine.cost.step import DeviceProfile, StepCost
    from engine.plan.policies import Plan

    Int32 = npt.NDArray[np.int32]

RESULTS: Final = places.RESULTS / "fleet.json"
REPLICAS: Final = (2, 4, 8, 64)
WANTED: Final = {2: 1.98, 4: 3.95, 8: 7.8, 64: 60.0}
"""Least speed-up with known lengths; 0.95 of it with wrong ones."""
SLOW: Final = 0.5
"""Speed of the slow device."""


class Fleet:
    """A trace, by lengths of a kind, answered by one replica and by several."""

    def __init__(self, bench: Bench, lengths: str) -> None:
        self._bench, self._whole, self._tree = bench, bench.whole, bench.tree(0)
        self._estimate = np.maximum(LENGTHS[lengths](self._whole), 1.0)
        self._leaf = leaf_of(self._tree)
        self._sizes = bench.settings(Run("blend"))
        whole = self._whole
        plan = self._plan(np.arange(whole.requests, dtype=np.int32))
        alone = simulate(plan, whole.tokens, whole.start, whole.output, self._sizes, bench.cost(0.0))
        self.alone = alone.seconds
        # One token a step, and no step is shorter than reading the weights.
        self.longest = float(whole.output.max()) * SHAPE.weight_bytes / bench.device.read_bytes

    def _plan(self, some: Int32) -> Plan:
        part = arrange(self._tree, np.sort(self._leaf[some]))
        return plan_tree("blend", part, self._estimate, SHAPE, self._bench.device)

    def run(self, costs: list[StepCost], *, moves: bool = True) -> dict[str, Any]:
        """Return the figures of a replica for each of the devices."""
        whole, tree, estimate, device = self._whole, self._tree, self._estimate, self._bench.device
        begin = time.perf_counter()
        everything = np.arange(whole.requests, dtype=np.int32)
        found = simulate_fleet(
            divide(tree, everything, estimate, SHAPE, device, len(costs)),
            self._plan,
            (lambda some: part_to_move(tree, some, estimate, SHAPE, device)) if moves else None,
            whole.tokens,
            whole.start,
            whole.output,
            self._sizes,
            costs,
        )
        return {
            "seconds": found.seconds,
            "speedup": self.alone / found.seconds,
            "possible": min(float(len(costs)), self.alone / self.longest),
            "idle": found.idle,
            "hit_rate": found.hit_rate,
            "moves": found.moves,
            "moved_requests": found.moved,
            "simulated_in_s": time.perf_counter() - begin,
        }


def measure(bench: Bench) -> dict[str, Any]:
    """Return all figures of a trace."""
    found: dict[str, Any] = {"mix": bench.mix.key, "requests": bench.whole.requests}
    cost = bench.cost(0.0)
    for lengths in ("known", "noise50"):
        fleet = Fleet(bench, lengths)
        found[lengths] = {"alone_s": fleet.alone, **{str(n): fleet.run([cost] * n) for n in REPLICAS}}
        print(f"{bench.mix.key} {lengths}: " + _told(found[lengths]), flush=True)
        if lengths == "known":
            one_slow = [cost] * 7 + [step_cost(SHAPE, _slowed(bench.device), overlap=True, interference=0.0)]
            found["one_of_8_at_half_speed"] = {
                "moving": fleet.run(one_slow),
                "fixed": fleet.run(one_slow, moves=False),
            }
    return found


def _slowed(device: DeviceProfile) -> DeviceProfile:
    return replace(device, flops=SLOW * device.flops, read_bytes=SLOW * device.read_bytes)


def _part(figures: dict[str, Any]) -> float:
    return float(figures["speedup"] / figures["possible"])


def _told(figures: dict[str, Any]) -> str:
    return ", ".join(f"{n}: {figures[str(n)]['speedup']:.2f}" for n in REPLICAS)


def main(argv: list[str] | None = None) -> None:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--requests", type=int, default=400_000)
    parser.add_argument("--device", default="a100", choices=sorted(NOMINAL))
    parser.add_argument("--trace", action="append", choices=tuple(workloads.TRACES), help="these (all)")
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULTS.name}")
    given = parser.parse_args(argv)
    traces = given.trace or list(workloads.TRACES)
    with tempfile.TemporaryDirectory() as scratch:
        benches = (Bench(trace(name, given.device, given.requests), Path(scratch)) for name in traces)
        found = [measure(bench) for bench in benches]
    record = {
        "label": "simulated, known and wrong lengths, work that moves; speed-up over one replica",
        "model": MODEL,
        "device": given.device,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "code": code_digest(),
        "wanted": {str(n): wanted for n, wanted in WANTED.items()},
        **{
            f"speedup_{lengths}": {
                str(n): {
                    "mean": float(np.mean([f[lengths][str(n)]["speedup"] for f in found])),
                    "least": float(min(f[lengths][str(n)]["speedup"] for f in found)),
                    "of_possible_least": float(min(_part(f[lengths][str(n)]) for f in found)),
                }
                for n in REPLICAS
            }
            for lengths in ("known", "noise50")
        },
        "one_of_8_at_half_speed": {
            kind: float(np.mean([f["one_of_8_at_half_speed"][kind]["speedup"] for f in found]))
            for kind in ("moving", "fixed")
        },
        "traces": found,
    }
    print(json.dumps({name: value for name, value in record.items() if name != "traces"}, indent=1))
    if given.write:
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
