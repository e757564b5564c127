"""The kernels but attention against their torch references, in the interpreter, on odd shapes."""

from __future__ import annotations

import pytest
import torch
from launches import normal, poisoned_allocations, relative_error

from engine.kernels.rms_norm import add_rms_norm, add_rms_norm_reference, rms_norm, rms_norm_reference

TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3}


@pytest.fixture(autouse=True)
def _poison(monkeypatch):
    with poisoned_allocations(monkeypatch):
        yield


@pytest.mark.parametrize(
    ("tokens", "n", "dtype", "add"),
    [
        (1, 64, torch.float32, False),
        (5, 80, torch.float16, True),
        (17, 768, torch.float32, True),
        (123, 1000, torch.float16, False),
        (5, 5120, torch.float32, True),
        (0, 64, torch.float32, False),
    ],
)
def test_rms_norm(tokens: int, n: int, dtype: torch.dtype, add: bool) -> None:
    x, residual, weight = (normal(*s, seed=i, dtype=dtype) for i, s in enumerate([(tokens, n)] * 2 + [(n,)]))
    if add:
        kept = residual.clone()
        expected, total = add_rms_norm_reference(x, kept, weight, 1e-5)
        out, stored = add_rms_norm(x, residual, weight, 1e-5)
        assert stored is residual
        assert torch.equal(stored, total)
    else:
        expected, out = rms_norm_reference(x, weight, 1e-5), rms_norm(x, weight, 1e-5)
    assert (out.dtype, out.shape) == (expected.dtype, expected.shape)
    assert relative_error(out, expected) < TOLERANCE[dtype]
