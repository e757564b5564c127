"""The gated activation of the MLP over one fused gate-up projection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """Return ``silu(gate) * up`` where ``gate_up = [gate | up]``: [tokens, 2n] -> [tokens, n]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate).mul_(up)
