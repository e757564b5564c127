"""From the scheduler's work to fixed places on the device: one copy per step, padded to a bucket.

Padding computes on harmless ground: a dummy page, a dummy slot whose block table holds only that page, and a
dummy request that samples greedily.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from engine.jit import entry
from engine.jit_types import struct
from engine.runtime.kv.shared_pages import leading_single_rows
from engine.runtime.state import W_SAMPLES, W_SEQUENCES, W_TOKENS, Slots, Work

if TYPE_CHECKING:
    from torch import Tensor

    from engine.arrays import Int32, Int64
    from engine.runtime.schedule.buckets import Bucket

_PER_TOKEN = ("tokens", "positions", "pages", "offsets", "row_slot")
_PER_SEQUENCE = (
    "sample_rows",
    "sample_slot",
    "sample_request",
    "sample_position",
    "decode_slot",
    "decode_context",
    "prefill_slot",
    "prefill_context",
    "drawn_rows",
    "wished_rows",
    "copy_source",
    "copy_target",
    "merged_rows",
    "shared",
    "members",
)


@struct()
class HostStep(NamedTuple):
    """A step as arrays, padded; int32. T tokens and R sequences are the largest ones possible.

    Attributes
    ----------
    tokens, positions, pages, offsets, row_slot
        [T]: token id or `engine.runtime.state.PLACEHOLDER`, position, page and offset in the page of its KV,
        and the sequence's slot.
    sample_rows, sample_slot, sample_request, sample_position
        [R]: row, slot, request and position of each new token.
    decode_slot, decode_context
        [R]: the sequences at the front of the rows that have one row each.
    prefill_slot, prefill_context, query_start
        [R], [R], [R + 1]: the other sequences. Unused ones have no rows.
    drawn_rows, wished_rows, copy_source, copy_target
        [R]: samples that are drawn, samples whose log probabilities are wanted, and pages to copy.
    merged_rows
        [R]: where the sample is among those of all nano-batches, one behind the other, of a step that is cut.
    shared, members, group_start
        [R], [R], [R + 1]: the groups of `engine.runtime.kv.shared_pages`, among the sequences with one row.
    """

    tokens: Int32
    positions: Int32
    pages: Int32
    offsets: Int32
    row_slot: Int32
    sample_rows: Int32
    sample_slot: Int32
    sample_request: Int32
    sample_position: Int32
    decode_slot: Int32
    decode_context: Int32
    prefill_slot: Int32
    prefill_context: Int32
    drawn_rows: Int32
    wished_rows: Int32
    copy_source: Int32
    copy_target: Int32
    merged_rows: Int32
    shared: Int32
    members: Int32
    query_start: Int32
    group_start: Int32


class DeviceStep(NamedTuple):
    """The same on the device; int32 tensors at fixed addresses."""

    tokens: Tensor
    positions: Tensor
    pages: Tensor
    offsets: Tensor
    row_slot: Tensor
    sample_rows: Tensor
    sample_slot: Tensor
    sample_request: Tensor
    sample_position: Tensor
    decode_slot: Tensor
    decode_context: Tensor
    prefill_slot: Tensor
    prefill_context: Tensor
    drawn_rows: Tensor
    wished_rows: Tensor
    copy_source: Tensor
    copy_target: Tensor
    merged_rows: Tensor
    shared: Tensor
    members: Tensor
    query_start: Tensor
    group_start: Tensor


class Staging:
    """Host buffers, used in turn so that a step may be filled while the one before is still copied.

    Parameters
    ----------
    tokens, sequences
        T and R.
    device
        Where steps go. On a GPU the host buffers are pinned and the copies asynchronous.
    turns
        Number of host buffers: one more than the steps in flight.
    """

    def __init__(self, tokens: int, sequences: int, device: torch.device, turns: int) -> None:
        sizes = [tokens] * len(_PER_TOKEN) + [sequences] * len(_PER_SEQUENCE) + [sequences + 1] * 2
        pinned = device.type == "cuda"
        self._host = [torch.zeros(sum(sizes), dtype=torch.int32, pin_memory=pinned) for _ in range(turns)]
        self._device = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        self._steps = [HostStep(*(part.numpy() for part in host.split(sizes))) for host in self._host]
        self.device = DeviceStep(*self._device.split(sizes))
        self._turn = 0

    def next(self) -> HostStep:
        """Return the host buffer to fill next. The step that used it must have been waited for."""
        self._turn = (self._turn + 1) % len(self._host)
        return self._steps[self._turn]

    def send(self) -> None:
        """Copy the buffer that `next` returned to the device, in the order of the current stream."""
        self._device.copy_(self._host[self._turn], non_blocking=True)


@struct()
class Dummies(NamedTuple):
    """What padding points to."""

    page: int
    slot: int
    request: int


@entry()
def fill(
    work: Work,
    requests: Int64,
    step: HostStep,
    tokens: int,
    sequences: int,
    dummies: Dummies,
) -> None:
    """Write a step, padded to `tokens` rows and `sequences` sequences.

    Parameters
    ----------
    requests
        int64 [R]: request of each sample.
    """
    used = work.size[W_TOKENS]
    for row in range(tokens):
        inside = row < used
        step.tokens[row] = work.tokens[row] if inside else 0
        step.positions[row] = work.positions[row] if inside else 0
        step.pages[row] = work.pages[row] if inside else dummies.page
        step.offsets[row] = work.offsets[row] if inside else 0
        step.row_slot[row] = dummies.slot
    count, decoding = work.size[W_SEQUENCES], leading_single_rows(work)
    for i in range(sequences):
        step.decode_slot[i] = work.slot[i] if i < decoding else dummies.slot
        step.decode_context[i] = work.context[i] if i < decoding else 1
        other = i + decoding
        inside = other < count
        step.prefill_slot[i] = work.slot[other] if inside else dummies.slot
        step.prefill_context[i] = work.context[other] if inside else 1
        step.query_start[i] = work.first[other] if inside else used
        if i < count:
            for row in range(work.first[i], work.first[i] + work.length[i]):
                step.row_slot[row] = work.slot[i]
    step.query_start[sequences] = used
    for i in range(sequences):
        inside = i < work.size[W_SAMPLES]
        row = work.sample_rows[i] if inside else 0
        step.sample_rows[i] = row
        step.sample_slot[i] = work.sample_slots[i] if inside else dummies.slot
        step.sample_request[i] = requests[i] if inside else dummies.request
        step.sample_position[i] = work.positions[row] + 1 if inside else 0


def fill_step(work: Work, requests: Int64, step: HostStep, bucket: Bucket, dummies: Dummies) -> None:
    """Write a step, padded to its bucket; see `fill`."""
    fill(work, requests, step, bucket.tokens, bucket.sequences, dummies)


@entry(dims={"mirror": 2})
def table_changes(slots: Slots, running: int, mirror: Int32, index: Int32, page: Int32) -> int:
    """Find what changed in the block tables of the running sequences since the last call.

    Parameters
    ----------
    mirror
        int32 [S + 1, P]: the tables as they are on the device; brought up to date.
    index, page
        int32 [at least all entries of the tables]: receive places in the flat table and their pages.

    Returns
    -------
    int
        Number of changes.
    """
    count = 0
    width = mirror.shape[1]
    for k in range(running):
        slot = slots.running[k]
        for i in range(slots.n_pages[slot]):
            if mirror[slot, i] != slots.pages[slot, i]:
                mirror[slot, i] = slots.pages[slot, i]
                index[count] = slot * width + i
                page[count] = slots.pages[slot, i]
                count += 1
    return count
