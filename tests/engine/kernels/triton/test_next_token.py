"""The sampling kernel draws the very tokens of the torch reference, in the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.kernels.next_token import TokenMasks, draw, draw_reference, greedy
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


def token_masks(rows: int, vocab: int) -> tuple[TokenMasks, torch.Tensor]:
    """Return masks, some rows without one, with words for more tokens than there are, and as bools."""
    rng = np.random.default_rng(3)
    words = -(-vocab // 32) + 2
    allowed = rng.random((3, words * 32)) < np.array([[0.5], [0.02], [0.0]])
    # A single token, and the last one, which is in the sign of a word or at the end of a block.
    allowed[2, vocab - 1] = allowed[1, vocab // 2] = True
    bits = torch.from_numpy(np.packbits(allowed, axis=1, bitorder="little").view(np.int32).copy())
    index = torch.tensor([-1 if i % 4 == 3 else i % 4 for i in range(rows)], dtype=torch.int32)
    may = torch.from_numpy(allowed[:, :vocab])[index.clamp(min=0).long()] | (index < 0)[:, None]
    return TokenMasks(index, bits), may


@pytest.mark.parametrize(
    ("rows", "vocab", "dtype", "restricted"),
    [
        (13, 1000, torch.float32, False),
        (8, 96, torch.float32, True),
        (8, 4700, HALF, True),
        (5, 5120, HALF, False),
    ],
)
def test_masked_rows_draw_from_their_tokens_alone(
    rows: int, vocab: int, dtype: torch.dtype, restricted: bool
) -> None:
    logits, given = (normal(rows, vocab) * 3).to(dtype), settings(rows)
    masks, may = token_masks(rows, vocab)
    cut = logits.masked_fill(~may.to(logits.device), -torch.inf)
    on_device = TokenMasks(masks.rows.to(logits.device), masks.bits.to(logits.device))
    found = draw(logits, *given, restricted=restricted, masks=on_device)
    assert found.tolist() == draw_reference(cut, *given, restricted=restricted).tolist()
    of_masks = draw_reference(logits, *given, restricted=restricted, masks=on_device)
    assert found.tolist() == of_masks.tolist()
    assert greedy(logits, on_device).tolist() == greedy(cut).tolist()
    chosen = torch.arange(rows), found.cpu()
    assert may[chosen].all()
    some = torch.arange(0, rows, 2, device=logits.device)
    part = tuple(setting[some] for setting in given)
    again = draw(logits[some], *part, restricted=restricted, masks=on_device.of(some))
    assert again.tolist() == found[some].tolist()
