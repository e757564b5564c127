"""The decoder: one forward pass over the tokens of a step, whatever mix of prefill and decode they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.functional import embedding

from engine import kernels
from engine.kernels.linear import linear
from engine.kernels.rope import inverse_frequencies

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models.config import ModelConfig
    from engine.models.weights import ModelWeights


class StepInputs(Protocol):
    """The tokens of one step, on the device of the weights.

    Attributes
    ----------
    tokens, positions, pages, slots
        int32 or int64 [T]: token id, position in its sequence, and the place of its KV.
    sample_rows
        int32 or int64 [R]: rows whose next token is wanted.
    """

    @property
    def tokens(self) -> Tensor: ...  # noqa: D102 - described by the class
    @property
    def positions(self) -> Tensor: ...  # noqa: D102
    @property
    def pages(self) -> Tensor: ...  # noqa: D102
    @property
    def slots(self) -> Tensor: ...  # noqa: D102
    @property
    def sample_rows(self) -> Tensor: ...  # noqa: D102

    def attend(self, q: Tensor, cache: Tensor, window: int | None, scales: Tensor | None) -> Tensor:
        """Return attention of q [T, heads, head dim] over one layer's cache, of the same shape.

        `scales` are those of a cache in e4m3, float32 [2, kv heads]; None of any other.
        """


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
        config, eps = self.config, self.config.rms_eps
        rope = kernels.rope_table(
            inputs.positions, self._frequencies, self.weights.embed.dtype, config.rope.scale
        )
        residual = embedding(inputs.tokens, self.weights.embed)
        hidden = kernels.rms_norm(residual, self.weights.layers[0].input_norm, eps)
        for i, layer in enumerate(self.weights.layers):
            mixed = self._attention(i, hidden, rope, cache[i], inputs)
            if i == config.layers - 1:
                # Only sampled rows matter after the last layer's KV is stored and attention is done.
                mixed, residual = (kernels.gather_rows(x, inputs.sample_rows) for x in (mixed, residual))
            attended = linear(mixed, layer.out, layer.out_bias)
            hidden, residual = kernels.add_rms_norm(attended, residual, layer.post_norm, eps)
            hidden = linear(kernels.silu_and_mul(linear(hidden, layer.gate_up)), layer.down)
            following = self.weights.layers[i + 1].input_norm if i + 1 < config.layers else self.weights.norm
            hidden, residual = kernels.add_rms_norm(hidden, residual, following, eps)
        if out is None:
            return linear(hidden, self.weights.head)
        return torch.mm(hidden, self.weights.head.t(), out=out)

    def _attention(
        self,
        index: int,
        hidden: Tensor,
        rope: tuple[Tensor, Tensor],
        cache: Tensor,
        inputs: StepInputs,
    ) -> Tensor:
        """Attention of one layer before the output projection: [T, hidden] -> [T, heads * head dim]."""
        config, layer = self.config, self.weights.layers[index]
        qkv = linear(hidden, layer.qkv, layer.qkv_bias)
        norms = None if layer.q_norm is None or layer.k_norm is None else (layer.q_norm, layer.k_norm)
        places = inputs.pages, inputs.slots
        scales = layer.kv_scales if cache.dtype == torch.float8_e4m3fn else None
        q = kernels.qk_rope_store(qkv, rope, cache, *places, norms=norms, eps=config.rms_eps, scales=scales)
        return inputs.attend(q, cache, config.windows[index], scales).flatten(1)
