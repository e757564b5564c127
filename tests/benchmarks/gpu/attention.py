"""Part of the GPU benchmark: decode attention beside the read ceiling, prefill attention beside matmul."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from engine.kernels.decode_attention import decode_attention, decode_attention_reference
from engine.kernels.prefill_attention import prefill_attention, prefill_attention_reference
from tests.benchmarks.gpu.bench import Bench, Row, checked
from tests.engine.kernels.triton.launches import relative_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

PAGE_SIZES = (16, 64, 128)


@dataclass(frozen=True)
class Case:
    """Sequences of equal lengths on pages in random order, with the heads of Llama-3.1-8B."""

    bench: Bench
    memory: Tensor
    sequences: int
    length: int
    heads: int
    kv_heads: int
    dim: int
    scales: Tensor | None = None

    @classmethod
    def of(cls, bench: Bench, sequences: int, length: int, *, fp8: bool = False) -> Case:
        """Make the KV; pages of all sizes are views of it."""
        heads, kv_heads, dim = bench.size(32, 4), bench.size(8, 2), bench.size(128, 16)
        memory = bench.random(sequences * length * 2 * kv_heads * dim)
        scales = None
        if fp8:
            memory = memory.mul_(50).to(torch.float8_e4m3fn)
            scales = torch.full((2, kv_heads), 0.02, device=bench.device)
        return cls(bench, memory, sequences, length, heads, kv_heads, dim, scales)

    def paged(self, page: int) -> tuple[Tensor, Tensor]:
        """Return the cache and the block tables for pages of `page` tokens."""
        cache = self.memory.view(-1, 2, self.kv_heads, page, self.dim)
        order = torch.randperm(cache.shape[0], device=self.bench.device).to(torch.int32)
        return cache, order.view(self.sequences, -1)

    def decode(self, page: int) -> tuple[float, float]:
        """Return GB/s of KV read, and the error of a few sequences against float32."""
        bench, (cache, table) = self.bench, self.paged(page)
        q = bench.random(self.sequences, self.heads, self.dim)
        context = torch.full((self.sequences,), self.length, dtype=torch.int32, device=bench.device)
        options = {"scale": self.dim**-0.5, "scales": self.scales}
        out = torch.full_like(q, torch.nan)
        run = partial(decode_attention, q, cache, table, context, **options, out=out)
        checked(run)
        some = slice(0, min(4, self.sequences))
        wide = decode_attention_reference(q[some].float(), cache, table[some], context[some], **options)
        return self.memory.nbytes / bench.seconds(run) / 1e9, relative_error(out[some], wide)

    def prefill(self, page: int, rows: int) -> tuple[float, float]:
        """Return TFLOP/s of the last `rows` tokens, and the error of the last few rows against float32."""
        bench, (cache, table) = self.bench, self.paged(page)
        q = bench.random(rows, self.heads, self.dim)
        start, context = (
            torch.tensor(x, dtype=torch.int32, device=bench.device) for x in ([0, rows], [self.length])
        )
        options = {"scale": self.dim**-0.5, "scales": self.scales}
        out = torch.full_like(q, torch.nan)
        run = partial(prefill_attention, q, cache, table, start, context, **options, out=out)
        checked(run)
        few = min(64, rows)
        wide = prefill_attention_reference(
            q[-few:].float(), cache, table, start.clamp(max=few), context, **options
        )
        error = relative_error(out[-few:], wide) if out.isfinite().all() else float("nan")
        seen = sum(range(self.length - rows + 1, self.length + 1))
        return 4 * seen * self.heads * self.dim / bench.seconds(run) / 1e12, error


def attention(bench: Bench, figures: dict[str, Any]) -> tuple[dict[str, Any], list[Row]]:
    """Decode and prefill at the sizes of the goals, for several page sizes; the figures are those of 16."""
    found: dict[str, Any] = {}
    rows: list[Row] = []

    def add(
        key: str, label: str, measure: Callable[[int], tuple[float, float]], ceiling: str, unit: str
    ) -> None:
        for page in PAGE_SIZES:
            rate, error = measure(page)
            share = rate / figures[ceiling]
            found.setdefault(key, share)
            found[f"{key}_page_{page}"] = share
            rows.append(Row(f"{label}, pages of {page}", rate, unit, share, error))

    def decode(key: str, label: str, sequences: int, length: int, *, fp8: bool = False) -> None:
        case = Case.of(bench, sequences, length, fp8=fp8)
        add(key, label, case.decode, "read_gb_s", "GB/s")

    def prefill(key: str, label: str, length: int, new: int) -> None:
        case = Case.of(bench, 1, length)
        add(key, label, lambda page: case.prefill(page, new), "matmul_tflops", "TFLOP/s")

    length = bench.size(4096, 128)
    decode("decode_attention_share", "decode, batch 256 of 4k", bench.size(256, 2), length)
    decode("decode_attention_long_share", "decode, batch 8 of 64k", bench.size(8, 1), bench.size(65536, 256))
    if bench.dry or torch.cuda.get_device_capability(bench.device) >= (8, 9):
        label = "decode, batch 256 of 4k, e4m3"
        decode("decode_attention_fp8_share", label, bench.size(256, 2), length, fp8=True)
    prefill("prefill_attention_share", "prefill of 8k", bench.size(8192, 128), bench.size(8192, 64))
    prefill(
        "prefill_attention_chunk_share",
        "prefill of 2k over 16k",
        bench.size(18432, 256),
        bench.size(2048, 32),
    )
    return found, rows
