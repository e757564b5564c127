"""Cuts a step into two nano-batches that are to run side by side, and says whether that is worth it.

Each gets half of the KV bytes that decoding reads and half of the prefill tokens. The prefill rows are cut in
the scheduler's order, in the middle of a chunk if need be: whatever a row attends to that is computed in this
very step stands before it, so it is in the same nano-batch or in the first one. That holds for the earlier
part of its own chunk and for the request whose prefix it shares. The first one never needs the second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from engine.cost.step import (
    DeviceProfile,
    ModelShape,
    StepCost,
    pair_seconds,
    step_compute_seconds,
    step_cost,
    step_memory_seconds,
)
from engine.jit import entry, njit
from engine.jit_types import struct
from engine.models.schedule import OVERLAPPING
from engine.runtime.state import (
    W_ATTENDED,
    W_KV_DECODE,
    W_KV_READ,
    W_SAMPLES,
    W_SEQUENCES,
    W_TOKENS,
    Work,
    make_work,
)

if TYPE_CHECKING:
    from engine.arrays import Int32

LEAST_GAIN: Final = 0.05
"""Modelled gain below which a step stays whole: the weights are read twice, and every kernel is smaller."""


class SplitRule(NamedTuple):
    """Decides which steps are cut.

    Attributes
    ----------
    whole, halves
        Costs of a step one operator after the other, and of two nano-batches side by side.
    least_gain
        The gain (whole / halves - 1) from which on it is done.
    """

    whole: StepCost
    halves: StepCost
    least_gain: float = LEAST_GAIN

    @classmethod
    def of(cls, shape: ModelShape, device: DeviceProfile, least_gain: float = LEAST_GAIN) -> SplitRule:
        """Return the rule for a model on a device; work side by side is as its profile's surface says."""
        halves = step_cost(shape, device, overlap=True, nano_batches=OVERLAPPING)
        return cls(step_cost(shape, device, overlap=False), halves, least_gain)

    def loads(self, work: Work) -> tuple[float, float, float]:
        """Return the modelled seconds of a step's products whole, of those of its halves, and of attention.

        What runs beside the matrix products is the reading of KV by decode attention, and nothing else: the
        weights are read within the products, in both cases. The LM head is computed once for both halves.
        """
        tokens, samples, attended, read = (
            float(work.size[i]) for i in (W_TOKENS, W_SAMPLES, W_ATTENDED, W_KV_DECODE)
        )
        whole, halves = self.whole, self.halves
        products = step_compute_seconds(whole, tokens, samples, attended)
        products += step_memory_seconds(whole, tokens, 0.0)
        each = step_compute_seconds(halves, tokens / 2, 0.0, attended / 2)
        smaller = 2 * each - halves.fixed_per_step + step_compute_seconds(halves, 0.0, samples, 0.0)
        smaller += step_memory_seconds(halves, tokens, 0.0)
        return products, smaller, read * whole.kv_bytes_per_token / whole.read_bytes

    def gain(self, work: Work) -> float:
        """Return the modelled time of the whole step over that of the halves, minus 1."""
        products, smaller, attention = self.loads(work)
        return float((products + attention) / pair_seconds(self.halves, smaller, attention)) - 1.0

    def cuts(self, work: Work) -> bool:
        """Return whether the step is to be cut: it has two tokens at least, and the gain is worth it."""
        return int(work.size[W_TOKENS]) >= OVERLAPPING and self.gain(work) >= self.least_gain


@struct()
class Halves(NamedTuple):
    """A step cut in two.

    Attributes
    ----------
    first, second
        The nano-batches. Copies of pages, which come before all else, are not among them.
    part, row
        int32 [S]: for each sample of the step its nano-batch, and its place among the samples of that one.
    """

    first: Work
    second: Work
    part: Int32
    row: Int32


def make_halves(token_budget: int, slots: int) -> Halves:
    """Return buffers for steps of up to `token_budget` tokens of `slots` sequences."""
    # A chunk that is cut makes one sequence more in all, not in either half.
    first, second = make_work(token_budget, slots), make_work(token_budget, slots)
    return Halves(first, second, np.zeros(slots, np.int32), np.zeros(slots, np.int32))


@entry()
def cut(work: Work, halves: Halves) -> None:
    """Fill the halves with a step of at least two tokens; neither is empty then."""
    first, second = halves.first, halves.second
    first.size[:] = 0
    second.size[:] = 0
    count = work.size[W_SEQUENCES]
    decoding, read = 0, 0
    # A chunk of one token is none of these: it may attend to what another row of this step stores.
    while read < work.size[W_KV_DECODE]:
        read += work.context[decoding]
        decoding += 1
    sample = 0
    for i in range(decoding):
        # To the one that reads less so far; of equals to the one with fewer.
        a, b = first.size, second.size
        to_first = (a[W_KV_DECODE], a[W_TOKENS]) <= (b[W_KV_DECODE], b[W_TOKENS])
        half = first if to_first else second
        half.size[W_KV_DECODE] += work.context[i]
        sample = _take(work, half, halves, 0 if to_first else 1, i, 0, 1, sample)
    left = work.size[W_TOKENS] - decoding
    room = max(left // 2, 1 if first.size[W_TOKENS] == 0 else 0)
    for i in range(decoding, count):
        length = work.length[i]
        here = min(room, length)
        before = work.context[i] - length
        if here > 0:
            first.size[W_ATTENDED] += here * before + here * (here + 1) // 2
            sample = _take(work, first, halves, 0, i, 0, here, sample)
        if here < length:
            rest = length - here
            second.size[W_ATTENDED] += rest * (before + here) + rest * (rest + 1) // 2
            sample = _take(work, second, halves, 1, i, here, length, sample)
        room -= here


@njit
def _take(
    work: Work, half: Work, halves: Halves, part: int, sequence: int, begin: int, end: int, sample: int
) -> int:
    """Append rows `begin` to before `end` of a sequence to a half; return the next sample of the step."""
    place, row = half.size[W_SEQUENCES], half.size[W_TOKENS]
    source = work.first[sequence] + begin
    count = end - begin
    before = work.context[sequence] - work.length[sequence]
    half.first[place], half.length[place] = row, count
    half.context[place], half.slot[place] = before + end, work.slot[sequence]
    for i in range(count):
        half.tokens[row + i] = work.tokens[source + i]
        half.positions[row + i] = work.positions[source + i]
        half.pages[row + i] = work.pages[source + i]
        half.offsets[row + i] = work.offsets[source + i]
    half.size[W_SEQUENCES] += 1
    half.size[W_TOKENS] += count
    half.size[W_KV_READ] += before + end
    last = work.first[sequence] + end - 1
    if sample < work.size[W_SAMPLES] and work.sample_rows[sample] == last:
        index = half.size[W_SAMPLES]
        half.sample_rows[index], half.sample_slots[index] = row + count - 1, work.sample_slots[sample]
        half.size[W_SAMPLES] += 1
        halves.part[sample], halves.row[sample] = part, index
        sample += 1
    return int(sample)
