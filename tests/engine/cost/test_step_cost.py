"""Steps, presets, profiles in files and the optimum against figures worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cost.optimum import COMPUTE, LONGEST, MEMORY, PRESETS, kv_tokens_left, optimum
from engine.cost.profiles import ProfileError, read_profile, tensor_parallel, write_profile
from engine.cost.step import (
    NOMINAL,
    DeviceProfile,
    ModelShape,
    experts_hit,
    gemm_efficiency,
    pair_seconds,
    step_compute_seconds,
    step_cost,
    step_memory_seconds,
    step_seconds,
)

UNIT = DeviceProfile("unit", "nominal", 1.0, 1.0, 4.0, 2.0, overlaps=False)


def tiny(body: int = 1, weights: int = 10) -> ModelShape:
    """No head and no attention: two FLOPs per parameter and token, one byte of KV per token."""
    return ModelShape(body, 0, 0, 0, kv_bytes_per_token=1, weight_bytes=weights)


def test_grouped_and_multi_head_presets() -> None:
    large, old = PRESETS["llama-3.1-70b"], PRESETS["llama-2-7b"]
    # Per layer: q and out 8192^2, k and v 8192 x 1024, MLP 3 x 8192 x 28672.
    assert large.body_parameters == 80 * (2 * 67_108_864 + 2 * 8_388_608 + 704_643_072) == 68_451_041_280
    assert large.head_parameters == 1_050_673_152
    assert large.kv_bytes_per_token == 2 * 2 * 8 * 128 * 80 == 327_680
    # 32 KV heads: four times the KV of the same body with 8.
    assert old.body_parameters == 32 * (4 * 16_777_216 + 135_266_304) == 6_476_005_376
    assert old.kv_bytes_per_token == 2 * 2 * 32 * 128 * 32 == 524_288
    assert PRESETS["llama-3.1-8b"].kv_bytes_per_token == 131_072


def test_tied_embedding_is_held_once() -> None:
    small, eight = PRESETS["qwen3-0.6b"], PRESETS["llama-3.1-8b"]
    # q and out 1024 x 2048, k and v 1024 x 1024, MLP 3 x 1024 x 3072.
    assert small.body_parameters == 28 * 15_728_640 == 440_401_920
    assert small.resident_bytes == small.weight_bytes == 2 * (440_401_920 + 155_582_464)
    assert eight.resident_bytes - eight.weight_bytes == 2 * 525_336_576


def test_mixture_of_experts() -> None:
    shape = PRESETS["qwen3-30b-a3b"]
    attention_and_router = 48 * (2 * 8_388_608 + 2 * 1_048_576 + 262_144)
    assert attention_and_router == 918_552_576
    assert shape.expert_bytes == 2 * 48 * 128 * 3 * 2048 * 768 == 57_982_058_496
    assert shape.body_parameters == attention_and_router + 1_811_939_328
    # 30.5e9 parameters with both vocabulary matrices.
    assert shape.resident_bytes == 2 * 30_531_911_680
    cost = step_cost(shape, NOMINAL["h100"])
    assert experts_hit(cost, 0.0) == 0.0
    assert experts_hit(cost, 1.0) == pytest.approx(8.0)
    assert experts_hit(cost, 16.0) == pytest.approx(128 * (1 - 0.9375**16))
    flat = replace(NOMINAL["h100"], gemm=())
    one = step_memory_seconds(step_cost(shape, flat), 1.0, 0.0) * flat.read_bytes
    rest = 2 * (918_552_576 + 311_164_928)
    assert one == pytest.approx(rest + 57_982_058_496 / 16 + shape.kv_bytes_per_token)
    flops = step_compute_seconds(step_cost(shape, flat), 10.0, 2.0, 0.0) * flat.flops
    assert flops == pytest.approx(2 * 10 * 2_730_491_904 + 2 * 2 * 311_164_928)


def test_kv_in_one_byte() -> None:
    sizes = {"hidden": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "head_dim": 128, "tied": False}
    shape = ModelShape.make(**sizes, intermediate=14336, vocabulary=128256, kv_bytes_per_element=1)
    assert shape.kv_bytes_per_token == 65_536
    assert replace(shape, kv_bytes_per_token=131_072) == PRESETS["llama-3.1-8b"]


def test_experts_must_fit() -> None:
    sizes = {"hidden": 8, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 8, "tied": True}
    with pytest.raises(ValueError, match="experts_per_token: 3 of 2"):
        ModelShape.make(**sizes, intermediate=8, vocabulary=8, experts=2, experts_per_token=3)


def test_all_reduce_of_four_devices() -> None:
    shape, one = PRESETS["llama-3.1-70b"], replace(NOMINAL["a100"], gemm=())
    four = tensor_parallel(one, 4)
    assert (four.name, four.flops, four.read_bytes) == ("4xa100", 4 * one.flops, 4 * one.read_bytes)
    added = step_compute_seconds(step_cost(shape, four), 100.0, 0.0, 0.0)
    added -= step_compute_seconds(step_cost(shape, one), 100.0, 0.0, 0.0) / 4
    # 2 x 80 all-reduces, each sends 2 x 3/4 of 16,384 bytes a token over 210 GB/s, and waits 10 us.
    assert added == pytest.approx(160 * (100 * 1.5 * 16_384 / 2.1e11 + 1e-5))
    with pytest.raises(ValueError, match="cannot be a group of 2"):
        tensor_parallel(UNIT, 2)
    with pytest.raises(ValueError, match="cannot be a group of 2"):
        tensor_parallel(four, 2)


def test_gemm_efficiency_between_and_outside_points() -> None:
    cost = step_cost(tiny(), replace(UNIT, gemm=((4.0, 0.1), (16.0, 0.4), (64.0, 0.9))))
    assert gemm_efficiency(cost, 4.0) == pytest.approx(0.1)
    assert gemm_efficiency(cost, 8.0) == pytest.approx(0.2)
    assert gemm_efficiency(cost, 1.0) == pytest.approx(0.025)
    assert gemm_efficiency(cost, 32.0) == pytest.approx(0.6)
    assert gemm_efficiency(cost, 1e6) == pytest.approx(0.9)
    assert step_compute_seconds(cost, 8.0, 0.0, 0.0) == pytest.approx(2 * 8 / 0.2)


@settings(deadline=None)  # the first call compiles
@given(st.floats(1, 4000), st.floats(1, 4000), st.sampled_from(sorted(PRESETS)))
def test_more_tokens_never_take_less_compute_time(one: float, other: float, model: str) -> None:
    cost = step_cost(PRESETS[model], NOMINAL["a100"])
    low, high = sorted((one, other))
    assert step_compute_seconds(cost, low, 0, 0) <= step_compute_seconds(cost, high, 0, 0) * (1 + 1e-9)


def test_weights_are_read_once_per_nano_batch() -> None:
    assert step_memory_seconds(step_cost(tiny(), UNIT), 3.0, 5.0) == 18.0
    assert step_memory_seconds(step_cost(tiny(), UNIT, nano_batches=2), 3.0, 5.0) == 28.0
    with pytest.raises(ValueError, match="nano_batches"):
        step_cost(tiny(), UNIT, nano_batches=0)


def test_surface_of_interference() -> None:
    surface = replace(UNIT, pair=((0.2, 0.1), (0.6, 0.5)))
    cost = step_cost(tiny(), surface)
    assert pair_seconds(cost, 9.0, 1.0) == pytest.approx(9.0 + 0.1)
    assert pair_seconds(cost, 6.0, 4.0) == pytest.approx(6.0 + 0.3 * 4)
    assert pair_seconds(cost, 1.0, 9.0) == pytest.approx(9.0 + 0.5)
    assert pair_seconds(cost, 0.0, 0.0) == 0.0
    # Asked for otherwise, the table is not used.
    assert pair_seconds(step_cost(tiny(), surface, overlap=False), 6.0, 4.0) == 10.0
    assert pair_seconds(step_cost(tiny(), surface, interference=0.25), 6.0, 4.0) == 7.0
    assert step_seconds(step_cost(tiny(), UNIT, overlap=True), 3.0, 0.0, 0.0, 5.0) == 18.0


def bound(shape: ModelShape, device: DeviceProfile, p: float, d: float, kv: float = 5.0):
    requests = [np.array([x]) for x in (p, 0.0, d)]
    return optimum(step_cost(shape, device), *requests, kv)


def test_optimum_by_hand() -> None:
    # 2 x 5 tokens; 5 KV bytes read and 5 written; 2 steps with 10 of weights each; alone: 14, then 16.
    found = bound(tiny(), UNIT, 4, 2)
    assert (found.compute, found.memory, found.kv_read, found.steps) == (10, 20, 5, 2)
    assert (found.longest, found.plain, found.plain_limit) == (30, 30, LONGEST)
    # A step of 8 and 14, then one of 2 and 16.
    assert (found.practical, found.practical_limit) == (40, LONGEST)
    # Room for one of the 5 tokens that are held in the second step: five steps at the least.
    found = bound(tiny(), UNIT, 4, 2, kv=1)
    assert (found.memory, found.plain_limit, found.practical) == (60, MEMORY, 70)
    found = bound(tiny(body=100, weights=0), UNIT, 4, 2)
    assert (found.plain, found.plain_limit) == (1000, COMPUTE)
    # Prefill cannot run beside the decoding of the same request: 2000 + 49 x 126.
    found = bound(tiny(body=10, weights=0), replace(UNIT, overlaps=True), 100, 50)
    assert (found.longest, found.practical_limit, found.practical) == (8174, LONGEST, 8174)
    assert (found.compute, found.memory) == (2980, 6125 + 149)


def test_a_shared_prefix_is_computed_and_held_once_but_read_by_all() -> None:
    p, c, d = np.array([40.0, 40.0]), np.array([0.0, 39.0]), np.array([3.0, 3.0])
    found = optimum(step_cost(tiny(weights=0), UNIT), p, c, d, 1.0)
    assert found.compute == 2 * (40 + 1 + 2 * 2)
    assert found.kv_read == 2 * (41 + 42)
    # The first holds 41, then 42; the second its last prompt token and its answer.
    assert found.steps == 41 + 42 + 2 + 3


def test_optimum_takes_the_best_of_the_device() -> None:
    requests = [np.array([x, x]) for x in (8.0, 0.0, 2.0)]
    uneven = replace(UNIT, gemm=((1.0, 0.25), (4.0, 0.5)), pair=((0.2, 0.3), (0.8, 0.1)))
    found = optimum(step_cost(tiny(), uneven), *requests, 100.0)
    assert found.compute == pytest.approx(2 * 18 / 0.5)
    # 18 bytes read, 18 written, 2 x 10 of weights.
    assert found.practical == pytest.approx(72 + 0.1 * 56)


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.sampled_from(["nominal", "falling"]))
def test_gemms_of_many_steps_take_at_least_what_the_optimum_counts(rows: list[int], curve: str) -> None:
    table = (
        NOMINAL["a100"].gemm if curve == "nominal" else ((2.0, 0.1), (16.0, 0.6), (64.0, 0.3), (900.0, 0.5))
    )
    cost = step_cost(tiny(), replace(UNIT, gemm=table))
    # One token each, no memory to speak of: only the body's GEMMs are left.
    taken = sum(step_compute_seconds(cost, n, 0.0, 0.0) for n in rows)
    prompt = np.array([sum(rows) - len(rows) + 1.0])
    found = optimum(cost, prompt, np.zeros(1), np.array([float(len(rows))]), 1e12)
    assert found.compute <= taken * (1 + 1e-9)
    if len(rows) == 1:
        assert found.compute == pytest.approx(2 * rows[0] / gemm_efficiency(cost, rows[0]), rel=0.7)


def test_optimum_of_nothing_and_without_memory() -> None:
    nothing = np.zeros(0)
    assert optimum(step_cost(tiny(), UNIT), nothing, nothing, nothing, 1.0).practical == 0.0
    with pytest.raises(ValueError, match="kv_tokens"):
        optimum(step_cost(tiny(), UNIT), nothing, nothing, nothing, 0.0)


def test_room_for_kv() -> None:
    shape = PRESETS["llama-3.1-8b"]
    # 72e9 bytes less 16.06e9 of weights, 2048 tokens x 2 (2 x 4096 + 4096 + 2 x 1024 + 3 x 14336), logits.
    activations = 2048 * 2 * (8192 + 4096 + 2048 + 43008) + 4 * 512 * 128256
    left = (72e9 - 16_059_990_016 - activations) // 131_072
    assert kv_tokens_left(shape, NOMINAL["a100"], 2048, 512) == left
    assert kv_tokens_left(PRESETS["llama-3.1-70b"], NOMINAL["a100"], 2048, 512) == 0
    large = PRESETS["llama-3.1-70b"]
    assert kv_tokens_left(large, tensor_parallel(NOMINAL["h200"], 2), 2048, 512) > 300_000
    with pytest.raises(ValueError, match="memory"):
        kv_tokens_left(shape, NOMINAL["cpu"], 2048, 512)


@pytest.mark.parametrize("device", [*NOMINAL.values(), tensor_parallel(NOMINAL["h100"], 4)])
def test_profiles_survive_a_file(device: DeviceProfile, tmp_path) -> None:
    write_profile(device, tmp_path / "profile.json")
    assert read_profile(tmp_path / "profile.json") == device


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version: must be 1"),
        ({"flops": 0}, "flops: must be a number above 0"),
        ({"flops": True}, "flops: must be a number above 0"),
        ({"read_bytes": None}, "read_bytes: must be a number above 0"),
        ({"speed": 1}, "speed: is unknown"),
        ({"name": 3}, "name: must be a text"),
        ({"overlaps": 1}, "overlaps: must be true or false"),
        ({"shards": 0}, "shards: must be a whole number from 1"),
        ({"link_bytes": -1}, "link_bytes: must be a number from 0"),
        ({"shared_read": 1.5}, "shared_read: must be a number from 0 to 1"),
        ({"gemm": [[1]]}, "gemm: must be a list of pairs of numbers"),
        ({"gemm": [[2, 1], [1, 1]]}, "gemm: its first numbers must rise"),
        ({"gemm": [[1, 0.1], [2, 0.9]]}, "gemm: more rows must not take less time"),
        ({"gemm": [[1, 1.5]]}, "gemm: rows must be from 1 on"),
        ({"pair": [[0.5, 2]]}, "pair: its numbers must be in 0 to 1"),
    ],
)
def test_a_bad_profile_is_named_in_one_line(change: dict, message: str, tmp_path) -> None:
    path = tmp_path / "profile.json"
    write_profile(NOMINAL["a100"], path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ProfileError, match=message) as caught:
        read_profile(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_fields_and_broken_files(tmp_path) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{"version": 1, "name": "x", "source": "measured", "flops": 1}')
    with pytest.raises(ProfileError, match="read_bytes: is missing"):
        read_profile(path)
    for text in ("{", "[]"):
        path.write_text(text)
        with pytest.raises(ProfileError, match="JSON"):
            read_profile(path)
