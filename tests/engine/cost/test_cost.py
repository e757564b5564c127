"""The resource model on published model shapes, and step costs against request costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cost.step import (
    NOMINAL,
    DeviceProfile,
    ModelShape,
    measure_cpu,
    step_compute_seconds,
    step_cost,
    step_memory_seconds,
)
from engine.models.config import parse_config

LLAMA_31_8B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}


def llama(bytes_per_element: int = 2) -> ModelShape:
    return ModelShape.of(parse_config(LLAMA_31_8B), bytes_per_element)


def test_shape_of_llama_31_8b() -> None:
    shape = llama()
    # Per layer: q 4096 x 4096, k and v 4096 x 1024 each, out 4096 x 4096, three MLP matrices 4096 x 14336.
    assert shape.body_parameters == 32 * (16_777_216 + 2 * 4_194_304 + 16_777_216 + 3 * 58_720_256)
    assert shape.body_parameters == 6_979_321_856
    assert shape.head_parameters == 525_336_576
    assert (shape.layers, shape.query_size) == (32, 4096)
    # 2 (K, V) x 8 heads x 128 x 32 layers x 2 bytes: 128 KiB per token.
    assert shape.kv_bytes_per_token == 131_072
    assert shape.weight_bytes == 15_009_316_864
    assert llama(4).kv_bytes_per_token == 262_144


def test_llama_31_config_is_read_in_full() -> None:
    config = parse_config(LLAMA_31_8B, {"eos_token_id": [128001, 128008, 128009]})
    assert (config.heads, config.kv_heads, config.head_dim) == (32, 8, 128)
    assert (config.rope.theta, config.rope.factor, config.rope.original_max_positions) == (
        500000.0,
        8.0,
        8192,
    )
    assert config.stop_token_ids == (128001, 128008, 128009)


def test_flops_and_kv_bytes_of_one_request() -> None:
    shape = llama()
    p, c, d = np.array([1000.0]), np.array([400.0]), np.array([100.0])
    gemm = 2 * 700 * 6_979_321_856 + 2 * 100 * 525_336_576
    attention = 2 * (1_000_000 - 160_000) * 4096 * 32
    assert shape.request_flops(p, c, d)[0] == gemm + attention == 10_096_318_873_600
    assert shape.request_kv_bytes(p, d)[0] == (100_000 + 5_000) * 131_072
    # Without an answer the first token is still sampled.
    assert shape.request_flops(p, p, np.zeros(1))[0] == 2 * 525_336_576


def test_an_embedding_is_compute_alone() -> None:
    """A prompt of 1,000 tokens with 400 shared, on an A100: prefill and one row, no KV read by decoding."""
    shape, device = llama(), replace(NOMINAL["a100"], gemm=())
    p, c, nothing = np.array([1000.0]), np.array([400.0]), np.zeros(1)
    flops = 2 * 600 * 6_979_321_856 + 2 * (1_000_000 - 160_000) * 4096 * 32 + 2 * 525_336_576
    assert shape.request_flops(p, c, nothing)[0] == flops == 8_596_437_860_352
    assert shape.request_kv_bytes(p, nothing)[0] == 0
    seconds = float(flops / device.flops)
    # As many tokens in a step of their own take that time, but for the diagonal of causal attention.
    step = step_compute_seconds(step_cost(shape, device), 600.0, 1.0, 600 * 400 + 600 * 601 / 2)
    assert step == pytest.approx(seconds, rel=1e-4)


def test_vectorised_over_requests() -> None:
    shape = llama()
    p, c, d = np.array([10.0, 900.0]), np.array([0.0, 16.0]), np.array([3.0, 1.0])
    each = [shape.request_flops(p[i : i + 1], c[i : i + 1], d[i : i + 1])[0] for i in range(2)]
    assert shape.request_flops(p, c, d).tolist() == each


@given(
    st.integers(1, 300),
    st.integers(0, 299),
    st.integers(1, 60),
    st.lists(st.integers(1, 64), min_size=1, max_size=400),
)
def test_steps_add_up_to_the_request(p: int, c: int, d: int, chunks: list[int]) -> None:
    """Chunked prefill and decode, step by step, against the closed form and its known simplifications.

    The closed form counts `d` tokens through the body where ``d - 1`` run (the last one sampled is not fed
    back); counts causal attention as half a square without its diagonal; and leaves attention of the
    generated tokens out.
    """
    shape = llama()
    c = min(c, p - 1)
    total, place, sizes = 0.0, c, iter(chunks)
    while place < p:
        count = min(next(sizes, 64), p - place)
        attended = sum(range(place + 1, place + count + 1))
        place += count
        total += shape.step_flops(count, int(place == p), attended)
    for i in range(1, d):
        total += shape.step_flops(1, 1, p + i)
    pair = shape.query_size * shape.layers
    diagonal = 2 * (p - c) * pair
    decode_attention = 4 * pair * sum(p + i for i in range(1, d))
    expected = shape.request_flops(float(p), float(c), float(d)) - 2 * shape.body_parameters
    assert total == pytest.approx(float(expected) + diagonal + decode_attention, rel=1e-12)


def step_bytes(shape: ModelShape, tokens: float, kv_tokens_read: float) -> float:
    """What a step moves: its memory time on a device that moves a byte a second."""
    device = DeviceProfile("slow", "nominal", 1.0, 1.0, None, None, overlaps=False)
    return step_memory_seconds(step_cost(shape, device), tokens, kv_tokens_read)


def test_decode_steps_read_about_the_kv_of_the_request() -> None:
    shape = llama()
    p, d = 700, 200
    read = sum(step_bytes(shape, 1, p + i) - step_bytes(shape, 1, 0) for i in range(1, d))
    closed = float(shape.request_kv_bytes(np.float64(p), np.float64(d)))
    # d - 1 steps read p + 1 .. p + d - 1: below the closed form by p + d / 2 tokens.
    assert closed - read == pytest.approx((p + d / 2) * shape.kv_bytes_per_token)


def test_step_bytes_hold_one_pass_over_the_weights() -> None:
    shape = llama()
    assert step_bytes(shape, 0, 0) == shape.weight_bytes
    assert step_bytes(shape, 3, 10) == shape.weight_bytes + 13 * shape.kv_bytes_per_token


def test_pair_is_a_sum_without_overlap() -> None:
    figures = ("x", "nominal", 1.0, 1.0, None, None)
    assert DeviceProfile(*figures, overlaps=False).pair_seconds(2.0, 3.0) == 5.0
    assert DeviceProfile(*figures, overlaps=True).pair_seconds(2.0, 3.0) == 3.0


def test_nominal_profiles_are_labelled_and_below_their_peaks() -> None:
    for name, profile in NOMINAL.items():
        assert (profile.name, profile.source) == (name, "nominal")
        if profile.peak_flops is not None and profile.peak_bytes is not None:
            assert profile.flops < profile.peak_flops
            assert profile.read_bytes < profile.peak_bytes


def test_measured_profile_is_of_this_machine() -> None:
    profile = measure_cpu(0.05)
    assert profile.source == "measured"
    assert 1e8 < profile.flops < 1e14
    assert 1e8 < profile.read_bytes < 1e12
