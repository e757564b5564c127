"""The runner of a device on the CPU, with nonsense in its buffers, and what it is asked to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.cost.step import NOMINAL, ModelShape
from engine.runtime.device.nano_batches import SplitRule
from engine.runtime.device.runner import DeviceRunner
from engine.runtime.sample.settings import Sampling

if TYPE_CHECKING:
    from engine.runtime.schedule.buckets import Bucket

SHAPE = ModelShape(body_parameters=7_000_000_000, head_parameters=500_000_000, layers=32, query_size=4096,
                   kv_bytes_per_token=131072, weight_bytes=15_000_000_000)  # fmt: skip
ALWAYS = SplitRule.of(SHAPE, NOMINAL["h200"], least_gain=-1.0)
"""Cuts every step that it can."""
RAN: set[Bucket] = set()
"""Shapes of the steps that a `Poisoned` runner has run."""


class Poisoned(DeviceRunner):
    """Overwrites every buffer with nonsense before each launch, and remembers the shapes it ran."""

    def launch(self, work, slots, requests, wish, masks=None):
        with torch.inference_mode():
            self._staging._device.fill_(123456789)
            self._staging._host[(self._staging._turn + 1) % len(self._staging._host)].fill_(-987654321)
            self._logits.fill_(torch.nan)
            # The dummy page may hold anything finite.
            self._cache[:, -1] = 1e4
        bucket = self._buckets.of(int(work.size[0]), int(work.size[1]))
        assert bucket in self._buckets.all()
        RAN.add(bucket)
        return super().launch(work, slots, requests, wish, masks)


def mixed_sampling(seed: int, *, drawn: bool) -> list[Sampling]:
    """Settings of ten requests, some greedy, some with a top-k, some with log probabilities."""
    lengths = np.random.default_rng(seed).integers(1, 16, 10)
    return [
        Sampling(
            max_tokens=int(n),
            temperature=float(drawn and i % 3 > 0),
            top_k=20 * (i % 2),
            seed=seed + i,
            ignore_eos=bool(i % 2),
            logprobs=2 if i % 4 == 0 else None,
        )
        for i, n in enumerate(lengths)
    ]
