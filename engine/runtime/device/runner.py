"""The runner of a GPU: fixed buffers on the device, steps padded to buckets, one captured graph per bucket.

Nothing in a launch waits for the device. It runs on the CPU as well, with the reference operations and
without graphs: that is how its padding and bookkeeping are tested.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.errors import CapacityError
from engine.kernels.cascade_attention import SharedPages
from engine.models.lanes import InTurn, StreamLanes
from engine.models.schedule import OVERLAPPING
from engine.runtime.device.attention import AttentionOps, DeviceInputs
from engine.runtime.device.graphs import StepGraphs
from engine.runtime.device.masks import StagedMasks
from engine.runtime.device.nano_batches import cut, make_halves
from engine.runtime.device.overlap import Strategy
from engine.runtime.device.staging import DeviceStep, Dummies, HostStep, Staging, fill_step, table_changes
from engine.runtime.kv.shared_pages import Groups, find_groups, leading_single_rows, make_room
from engine.runtime.sample.logprobs import Measured, measure
from engine.runtime.sample.penalties import Prompts
from engine.runtime.sample.sampler import Sampler
from engine.runtime.sample.settings import Sampling
from engine.runtime.schedule.buckets import Bucket, Buckets, HalvedBucket
from engine.runtime.state import RUNNING, W_COPIES, W_SAMPLES, W_SEQUENCES, W_TOKENS, make_work
from engine.runtime.state.runner import Launched, LogprobWish, MaskWish, StepResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from engine.arrays import Int64
    from engine.cost.step import StepCost
    from engine.kernels import TokenMasks
    from engine.models.decoder import Decoder
    from engine.models.lanes import Lanes
    from engine.runtime.device.graphs import AnyBucket
    from engine.runtime.device.overlap import Overlap
    from engine.runtime.sample.penalties import Touched
    from engine.runtime.state import Slots, Work

COPY_PAGES = 32
"""Pages copied at a time, which bounds the memory that it takes."""
_COSTLY = Sampling(
    max_tokens=1,
    temperature=1.0,
    top_k=50,
    top_p=0.9,
    presence_penalty=0.1,
    repetition_penalty=1.1,
    min_p=0.1,
)


@dataclass(frozen=True)
class _InFlight:
    tokens: Tensor
    logprobs: Measured | None
    arrived: torch.cuda.Event | None
    nano_batches: int

    def wait(self) -> StepResult:
        if self.arrived is not None:
            self.arrived.synchronize()
        return StepResult(self.tokens.numpy(), self.logprobs)


class DeviceRunner:
    """Runs steps of up to `token_budget` tokens of up to `max_sequences` sequences on the decoder's device.

    Parameters
    ----------
    kv_tokens, page_size
        KV memory; one more page is taken for padding.
    longest
        Most tokens of any sequence, which fixes the width of the block tables.
    lag
        See `engine.runtime.state.runner.Runner`.
    ops
        Attention operations; None takes the kernels.
    kv_dtype
        Of the KV cache: that of the model's activations, or e4m3 (`torch.float8_e4m3fn`).
    overlap
        Which steps are cut into two nano-batches and how these run; None cuts none.
    lanes
        Makes what launches a step with a given k; None takes streams on a GPU where the strategy has any.
    cascade
        Cost of steps, by which groups of decoding sequences are chosen whose shared pages are read once;
        None reads all pages for each sequence. It doubles the number of graphs.
    """

    def __init__(
        self,
        decoder: Decoder,
        kv_tokens: int,
        page_size: int,
        token_budget: int,
        max_sequences: int,
        longest: int,
        *,
        lag: int = 1,
        ops: AttentionOps | None = None,
        kv_dtype: torch.dtype | None = None,
        overlap: Overlap | None = None,
        lanes: Callable[[int | None], Lanes] | None = None,
        cascade: StepCost | None = None,
    ) -> None:
        self.decoder, self.kv_tokens, self.page_size, self.lag = decoder, kv_tokens, page_size, lag
        config, embed = decoder.config, decoder.weights.embed
        self._on_device, pages = embed.device, kv_tokens // page_size
        self._ops = ops or AttentionOps()
        # In layers with a window nobody sees the beginning of a long context.
        self._cascade = cascade if None in config.windows else None
        self._buckets = Buckets(token_budget, max_sequences, cascade=self._cascade is not None)
        largest = self._buckets.all()[0]._replace(sequences=max_sequences)
        self._staging = Staging(largest.tokens, max_sequences, self._on_device, lag + 1)
        self._split, self._halves = overlap and overlap.split, make_halves(largest.tokens, max_sequences)
        self._parts = [
            Staging(largest.tokens, max_sequences, self._on_device, lag + 1)
            for _ in range(0 if overlap is None else OVERLAPPING)
        ]
        self._strategy = Strategy() if overlap is None else overlap.strategy
        self._kept = self._strategy.kept[0]
        made = lanes or self._make_lanes()
        self._lanes = {kept: made(kept) for kept in self._strategy.kept}
        self._dummies = Dummies(page=pages, slot=max_sequences, request=0)
        self._room = make_room(max_sequences, pages + 1)
        # One page more than the longest sequence, as the scheduler's own tables have.
        self._width = -(-longest // page_size) + 1
        self._mirror = np.full((max_sequences + 1, self._width), pages, np.int32)
        with torch.inference_mode():
            shape = (config.layers, pages + 1, 2, config.kv_heads, page_size, config.head_dim)
            self._cache = torch.zeros(shape, dtype=kv_dtype or embed.dtype, device=self._on_device)
            # Numbers of one byte cannot be picked by index as they are, only as bytes.
            one_byte = self._cache.element_size() == 1
            self._copied = self._cache.view(torch.uint8) if one_byte else self._cache
            self._table = torch.from_numpy(self._mirror).to(self._on_device, copy=True)
            self._last = torch.zeros(max_sequences + 1, dtype=torch.int64, device=self._on_device)
            self._logits = torch.zeros(
                (max_sequences, config.vocab_size), dtype=embed.dtype, device=self._on_device
            )
        # Padding in every place, so that a step can be tried before there is work.
        nothing = make_work(1, 1)
        for staging in (self._staging, *self._parts):
            fill_step(nothing, np.zeros(0, np.int64), staging.next(), largest, self._dummies)
            staging.send()
        self._graphs = StepGraphs(self._forward, self._on_device)

    def begin(self, sampling: Sequence[Sampling], slots: Slots, prompts: Prompts | None = None) -> None:
        """Prepare for a run; see `engine.runtime.state.runner.Runner`."""
        if slots.pages.shape[1] > self._width or len(slots.request) > self._dummies.slot:
            raise CapacityError("the runner was made for shorter or fewer sequences than the engine's")
        self._dummies = self._dummies._replace(request=len(sampling))
        config = self.decoder.config
        self._sampler = Sampler(
            sampling,
            self._on_device,
            prompts=prompts,
            stops=config.stop_token_ids,
            vocab_size=config.vocab_size,
        )
        entries = self._mirror.size
        self._changes = torch.zeros(
            (self.lag + 1, 2, entries), dtype=torch.int32, pin_memory=self._on_device.type == "cuda"
        )
        self._turn = 0
        self._masks = StagedMasks(len(self._last), self._on_device, self.lag + 1)

    def capture(self, *, lazily: bool = False) -> int:
        """Capture a graph for every bucket, largest first; return how many. Does nothing on the CPU.

        Captured lazily, each is made in the first step that takes it, which then is slow.
        """
        return self._graphs.capture([*self._buckets.all(), *self._halved()], lazily=lazily)

    def _halved(self) -> list[HalvedBucket]:
        """Return the buckets of cut steps, largest first."""
        return [] if self._split is None else self._buckets.halves(self._strategy.kept)

    def _make_lanes(self) -> Callable[[int | None], Lanes]:
        """Return what makes the lanes of the strategy; all of them share one stream for attention."""
        if self._on_device.type != "cuda" or self._strategy.name == "turns":
            return lambda _: InTurn()
        memory, carves = torch.cuda.Stream(self._on_device, priority=-1), self._strategy.carves
        return lambda kept: StreamLanes(memory, kept=kept if carves else None)

    def warm_forward(self) -> None:
        """Compute the largest step over padding only, whole and cut, to see what memory it takes."""
        with torch.inference_mode():
            self._forward(self._buckets.all()[0])
            for bucket in self._halved()[:1]:
                self._forward(bucket)

    def warm_sampling(self) -> None:
        """Sample the most rows in the costliest way, to see what memory it takes."""
        rows = self._logits.shape[0]
        with torch.inference_mode():
            nothing = Prompts(np.zeros(0, np.int32), np.zeros(2, np.int64))
            sampler = Sampler(
                [_COSTLY], self._on_device, prompts=nothing, vocab_size=self.decoder.config.vocab_size
            )
            every = torch.arange(rows, device=self._on_device)
            zeros = torch.zeros(rows, dtype=torch.int64, device=self._on_device)
            # A token each, so that there is something to count.
            nowhere = np.zeros(rows, np.int64)
            touched = sampler.touched(
                nowhere, nowhere + 1, nowhere.astype(np.int32), np.zeros((1, 1), np.int32)
            )
            sampler(self._logits, zeros, zeros, every, restricted=True, touched=touched, last=self._last)
            measure(self._logits, zeros, 20)

    def launch(
        self,
        work: Work,
        slots: Slots,
        requests: Int64,
        wish: LogprobWish,
        masks: MaskWish | None = None,
    ) -> Launched:
        """Start a step; see `engine.runtime.state.runner.Runner`."""
        bucket = self._buckets.of(int(work.size[W_TOKENS]), int(work.size[W_SEQUENCES]))
        drawn, restricted = self._sampler.drawn(requests)
        count = int(work.size[W_SAMPLES])
        touched = self._sampler.touched(
            requests, work.positions[work.sample_rows[:count]] + 1, work.sample_slots[:count], slots.output
        )
        copies = work.copies[: work.size[W_COPIES]]
        host = self._staging.next()
        fill_step(work, requests, host, bucket, self._dummies)
        bucket = self._with_groups(bucket, work, slots, host)
        for place, rows in (
            (host.drawn_rows, drawn),
            (host.wished_rows, wish.rows),
            (host.copy_source, copies[:, 0]),
            (host.copy_target, copies[:, 1]),
        ):
            place[: len(rows)] = rows
        step = self._staging.device
        halved = self._cut(work, slots, requests, host)
        with torch.inference_mode():
            self._staging.send()
            for staging in self._parts if halved else ():
                staging.send()
            self._update_table(slots)
            self._copy_pages(step, len(copies))
            self._graphs(halved or bucket)
            # The step before is waited for, and masks are made, while the device computes this one.
            limits = None if masks is None else self._masks.send(masks, count)
            sampled = self._sample(step, count, len(drawn), restricted, wish, limits, touched)
        return replace(sampled, nano_batches=OVERLAPPING) if halved else sampled

    def _with_groups(self, bucket: Bucket, work: Work, slots: Slots, host: HostStep) -> Bucket:
        """Find the groups whose pages are worth reading once; return the bucket for what was found."""
        if self._cascade is None:
            return bucket
        groups = Groups(host.shared, host.members, host.group_start)
        count = leading_single_rows(work)
        saved = find_groups(
            slots.pages, work.slot, work.context, count, self.page_size, self._cascade, self._room, groups
        )
        return bucket._replace(cascade=saved > 0.0)

    def _cut(self, work: Work, slots: Slots, requests: Int64, host: HostStep) -> HalvedBucket | None:
        """Cut the step if that is worth it, fill the buffers of its halves, and return their bucket.

        Without a graph a step takes longer than being cut saves.
        """
        if self._split is None or not self._split.cuts(work):
            return None
        cut(work, self._halves)
        halves = self._halves.first, self._halves.second
        _, products, attention = self._split.loads(work)
        kept = self._strategy.choose(products, attention, self._kept)
        sizes = [(int(half.size[W_TOKENS]), int(half.size[W_SEQUENCES])) for half in halves]
        bucket = self._buckets.of_halves(sizes[0], sizes[1], kept)
        if not self._graphs.ready(bucket):
            return None
        self._kept = kept
        padded = Bucket(bucket.tokens, bucket.sequences, prefill=True)
        for i, half in enumerate(halves):
            filled = self._parts[i].next()
            fill_step(half, requests, filled, padded, self._dummies)
            # One of the halves with groups is enough: the other then has none in its own.
            shared = self._with_groups(padded, half, slots, filled).cascade
            bucket = replace(bucket, cascade=bucket.cascade or shared)
            samples = np.flatnonzero(self._halves.part[: work.size[W_SAMPLES]] == i)
            host.merged_rows[samples] = i * bucket.sequences + self._halves.row[samples]
        host.merged_rows[work.size[W_SAMPLES] :] = 0
        return bucket

    def _copy_pages(self, step: DeviceStep, count: int) -> None:
        """Copy the pages of partial hits; what lies past the shared tokens is written before it is seen."""
        for first in range(0, count, COPY_PAGES):
            part = slice(first, min(first + COPY_PAGES, count))
            pages = self._copied.index_select(1, step.copy_source[part])
            self._copied.index_copy_(1, step.copy_target[part].to(torch.int64), pages)

    def _update_table(self, slots: Slots) -> None:
        """Send the entries of the block tables that changed."""
        self._turn = (self._turn + 1) % (self.lag + 1)
        index, page = self._changes[self._turn]
        count = table_changes(slots, int(slots.counts[RUNNING]), self._mirror, index.numpy(), page.numpy())
        if count:
            # Each is contiguous: only then is a copy from pinned memory asynchronous.
            place, value = (part[:count].to(self._on_device, non_blocking=True) for part in (index, page))
            self._table.view(-1).index_copy_(0, place.to(torch.int64), value)

    def _forward(self, bucket: AnyBucket) -> None:
        """Compute the step in the buffers and leave the logits in theirs: what a graph holds."""
        if isinstance(bucket, HalvedBucket):
            self._forward_halves(bucket)
            return
        inputs = self._inputs(self._staging.device, bucket)
        self.decoder.forward(inputs, self._cache, out=self._logits[: bucket.sequences])

    def _forward_halves(self, bucket: HalvedBucket) -> None:
        """Compute the step from the buffers of its nano-batches."""
        padded = Bucket(bucket.tokens, bucket.sequences, prefill=True, cascade=bucket.cascade)
        inputs = [self._inputs(staging.device, padded, bucket.kept) for staging in self._parts]
        # No more are sampled than both halves have sequences.
        rows = min(OVERLAPPING * bucket.sequences, self._logits.shape[0])
        merged, out = self._staging.device.merged_rows[:rows], self._logits[:rows]
        self.decoder.forward_parts(inputs, merged, self._cache, out=out, lanes=self._lanes[bucket.kept])

    def _inputs(self, step: DeviceStep, bucket: Bucket, programs: int | None = None) -> DeviceInputs:
        """Return the part of the buffers that a step of this bucket uses."""
        rows, sequences = bucket.tokens, bucket.sequences
        known, slot = step.tokens[:rows], step.row_slot[:rows]
        tokens = torch.where(known < 0, self._last.index_select(0, slot), known.to(torch.int64))
        return DeviceInputs(
            tokens=tokens,
            positions=step.positions[:rows],
            pages=step.pages[:rows],
            offsets=step.offsets[:rows],
            sample_rows=step.sample_rows[:sequences],
            decode_table=self._table.index_select(0, step.decode_slot[:sequences]),
            decode_context=step.decode_context[:sequences],
            prefill_table=self._table.index_select(0, step.prefill_slot[:sequences])
            if bucket.prefill
            else None,
            prefill_context=step.prefill_context[:sequences],
            query_start=step.query_start[: sequences + 1],
            # A group has two members at least.
            groups=SharedPages(
                step.shared[:sequences], step.members[:sequences], step.group_start[: sequences // 2 + 1]
            )
            if bucket.cascade
            else None,
            ops=self._ops,
            programs=programs,
        )

    def _sample(
        self,
        step: DeviceStep,
        count: int,
        drawn: int,
        restricted: bool,
        wish: LogprobWish,
        masks: TokenMasks | None,
        touched: Touched | None,
    ) -> _InFlight:
        logits = self._logits[:count]
        rows = step.drawn_rows[:drawn].to(torch.int64)
        requests, positions = step.sample_request[:count].to(torch.int64), step.sample_position[:count]
        tokens = self._sampler(
            logits,
            requests,
            positions,
            rows,
            restricted=restricted,
            masks=masks,
            touched=touched,
            last=self._last,
        )
        self._last.index_copy_(0, step.sample_slot[:count].to(torch.int64), tokens)
        logprobs = None
        if len(wish.rows):
            wished = step.wished_rows[: len(wish.rows)].to(torch.int64)
            logprobs = Measured(*map(_to_host, measure(logits[wished], tokens[wished], wish.top)))
        arrived, sent = None, _to_host(tokens)
        if self._on_device.type == "cuda":
            arrived = torch.cuda.Event()
            arrived.record()
        return _InFlight(sent, logprobs, arrived, nano_batches=1)


def _to_host(tensor: Tensor) -> Tensor:
    """Start a copy to the host; it is there once an event recorded after this has come to pass."""
    if tensor.device.type == "cpu":
        return tensor.clone()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
