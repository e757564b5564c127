"""The sampler: every request's settings as rows on the device, by which the tokens of a step are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from engine import kernels
from engine.runtime.sample.penalties import Penalties
from engine.runtime.sample.settings import Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.arrays import Int64
    from engine.kernels import TokenMasks
    from engine.runtime.sample.penalties import Prompts, Touched

DRAW_ROWS = 256
"""Rows drawn at a time: sorting a large vocabulary in float32 takes much memory per row."""
TOUCHED_ROWS = 32
"""Rows whose logits are changed at a time, which takes several times as much."""


class Sampler:
    """Draws the next tokens of a step, each row with the settings of its request.

    The settings are on the device, with one more row for padding, which is greedy. Which rows are drawn is
    known on the host, so that nothing has to be read back.
    """

    def __init__(
        self,
        settings: Sequence[Sampling],
        device: torch.device | str = "cpu",
        *,
        prompts: Prompts | None = None,
        stops: Sequence[int] = (),
        vocab_size: int = 0,
    ) -> None:
        rows = [*settings, Sampling(max_tokens=1)]
        seeds = np.array([s.seed & 0xFFFFFFFFFFFFFFFF for s in rows], np.uint64)
        self._temperature = torch.tensor([s.temperature for s in rows], dtype=torch.float32, device=device)
        self._top_k = torch.tensor([s.top_k for s in rows], dtype=torch.int64, device=device)
        self._top_p = torch.tensor([s.top_p for s in rows], dtype=torch.float32, device=device)
        self._seed = torch.from_numpy(seeds.view(np.int64)).to(device)
        self._drawn = np.array([s.temperature > 0 for s in rows])
        self._restricted = np.array([s.top_k > 0 or s.top_p < 1 for s in rows])
        self._penalties = Penalties(settings, prompts, stops, vocab_size, device)
        self.touched = self._penalties.touched

    def drawn(self, requests: Int64) -> tuple[Int64, bool]:
        """Return which rows are not greedy, and whether any of those has a top-k or top-p.

        `requests` is int64 [R], on the host.
        """
        rows = np.flatnonzero(self._drawn[requests])
        return rows, bool(self._restricted[requests[rows]].any())

    def __call__(
        self,
        logits: Tensor,
        requests: Tensor,
        positions: Tensor,
        rows: Tensor,
        *,
        restricted: bool,
        masks: TokenMasks | None = None,
        touched: Touched | None = None,
        last: Tensor | None = None,
    ) -> Tensor:
        """Return int64 [R]: the tokens chosen from `logits` [R, vocab].

        Parameters
        ----------
        requests, positions
            Integers [R]: the request, and the place in its sequence that each new token will take.
        rows, restricted
            What `drawn` returned, the rows on the device.
        masks
            Which tokens the rows may take; None: all.
        touched
            What the method `touched` returned: rows whose logits are changed first.
        last
            See `engine.runtime.sample.penalties.Penalties`.
        """
        tokens = kernels.greedy(logits, masks)
        for first in range(0, rows.shape[0], DRAW_ROWS):
            some = rows[first : first + DRAW_ROWS]
            asked = requests[some]
            tokens[some] = kernels.draw(
                logits[some],
                self._temperature[asked],
                self._top_k[asked],
                self._top_p[asked],
                self._seed[asked],
                positions[some].to(torch.int64),
                restricted=restricted,
                masks=masks and masks.of(some),
            )
        if touched is not None and last is not None:
            for first in range(0, len(touched.rows), TOUCHED_ROWS):
                part = touched.part(first, first + TOUCHED_ROWS)
                self._choose(logits, positions, part, last, tokens, masks)
        return tokens

    def _choose(
        self,
        logits: Tensor,
        positions: Tensor,
        step: Touched,
        last: Tensor,
        tokens: Tensor,
        masks: TokenMasks | None,
    ) -> None:
        """Choose the tokens of rows whose logits are changed."""
        rows, asked = (torch.from_numpy(part).to(logits.device) for part in (step.rows, step.requests))
        # Masked first: min-p is of the most likely token that is allowed.
        allowed = kernels.allowed(logits[rows].to(torch.float32), masks and masks.of(rows))
        changed = self._penalties(allowed, step, last)
        chosen = kernels.greedy(changed)
        if self._drawn[step.requests].any():
            temperature = self._temperature[asked]
            drawn = kernels.draw(
                changed,
                torch.where(temperature > 0, temperature, 1.0),
                self._top_k[asked],
                self._top_p[asked],
                self._seed[asked],
                positions[rows].to(torch.int64),
                restricted=bool(self._restricted[step.requests].any()),
            )
            chosen = torch.where(temperature > 0, drawn, chosen)
        tokens.index_copy_(0, rows, chosen)
