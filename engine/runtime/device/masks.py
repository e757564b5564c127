"""Masks of a step on their way to the device: from pinned memory, in the order of the current stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.kernels import TokenMasks

if TYPE_CHECKING:
    from torch import Tensor

    from engine.runtime.state.runner import MaskWish


class StagedMasks:
    """Host buffers used in turn, so that masks may be written while those of the step before are copied.

    Parameters
    ----------
    samples
        Most samples of a step. Memory is taken when the first masks are sent.
    device
        Where they go.
    turns
        Number of host buffers: one more than the steps in flight.
    """

    def __init__(self, samples: int, device: torch.device, turns: int) -> None:
        self._samples, self._device, self._turns = samples, device, turns
        self._turn = 0
        self._host: list[tuple[Tensor, Tensor]] = []

    def send(self, wish: MaskWish, count: int) -> TokenMasks:
        """Have the masks of a step with `count` samples written, and start their copy to the device.

        Returns
        -------
        TokenMasks
            On the device, in places of their own as far as the stream goes.
        """
        if not self._host:
            self._host = [self._buffers(wish.words) for _ in range(self._turns)]
        self._turn = (self._turn + 1) % self._turns
        rows, bits = self._host[self._turn]
        used = len(wish.rows)
        wish.fill(bits.numpy())
        index = rows.numpy()
        index[:count] = -1
        index[wish.rows] = range(used)
        sent = (part.to(self._device, non_blocking=True) for part in (rows[:count], bits[:used]))
        return TokenMasks(*sent)

    def _buffers(self, words: int) -> tuple[Tensor, Tensor]:
        pinned = self._device.type == "cuda"
        rows = torch.empty(self._samples, dtype=torch.int32, pin_memory=pinned)
        return rows, torch.empty((self._samples, words), dtype=torch.int32, pin_memory=pinned)
