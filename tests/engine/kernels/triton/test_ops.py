"""The kernels but attention against their torch references, in the interpreter, on odd shapes."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.experts import mixture, mixture_reference, route
from engine.kernels.fp8 import dequantise_kv
from engine.kernels.gather_rows import gather_rows
from engine.kernels.grouped_experts import launch as grouped_launch
from engine.kernels.linear import (
    Fp8Weight,
    fp8_linear,
    fp8_linear_reference,
    quantise_rows,
    quantise_rows_reference,
)
from engine.kernels.qk_rope_store import qk_rope_store, qk_rope_store_reference
from engine.kernels.rms_norm import add_rms_norm, add_rms_norm_reference, rms_norm, rms_norm_reference
from engine.kernels.rope import rope_table
from engine.kernels.silu import silu_and_mul, silu_and_mul_reference
from engine.models.config import RopeConfig
from engine.models.rope import inverse_frequencies
from tests.engine.kernels.triton.launches import (
    HALF,
    integers,
    kv_scales,
    normal,
    permutation,
    poisoned_allocations,
    relative_error,
)

BF16 = torch.bfloat16
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, BF16: 8e-3}


@pytest.fixture(autouse=True)
def _poison():
    with poisoned_allocations():
        yield


@pytest.mark.parametrize(
    ("tokens", "n", "dtype", "add"),
    [
        (1, 64, torch.float32, False),
        (5, 80, HALF, True),
        (17, 768, torch.float32, True),
        (123, 1000, HALF, False),
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


@pytest.mark.parametrize(
    ("tokens", "n", "dtype"),
    [(1, 1000, HALF), (5, 64, torch.float32), (17, 5120, HALF), (123, 80, torch.float32)],
)
def test_silu_and_mul(tokens: int, n: int, dtype: torch.dtype) -> None:
    gate_up = normal(tokens, 2 * n, dtype=dtype)
    expected = silu_and_mul_reference(gate_up.float())
    assert relative_error(silu_and_mul(gate_up), expected) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("tokens", "rows", "n"), [(1, [0], 768), (17, [16, 0, 5], 5120), (123, [122, 7, 7, 0, 99], 80)]
)
def test_gather_rows(tokens: int, rows: list[int], n: int) -> None:
    x = normal(tokens, n + 8)[:, :n]
    for kind in (torch.int32, torch.int64):
        assert torch.equal(gather_rows(x, torch.tensor(rows, dtype=kind)), x[rows])


# (tokens, heads, kv heads, head dim, page size, dtype, QK norm, e4m3 cache)
ROPE_STORE = [
    (1, 4, 4, 64, 16, torch.float32, False, False),
    (5, 8, 2, 80, 16, HALF, True, False),
    (17, 28, 4, 128, 1, torch.float32, False, False),
    (123, 8, 1, 96, 32, torch.float32, True, False),
    (5, 8, 1, 256, 16, torch.float32, True, True),
    (17, 4, 2, 80, 8, HALF, False, True),
]


@pytest.mark.parametrize(("tokens", "heads", "kv_heads", "dim", "size", "dtype", "norm", "fp8"), ROPE_STORE)
def test_qk_rope_store(tokens, heads, kv_heads, dim, size, dtype, norm, fp8) -> None:
    qkv = normal(tokens, (heads + 2 * kv_heads) * dim, dtype=dtype)
    positions = integers(0, 9000, tokens, seed=1)
    rope = rope_table(positions, inverse_frequencies(RopeConfig(10000.0), dim), dtype)
    norms = (normal(dim, seed=2, dtype=dtype), normal(dim, seed=3, dtype=dtype)) if norm else None
    pages_total = -(-tokens // size) + 2
    places = permutation(pages_total * size, seed=4)[:tokens]
    k, v = qkv.view(tokens, -1, dim)[:, heads:].split(kv_heads, 1)
    scales = kv_scales(k, v) * 0.7 if fp8 else None
    kind = torch.float8_e4m3fn if fp8 else dtype
    cache = torch.full((pages_total, 2, kv_heads, size, dim), 3.0).to(kind)
    expected_cache = cache.clone()
    arguments = (places // size, places % size)
    options = {"norms": norms, "eps": 1e-6, "scales": scales}
    expected = qk_rope_store_reference(qkv, rope, expected_cache, *arguments, **options)
    out = qk_rope_store(qkv, rope, cache, *(a.to(torch.int32) for a in arguments), **options)
    assert relative_error(out, expected) < TOLERANCE[dtype]
    if fp8:
        # Triton 3.7's interpreter drops the carry of a number that is rounded up to a power of two, so those
        # are not compared; a sum of different order may round the other way.
        wanted = expected_cache.float()
        compared = (wanted.abs().log2() % 1 != 0) & (wanted != 0)
        assert compared.float().mean() > 0.1
        differs = (cache.float() != wanted) & compared
        assert differs.sum() <= 2 + 1e-3 * compared.sum()
        assert relative_error(dequantise_kv(cache, scales), dequantise_kv(expected_cache, scales)) < 0.1
    else:
        assert relative_error(cache, expected_cache) < TOLERANCE[dtype]


@pytest.mark.parametrize(("tokens", "n", "fixed"), [(1, 1000, False), (17, 80, True), (5, 5120, False)])
def test_quantise_rows(tokens: int, n: int, fixed: bool) -> None:
    x = normal(tokens, n)
    x[-1] *= 0 if tokens > 1 else 1
    scale = torch.tensor(0.003) if fixed else None
    expected, expected_scales = quantise_rows_reference(x, scale)
    out, scales = quantise_rows(x, scale)
    assert torch.equal(scales, expected_scales)
    wanted = expected.float()
    # As above: rounding up to a power of two is wrong in the interpreter.
    compared = (wanted.abs().log2() % 1 != 0) & (wanted != 0)
    assert torch.equal(out.float()[compared], wanted[compared])


@pytest.mark.parametrize(("tokens", "inner", "outer", "fixed"), [(1, 64, 80, False), (17, 768, 48, True)])
def test_fp8_linear_is_near_the_full_product(tokens: int, inner: int, outer: int, fixed: bool) -> None:
    x, weight, bias = normal(tokens, inner), normal(outer, inner, seed=1) / 20, normal(outer, seed=2)
    packed = Fp8Weight(*quantise_rows_reference(weight))
    if fixed:
        packed = packed._replace(input_scale=x.abs().max() / 448)
    assert relative_error(packed.data.float() * packed.scale[:, None], weight) < 0.04
    assert relative_error(fp8_linear_reference(x, packed, bias), x @ weight.t() + bias) < 0.06
    # What torch's own product makes of the same numbers.
    data, scales = quantise_rows_reference(x, packed.input_scale)
    product = torch._scaled_mm(data, packed.data.t(), scales[:, None], packed.scale[None], out_dtype=BF16)
    exact = (data.float() * scales[:, None]) @ (packed.data.float() * packed.scale[:, None]).t()
    assert relative_error(product, exact) < 5e-3
    assert relative_error(fp8_linear(x, packed, bias), exact + bias) < 5e-3


def routed(kind: str, tokens: int, experts: int, per_token: int) -> torch.Tensor:
    """Which experts each token goes to, int64 [tokens, per_token], rising: a routing that may be hard."""
    if kind == "one":
        # All tokens to the same ones, the others have none.
        chosen = torch.arange(experts - per_token, experts).repeat(tokens, 1)
    elif kind == "blocks":
        # Expert after expert with a number of rows around that of a tile.
        first = torch.arange(tokens) // 17 % (experts - per_token + 1)
        chosen = first[:, None] + torch.arange(per_token)
    else:
        rows = [permutation(experts, seed=i)[:per_token] for i in range(tokens)]
        chosen = torch.stack(rows) if rows else torch.zeros((0, per_token), dtype=torch.int64)
    return chosen.sort(dim=1)[0].to(torch.int64)


# (routing, tokens, experts, experts of a token, hidden, inner, dtype)
EXPERTS = [
    ("one", 33, 5, 2, 48, 40, torch.float32),
    ("one", 1, 8, 8, 64, 24, HALF),
    ("blocks", 70, 6, 1, 33, 65, torch.float32),
    ("random", 19, 7, 3, 80, 72, HALF),
    # More experts than are looked at together.
    ("random", 5, 150, 2, 16, 20, torch.float32),
    ("random", 0, 4, 2, 16, 16, torch.float32),
]


@pytest.mark.parametrize(("kind", "tokens", "experts", "per_token", "hidden", "inner", "dtype"), EXPERTS)
def test_experts(kind, tokens, experts, per_token, hidden, inner, dtype) -> None:
    # Rows of a wider tensor, as the stream of a step is.
    x = normal(tokens, hidden + 8, dtype=dtype)[:, :hidden]
    gate_up = normal(experts, 2 * inner, hidden, seed=1, dtype=dtype) / 8
    down = normal(experts, hidden, inner, seed=2, dtype=dtype) / 8
    chosen = routed(kind, tokens, experts, per_token)
    shares = torch.softmax(normal(tokens, per_token, seed=3), 1)
    wide = mixture_reference(x.float(), chosen, shares, gate_up.float(), down.float())
    out = grouped_launch(x, chosen, shares, gate_up, down, torch.empty_like(x))
    assert (out.dtype, out.shape) == (dtype, x.shape)
    if tokens:
        assert relative_error(out, wide) < TOLERANCE[dtype] * 3
        # A token's result does not depend on those beside it.
        alone = grouped_launch(x[-1:], chosen[-1:], shares[-1:], gate_up, down, torch.empty_like(x[-1:]))
        assert relative_error(alone, out[-1:]) < TOLERANCE[dtype]


def test_experts_of_equal_shares_are_those_of_the_reference() -> None:
    """Nothing in the tokens tells some experts apart: whoever is chosen, each of them counts once."""
    x, router = normal(21, 32), normal(6, 32, seed=1)
    router[3] = router[1] = router[5]
    gate_up, down = normal(6, 40, 32, seed=2), normal(6, 32, 20, seed=3)
    out = mixture(x, router, gate_up, down, per_token=3, normalised=True)
    chosen, shares = route(x, router, 3, normalised=True)
    assert (chosen.diff(dim=1) > 0).all()
    assert relative_error(out, mixture_reference(x, chosen, shares, gate_up, down)) < 3e-6
