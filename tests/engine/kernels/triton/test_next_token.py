"""The sampling kernel draws the very tokens of the torch reference, in the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.kernels.next_token import draw, draw_reference, greedy
from tests.engine.kernels.triton.launches import HALF, normal, poisoned_allocations


@pytest.fixture(autouse=True)
def _poison():
    with poisoned_allocations():
        yield


def settings(rows: int) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(0)
    return (
        torch.tensor(rng.choice([0.3, 0.7, 1.3], rows), dtype=torch.float32),
        torch.tensor(rng.choice([0, 1, 5, 40, 5000], rows)),
        torch.tensor(rng.choice([1.0, 0.5, 0.9, 0.0], rows), dtype=torch.float32),
        torch.tensor(rng.integers(-(2**63), 2**63 - 1, rows)),
        torch.tensor(rng.integers(0, 5000, rows)),
    )


@pytest.mark.parametrize(
    ("rows", "vocab", "dtype", "restricted"),
    [
        (17, 1000, torch.float32, False),
        (5, 5120, HALF, False),
        (16, 80, torch.float32, True),
        (6, 4700, HALF, True),
    ],
)
def test_draws_are_those_of_the_reference(
    rows: int, vocab: int, dtype: torch.dtype, restricted: bool
) -> None:
    logits = (normal(rows, vocab) * 3).to(dtype)
    given = settings(rows)
    expected = draw_reference(logits, *given, restricted=restricted)
    assert draw(logits, *given, restricted=restricted).tolist() == expected.tolist()
    assert len(set(expected.tolist())) > 1


@pytest.mark.parametrize(("top_k", "top_p"), [(3, 1.0), (0, 0.5), (6, 0.4), (2, 0.0), (0, 0.999)])
def test_equal_logits_are_cut_at_the_lowest_ids(top_k: int, top_p: float) -> None:
    rows = 8
    logits = torch.tensor([1.0, 2.0, 0.0, -0.0, 2.0, 2.0, -torch.inf, 1.0, 0.5]).repeat(rows, 1)
    given = (
        torch.ones(rows),
        torch.full((rows,), top_k),
        torch.full((rows,), top_p),
        torch.arange(rows) * 77,
        torch.arange(rows),
    )
    expected = draw_reference(logits, *given, restricted=True)
    assert draw(logits, *given, restricted=True).tolist() == expected.tolist()


def test_greedy_takes_the_lowest_of_equals() -> None:
    logits = torch.full((3, 4700), -2.0)
    logits[0, [17, 4500]] = 5.0
    logits[2, 4699] = torch.inf
    assert greedy(logits).tolist() == [17, 0, 4699]
