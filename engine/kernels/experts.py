"""A mixture of experts: every token goes through the few gated MLPs that its router chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.kernels.backend import use_triton
from engine.kernels.grouped_experts import launch
from engine.kernels.silu import silu_and_mul_reference

if TYPE_CHECKING:
    from torch import Tensor


def mixture(
    hidden: Tensor, router: Tensor, gate_up: Tensor, down: Tensor, *, per_token: int, normalised: bool
) -> Tensor:
    """Return ``sum over the chosen experts e of p_e down_e (silu(gate_e x) * up_e x)`` for every token x.

    ``p = softmax(router x)``; the `per_token` experts with the largest p are chosen (Shazeer et al.,
    "Outrageously Large Neural Networks", 2017; Jiang et al., "Mixtral of Experts", 2024).

    Parameters
    ----------
    hidden
        [T, hidden].
    router
        [E, hidden].
    gate_up, down
        [E, 2 inner, hidden] and [E, hidden, inner].
    per_token
        How many experts a token goes to.
    normalised
        Whether the p of the chosen ones are divided by their sum.

    Returns
    -------
    Tensor
        [T, hidden]. A token's experts are added in the order of their numbers, whatever tokens are beside it.
    """
    chosen, shares = route(hidden, router, per_token, normalised=normalised)
    if not use_triton(hidden):
        return mixture_reference(hidden, chosen, shares, gate_up, down)
    return launch(hidden, chosen, shares, gate_up, down, torch.empty_like(hidden))


def route(hidden: Tensor, router: Tensor, per_token: int, *, normalised: bool) -> tuple[Tensor, Tensor]:
    """Return the experts of each token by rising number, int64 [T, k], and their shares, float32 [T, k]."""
    shares, chosen = torch.softmax(hidden @ router.t(), dim=-1, dtype=torch.float32).topk(per_token, dim=-1)
    if normalised:
        shares = shares / shares.sum(dim=-1, keepdim=True)
    chosen, place = chosen.sort(dim=-1)
    return chosen, shares.gather(1, place)


def mixture_reference(
    hidden: Tensor, chosen: Tensor, shares: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """Return what `mixture` does of tokens that are routed, by torch operations, expert after expert.

    Which experts are met, and by how many tokens, is read back on the host, which a captured graph of a GPU
    cannot do.
    """
    per_token = chosen.shape[1]
    flat = chosen.reshape(-1)
    order = torch.argsort(flat, stable=True)
    share = shares.to(hidden.dtype).reshape(-1, 1)
    out = torch.zeros_like(hidden)
    begin = 0
    for expert, count in enumerate(torch.bincount(flat, minlength=len(gate_up)).tolist()):
        if count:
            met = order[begin : begin + count]
            tokens = met // per_token
            inner = silu_and_mul_reference(hidden[tokens] @ gate_up[expert].t())
            out.index_add_(0, tokens, (inner @ down[expert].t()) * share[met])
        begin += count
    return out
