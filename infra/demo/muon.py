"""The Muon optimizer in float32 (torch's own works in bfloat16, which not every CPU runs)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def orthogonalised(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """Bring the singular values of a matrix near 1 by Newton-Schulz steps (Jordan et al. 2024, Muon)."""
    turned = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if turned else matrix) / (matrix.norm() + 1e-7)
    for _ in range(rounds):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x.T if turned else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update of a matrix is orthogonalised, scaled to the usual size of an Adam step."""

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # noqa: ARG002 (torch's signature)
        """Apply one update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalised(parameter.grad.lerp(buffer, group["momentum"]))
                parameter.add_(update, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)
