"""The torch references against plain formulas, on odd shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from engine import kernels
from engine.kernels import attention
from engine.kernels.next_token import gumbel_noise, restrict
from engine.models.config import RopeConfig, parse_config
from engine.models.rope import inverse_frequencies
from engine.runtime.cpu import batch
from engine.runtime.sample.sampler import Sampler
from engine.runtime.sample.settings import Sampling
from engine.runtime.state import W_SEQUENCES, W_TOKENS, make_slots, make_work
from tests.support.paged import MIXES, Paged, normal


@pytest.mark.parametrize("n", [1, 5, 123])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(n: int, dtype: torch.dtype) -> None:
    x, weight = normal(7, n).to(dtype), normal(n, seed=1).to(dtype)
    out = kernels.rms_norm(x, weight, 1e-5)
    wide = x.double()
    expected = weight.double() * wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    assert out.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    assert torch.allclose(out.double(), expected, atol=tolerance, rtol=tolerance)


def test_add_rms_norm_returns_and_keeps_the_sum() -> None:
    x, residual, weight = normal(5, 123), normal(5, 123, seed=1), normal(123, seed=2)
    total = x + residual
    out, kept = kernels.add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(kept, total)
    assert torch.equal(out, kernels.rms_norm(total, weight, 1e-6))


def test_silu_and_mul() -> None:
    gate_up = normal(5, 2 * 123)
    gate, up = gate_up[:, :123].double(), gate_up[:, 123:].double()
    expected = gate / (1 + torch.exp(-gate)) * up
    assert torch.allclose(kernels.silu_and_mul(gate_up).double(), expected, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 10, 64])
def test_rope_rotates_each_pair_by_its_angle(dim: int) -> None:
    positions = torch.tensor([0, 1, 15, 16, 511])
    x = normal(5, 3, dim)
    table = kernels.rope_table(positions, inverse_frequencies(RopeConfig(10000.0), dim), torch.float32)
    out = kernels.apply_rope(x, *table)
    half = dim // 2
    for token, position in enumerate(positions.tolist()):
        for i in range(half):
            angle = position * 10000.0 ** (-2 * i / dim)
            a, b = x[token, :, i].double(), x[token, :, i + half].double()
            c, s = math.cos(angle), math.sin(angle)
            assert torch.allclose(out[token, :, i].double(), a * c - b * s, atol=1e-4)
            assert torch.allclose(out[token, :, i + half].double(), b * c + a * s, atol=1e-4)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


YARN = {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0}


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "default", "rope_theta": 10000.0},
        {**LLAMA3, "rope_theta": 500000.0, "original_max_position_embeddings": 8192},
        {**LLAMA3, "factor": 32.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64},
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
        {**YARN, "original_max_position_embeddings": 32768},
        {**YARN, "original_max_position_embeddings": 64, "truncate": False, "beta_fast": 16, "beta_slow": 2},
        {**YARN, "original_max_position_embeddings": 512, "mscale": 0.7, "mscale_all_dim": 0.4},
        {**YARN, "original_max_position_embeddings": 512, "attention_factor": 1.3},
    ],
)
@pytest.mark.parametrize("dim", [12, 128])
def test_rope_frequencies_are_those_of_transformers(parameters: dict, dim: int) -> None:
    config = LlamaConfig(
        hidden_size=4 * dim, num_attention_heads=4, head_dim=dim, rope_parameters=parameters, vocab_size=8
    )
    reference = LlamaRotaryEmbedding(config)
    ours = parse_config({**config.to_dict(), "architectures": ["LlamaForCausalLM"]})
    assert torch.allclose(inverse_frequencies(ours.rope, dim), reference.inv_freq, rtol=1e-6)
    positions = torch.arange(0, 40000, 997)
    frequencies = inverse_frequencies(ours.rope, dim)
    cos, sin = kernels.rope_table(positions, frequencies, torch.float32, ours.rope.scale)
    expected = reference(normal(1, 1), positions[None])
    assert torch.allclose(cos[:, 0], expected[0][0], atol=1e-6)
    assert torch.allclose(sin[:, 0], expected[1][0], atol=1e-6)


@pytest.mark.parametrize("mix", sorted(MIXES))
@pytest.mark.parametrize("gqa_group", [1, 4, 7])
@pytest.mark.parametrize("gather_tokens", [1, 8192])
@pytest.mark.parametrize(
    ("window", "mask_elements"), [(None, 1 << 22), (None, 700), (1, 1 << 22), (16, 1), (37, 1 << 22)]
)
def test_paged_attention_is_causal_attention(
    mix: str, gqa_group: int, gather_tokens: int, window: int | None, mask_elements: int, monkeypatch
) -> None:
    for module in (attention, batch):
        monkeypatch.setattr(module, "MASK_ELEMENTS", mask_elements)
    paged = Paged(MIXES[mix], gqa_group)
    groups = paged.groups(gather_tokens, window)
    rows = torch.cat([group.rows.flatten().unique() for group in groups])
    assert rows.sort().values.tolist() == list(range(len(paged.q)))
    out = kernels.paged_attention(paged.q, paged.cache, groups)
    assert torch.allclose(out, paged.expected(window), atol=1e-5)
    if gather_tokens == 1:
        assert len(groups) == len(MIXES[mix])


class LargestTensor(TorchDispatchMode):
    """Remembers the elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("window", [None, 1000])
@pytest.mark.parametrize("context", [20_000, 80_000])
def test_a_chunk_over_a_long_prefix_needs_memory_linear_in_the_context(context: int, window: int | None):
    gqa_group, chunk, kv_heads = 4, 512, 2
    paged = Paged([(1, 1)], gqa_group, kv_heads)
    pages = -(-context // paged.size)
    paged.slots = make_slots(1, pages, 1)
    paged.work = make_work(chunk, 1)
    paged.work.size[W_TOKENS], paged.work.size[W_SEQUENCES] = chunk, 1
    paged.work.length[0], paged.work.context[0] = chunk, context
    q = normal(chunk, gqa_group * kv_heads, paged.dim)
    with LargestTensor() as largest:
        groups = paged.groups(1024, window)
        # Every page of the table is page 0: memory is counted here, not answers.
        kernels.paged_attention(q, paged.cache, groups)
    seen = context if window is None else chunk + window
    linear = 2 * kv_heads * (seen + 2 * paged.size) * paged.dim
    assert largest.elements <= max(linear, attention.MASK_ELEMENTS)
    if window is None:
        assert gqa_group * chunk * context > 5 * attention.MASK_ELEMENTS


def test_attention_sees_neither_the_future_nor_other_sequences() -> None:
    paged = Paged(MIXES["chunks"], 4)
    groups = paged.groups(8192)
    before = kernels.paged_attention(paged.q, paged.cache, groups)
    # Sequence 4 has 15 tokens, all new; overwrite its last place and all pages of sequence 0.
    table = paged.slots.pages
    paged.cache[int(table[paged.work.slot[4], 0]), :, :, 14] = 1000.0
    paged.cache[table[paged.work.slot[0], :8].astype(np.int64)] = 1000.0
    after = kernels.paged_attention(paged.q, paged.cache, groups)
    changed = (before != after).any(-1).any(-1).nonzero()[:, 0].tolist()
    last = int(paged.work.first[4]) + 14
    assert changed == [0, 1, 2, 3, 4, last]


def test_copy_of_a_page_prefix() -> None:
    cache = normal(3, 4, 2, 2, 16, 8)
    before = cache.clone()
    kernels.copy_kv_prefix(cache, 1, 3, 5)
    assert torch.equal(cache[:, 3, :, :, :5], before[:, 1, :, :, :5])
    assert torch.equal(cache[:, 3, :, :, 5:], before[:, 3, :, :, 5:])
    assert torch.equal(cache[:, :3], before[:, :3])


def sample(logits, temperature, top_k, top_p, seeds, positions):
    """The tokens that the engine's sampler takes, with the settings of one request for each row."""
    columns = (column.tolist() for column in (temperature, top_k, top_p, seeds))
    rows = zip(*columns, strict=True)
    sampler = Sampler([Sampling(1, temperature=t, top_k=k, top_p=p, seed=s) for t, k, p, s in rows])
    requests = np.arange(len(logits))
    drawn, restricted = sampler.drawn(requests)
    asked = torch.from_numpy(requests), positions, torch.from_numpy(drawn)
    return sampler(logits, *asked, restricted=restricted)


def draws(logits: torch.Tensor, count: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0):
    """Return how often each token is drawn with `count` different (seed, position) keys."""
    seeds = torch.arange(count) // 7 - 3 + (torch.arange(count) << 33)
    tokens = sample(
        logits[None].expand(count, -1),
        torch.full((count,), temperature),
        torch.full((count,), top_k),
        torch.full((count,), top_p),
        seeds,
        torch.arange(count) % 7,
    )
    return tokens.bincount(minlength=len(logits)).double()


def chi_square(counts: torch.Tensor, probability: torch.Tensor) -> float:
    expected = probability.double() * counts.sum()
    likely = expected > 5
    return float(((counts - expected)[likely] ** 2 / expected[likely]).sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_gumbel_max_draws_from_the_softmax(temperature: float) -> None:
    logits = normal(40, seed=4)
    counts = draws(logits, 20000, temperature)
    # 39 degrees of freedom: the 99.99 % point is 80.
    assert chi_square(counts, (logits / temperature).softmax(-1)) < 80
    assert chi_square(counts, (logits / (1.2 * temperature)).softmax(-1)) > 80


def test_noise_is_standard_gumbel_and_uses_every_bit_of_the_seed() -> None:
    noise = gumbel_noise(torch.arange(50), torch.arange(50), 2000)
    assert torch.isfinite(noise).all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)
    base = gumbel_noise(torch.tensor([5]), torch.tensor([9]), 64)
    others = [(5 + (1 << bit), 9) for bit in (0, 31, 32, 62)] + [(5 - 2**63, 9), (5, 10)]
    for seed, position in others:
        other = gumbel_noise(torch.tensor([seed]), torch.tensor([position]), 64)
        assert (other != base).float().mean() > 0.9


def test_top_k_and_top_p_draw_from_the_renormalised_rest() -> None:
    logits = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15]).log()
    counts = draws(logits, 9000, top_k=3)
    assert (counts > 0).tolist() == [False, True, False, True, True]
    assert chi_square(counts, torch.tensor([0, 0.4, 0, 0.3, 0.15]) / 0.85) < 25
    # 0.4 + 0.3 falls short of 0.8, so the third joins.
    assert (draws(logits, 3000, top_p=0.8) > 0).tolist() == [False, True, False, True, True]
    assert (draws(logits, 3000, top_p=0.69) > 0).tolist() == [False, True, False, True, False]
    # The nucleus is taken after top-k: of 0.4 / 0.7 and 0.3 / 0.7 the first reaches 0.5 alone.
    assert (draws(logits, 3000, top_k=2, top_p=0.5) > 0).tolist() == [False, True, False, False, False]
    assert (draws(logits, 500, top_p=0.0) > 0).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize(
    ("k", "p"), [(0, 1.0), (1, 1.0), (5, 1.0), (500, 1.0), (0, 0.3), (9, 0.6), (0, 0.999)]
)
def test_restrict_against_a_loop(k: int, p: float) -> None:
    logits = normal(4, 123, seed=2)
    out = restrict(logits, torch.full((4,), k), torch.full((4,), p))
    for row in range(4):
        ranked = sorted(range(123), key=lambda i: -logits[row, i].item())[: k or None]
        weight = logits[row, ranked].double().softmax(0).tolist()
        kept, total = [], 0.0
        for token, w in zip(ranked, weight, strict=True):
            if kept and total >= p:
                break
            kept.append(token)
            total += w
        assert out[row].isfinite().nonzero()[:, 0].tolist() == sorted(kept)
        assert torch.equal(out[row, kept], logits[row, kept])


def test_a_nucleus_that_is_reached_exactly_is_full() -> None:
    halves = torch.zeros(1, 2)
    kept = restrict(halves, torch.zeros(1, dtype=torch.int64), torch.tensor([0.5]))
    assert kept.isfinite().tolist() == [[True, False]]


def test_greedy_takes_the_lowest_of_equals() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    zero = torch.zeros(1, dtype=torch.int64)
    assert sample(logits, torch.zeros(1), zero, torch.ones(1), zero, zero).tolist() == [1]


def test_sampling_does_not_depend_on_the_batch() -> None:
    rows, vocab = 24, 123
    logits = normal(rows, vocab)
    rng = np.random.default_rng(0)
    settings = (
        torch.tensor(rng.choice([0.0, 0.7, 1.3], rows), dtype=torch.float32),
        torch.tensor(rng.choice([0, 1, 5, 200], rows)),
        torch.tensor(rng.choice([1.0, 0.5, 0.9], rows), dtype=torch.float32),
        torch.tensor(rng.integers(-(2**63), 2**63 - 1, rows)),
        torch.tensor(rng.integers(0, 5000, rows)),
    )
    together = sample(logits, *settings)
    alone = [sample(logits[i : i + 1], *(s[i : i + 1] for s in settings)).item() for i in range(rows)]
    assert together.tolist() == alone
    order = torch.tensor(rng.permutation(rows))
    assert sample(logits[order], *(s[order] for s in settings)).tolist() == together[order].tolist()
