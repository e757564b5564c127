"""The decoder: one forward pass over the tokens of a step, whatever mix of prefill and decode they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from engine.kernels.linear import linear
from engine.models.lanes import InTurn
from engine.models.layer import LAYER, StepInputs, enter
from engine.models.rope import inverse_frequencies
from engine.models.schedule import lean_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.models.config import ModelConfig
    from engine.models.lanes import Lanes
    from engine.models.schedule import Task
    from engine.models.weights import ModelWeights

_IN_TURN: Final = InTurn()


class Decoder:
    """A pre-norm transformer decoder; what differs between architectures is in its `ModelConfig`."""

    def __init__(self, config: ModelConfig, weights: ModelWeights) -> None:
        self.config = config
        self.weights = weights
        self._frequencies = inverse_frequencies(config.rope, config.head_dim).to(weights.embed.device)

    def forward(self, inputs: StepInputs, cache: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute one step and return the logits of its sampled rows, [R, vocab], in `out` if given.

        `cache` is [layers, pages, 2, kv heads, page size, head dim]; the KV of the step's tokens is stored
        in it. In each layer the store precedes attention, so a token may attend to any token of the step.
        """
        return self._head(self.states(inputs, cache), out)

    def states(self, inputs: StepInputs, cache: Tensor) -> Tensor:
        """Compute one step and return the hidden states of its sampled rows after the last norm, [R, hidden].

        Otherwise as `forward`.
        """
        return self._layers((inputs,), cache, _IN_TURN)[0]

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits of hidden states [R, hidden], [R, vocab]."""
        return self._head(states, None)

    def forward_parts(
        self,
        parts: Sequence[StepInputs],
        merged: Tensor,
        cache: Tensor,
        out: Tensor | None = None,
        lanes: Lanes = _IN_TURN,
    ) -> Tensor:
        """Compute a step as nano-batches that take turns, see `engine.models.schedule.launch_order`.

        Parameters
        ----------
        parts
            A token may attend to those of its own nano-batch and of earlier ones.
        merged
            int32 or int64 [R]: for each sample of the step its row among the sample rows of all parts.
        lanes
            Whether attention of one runs beside the matrix products of the other.
        """
        hidden = torch.cat(self._layers(parts, cache, lanes)).index_select(0, merged)
        # The head's weights are read once for all.
        return self._head(hidden, out)

    def _layers(self, parts: Sequence[StepInputs], cache: Tensor, lanes: Lanes) -> list[Tensor]:
        """Return the normalised last hidden states of each part's sampled rows."""
        carries = [enter(self, inputs, self._frequencies) for inputs in parts]

        def launch(task: Task) -> None:
            LAYER[task.operator].run(self, task.layer, carries[task.part], cache[task.layer])

        lanes.run(lean_order(self.config.layers, len(parts)), launch)
        return [carry.hidden for carry in carries]

    def _head(self, hidden: Tensor, out: Tensor | None) -> Tensor:
        if out is None:
            return linear(hidden, self.weights.head)
        return torch.mm(hidden, self.weights.head.t(), out=out)
