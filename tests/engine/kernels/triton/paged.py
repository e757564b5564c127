"""Paged KV caches of every dtype for the attention kernels, and how near their results must come."""

from __future__ import annotations

import torch

from engine.kernels.fp8 import dequantise_kv, quantise_kv
from tests.engine.kernels.triton.launches import HALF, ON_GPU, kv_scales, normal, permutation

F32, E4M3 = torch.float32, torch.float8_e4m3fn


QUERY = {F32: F32, HALF: HALF, E4M3: HALF if ON_GPU else F32}
"""Type of the queries by that of the cache."""


TOLERANCE = {F32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


def paged(contexts: list[int], kv_heads: int, dim: int, page: int, kind: torch.dtype):
    """A cache with NaN wherever no token is, its block tables, and its scales if there are any."""
    used = [-(-n // page) for n in contexts]
    total = sum(used) + 1
    order = permutation(total, seed=5).to(torch.int32)
    # Entries past the context lead to a page of NaN.
    table = torch.full((len(contexts), max(used) + 1), int(order[-1]), dtype=torch.int32)
    cache = torch.full((total, 2, kv_heads, page, dim), torch.nan)
    begin = 0
    for i, n in enumerate(contexts):
        table[i, : used[i]] = order[begin : begin + used[i]]
        begin += used[i]
        place = torch.arange(n)
        where = table[i].long()[place // page], place % page
        cache[where[0], :, :, where[1]] = normal(n, 2, kv_heads, dim, seed=i)
    scales = None
    if kind == E4M3:
        flat = cache.permute(0, 3, 1, 2, 4).reshape(-1, 2, kv_heads, dim)
        scales = kv_scales(*flat.nan_to_num().unbind(1)) * torch.tensor([[0.9], [0.8]])
        flat = torch.stack([quantise_kv(flat[:, j], scales[j]) for j in (0, 1)], 1)
        cache = flat.view(total, page, 2, kv_heads, dim).permute(0, 2, 3, 1, 4).contiguous()
        assert dequantise_kv(cache, scales).isnan().any()
    return cache.to(kind), table, scales


def name(case: dict) -> str:
    return "-".join(str(value).removeprefix("torch.") for value in case.values())
