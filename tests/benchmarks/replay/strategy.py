"""How cut steps of a replay run: a strategy of the runner, with what the overlap benchmark measured of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from engine.cost.profiles import DeviceProfile
from engine.runtime.device.nano_batches import SplitRule
from engine.runtime.device.overlap import STRATEGIES, Overlap, Strategy
from tests.benchmarks.gpu.report import results_file
from tests.benchmarks.overlap.pair import family

if TYPE_CHECKING:
    from pathlib import Path

    from engine.cost.step import ModelShape

FAMILIES = {"streams": "streams", "k-limited": "k-limited", "k-limited and carveout": "carveout"}
"""What the pair's strategies are called in the runner; it has no green contexts."""
CHOICES = ("none", *STRATEGIES[1:])


def measured(folder: Path, device: str) -> dict[str, Any]:
    """Return the figures that the overlap benchmark has written for a device.

    Raises
    ------
    SystemExit
        If it has not been run there.
    """
    path = results_file(folder, device, "overlap")
    if not path.exists():
        raise SystemExit(f"{path} is missing: run `python -m tests.benchmarks.overlap` first")
    found: dict[str, Any] = json.loads(path.read_text())["figures"]
    return found


def overlap_of(
    figures: dict[str, Any], shape: ModelShape, name: str | None = None, k: int | None = None
) -> Overlap | None:
    """Return how steps are cut, from the figures of the overlap benchmark; None for `none`.

    Parameters
    ----------
    name
        One of `CHOICES`; None takes the one of the runner that was best for the pair.
    k
        The only one to use; None takes those with the least interference. Of a strategy whose surface was not
        measured there is one, the best for the pair, with the surface of the best strategy.
    """
    ratios = {label: ratio for label, ratio in figures["pair_ratios"].items() if family(label)[0] in FAMILIES}
    if name is None:
        name = FAMILIES[family(min(ratios, key=ratios.__getitem__))[0]]
    if name == "none":
        return None
    device = DeviceProfile(**figures["profile"])
    surfaces: dict[int, Any] = {}
    if FAMILIES.get(family(figures["pair_strategy"])[0]) == name:
        surfaces = {int(number): points for number, points in figures["surface_by_k"].items()}
    else:
        mine = {label: r for label, r in ratios.items() if FAMILIES[family(label)[0]] == name}
        surfaces = {family(min(mine, key=mine.__getitem__))[1] or 0: figures["pair_surface"]}
    if k is not None:
        surfaces = {k: surfaces.get(k, figures["pair_surface"])}
    return Overlap(SplitRule.of(shape, device), Strategy.of(name, shape, device, surfaces))
