"""Sizes that steps are padded to, so that one captured graph serves all steps of about its size."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALLEST, GRAIN, GRAIN_LIMIT, FINE_STEP, FINE_LIMIT, COARSE_STEP = 8, 64, 1024, 128, 4096, 512
"""Sizes are powers of two to `GRAIN`, multiples of it to `GRAIN_LIMIT`, then of the next step to its limit.

Steps of a paced run fill them. In simulations of the published mixes multiples of 128 tokens cost a percent
or two where compute binds and steps have some 500: every other step has less compute than memory work.
"""
LEAST_HALF, MOST_HALF = 32, 5 / 8
"""Least sequences that half a step is padded to; most tokens of a captured half, as a part of the budget."""


class Bucket(NamedTuple):
    """Shape of a captured step.

    Attributes
    ----------
    tokens
        Rows computed; at least `sequences`.
    sequences
        Sequences, and rows sampled.
    prefill
        Whether any sequence may have more than one row. Without, ``tokens == sequences``.
    cascade
        Whether decoding sequences are in groups whose shared pages are read once.
    """

    tokens: int
    sequences: int
    prefill: bool
    cascade: bool = False


@dataclass(frozen=True)
class HalvedBucket:
    """Shape of a captured step that is cut into two nano-batches; both are padded to the same one.

    Attributes
    ----------
    tokens, sequences
        Of each half; any of its sequences may have more than one row.
    kept
        Blocks that attention is launched on; None takes the device.
    cascade
        Whether a half may have groups whose shared pages are read once.
    """

    tokens: int
    sequences: int
    kept: int | None
    cascade: bool = False


def token_sizes(budget: int) -> list[int]:
    """Return the padded numbers of tokens: powers of two to 64, then multiples of 64, of 128, and of 512."""
    sizes, size = [], SMALLEST
    while size < budget:
        sizes.append(size)
        if size < GRAIN:
            size *= 2
        elif size < FINE_LIMIT:
            size += GRAIN if size < GRAIN_LIMIT else FINE_STEP
        else:
            size += COARSE_STEP
    return [*sizes, budget]


def sequence_sizes(most: int) -> list[int]:
    """Return the padded numbers of sequences, growing fourfold: their padding costs little beside tokens'."""
    sizes, size = [], SMALLEST
    while size < most:
        sizes.append(size)
        size *= 4
    return [*sizes, most]


class Buckets:
    """The buckets of an engine with steps of up to `budget` tokens of up to `sequences` sequences.

    With `cascade` there is one of each kind for steps with groups, and one for those without.
    """

    def __init__(self, budget: int, sequences: int, *, cascade: bool = False) -> None:
        self._kinds = (False, True) if cascade else (False,)
        budget = max(budget, sequences)
        self._tokens, self._sequences = token_sizes(budget), sequence_sizes(sequences)
        self._most = max(MOST_HALF * budget, _least(self._tokens, -(-budget // 2)))
        # Decode-only steps have as many tokens as sequences, where a finer grid pays.
        self._decode = sorted({*token_sizes(sequences), *self._sequences})

    def of(self, tokens: int, sequences: int) -> Bucket:
        """Return the smallest bucket that holds a step without groups.

        Raises
        ------
        ValueError
            If none does.
        """
        if tokens == sequences:
            size = _least(self._decode, tokens)
            return Bucket(size, size, prefill=False)
        rows = _least(self._sequences, sequences)
        return Bucket(_least(self._tokens, max(tokens, rows)), rows, prefill=True)

    def of_halves(self, first: tuple[int, int], second: tuple[int, int], kept: int | None) -> HalvedBucket:
        """Return the smallest bucket that holds both halves, each given as (tokens, sequences)."""
        rows = _least(self._sequences, max(first[1], second[1], min(LEAST_HALF, self._sequences[-1])))
        return HalvedBucket(_least(self._tokens, max(first[0], second[0], rows)), rows, kept)

    def halves(self, kept: Sequence[int | None]) -> list[HalvedBucket]:
        """Return the buckets of cut steps to capture, largest first, for each k of `kept`.

        Their number is bounded: tokens up to `MOST_HALF` of the budget (a half holds half of the prefill
        tokens, and about half of the others), four times as many sequences from one size to the next. With a
        budget of 4,096 and 512 sequences they are 75 for each k, twice as many with `cascade`.
        A step that fits into none of them stays whole.
        """
        found = [
            HalvedBucket(tokens, rows, k, cascade)
            for rows in self._sequences
            for tokens in self._tokens
            for k in kept
            for cascade in self._kinds
            if max(rows, min(FINE_STEP, self._tokens[-1]))
            <= tokens
            <= max(self._most, _least(self._tokens, rows))
            and rows >= min(LEAST_HALF, self._sequences[-1])
        ]
        return sorted(found, key=lambda bucket: (bucket.tokens, bucket.sequences), reverse=True)

    def all(self) -> list[Bucket]:
        """Return every bucket there can be, largest first: the order to capture graphs in."""
        mixed = [
            Bucket(tokens, rows, prefill=True)
            for rows in self._sequences
            for tokens in self._tokens
            if tokens >= rows
        ]
        plain = [*mixed, *(Bucket(size, size, prefill=False) for size in self._decode)]
        return sorted((b._replace(cascade=kind) for b in plain for kind in self._kinds), reverse=True)


def _least(sizes: list[int], wanted: int) -> int:
    place = bisect_left(sizes, wanted)
    if place == len(sizes):
        raise ValueError(f"a step of {wanted} exceeds the largest size of {sizes[-1]}")
    return sizes[place]
