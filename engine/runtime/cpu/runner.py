"""The model runner on the CPU: the reference for all others; see `engine.runtime.state.runner.Runner`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.kernels import TokenMasks, copy_kv_prefix
from engine.runtime.cpu.batch import step_inputs
from engine.runtime.sample.logprobs import measure
from engine.runtime.sample.pooling import Pooler
from engine.runtime.sample.sampler import Sampler
from engine.runtime.state import PLACEHOLDER, W_COPIES, W_SAMPLES, W_SEQUENCES, W_TOKENS
from engine.runtime.state.runner import StepResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.arrays import Int32, Int64
    from engine.models.decoder import Decoder
    from engine.runtime.cpu.batch import CpuInputs
    from engine.runtime.sample.penalties import Prompts
    from engine.runtime.sample.settings import Sampling
    from engine.runtime.state import Slots, Work
    from engine.runtime.state.runner import Launched, LogprobWish, MaskWish


@dataclass(frozen=True)
class _Computed:
    result: StepResult
    nano_batches: int = 1

    def wait(self) -> StepResult:
        return self.result


class CpuRunner:
    """Runs the torch reference operations on the CPU, a step at once.

    Parameters
    ----------
    decoder
        The model, on the CPU.
    kv_tokens, page_size
        KV memory, rounded down to whole pages.
    gather_tokens
        Most KV tokens that one attention call gathers (a longer sequence is a call of its own): few enough to
        be read again from the processor's cache.
    lag
        1 holds the result of each step back until the next one is launched, as a GPU would: for tests.
    """

    def __init__(
        self, decoder: Decoder, kv_tokens: int, page_size: int = 16, gather_tokens: int = 1024, lag: int = 0
    ) -> None:
        self.decoder, self.kv_tokens, self.page_size, self.lag = decoder, kv_tokens, page_size, lag
        self._gather_tokens = gather_tokens
        config, embed = decoder.config, decoder.weights.embed
        # Zeros, not empty: masked places are multiplied by 0, and 0 * NaN is NaN. The system's own zero pages
        # cost nothing until they are used; filling them here would touch the whole cache twice.
        shape = (config.layers, kv_tokens // page_size, 2, config.kv_heads, page_size, config.head_dim)
        zeros = np.zeros(math.prod(shape) * embed.element_size(), np.uint8)
        self._cache = torch.from_numpy(zeros).view(embed.dtype).view(shape)

    def begin(self, sampling: Sequence[Sampling], slots: Slots, prompts: Prompts | None = None) -> None:
        """Prepare for a run; see `Runner`."""
        config = self.decoder.config
        self._sampler = Sampler(
            sampling, prompts=prompts, stops=config.stop_token_ids, vocab_size=config.vocab_size
        )
        self._last = np.zeros(len(slots.request), np.int64)
        self._pooler = Pooler(sampling, self.kv_tokens // self.page_size, self.page_size, config.hidden_size)

    def launch(
        self,
        work: Work,
        slots: Slots,
        requests: Int64,
        wish: LogprobWish,
        masks: MaskWish | None = None,
    ) -> Launched:
        """Compute a step; see `Runner`."""
        self._resolve(work)
        inputs = step_inputs(work, slots, self.decoder.config, self.page_size, self._gather_tokens)
        count = int(work.size[W_SAMPLES])
        with torch.inference_mode():
            states = self._states(work, inputs)
            if count == 0:
                return _Computed(StepResult(np.zeros(0, np.int64), None))
            tokens, logprobs = np.zeros(count, np.int64), None
            length, taken = work.positions[work.sample_rows[:count]] + 1, work.sample_slots[:count]
            wanted = self._pooler.wanted(requests)
            answers, embedded = np.flatnonzero(~wanted), np.flatnonzero(wanted)
            embeddings = self._pooler.embeddings(
                embedded, requests[embedded], states[embedded], slots.pages[taken[embedded]], length[embedded]
            )
            if len(answers):
                # An embedding needs no logits.
                logits = self.decoder.logits(states if len(answers) == count else states[answers])
                place = np.cumsum(~wanted) - 1
                sampled = self._sample(
                    logits,
                    requests[answers],
                    length[answers],
                    taken[answers],
                    slots,
                    None if masks is None else _token_masks(masks, place, len(answers)),
                )
                tokens[answers] = sampled.numpy()
                if len(wish.rows):
                    rows = torch.from_numpy(place[wish.rows])
                    logprobs = measure(logits[rows], sampled[rows], wish.top)
        return _Computed(StepResult(tokens, logprobs, embeddings))

    def _states(self, work: Work, inputs: CpuInputs) -> Tensor:
        """Compute the step; return the hidden states of the sampled rows, [R, hidden]."""
        kept = self._pooler.states
        for source, target, tokens in work.copies[: work.size[W_COPIES]].tolist():
            copy_kv_prefix(self._cache, source, target, tokens)
            if kept is not None:
                kept.copy(source, target, tokens)
        if kept is None:
            return self.decoder.states(inputs, self._cache)
        # Of all tokens: whoever finds them in the cache later may take their mean.
        every = replace(inputs, sample_rows=torch.arange(len(inputs.tokens)))
        states = self.decoder.states(every, self._cache)
        kept.store(inputs.pages, inputs.offsets, states)
        return states[inputs.sample_rows]

    def _sample(
        self,
        logits: Tensor,
        requests: Int64,
        positions: Int64,
        taken: Int32,
        slots: Slots,
        masks: TokenMasks | None,
    ) -> Tensor:
        """Return the next tokens, int64 [R], of sequences in the slots `taken`; positions are the tokens'."""
        drawn, restricted = self._sampler.drawn(requests)
        sampled = self._sampler(
            logits,
            torch.from_numpy(requests),
            torch.from_numpy(positions),
            torch.from_numpy(drawn),
            restricted=restricted,
            masks=masks,
            touched=self._sampler.touched(requests, positions, taken, slots.output),
            last=torch.from_numpy(self._last),
        )
        self._last[taken] = sampled.numpy()
        return sampled

    def _resolve(self, work: Work) -> None:
        """Put the tokens of the step before in place of the placeholders, which end their sequences' rows."""
        n = int(work.size[W_SEQUENCES])
        last = work.first[:n] + work.length[:n] - 1
        waiting = work.tokens[last] == PLACEHOLDER
        work.tokens[last[waiting]] = self._last[work.slot[:n][waiting]]
        if (work.tokens[: work.size[W_TOKENS]] == PLACEHOLDER).any():
            raise RuntimeError("a placeholder is not the last token of its sequence")


def _token_masks(wish: MaskWish, place: Int64, count: int) -> TokenMasks:
    """Return the masks of a step; sample i is the ``place[i]``-th of the `count` that get a token."""
    bits = np.empty((len(wish.rows), wish.words), np.int32)
    wish.fill(bits)
    rows = np.full(count, -1, np.int32)
    rows[place[wish.rows]] = np.arange(len(wish.rows))
    return TokenMasks(torch.from_numpy(rows), torch.from_numpy(bits))
