"""Helpers that check kernels: random inputs, poisoned outputs, comparisons. For tests and benchmarks."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch

from engine.kernels.backend import interpreting
from engine.kernels.fp8 import E4M3_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

POISON = 12345.0
ON_GPU = os.environ.get("NIGHTBLEND_KERNELS") == "cuda" and not interpreting()
"""Whether the tests of the kernels run on a GPU and not in the interpreter."""
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
HALF = torch.bfloat16 if ON_GPU else torch.float16
"""The type of 16 bits that is tested: the interpreter's bfloat16 is wrong."""
SEED = int(os.environ.get("NIGHTBLEND_SEED") or (int.from_bytes(os.urandom(3)) if ON_GPU else 0))
"""Added to every seed: on a GPU each run has new numbers, and pytest's header says which."""


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal numbers, the same for the same shape and seed."""
    generator = torch.Generator("cpu").manual_seed(SEED + seed)
    return torch.randn(*shape, generator=generator, device="cpu").to(DEVICE, dtype)


def permutation(n: int, seed: int = 0) -> torch.Tensor:
    """The numbers below `n` in a random order, int64 [n]."""
    generator = torch.Generator("cpu").manual_seed(SEED + seed)
    return torch.randperm(n, generator=generator, device="cpu").to(DEVICE)


def integers(low: int, high: int, n: int, seed: int = 0) -> torch.Tensor:
    """Random numbers from `low` to below `high`, int64 [n]."""
    generator = torch.Generator("cpu").manual_seed(SEED + seed)
    return torch.randint(low, high, (n,), generator=generator, device="cpu").to(DEVICE)


def kv_scales(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return ``max |x| / 448`` per KV head, float32 [2, kv heads]: what maps a sample of KV into e4m3.

    `k` and `v` are [tokens, kv heads, head dim]. A head of zeros gets scale 1.
    """
    largest = torch.stack((k, v)).to(torch.float32).abs().amax((1, 3)) / E4M3_MAX
    return torch.where(largest > 0, largest, 1.0)


@contextmanager
def poisoned_allocations() -> Iterator[None]:
    """Memory that an operation allocates for its results is poisoned first."""
    empty, empty_like, new_empty = torch.empty, torch.empty_like, torch.Tensor.new_empty

    def fill(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype.is_floating_point:
            return tensor.fill_(POISON if tensor.element_size() > 1 else torch.nan)
        return tensor.fill_(-7)

    with (
        patch.object(torch, "empty", lambda *a, **k: fill(empty(*a, **k))),
        patch.object(torch, "empty_like", lambda *a, **k: fill(empty_like(*a, **k))),
        patch.object(torch.Tensor, "new_empty", lambda *a, **k: fill(new_empty(*a, **k))),
    ):
        yield


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    """``|out - expected| / |expected|`` in float64; NaN never passes a comparison with it."""
    wide = expected.double()
    return float((out.double() - wide).norm() / wide.norm().clamp(min=1e-30))
