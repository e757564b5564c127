"""A mixture of experts: every token goes through the few gated MLPs that its router chooses.

On the CPU alone: which experts are met, and by how many tokens, is read back on the host, which a captured
graph of a GPU cannot do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.kernels.silu import silu_and_mul

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
    shares, chosen = torch.softmax(hidden @ router.t(), dim=-1, dtype=torch.float32).topk(per_token, dim=-1)
    if normalised:
        shares = shares / shares.sum(dim=-1, keepdim=True)
    flat = chosen.reshape(-1)
    order = torch.argsort(flat, stable=True)
    share = shares.to(hidden.dtype).reshape(-1, 1)
    out = torch.zeros_like(hidden)
    begin = 0
    for expert, count in enumerate(torch.bincount(flat, minlength=len(router)).tolist()):
        if count:
            met = order[begin : begin + count]
            tokens = met // per_token
            inner = silu_and_mul(hidden[tokens] @ gate_up[expert].t())
            out.index_add_(0, tokens, (inner @ down[expert].t()) * share[met])
        begin += count
    return out
