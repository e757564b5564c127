"""Sizes that steps are padded to, so that one captured graph serves all steps of about its size."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

SMALLEST, FINE_STEP, FINE_LIMIT, COARSE_STEP = 8, 128, 4096, 512


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


def token_sizes(budget: int) -> list[int]:
    """Return the padded numbers of tokens: powers of two to 128, multiples of 128 to 4,096, then of 512."""
    sizes, size = [], SMALLEST
    while size < budget:
        sizes.append(size)
        coarse = size >= FINE_LIMIT
        size += size if size < FINE_STEP else COARSE_STEP if coarse else FINE_STEP
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
        self._tokens, self._sequences = token_sizes(max(budget, sequences)), sequence_sizes(sequences)
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
