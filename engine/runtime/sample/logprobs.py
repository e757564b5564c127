"""Log probabilities of generated tokens, for the requests that ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

    from engine.arrays import Float32, Int32, Int64
    from engine.runtime.sample.settings import Sampling

LOWEST = -9999.0
"""Stands for a probability of 0, whose logarithm JSON does not have."""


@dataclass(frozen=True)
class TokenLogprobs:
    """Log probabilities (natural) of an answer of n tokens, with k alternatives each.

    Attributes
    ----------
    chosen
        float32 [n]: of the answer's tokens.
    top_ids, top
        int32 [n, k], float32 [n, k]: the k most likely tokens and theirs, most likely first.
    """

    chosen: Float32
    top_ids: Int32
    top: Float32


class Measured(NamedTuple):
    """Log probabilities of r rows of a step, on the device: [r], [r, k], [r, k]; k is the most asked for."""

    chosen: Tensor
    top_ids: Tensor
    top: Tensor


def measure(logits: Tensor, tokens: Tensor, top: int) -> Measured:
    """Return ``log softmax(logits)`` in float32 at `tokens`, and its `top` largest values.

    It is the model's own distribution: no temperature, top-k or top-p.

    Parameters
    ----------
    logits
        [r, vocab], any float dtype.
    tokens
        int64 [r].
    """
    # The largest one apart, by log1p, so that a nearly certain token's value close to 0 keeps its digits.
    wide = logits.to(torch.float32)
    largest, place = wide.max(-1, keepdim=True)
    wide = wide - largest
    total = wide.exp().scatter_(-1, place, 0.0).sum(-1, keepdim=True).log1p()
    ids, values = tokens.new_empty((len(tokens), 0)), wide[:, :0]
    if top > 0:
        values, ids = wide.topk(min(top, wide.shape[1]), dim=-1)
    chosen = wide.gather(-1, tokens[:, None]) - total
    return Measured(chosen[:, 0].clamp(min=LOWEST), ids, (values - total).clamp(min=LOWEST))


class LogprobStore:
    """Collects the log probabilities of running requests; a preemption does not lose them."""

    def __init__(self, settings: Sequence[Sampling]) -> None:
        self._top = np.array([-1 if s.logprobs is None else s.logprobs for s in settings], np.int64)
        self._found: dict[int, list[tuple[float, Int32, Float32]]] = {}

    def rows(self, requests: Int32 | Int64) -> Int64:
        """Return which of `requests` ([R]) want them, as indices int64 [r]."""
        return np.flatnonzero(self._top[requests] >= 0)

    def most(self, requests: Int64) -> int:
        """Return the largest number of alternatives that any of `requests` wants."""
        return int(self._top[requests].max(initial=0))

    def append(self, requests: Int32, live: npt.NDArray[np.bool_], measured: Measured) -> None:
        """Add what a step measured.

        Parameters
        ----------
        requests, live
            int32 [R], bool [R]: the requests of the step's samples, and whether their tokens count.
        measured
            Of the rows that `rows` returned for the same requests.
        """
        chosen = measured.chosen.cpu().numpy()
        ids, top = measured.top_ids.cpu().numpy().astype(np.int32), measured.top.cpu().numpy()
        for row, sample in enumerate(self.rows(requests).tolist()):
            if not live[sample]:
                continue
            request = int(requests[sample])
            k = int(self._top[request])
            entry = (float(chosen[row]), ids[row, :k], top[row, :k])
            self._found.setdefault(request, []).append(entry)

    def take(self, request: int) -> TokenLogprobs | None:
        """Return what was collected for a finished request and forget it; None if it asked for none."""
        if self._top[request] < 0:
            return None
        entries = self._found.pop(request)
        return TokenLogprobs(
            chosen=np.array([chosen for chosen, _, _ in entries], np.float32),
            top_ids=np.stack([ids for _, ids, _ in entries]),
            top=np.stack([top for _, _, top in entries]),
        )
