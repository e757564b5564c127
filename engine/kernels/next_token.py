"""The next token of each row: the most likely one, or one drawn by Gumbel-max.

A draw is keyed by (seed, position), so that the batch does not matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from engine.kernels.backend import kernel, tl, use_triton

if TYPE_CHECKING:
    from torch import Tensor

_MASK32 = 0xFFFFFFFF


class TokenMasks(NamedTuple):
    """Which tokens rows of logits may take.

    Attributes
    ----------
    rows
        int32 [rows]: the mask of each row, an index into `bits`; -1: all tokens.
    bits
        int32 [masks, words]: token i is allowed if bit ``i % 32`` of word ``i // 32`` is set. There are bits
        for the vocabulary at least.
    """

    rows: Tensor
    bits: Tensor

    def of(self, some: Tensor) -> TokenMasks:
        """Return those of some rows, integers [n]."""
        return TokenMasks(self.rows[some], self.bits)


def _mix(h: Tensor) -> Tensor:
    """Return the 32-bit finaliser of MurmurHash3 (Appleby, 2011) of `h`, int64 holding 32 bits."""
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & _MASK32
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & _MASK32
    return h ^ (h >> 16)


def gumbel_noise(seeds: Tensor, positions: Tensor, vocab_size: int) -> Tensor:
    """Return standard Gumbel noise, float32 [rows, vocab], a pure function of (seed, position, token).

    Parameters
    ----------
    seeds
        int64 [rows]; all 64 bits count.
    positions
        int64 [rows]: index of the token to be sampled in its sequence.
    vocab_size
        Number of columns.
    """
    key = _mix((seeds & _MASK32) ^ 0x9E3779B9)
    key = _mix(key ^ ((seeds >> 32) & _MASK32))
    key = _mix(key ^ (positions & _MASK32))
    tokens = torch.arange(vocab_size, dtype=torch.int64, device=seeds.device)
    bits = _mix(_mix(tokens ^ 0x7F4A7C15)[None, :] ^ key[:, None])
    # 23 bits and a half keep u strictly inside (0, 1) in float32.
    u = ((bits >> 9).to(torch.float32) + 0.5) * (1.0 / (1 << 23))
    return -torch.log(-torch.log(u))


def restrict(logits: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Return `logits` with -inf outside the `top_k` most likely tokens and the `top_p` nucleus.

    Parameters
    ----------
    logits
        float32 [rows, vocab], already divided by the temperature.
    top_k
        int64 [rows]; 0 means no limit.
    top_p
        float32 [rows]; the nucleus is the smallest set of tokens, taken after top-k, whose
        probabilities reach it (Holtzman et al., 2020); the most likely token always stays.
    """
    vocab = logits.shape[1]
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    limit = torch.where(top_k > 0, top_k.clamp(max=vocab), vocab)
    rank = torch.arange(vocab, device=logits.device)
    ordered = ordered.masked_fill(rank[None, :] >= limit[:, None], -torch.inf)
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability
    ordered = ordered.masked_fill((before >= top_p[:, None]) & (rank[None, :] > 0), -torch.inf)
    return torch.empty_like(logits).scatter_(-1, index, ordered)


def allowed(logits: Tensor, masks: TokenMasks | None) -> Tensor:
    """Return logits [rows, vocab] with -inf where a row's mask has no bit."""
    if masks is None:
        return logits
    limited = torch.nonzero(masks.rows >= 0)[:, 0]
    words = masks.bits[masks.rows[limited].to(torch.int64)]
    place = torch.arange(32, dtype=torch.int32, device=logits.device)
    bits = ((words[:, :, None] >> place) & 1).flatten(1)[:, : logits.shape[1]]
    out = logits.clone()
    out[limited] = logits[limited].masked_fill(bits == 0, -torch.inf)
    return out


def greedy(logits: Tensor, masks: TokenMasks | None = None) -> Tensor:
    """Return the most likely token of each row [rows, vocab], the lowest id among equals, int64 [rows].

    `masks` say which tokens the rows may take.
    """
    if not use_triton(logits):
        return allowed(logits, masks).argmax(-1)
    out = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    return launch(logits, None, out, restricted=False, masks=masks)


def draw(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    restricted: bool,
    masks: TokenMasks | None = None,
) -> Tensor:
    """Return a drawn token for each row, int64 [rows].

    It is ``argmax(restrict(logits / temperature) + gumbel)``, a draw from the restricted softmax. Nothing is
    read back from the device.

    Parameters
    ----------
    logits
        [rows, vocab], any float dtype.
    temperature, top_p
        float32 [rows]; every temperature must be above 0.
    top_k, seeds, positions
        int64 [rows]; see `restrict` and `gumbel_noise`.
    restricted
        Whether any row has a top-k or top-p.
    masks
        Which tokens the rows may take; top-k and top-p are of these alone.
    """
    if not use_triton(logits):
        return draw_reference(
            logits, temperature, top_k, top_p, seeds, positions, restricted=restricted, masks=masks
        )
    out = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    given = temperature, top_k, top_p, seeds, positions
    return launch(logits, given, out, restricted=restricted, masks=masks)


def draw_reference(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    restricted: bool,
    masks: TokenMasks | None = None,
) -> Tensor:
    """Return what `draw` does, by torch operations."""
    scaled = allowed(logits.to(torch.float32) / temperature[:, None], masks)
    if restricted:
        scaled = restrict(scaled, top_k, top_p)
    return (scaled + gumbel_noise(seeds, positions, logits.shape[1])).argmax(-1)


def settings(vocab_size: int) -> dict[str, int]:
    """Return the launch settings for rows of `vocab_size` logits: one program per row, in blocks."""
    block = min(4096, 1 << max(vocab_size - 1, 1).bit_length())
    return {"BLOCK": block, "num_warps": max(1, block // 512)}


def launch(
    logits: Tensor,
    rows: tuple[Tensor, ...] | None,
    out: Tensor,
    *,
    restricted: bool,
    masks: TokenMasks | None = None,
) -> Tensor:
    """Run the Triton kernel into `out` int64 [rows]; `rows` are the settings of `draw`, None for greedy."""
    if out.shape[0]:
        given = rows or (out,) * 5
        mask_rows, bits = masks or (out, out)
        flags = {"DRAW": rows is not None, "RESTRICT": restricted, "MASKED": masks is not None}
        vocab = logits.shape[1]
        draw_kernel[(out.shape[0],)](
            logits,
            *given,
            mask_rows,
            bits,
            out,
            logits.stride(0),
            vocab,
            bits.stride(0),
            **flags,
            **settings(vocab),
        )
    return out


@kernel
def mix32(h: tl.tensor) -> tl.tensor:
    """Return what `_mix` does, on uint32."""
    h = (h ^ (h >> 16)) * 0x85EBCA6B
    h = (h ^ (h >> 13)) * 0xC2B2AE35
    return h ^ (h >> 16)


@kernel
def load_scaled(
    row: tl.tensor,
    place: tl.tensor,
    vocab: tl.tensor,
    temperature: tl.tensor,
    words: tl.tensor,
    limited: tl.tensor,
    MASKED: tl.constexpr,
) -> tl.tensor:
    """Return logits over temperature in float32, -inf past the vocabulary and where a bit is not set."""
    x = tl.load(row + place, mask=place < vocab, other=-float("inf")).to(tl.float32)
    if MASKED:
        word = tl.load(words + (place >> 5), mask=(place < vocab) & limited, other=-1)
        x = tl.where(((word >> (place & 31)) & 1) == 1, x, -float("inf"))
    # Zero has two signs, which compare equal as numbers but not as the integers of `ordered`.
    return tl.div_rn(x, temperature) + 0.0


@kernel
def ordered(x: tl.tensor) -> tl.tensor:
    """Return the int32 that orders as the float32 `x` does."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@kernel
def unordered(rank: tl.tensor) -> tl.tensor:
    """Return the float32 of an `ordered` int."""
    bits = rank.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@kernel
def above(
    row: tl.tensor,
    vocab: tl.tensor,
    temperature: tl.tensor,
    rank: tl.tensor,
    largest: tl.tensor,
    words: tl.tensor,
    limited: tl.tensor,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Return how many tokens rank above `rank`, and the sum of their ``e^(x - largest)``."""
    count = 0
    mass = 0.0
    for first in range(0, vocab, BLOCK):
        place = first + tl.arange(0, BLOCK)
        x = load_scaled(row, place, vocab, temperature, words, limited, MASKED)
        better = (ordered(x).to(tl.int64) > rank) & (place < vocab)
        count += tl.sum(better.to(tl.int32), 0)
        mass += tl.sum(tl.where(better, tl.exp(x - largest), 0.0), 0)
    return count, mass


@kernel
def threshold(
    row: tl.tensor,
    vocab: tl.tensor,
    temperature: tl.tensor,
    top_k: tl.tensor,
    top_p: tl.tensor,
    words: tl.tensor,
    limited: tl.tensor,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Return the rank above which all tokens may be drawn, and how many of those exactly at it may.

    Both limits are found by bisection over the 2^32 ranks, without a sort: top-k is the lowest rank that
    fewer than k tokens exceed, top-p the lowest at or above it that is exceeded by less than the share p.
    """
    largest = -float("inf")
    for first in range(0, vocab, BLOCK):
        place = first + tl.arange(0, BLOCK)
        x = load_scaled(row, place, vocab, temperature, words, limited, MASKED)
        largest = tl.maximum(largest, tl.max(x, 0))
    low = tl.full((), -(1 << 31), tl.int64)
    limit = tl.where((top_k > 0) & (top_k < vocab), top_k, vocab)
    if limit < vocab:
        high = ordered(largest).to(tl.int64)
        for _ in range(32):
            middle = (low + high) >> 1
            count, _mass = above(row, vocab, temperature, middle, largest, words, limited, MASKED, BLOCK)
            enough = count < limit
            high = tl.where(enough, middle, high)
            low = tl.where(enough, low, middle + 1)
        low = high
    count, mass = above(row, vocab, temperature, low, largest, words, limited, MASKED, BLOCK)
    ties = (limit - count).to(tl.int32)
    cut = low
    if top_p < 1.0:
        each = tl.where(ties > 0, tl.exp(unordered(low) - largest), 0.0)
        share = top_p * (mass + ties * each)
        high = ordered(largest).to(tl.int64)
        for _ in range(32):
            middle = (low + high) >> 1
            count, mass = above(row, vocab, temperature, middle, largest, words, limited, MASKED, BLOCK)
            enough = (mass < share) | (count == 0)
            high = tl.where(enough, middle, high)
            low = tl.where(enough, low, middle + 1)
        count, mass = above(row, vocab, temperature, high, largest, words, limited, MASKED, BLOCK)
        within = tl.ceil((share - mass) / tl.exp(unordered(high) - largest))
        within = tl.maximum(tl.minimum(within, 1e9), 1.0).to(tl.int32)
        # At the rank where top-k ends, it may already have taken some of the equals away.
        ties = tl.where(high == cut, tl.minimum(ties, within), within)
        cut = high
    return cut, ties


@kernel
def draw_kernel(
    logits: tl.tensor,
    temperatures: tl.tensor,
    top_ks: tl.tensor,
    top_ps: tl.tensor,
    seeds: tl.tensor,
    positions: tl.tensor,
    mask_rows: tl.tensor,
    masks: tl.tensor,
    out: tl.tensor,
    stride: tl.tensor,
    vocab: tl.tensor,
    masks_stride: tl.tensor,
    DRAW: tl.constexpr,
    RESTRICT: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """``out = argmax(restrict(logits / temperature) + gumbel)`` if DRAW, else ``argmax(logits)``.

    If MASKED, the logits of tokens that a row may not take are -inf.
    """
    index = tl.program_id(0).to(tl.int64)
    row = logits + index * stride
    words, limited = masks, True
    if MASKED:
        mask_row = tl.load(mask_rows + index).to(tl.int64)
        limited = mask_row >= 0
        words = masks + tl.maximum(mask_row, 0) * masks_stride
    temperature = 1.0
    if DRAW:
        temperature = tl.load(temperatures + index)
        seed = tl.load(seeds + index)
        key = mix32(seed.to(tl.uint32) ^ 0x9E3779B9)
        key = mix32(key ^ (seed >> 32).to(tl.uint32))
        key = mix32(key ^ tl.load(positions + index).to(tl.uint32))
    if RESTRICT:
        top_k, top_p = tl.load(top_ks + index), tl.load(top_ps + index)
        cut, ties = threshold(row, vocab, temperature, top_k, top_p, words, limited, MASKED, BLOCK)
    seen = 0
    best = -float("inf")
    token = tl.full((), 0, tl.int64)
    for first in range(0, vocab, BLOCK):
        place = first + tl.arange(0, BLOCK)
        x = load_scaled(row, place, vocab, temperature, words, limited, MASKED)
        if RESTRICT:
            rank = ordered(x).to(tl.int64)
            equal = ((rank == cut) & (place < vocab)).to(tl.int32)
            # The lowest ids among equals stay, as a stable sort would have it.
            order = seen + tl.cumsum(equal, 0)
            seen += tl.sum(equal, 0)
            x = tl.where((rank > cut) | ((equal == 1) & (order <= ties)), x, -float("inf"))
        if DRAW:
            bits = mix32(mix32(place.to(tl.uint32) ^ 0x7F4A7C15) ^ key)
            u = ((bits >> 9).to(tl.float32) + 0.5) * (1.0 / (1 << 23))
            x = tl.where(place < vocab, x - tl.log(-tl.log(u)), -float("inf"))
        found = tl.max(x, 0)
        token = tl.where(found > best, first + tl.argmax(x, 0), token)
        best = tl.maximum(best, found)
    tl.store(out + index, token)
