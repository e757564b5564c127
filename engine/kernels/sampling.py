"""Token sampling: greedy, or Gumbel-max keyed by (seed, position) so that the batch does not matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_MASK32 = 0xFFFFFFFF


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


def sample(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, seeds: Tensor, positions: Tensor
) -> Tensor:
    """Return the sampled token of each row, int64 [rows].

    A row with temperature 0 takes the most likely token (the lowest id among equals); any other row takes
    ``argmax(restrict(logits / temperature) + gumbel)``, which is a draw from the restricted softmax.

    Parameters
    ----------
    logits
        [rows, vocab], any float dtype.
    temperature, top_p
        float32 [rows].
    top_k, seeds, positions
        int64 [rows].
    """
    tokens = logits.argmax(-1)
    drawn = (temperature > 0).nonzero()[:, 0]
    if drawn.numel() == 0:
        return tokens
    restricted = bool(((top_k[drawn] > 0) | (top_p[drawn] < 1)).any())
    tokens[drawn] = draw(
        logits[drawn],
        temperature[drawn],
        top_k[drawn],
        top_p[drawn],
        seeds[drawn],
        positions[drawn],
        restricted=restricted,
    )
    return tokens


def draw(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    restricted: bool,
) -> Tensor:
    """Return a drawn token for each row, as `sample` does; every temperature must be above 0.

    Nothing is read back from the device. `restricted` says whether any row has a top-k or top-p.
    """
    scaled = logits.to(torch.float32) / temperature[:, None]
    if restricted:
        scaled = restrict(scaled, top_k, top_p)
    return (scaled + gumbel_noise(seeds, positions, logits.shape[1])).argmax(-1)
