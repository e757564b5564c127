"""One decoder layer as its dependency graph: each operator says what it waits for, reads and writes.

A step runs as one nano-batch, or as two that take turns: while one is in its attention, which reads KV
memory, the other is in its matrix products (Zhu et al., "NanoFlow", OSDI 2025). `engine.models.schedule`
gives the order of launches and checks it against what is read and written here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import torch

from engine import kernels
from engine.kernels.linear import Fp8Weight, linear

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from engine.models.config import Experts, ModelConfig
    from engine.models.weights import LayerWeights, ModelWeights

_NOTHING: Final = torch.empty(0)
COMPUTE, MEMORY = "compute", "memory"
"""The lanes: operators of one run one after the other, those of the other beside them."""


class StepInputs(Protocol):
    """The tokens of one nano-batch, or of a whole step, on the device of the weights.

    Attributes
    ----------
    tokens, positions, pages, offsets
        int32 or int64 [T]: token id, position in its sequence, and the place of its KV: page, offset in it.
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
    def offsets(self) -> Tensor: ...  # noqa: D102
    @property
    def sample_rows(self) -> Tensor: ...  # noqa: D102

    def attend(self, q: Tensor, cache: Tensor, window: int | None, scales: Tensor | None) -> Tensor:
        """Return attention of q [T, heads, head dim] over one layer's cache, of the same shape.

        `scales` are those of a cache in e4m3, float32 [2, kv heads]; None of any other.
        """


@dataclass(slots=True)
class Carry:
    """What is on its way through the layers for one nano-batch of T tokens; R rows once only samples matter.

    Attributes
    ----------
    inputs, rope
        Its tokens, and cos and sin of their positions.
    residual, hidden
        [T, hidden] or [R, hidden]: the stream that every block adds to, and what goes into the next product.
    qkv, q, mixed, wide
        Packed projections, rotated queries, result of attention, and the inner activations of the MLP, or
        what a mixture of experts gives. Each
        is dropped by the operator that reads it last, which waits for all others that do: memory that is
        given back must not be in use in the other lane.
    """

    inputs: StepInputs
    rope: tuple[Tensor, Tensor]
    residual: Tensor
    hidden: Tensor
    qkv: Tensor = _NOTHING
    q: Tensor = _NOTHING
    mixed: Tensor = _NOTHING
    wide: Tensor = _NOTHING


class Model(Protocol):
    """What operators use of a model."""

    config: ModelConfig
    weights: ModelWeights


@dataclass(frozen=True)
class Operator:
    """A part of a layer.

    Attributes
    ----------
    name
        Unique in the layer.
    run
        Computes it for one layer of one nano-batch: (model, index of the layer, nano-batch, its cache).
    after
        Operators of this layer and nano-batch that it waits for.
    follows
        Operator of the layer before, in this nano-batch, that it waits for; None if there is none.
    earlier
        Operators of this layer in the earlier nano-batches of the step that it waits for.
    reads, writes
        Fields of `Carry`, and "kv", the places of the layer's cache; what it writes it may also read.
    drops
        Those of the written fields that it leaves empty.
    lane
        `COMPUTE` or `MEMORY`.
    """

    name: str
    run: Callable[[Model, int, Carry, Tensor], None]
    after: tuple[str, ...] = ()
    follows: str | None = None
    earlier: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    lane: str = COMPUTE


def enter(model: Model, inputs: StepInputs, frequencies: Tensor) -> Carry:
    """Return a nano-batch at the entrance of the first layer."""
    weights, config = model.weights, model.config
    rope = kernels.rope_table(inputs.positions, frequencies, weights.embed.dtype, config.rope.scale)
    residual = torch.nn.functional.embedding(inputs.tokens, weights.embed)
    hidden = kernels.rms_norm(residual, weights.layers[0].input_norm, config.rms_eps)
    return Carry(inputs, rope, residual, hidden)


def _project(model: Model, index: int, carry: Carry, cache: Tensor) -> None:
    del cache
    layer = model.weights.layers[index]
    carry.qkv = linear(carry.hidden, layer.qkv, layer.qkv_bias)


def _store(model: Model, index: int, carry: Carry, cache: Tensor) -> None:
    layer, inputs = model.weights.layers[index], carry.inputs
    norms = None if layer.q_norm is None or layer.k_norm is None else (layer.q_norm, layer.k_norm)
    scales, eps = _scales(model, index, cache), model.config.rms_eps
    carry.q = kernels.qk_rope_store(
        carry.qkv, carry.rope, cache, inputs.pages, inputs.offsets, norms=norms, eps=eps, scales=scales
    )
    carry.qkv = _NOTHING


def _scales(model: Model, index: int, cache: Tensor) -> Tensor | None:
    return model.weights.layers[index].kv_scales if cache.dtype == torch.float8_e4m3fn else None


def _attend(model: Model, index: int, carry: Carry, cache: Tensor) -> None:
    window, scales = model.config.windows[index], _scales(model, index, cache)
    carry.mixed = carry.inputs.attend(carry.q, cache, window, scales).flatten(1)


def _out(model: Model, index: int, carry: Carry, cache: Tensor) -> None:
    del cache
    layer, mixed = model.weights.layers[index], carry.mixed
    if index == model.config.layers - 1:
        # Only sampled rows matter after the last layer's KV is stored and attention is done.
        rows = carry.inputs.sample_rows
        mixed, carry.residual = (kernels.gather_rows(x, rows) for x in (mixed, carry.residual))
    carry.hidden = linear(mixed, layer.out, layer.out_bias)
    carry.q = carry.mixed = _NOTHING


def _norm(model: Model, index: int, carry: Carry, cache: Tensor) -> None:
    del cache
    weight, eps = model.weights.layers[index].post_norm, model.config.rms_eps
    carry.hidden, carry.residual = kernels.add_rms_norm(carry.hidden, carry.residual, weight, eps)


def _widen(model: Model, index: int, carry: Carry, cache: Tensor) -> None:
    del cache
    layer = model.weights.layers[index]
    if model.config.experts is None:
        carry.wide = kernels.silu_and_mul(linear(carry.hidden, layer.gate_up))
    else:
        # A token's experts have their own ways: all of them are gone at once.
        carry.wide = _mixed_experts(layer, carry.hidden, model.config.experts)


def _mixed_experts(layer: LayerWeights, hidden: Tensor, experts: Experts) -> Tensor:
    if layer.router is None or isinstance(layer.gate_up, Fp8Weight) or isinstance(layer.down, Fp8Weight):
        raise TypeError("a layer of a mixture of experts has no router, or is in 8 bits")
    return kernels.mixture(
        hidden,
        layer.router,
        layer.gate_up,
        layer.down,
        per_token=experts.per_token,
        normalised=experts.normalised,
    )


def _narrow(model: Model, index: int, carry: Carry, cache: Tensor) -> None:
    del cache
    experts = model.config.experts is not None
    carry.hidden = carry.wide if experts else linear(carry.wide, model.weights.layers[index].down)
    carry.wide = _NOTHING


def _leave(model: Model, index: int, carry: Carry, cache: Tensor) -> None:
    del cache
    weights, last = model.weights, index == model.config.layers - 1
    weight = weights.norm if last else weights.layers[index + 1].input_norm
    carry.hidden, carry.residual = kernels.add_rms_norm(
        carry.hidden, carry.residual, weight, model.config.rms_eps
    )


LAYER: Final = (
    Operator("qkv", _project, follows="leave", reads=("hidden",), writes=("qkv",)),
    Operator("store", _store, after=("qkv",), writes=("qkv", "q", "kv"), drops=("qkv",)),
    # A token may attend to any token of the step that stands before it, in whatever nano-batch.
    Operator(
        "attention",
        _attend,
        after=("store",),
        earlier=("store",),
        reads=("q", "kv"),
        writes=("mixed",),
        lane=MEMORY,
    ),
    Operator(
        "out",
        _out,
        after=("attention",),
        writes=("q", "mixed", "hidden", "residual"),
        drops=("q", "mixed"),
    ),
    Operator("norm", _norm, after=("out",), writes=("hidden", "residual")),
    Operator("widen", _widen, after=("norm",), reads=("hidden",), writes=("wide",)),
    Operator("narrow", _narrow, after=("widen",), writes=("wide", "hidden"), drops=("wide",)),
    Operator("leave", _leave, after=("narrow",), writes=("hidden", "residual")),
)
"""The operators of a layer, in an order in which one nano-batch can run them."""
