"""A context of 131,072 tokens: rotations far out, the runner's tables and buffers at their full length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.kernels.rope import rope_table
from engine.models.config import RopeConfig
from engine.models.rope import inverse_frequencies
from engine.runtime import state
from engine.runtime.cpu.runner import CpuRunner
from engine.runtime.device.runner import DeviceRunner
from engine.runtime.sample.logprobs import Measured
from engine.runtime.sample.settings import Sampling
from engine.runtime.state.runner import LogprobWish
from tests.support.models import decoder_of, reference_model

LONGEST, PAGE = 131072, 16
LLAMA3 = RopeConfig(500000.0, "llama3", 8.0, 1.0, 4.0, 8192)
YARN = RopeConfig(1000000.0, "yarn", 4.0, 1.0, 32.0, 32768, 0.1 * np.log(4.0) + 1.0)


def frequencies64(rope: RopeConfig, dim: int) -> np.ndarray:
    """The published formulas in float64, one dimension at a time."""
    found = []
    for i in range(dim // 2):
        f = rope.theta ** (-2 * i / dim)
        turns = rope.original_max_positions * f / (2 * np.pi)
        if rope.kind == "llama3":
            part = np.clip(
                (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0, 1
            )
        elif rope.kind == "yarn":
            low, high = (
                dim * np.log(rope.original_max_positions / (b * 2 * np.pi)) / (2 * np.log(rope.theta))
                for b in (rope.high_freq_factor, rope.low_freq_factor)
            )
            part = 1 - np.clip((i - np.floor(low)) / (np.ceil(high) - np.floor(low)), 0, 1)
        else:
            part = 1.0
        found.append(part * f + (1 - part) * f / rope.factor)
    return np.array(found)


@pytest.mark.parametrize("rope", [RopeConfig(500000.0), LLAMA3, YARN], ids=lambda rope: rope.kind)
@pytest.mark.parametrize("position", [0, 8191, LONGEST - 1])
def test_rotations_far_out(rope: RopeConfig, position: int) -> None:
    """Angles are formed in float32, as models were trained with: their rounding is all that may differ."""
    dim = 128
    wide = frequencies64(rope, dim)
    found = inverse_frequencies(rope, dim)
    assert np.allclose(found.numpy(), wide, rtol=1e-5, atol=0)
    cos, sin = rope_table(torch.tensor([position]), found, torch.float32, rope.scale)
    # The frequency is off by a few units of its last place, the product by half a unit of its own.
    angle = position * wide
    allowed = 2e-7 + np.maximum(angle, 1e-30) * 6 * 2.0**-24
    assert allowed.max() < 0.05
    for table, function in ((cos, np.cos), (sin, np.sin)):
        values = table[0, 0].double().numpy() / rope.scale
        assert (np.abs(values[: dim // 2] - function(angle)) <= allowed).all()
        assert (values[dim // 2 :] == values[: dim // 2]).all()


def test_a_step_at_the_end_of_the_context() -> None:
    """A decoding sequence of the greatest length beside the last chunk of another, against the CPU runner."""
    model = decoder_of(reference_model("llama"))
    model.config = replace(model.config, max_positions=LONGEST)
    pages, rows = LONGEST // PAGE, 3
    kv_tokens = 2 * LONGEST
    runner = DeviceRunner(model, kv_tokens, PAGE, 16, 4, LONGEST)
    other = CpuRunner(model, kv_tokens, PAGE)
    generator = torch.Generator().manual_seed(2)
    with torch.inference_mode():
        other._cache.normal_(generator=generator)
        runner._cache[:, :-1] = other._cache
    slots = state.make_slots(4, pages + 1, 8)
    order = np.random.default_rng(3).permutation(2 * pages).astype(np.int32).reshape(2, pages)
    slots.running[:2] = [3, 1]
    slots.counts[state.RUNNING] = 2
    slots.pages[[3, 1], :pages] = order
    slots.n_pages[[3, 1]] = pages
    work = state.make_work(16, 4)
    positions = [LONGEST - 1, *range(LONGEST - rows, LONGEST)]
    work.size[[state.W_TOKENS, state.W_SEQUENCES, state.W_SAMPLES]] = [1 + rows, 2, 2]
    work.tokens[: 1 + rows] = [5, 9, 17, 33]
    work.positions[: 1 + rows] = positions
    for row, place in enumerate(positions):
        work.pages[row], work.offsets[row] = order[min(row, 1), place // PAGE], place % PAGE
    work.first[:2], work.length[:2], work.context[:2], work.slot[:2] = [0, 1], [1, rows], LONGEST, [3, 1]
    work.sample_rows[:2], work.sample_slots[:2] = [0, rows], [3, 1]
    results = []
    for each in (runner, other):
        each.begin([Sampling(max_tokens=1)] * 2, slots)
        wish = LogprobWish(np.array([0, 1]), 5)
        results.append(each.launch(work, slots, np.array([0, 1]), wish).wait())
    (found, wished), (expected, other_wished) = ((r.tokens, r.logprobs) for r in results)
    assert isinstance(wished, Measured)
    assert found.tolist() == expected.tolist()
    assert torch.allclose(wished.top, other_wished.top, atol=1e-4)
    # The tables are as wide as they must be, and every entry has arrived.
    assert runner._table.shape == (5, pages + 1)
    assert runner._table[[3, 1], :pages].tolist() == order.tolist()
    assert runner._changes.shape[-1] >= 2 * pages
