"""Where the gain over today comes from, as factors that multiply to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.estimate.case import Case, Way


@dataclass(frozen=True)
class Source:
    """One part of the gain.

    Attributes
    ----------
    factor
        Seconds before it over seconds after it; the factors of all parts multiply to the gain.
    seconds
        What it saves.
    """

    name: str
    what: str
    factor: float
    seconds: float


@dataclass(frozen=True)
class Chain:
    """The ways from today's to ours, each with one thing more.

    Attributes
    ----------
    today
        As the team runs it.
    sharing
        Depth-first, else as today.
    overlap
        The same with overlap, at its best fixed budget.
    order
        The blend with overlap, at its best fixed budget.
    ours
        The blend at its best.
    """

    today: Way
    sharing: Way
    overlap: Way
    order: Way
    ours: Way


def sources_of(case: Case, chain: Chain, repeated: float) -> list[Source]:
    """Return the parts of the gain, in the order of the chain.

    Parameters
    ----------
    repeated
        Seconds of today's way for all requests, those with equal answers computed one by one, over its
        seconds for those with an answer of their own.
    """
    today, sharing, overlap, order, ours = (case.seconds(way) for way in vars(chain).values())
    # What the blend loses less in the drain is the tail's part, the rest of the step is the order's.
    saved = case.tail(chain.overlap) - case.tail(chain.order)
    between = min(max(overlap - saved, 0.1 * overlap), 10.0 * overlap)
    parts = [
        ("repeats", "equal requests computed once", repeated * today, today),
        ("sharing", "prefixes kept together: depth-first instead of today's order", today, sharing),
        ("overlap", "compute and memory work side by side", sharing, overlap),
        ("tail", "long answers start early: the end is less empty", overlap, between),
        ("order", "compute-heavy and memory-heavy requests blended", between, order),
        ("pacing", "prompt tokens per step chosen by what remains", order, ours),
    ]
    return [Source(name, what, before / after, before - after) for name, what, before, after in parts]
