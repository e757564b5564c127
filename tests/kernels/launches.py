"""Helpers of the kernel tests: random inputs, poisoned outputs, comparisons."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

POISON = 12345.0


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal numbers, the same for the same shape and seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@contextmanager
def poisoned_allocations(monkeypatch) -> Iterator[None]:
    """Outputs that an operation allocates with `torch.empty` or `empty_like` are poisoned first."""
    empty, empty_like = torch.empty, torch.empty_like

    def fill(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype.is_floating_point:
            return tensor.fill_(POISON if tensor.element_size() > 1 else torch.nan)
        return tensor.fill_(-7)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", lambda *a, **k: fill(empty(*a, **k)))
        patch.setattr(torch, "empty_like", lambda *a, **k: fill(empty_like(*a, **k)))
        yield


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    """``|out - expected| / |expected|`` in float64; NaN never passes a comparison with it."""
    wide = expected.double()
    return float((out.double() - wide).norm() / wide.norm().clamp(min=1e-30))
