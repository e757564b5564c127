"""What a run did, from Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.report.inspect_run import TOP, inspect_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known of a run; what it has not come to yet is empty or None.

    Attributes
    ----------
    run, status, policy, device
        Its directory; how its last attempt ended, its order and its device.
    choice
        What policy `auto` found out: the candidates and what each was to take; None where it was not asked.
    attempts
        `id, policy, device, status` of each, in order.
    tree
        The prefix tree: `requests, prompt_tokens, distinct_tokens, saved_tokens, hit_rate_optimum`, and
        `prefixes`, those that save the most tokens first.
    workloads
        Name -> counts, lengths and densities.
    mix
        Slices of the run's time: tokens, running requests, seconds by bound.
    lengths
        Expected against true answer lengths, by source of the estimate.
    planned
        Figure -> `{planned, actual}`; times are by the cost model.
    by_replica
        What each replica did: steps, tokens, hit rate, seconds in steps, its tail, device seconds held.
    """

    run: str
    status: str
    policy: str | None
    choice: Mapping[str, Any] | None
    device: str | None
    attempts: Sequence[Mapping[str, Any]]
    tree: Mapping[str, Any] | None
    workloads: Mapping[str, Mapping[str, Any]]
    mix: Sequence[Mapping[str, Any]]
    lengths: Sequence[Mapping[str, Any]]
    planned: Mapping[str, Mapping[str, float | None]]
    by_replica: Sequence[Mapping[str, Any]]
    _made: dict[str, Any] = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return what `nightblend inspect --json` prints."""
        return self._made


def inspect(run_dir: str | Path, top: int = TOP) -> Inspection:
    """Return what a run did: shared prefixes, densities, the mix over time, planned and actual figures.

        found = inspect(night.run_dir)
        print(found.tree["hit_rate_optimum"], found.planned["compute_seconds"])

    Parameters
    ----------
    run_dir
        Path or URI of the run directory, `run_dir` of a night's result.
    top
        Most prefixes to list.

    Raises
    ------
    ConfigurationError
        If there is no run.
    """
    made = inspect_run(str(run_dir), top)
    return Inspection(**made, _made=made)
