"""Parts of the GPU benchmark: the device's ceilings, and every kernel but attention beside them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from engine import kernels
from engine.kernels.linear import Fp8Weight, fp8_linear, fp8_linear_reference, quantise_rows_reference
from engine.kernels.next_token import draw_reference
from engine.kernels.qk_rope_store import qk_rope_store_reference
from engine.kernels.rms_norm import add_rms_norm_reference
from engine.kernels.silu import silu_and_mul_reference
from engine.models.config import RopeConfig
from engine.models.rope import inverse_frequencies
from tests.benchmarks.gpu.bench import Bench, Row, checked
from tests.engine.kernels.triton.launches import relative_error


def ceilings(bench: Bench, figures: dict[str, Any]) -> tuple[dict[str, Any], list[Row]]:
    """Read-only reduction, copy, and bf16 matrix products by the number of rows."""
    del figures
    count = bench.size(1 << 30, 1 << 12)
    block = bench.random(count, dtype=torch.float32)
    read = block.nbytes / bench.seconds(block.sum) / 1e9
    target = torch.empty_like(block)
    copy = 2 * block.nbytes / bench.seconds(partial(target.copy_, block)) / 1e9
    del block, target
    inner, outer = bench.size(4096, 64), bench.size(14336, 96)
    weights = [bench.random(outer, inner) for _ in range(3)]
    rates = {}
    for m in (128, 256, 512, 1024, 2048, 4096, 8192):
        x = bench.random(bench.size(m, 8), inner)
        products = [lambda w=w, x=x: torch.mm(x, w.t()) for w in weights]
        rates[str(m)] = 2 * x.shape[0] * inner * outer / bench.seconds(*products) / 1e12
    found = {"read_gb_s": read, "copy_gb_s": copy, "matmul_tflops": max(rates.values())}
    rows = [Row("read-only sum", read, "GB/s"), Row("copy", copy, "GB/s")]
    rows += [Row(f"matmul, {m} rows of 4096 x 14336", rate, "TFLOP/s") for m, rate in rates.items()]
    return {**found, "matmul_tflops_by_rows": rates}, rows


def operations(bench: Bench, figures: dict[str, Any]) -> tuple[dict[str, Any], list[Row]]:
    """Every kernel but attention at the sizes of Llama-3.1-8B, as a share of the copy or read ceiling."""
    tokens, hidden = bench.size(8192, 5), bench.size(4096, 80)
    rows = [
        _add_rms_norm(bench, figures, tokens, hidden),
        _silu(bench, figures, tokens, bench.size(14336, 96)),
        _gather(bench, figures, tokens, hidden),
    ]
    if bench.dry or torch.cuda.get_device_capability(bench.device) >= (8, 9):
        rows += [_rope_store(bench, figures, tokens, fp8) for fp8 in (False, True)]
        rows.append(_fp8_linear(bench, figures, tokens, hidden))
    else:
        rows.append(_rope_store(bench, figures, tokens, fp8=False))
    return {}, rows + _sampling(bench, figures)


def _moved(
    name: str, bench: Bench, figures: dict[str, Any], nbytes: int, error: float, *works, limit: float = 0.02
) -> Row:
    rate = nbytes / bench.seconds(*works) / 1e9
    return Row(name, rate, "GB/s", rate / figures["copy_gb_s"], error, limit)


def _add_rms_norm(bench: Bench, figures: dict[str, Any], tokens: int, hidden: int) -> Row:
    weight = bench.random(hidden)
    pairs = [(bench.random(tokens, hidden), bench.random(tokens, hidden)) for _ in range(3)]
    x, residual = pairs[0]
    expected, _ = add_rms_norm_reference(x.float(), residual.float().clone(), weight.float(), 1e-5)
    stored = residual.clone()
    error = relative_error(checked(lambda: kernels.add_rms_norm(x, stored, weight, 1e-5)[0]), expected)
    error = max(error, relative_error(stored, x.float() + residual.float()))
    works = [lambda x=x, r=r: kernels.add_rms_norm(x, r, weight, 1e-5) for x, r in pairs]
    return _moved("RMSNorm + residual", bench, figures, 4 * x.nbytes, error, *works)


def _silu(bench: Bench, figures: dict[str, Any], tokens: int, inner: int) -> Row:
    inputs = [bench.random(tokens, 2 * inner) for _ in range(2)]
    expected = silu_and_mul_reference(inputs[0].float())
    error = relative_error(checked(lambda: kernels.silu_and_mul(inputs[0])), expected)
    works = [lambda x=x: kernels.silu_and_mul(x) for x in inputs]
    return _moved("SiLU and mul", bench, figures, inputs[0].nbytes * 3 // 2, error, *works)


def _gather(bench: Bench, figures: dict[str, Any], tokens: int, hidden: int) -> Row:
    x, rows = bench.random(tokens, hidden), torch.arange(0, tokens, 2, device=bench.device)
    error = relative_error(checked(lambda: kernels.gather_rows(x, rows)), x[rows])
    return _moved("row gather", bench, figures, x.nbytes, error, lambda: kernels.gather_rows(x, rows))


def _rope_store(bench: Bench, figures: dict[str, Any], tokens: int, fp8: bool) -> Row:
    heads, kv_heads, dim, page = bench.size(32, 4), bench.size(8, 2), bench.size(128, 16), 16
    inputs = [bench.random(tokens, (heads + 2 * kv_heads) * dim) for _ in range(3)]
    positions = torch.randint(0, 8192, (tokens,), device=bench.device)
    table = inverse_frequencies(RopeConfig(500000.0), dim).to(bench.device)
    rope = kernels.rope_table(positions, table, bench.dtype)
    norms = (bench.random(dim), bench.random(dim))
    pages = -(-tokens // page)
    shape = (pages, 2, kv_heads, page, dim)
    kind = torch.float8_e4m3fn if fp8 else bench.dtype
    cache = bench.random(*shape).to(kind)
    place = torch.randperm(pages * page, device=bench.device)[:tokens]
    scales = torch.full((2, kv_heads), 0.02, device=bench.device) if fp8 else None
    where = (place // page, place % page)

    def run(qkv: torch.Tensor) -> torch.Tensor:
        return kernels.qk_rope_store(qkv, rope, cache, *where, norms=norms, eps=1e-6, scales=scales)

    wide = torch.zeros(shape, device=bench.device)
    expected = qk_rope_store_reference(
        inputs[0].float(),
        tuple(t.float() for t in rope),
        wide,
        *where,
        norms=tuple(t.float() for t in norms),
        eps=1e-6,
    )
    error = relative_error(checked(lambda: run(inputs[0])), expected)
    kept = cache.float() if scales is None else cache.float() * scales[:, :, None, None]
    error = max(error, relative_error(kept[where[0], :, :, where[1]], wide[where[0], :, :, where[1]]))
    moved = inputs[0].nbytes * 2 - (inputs[0].nbytes * kv_heads // (heads + 2 * kv_heads) if fp8 else 0)
    works = [lambda x=x: run(x) for x in inputs]
    name = f"QK norm, RoPE, KV store ({'e4m3' if fp8 else 'same dtype'})"
    # Numbers in e4m3 have 3 bits after the point, and the interpreter rounds some of them wrong.
    limit = 0.02 if not fp8 else 0.2 if bench.dry else 0.04
    return _moved(name, bench, figures, moved, error, *works, limit=limit)


def _fp8_linear(bench: Bench, figures: dict[str, Any], tokens: int, hidden: int) -> Row:
    outer = bench.size(14336, 96)
    x = bench.random(tokens, hidden)
    weight = Fp8Weight(*quantise_rows_reference(bench.random(outer, hidden) / 50))
    error = relative_error(checked(lambda: fp8_linear(x, weight)), fp8_linear_reference(x.float(), weight))
    rate = 2 * tokens * hidden * outer / bench.seconds(lambda: fp8_linear(x, weight)) / 1e12
    return Row("W8A8 linear (share of bf16)", rate, "TFLOP/s", rate / figures["matmul_tflops"], error)


def _sampling(bench: Bench, figures: dict[str, Any]) -> list[Row]:
    rows, vocab = bench.size(256, 3), bench.size(128256, 120)
    logits = bench.random(rows, vocab) * 2
    count = torch.arange(rows, device=bench.device)
    ones = torch.ones(rows, device=bench.device)
    found = []
    for name, top_k, top_p in (("greedy", 0, 1.0), ("draw", 0, 1.0), ("draw, top-k 50, top-p 0.9", 50, 0.9)):
        given = (ones * 0.8, (count * 0 + top_k), ones * top_p, count * 977, count)
        restricted = top_k > 0

        def run(given=given, restricted=restricted, name=name) -> torch.Tensor:
            if name == "greedy":
                return kernels.greedy(logits)
            return kernels.draw(logits, *given, restricted=restricted)

        expected = logits.argmax(-1)
        if name != "greedy":
            expected = draw_reference(logits, *given, restricted=restricted)
        error = float((checked(run) != expected).float().mean())
        rate = logits.nbytes / bench.seconds(run) / 1e9
        found.append(Row(f"sampling: {name}", rate, "GB/s", rate / figures["read_gb_s"], error))
    return found
