"""From the fused QKV projection to rotated queries and stored KV: QK norm, RoPE and paged store at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.kernels import host_ops
from engine.kernels.backend import kernel, tl, use_triton
from engine.kernels.fp8 import E4M3_MAX, quantise_kv
from engine.kernels.kv import store_kv
from engine.kernels.rms_norm import rms_norm_reference
from engine.kernels.rope import apply_rope

if TYPE_CHECKING:
    from torch import Tensor


def qk_rope_store(
    qkv: Tensor,
    rope: tuple[Tensor, Tensor],
    cache: Tensor,
    pages: Tensor,
    offsets: Tensor,
    *,
    norms: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
    scales: Tensor | None = None,
) -> Tensor:
    """Store the keys and values of the tokens and return their queries [tokens, heads, head dim].

    With n(x) the RMS norm over a head where the model has one, and R the rotation by a token's position::

        q = R n(q) ;  cache[page, 0, :, offset] = R n(k) ;  cache[page, 1, :, offset] = v

    Parameters
    ----------
    qkv
        [tokens, (heads + 2 kv heads) * head dim], rows packed as q, k, v.
    rope
        cos and sin of `engine.kernels.rope_table`, each [tokens, 1, head dim].
    cache
        One layer's cache [pages, 2, kv heads, page size, head dim], contiguous.
    pages, offsets
        int32 or int64 [tokens]: place of each token's KV; no two tokens may share one, except places whose
        content is never read.
    norms, eps
        Weights [head dim] of the norms of queries and keys, and what is added to the mean square.
    scales
        float32 [2, kv heads]: with them the cache is e4m3 and holds ``x / scale`` (`engine.kernels.fp8`).
    """
    if not use_triton(qkv):
        if host_ops.fits(qkv, *rope, *(norms or ())) and host_ops.fits_heads(cache):
            return host_ops.qk_rope_store(qkv, rope, cache, pages, offsets, norms, eps)
        return qk_rope_store_reference(qkv, rope, cache, pages, offsets, norms=norms, eps=eps, scales=scales)
    tokens, (_, _, kv_heads, _, dim) = qkv.shape[0], cache.shape
    out = qkv.new_empty((tokens, qkv.shape[1] // dim - 2 * kv_heads, dim))
    return launch(qkv, rope, cache, pages, offsets, norms, eps, scales, out)


def qk_rope_store_reference(
    qkv: Tensor,
    rope: tuple[Tensor, Tensor],
    cache: Tensor,
    pages: Tensor,
    offsets: Tensor,
    *,
    norms: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
    scales: Tensor | None = None,
) -> Tensor:
    """Do what `qk_rope_store` does, by torch operations."""
    kv_heads, dim = cache.shape[2], cache.shape[4]
    split = qkv.view(qkv.shape[0], qkv.shape[1] // dim, dim)
    q, k, v = split.split((split.shape[1] - 2 * kv_heads, kv_heads, kv_heads), dim=1)
    if norms is not None:
        q, k = rms_norm_reference(q, norms[0], eps), rms_norm_reference(k, norms[1], eps)
    q, k = apply_rope(q, *rope), apply_rope(k, *rope)
    if scales is not None:
        k, v = quantise_kv(k, scales[0]), quantise_kv(v, scales[1])
    store_kv(cache, k, v, pages, offsets)
    return q


def settings(dim: int) -> dict[str, int]:
    """Return the launch settings for heads of `dim` elements: about 2,048 of them per program."""
    half = 1 << max(dim // 2 - 1, 1).bit_length()
    return {"HALF": half, "HEADS": max(1, 1024 // half), "num_warps": 4}


def launch(
    qkv: Tensor,
    rope: tuple[Tensor, Tensor],
    cache: Tensor,
    pages: Tensor,
    offsets: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    scales: Tensor | None,
    out: Tensor,
) -> Tensor:
    """Run the Triton kernel over all tokens and heads; `out` takes the queries."""
    tokens, heads, dim = out.shape
    _, _, kv_heads, page_size, _ = cache.shape
    chosen = settings(dim)
    q_norm, k_norm = (out, out) if norms is None else norms
    if tokens:
        grid = (tokens, -(-(heads + 2 * kv_heads) // chosen["HEADS"]))
        qk_rope_store_kernel[grid](
            qkv, *rope, cache, pages, offsets, q_norm, k_norm, out if scales is None else scales, out,
            qkv.stride(0), rope[0].stride(0), out.stride(0), eps,
            HEADS_Q=heads, HEADS_KV=kv_heads, DIM=dim, PAGE=page_size, NORM=norms is not None,
            FP8=scales is not None, LIMIT=E4M3_MAX, **chosen,
        )  # fmt: skip
    return out


@kernel
def qk_rope_store_kernel(
    qkv: tl.tensor,
    cosines: tl.tensor,
    sines: tl.tensor,
    cache: tl.tensor,
    pages: tl.tensor,
    offsets: tl.tensor,
    q_norm: tl.tensor,
    k_norm: tl.tensor,
    scales: tl.tensor,
    out: tl.tensor,
    qkv_stride: tl.tensor,
    rope_stride: tl.tensor,
    out_stride: tl.tensor,
    eps: tl.tensor,
    HEADS_Q: tl.constexpr,
    HEADS_KV: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    NORM: tl.constexpr,
    FP8: tl.constexpr,
    LIMIT: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
) -> None:
    """Turn the halves of HEADS heads of a token, ``a, b -> a c - b s, b c + a s``; leave v as it is."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    place = tl.arange(0, HALF)[None, :]
    half = DIM // 2
    inside = (place < half) & (head < HEADS_Q + 2 * HEADS_KV)
    is_q, is_v = head < HEADS_Q, head >= HEADS_Q + HEADS_KV
    kind = out.dtype.element_ty
    source = qkv + row * qkv_stride + head * DIM + place
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    low, high = first, second
    if NORM:
        # As the reference: rounded after the division and after the product with the weight.
        squares = tl.sum(first * first + second * second, 1)[:, None]
        scale = tl.rsqrt(squares / DIM + eps)
        used_q, used_k = inside & is_q, inside & (is_q == 0) & (is_v == 0)
        gain = tl.load(q_norm + place, mask=used_q, other=0.0).to(tl.float32)
        gain += tl.load(k_norm + place, mask=used_k, other=0.0).to(tl.float32)
        gain_high = tl.load(q_norm + half + place, mask=used_q, other=0.0).to(tl.float32)
        gain_high += tl.load(k_norm + half + place, mask=used_k, other=0.0).to(tl.float32)
        low = (gain * (first * scale).to(kind).to(tl.float32)).to(kind).to(tl.float32)
        high = (gain_high * (second * scale).to(kind).to(tl.float32)).to(kind).to(tl.float32)
    c = tl.load(cosines + row * rope_stride + place, mask=place < half, other=0.0).to(tl.float32)
    s = tl.load(sines + row * rope_stride + place, mask=place < half, other=0.0).to(tl.float32)
    turned_low = tl.where(is_v, first, low * c - high * s).to(kind)
    turned_high = tl.where(is_v, second, high * c + low * s).to(kind)
    target = out + row * out_stride + head * DIM + place
    tl.store(target, turned_low, mask=inside & is_q)
    tl.store(target + half, turned_high, mask=inside & is_q)
    page, offset = tl.load(pages + row).to(tl.int64), tl.load(offsets + row).to(tl.int64)
    # Keys and values of a page follow each other head by head, as k and v do in a row of qkv.
    kv_head = head - HEADS_Q
    target = cache + ((page * 2 * HEADS_KV + kv_head) * PAGE + offset) * DIM + place
    stored = inside & (is_q == 0)
    stored_low, stored_high = turned_low, turned_high
    if FP8:
        scale = tl.load(scales + kv_head, mask=(is_q == 0) & (kv_head < 2 * HEADS_KV), other=1.0)
        stored_low = tl.clamp(tl.div_rn(turned_low.to(tl.float32), scale), -LIMIT, LIMIT)
        stored_high = tl.clamp(tl.div_rn(turned_high.to(tl.float32), scale), -LIMIT, LIMIT)
    tl.store(target, stored_low.to(cache.dtype.element_ty), mask=stored)
    tl.store(target + half, stored_high.to(cache.dtype.element_ty), mask=stored)
