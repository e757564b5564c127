"""The resource model: compute and memory time of requests and steps, in one place.

The planner, the scheduler's ledgers, the run-time metrics and the profile all take their figures from
here. Notation of the formulas: ``p`` prompt tokens, ``c`` of them taken from the prefix cache, ``d`` output
tokens, ``P`` parameters, ``L`` layers, ``H`` query heads x head dim (BlendServe, ASPLOS 2026).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.cost.profiles import NOMINAL, DeviceProfile, measure_cpu
from engine.jit import entry, njit_in_place
from engine.jit_types import struct

if TYPE_CHECKING:
    from engine.arrays import Float64
    from engine.cost.profiles import Points
    from engine.models.config import ModelConfig

__all__ = [
    "NOMINAL",
    "DeviceProfile",
    "ModelShape",
    "StepCost",
    "experts_hit",
    "gemm_efficiency",
    "group_saving",
    "measure_cpu",
    "pair_seconds",
    "step_compute_seconds",
    "step_cost",
    "step_memory_seconds",
    "step_seconds",
]


@dataclass(frozen=True)
class ModelShape:
    """The constants of a model that cost depends on.

    Attributes
    ----------
    body_parameters
        Parameters that a token meets in GEMMs: no embedding, no LM head; the routed experts it goes to, of a
        mixture of experts, not the others.
    head_parameters
        Parameters of the LM head, met by sampled rows only.
    layers, query_size
        L, and H = query heads x head dim.
    kv_bytes_per_token
        Bytes of keys and values of one token in all layers.
    weight_bytes
        Bytes read once per step, where all experts are met: body and head.
    hidden_size, element_bytes
        Row of activations: elements, and bytes of each. The all-reduce of tensor parallelism carries them.
    resident_bytes
        Bytes of all weights in memory: an embedding that is not tied to the LM head is held, not read.
    experts, experts_per_token, expert_bytes
        Routed experts of a layer, those that a token goes to, and the bytes of all of them in all layers;
        0 for a dense model.
    activation_bytes
        Bytes of a token's largest intermediates in one layer.
    """

    body_parameters: int
    head_parameters: int
    layers: int
    query_size: int
    kv_bytes_per_token: int
    weight_bytes: int
    hidden_size: int = 0
    element_bytes: int = 2
    resident_bytes: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_bytes: int = 0
    activation_bytes: int = 0

    @classmethod
    def of(
        cls, config: ModelConfig, bytes_per_element: int = 4, kv_bytes_per_element: int | None = None
    ) -> ModelShape:
        """Return the shape of a model; its KV is of the size of its weights where none is given.

        The matrices of an 8-bit checkpoint take a byte per parameter, whatever the rest is computed in.
        """
        return cls.make(
            hidden=config.hidden_size,
            layers=config.layers,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            intermediate=config.intermediate_size,
            vocabulary=config.vocab_size,
            tied=config.tie_embeddings,
            experts=0 if config.experts is None else config.experts.count,
            experts_per_token=0 if config.experts is None else config.experts.per_token,
            bytes_per_element=bytes_per_element,
            kv_bytes_per_element=kv_bytes_per_element,
            body_bytes_per_element=None if config.quantised is None else 1,
        )

    @classmethod
    def make(
        cls,
        *,
        hidden: int,
        layers: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        intermediate: int,
        vocabulary: int,
        tied: bool,
        experts: int = 0,
        experts_per_token: int = 0,
        bytes_per_element: int = 2,
        kv_bytes_per_element: int | None = None,
        body_bytes_per_element: int | None = None,
    ) -> ModelShape:
        """Return the shape of a decoder with gated MLPs; `intermediate` is that of one expert, if any.

        KV and the body's matrices are of `bytes_per_element` where nothing else is said.
        MHA, GQA and MQA differ in `kv_heads` only. The router counts as a part of the body.

        Raises
        ------
        ValueError
            If `experts_per_token` does not fit `experts`.
        """
        if not (1 <= experts_per_token <= experts or experts_per_token == experts == 0):
            raise ValueError(f"experts_per_token: {experts_per_token} of {experts} experts")
        query, kv = heads * head_dim, kv_heads * head_dim
        attention = hidden * (query + 2 * kv) + query * hidden
        mlp, head = 3 * hidden * intermediate, vocabulary * hidden
        shared = layers * (attention + (hidden * experts if experts else mlp))
        routed = layers * experts * mlp
        body_bytes = body_bytes_per_element or bytes_per_element
        weight = (shared + routed) * body_bytes + head * bytes_per_element
        width = max(1, experts_per_token) * intermediate
        return cls(
            body_parameters=shared + layers * experts_per_token * mlp,
            head_parameters=head,
            layers=layers,
            query_size=query,
            kv_bytes_per_token=2 * (kv_bytes_per_element or bytes_per_element) * kv * layers,
            weight_bytes=weight,
            hidden_size=hidden,
            element_bytes=bytes_per_element,
            resident_bytes=weight + (0 if tied else head * bytes_per_element),
            experts=experts,
            experts_per_token=experts_per_token,
            expert_bytes=routed * body_bytes,
            activation_bytes=bytes_per_element * (2 * hidden + query + 2 * kv + 3 * width),
        )

    def request_flops(self, p: Float64, c: Float64, d: Float64) -> Float64:
        """Return ``2 (p - c + d) P_body + 2 max(d, 1) P_head + 2 (p^2 - c^2) H L`` (attention is causal)."""
        attention = 2.0 * (p * p - c * c) * self.query_size * self.layers
        gemm = 2.0 * (p - c + d) * self.body_parameters + 2.0 * np.maximum(d, 1) * self.head_parameters
        return gemm + attention

    def request_kv_bytes(self, p: Float64, d: Float64) -> Float64:
        """Return ``(p d + d^2 / 2) * KV bytes per token``: the KV read while decoding."""
        return (p * d + 0.5 * d * d) * self.kv_bytes_per_token

    def step_flops(self, tokens: int, samples: int, attended: float) -> float:
        """Return the FLOPs of a step; `attended` is the sum over its tokens of the keys each one sees."""
        gemm = 2.0 * tokens * self.body_parameters + 2.0 * samples * self.head_parameters
        return gemm + 4.0 * attended * self.query_size * self.layers


@struct()
class StepCost(NamedTuple):
    """What the time of a step depends on, as numbers and arrays that compiled functions take.

    Attributes
    ----------
    flops_per_token, flops_per_sample, flops_per_attended
        FLOPs of a token in the body, of a sampled row in the LM head, of one key seen by one query.
    kv_bytes_per_token, weight_bytes
        Bytes of the KV of one token; bytes that a step reads of the weights if it meets all experts.
    flops, read_bytes
        F and W of the device: FLOP/s of large GEMMs and bytes/s.
    interference
        g of ``pair = max + g * min``: 0 is perfect overlap of compute and memory work, 1 is none. Where the
        device has a measured surface, its mean.
    experts, experts_per_token, expert_bytes, expert_flops_per_token
        Of a mixture of experts: bytes of all routed experts (part of `weight_bytes`), and the part of
        `flops_per_token` done in them.
    reduce_per_token, fixed_per_step
        Seconds of the all-reduces of tensor parallelism for each token; seconds of each step: their latency,
        and what the device profile says that a step takes beside its work.
    gemm_rows, gemm_efficiency
        float64 [k]: logarithms of the table of `DeviceProfile.gemm`; k may be 0.
    pair_share, pair_interference
        float64 [m]: the surface of `DeviceProfile.pair`; m = 0: `interference` everywhere.
    shared_read
        Of `DeviceProfile`.
    shared_member, shared_step
        What reading shared pages once costs beside them, as tokens of KV: for each sequence in a group, and
        for the step.
    """

    flops_per_token: float
    flops_per_sample: float
    flops_per_attended: float
    kv_bytes_per_token: float
    weight_bytes: float
    flops: float
    read_bytes: float
    interference: float
    experts: float
    experts_per_token: float
    expert_bytes: float
    expert_flops_per_token: float
    reduce_per_token: float
    fixed_per_step: float
    gemm_rows: Float64
    gemm_efficiency: Float64
    pair_share: Float64
    pair_interference: Float64
    shared_read: float
    shared_member: float
    shared_step: float


def step_cost(
    shape: ModelShape,
    device: DeviceProfile,
    *,
    overlap: bool | None = None,
    interference: float | None = None,
    nano_batches: int = 1,
) -> StepCost:
    """Return the cost of steps of a model on a device.

    Parameters
    ----------
    overlap
        Whether compute and memory work run side by side; None is what the device profile says.
    interference
        g of `StepCost`, in [0, 1]; None is the surface of the device if work overlaps and it has one, else 0
        with overlap and 1 without.
    nano_batches
        Parts that a step is cut into; each reads the weights anew.

    Raises
    ------
    ValueError
        If `interference` is outside [0, 1], or `nano_batches` below 1.
    """
    if nano_batches < 1:
        raise ValueError(f"nano_batches: {nano_batches} is below 1")
    # No overlap asked for: the surface of work given together says nothing.
    overlaps = overlap if overlap is not None else device.overlaps or bool(device.pair)
    surface = _points(device.pair if interference is None and overlaps else ())
    if interference is None:
        interference = float(surface[:, 1].mean()) if len(surface) else 0.0 if overlaps else 1.0
    if not 0.0 <= interference <= 1.0:
        raise ValueError(f"interference: {interference} is outside 0 to 1")
    gemm = np.log(_points(device.gemm))
    # Ring all-reduce: each device sends 2 (n - 1) / n of the data; two per layer, after attention and MLP.
    n, row = device.shards, shape.hidden_size * shape.element_bytes
    reduced = 2.0 * (n - 1) / n * row / device.link_bytes if n > 1 else 0.0
    latency = 2.0 * shape.layers * device.link_seconds * nano_batches if n > 1 else 0.0
    used = shape.experts_per_token / shape.experts if shape.experts else 0.0
    return StepCost(
        flops_per_token=2.0 * shape.body_parameters,
        flops_per_sample=2.0 * shape.head_parameters,
        flops_per_attended=4.0 * shape.query_size * shape.layers,
        kv_bytes_per_token=float(shape.kv_bytes_per_token),
        weight_bytes=float(shape.weight_bytes * nano_batches),
        flops=device.flops,
        read_bytes=device.read_bytes,
        interference=interference,
        experts=float(shape.experts),
        experts_per_token=float(shape.experts_per_token),
        expert_bytes=float(shape.expert_bytes * nano_batches),
        expert_flops_per_token=2.0 * used * shape.expert_bytes / shape.element_bytes,
        reduce_per_token=2.0 * shape.layers * reduced,
        fixed_per_step=latency + device.step_seconds,
        gemm_rows=gemm[:, 0].copy(),
        gemm_efficiency=gemm[:, 1].copy(),
        pair_share=surface[:, 0].copy(),
        pair_interference=surface[:, 1].copy(),
        shared_read=device.shared_read,
        # A float32 for every element of the layers' queries, written and read.
        shared_member=8.0 * shape.query_size * shape.layers / shape.kv_bytes_per_token,
        shared_step=device.shared_seconds * shape.layers * device.read_bytes / shape.kv_bytes_per_token,
    )


def _points(points: Points) -> Float64:
    return np.array(points, np.float64).reshape(-1, 2)


@njit_in_place
def _interpolate(x: float, places: Float64, values: Float64) -> float:
    """Return `values` at `x`, linear between `places` and constant outside."""
    last = places.shape[0] - 1
    if x <= places[0]:
        return float(values[0])
    for i in range(1, last + 1):
        if x < places[i]:
            part = (x - places[i - 1]) / (places[i] - places[i - 1])
            return float(values[i - 1] + part * (values[i] - values[i - 1]))
    return float(values[last])


@entry(in_place=True)
def gemm_efficiency(cost: StepCost, rows: float) -> float:
    """Return the part of F that a GEMM with so many rows reaches; below the first point it takes as long."""
    if cost.gemm_rows.shape[0] == 0 or rows <= 0.0:
        return 1.0
    x = math.log(rows)
    if x < cost.gemm_rows[0]:
        return math.exp(cost.gemm_efficiency[0] + x - cost.gemm_rows[0])
    return math.exp(_interpolate(x, cost.gemm_rows, cost.gemm_efficiency))


@njit_in_place
def experts_hit(cost: StepCost, tokens: float) -> float:
    """Return the expected number of experts of a layer that `tokens` tokens meet: ``E (1 - (1 - k/E)^n)``.

    Routing is taken as uniform and independent, as it is trained to be.
    """
    if cost.experts == 0.0:
        return 0.0
    return float(cost.experts * (1.0 - (1.0 - cost.experts_per_token / cost.experts) ** tokens))


@entry(in_place=True)
def step_compute_seconds(cost: StepCost, tokens: float, samples: float, attended: float) -> float:
    """Return the compute time of a step; `attended` is the sum over prefill tokens of the keys each sees.

    All-reduces of tensor parallelism count as compute time: the layer's next GEMM waits for them.
    """
    dense = tokens * (cost.flops_per_token - cost.expert_flops_per_token) / gemm_efficiency(cost, tokens)
    head = samples * cost.flops_per_sample / gemm_efficiency(cost, samples)
    flops = dense + head + attended * cost.flops_per_attended
    if cost.experts > 0.0 and tokens > 0.0:
        rows = tokens * cost.experts_per_token / experts_hit(cost, tokens)
        flops += tokens * cost.expert_flops_per_token / gemm_efficiency(cost, rows)
    reduce = cost.fixed_per_step + tokens * cost.reduce_per_token if tokens > 0.0 else 0.0
    return flops / cost.flops + reduce


@entry(in_place=True)
def step_memory_seconds(cost: StepCost, tokens: float, kv_tokens_read: float) -> float:
    """Return the memory time of a step: KV read by decoding requests, KV written, weights that it meets."""
    weights = cost.weight_bytes
    if cost.experts > 0.0:
        weights -= cost.expert_bytes * (1.0 - experts_hit(cost, tokens) / cost.experts)
    return ((kv_tokens_read + tokens) * cost.kv_bytes_per_token + weights) / cost.read_bytes


@njit_in_place
def group_saving(cost: StepCost, members: float, tokens: float) -> float:
    """Return the tokens of KV that a step need not read if `members` decoding sequences share `tokens`.

    ``(n - 1) p (1 - f) - n m``: each further reader costs the part f of the pages, and every member m.
    """
    return (members - 1.0) * tokens * (1.0 - cost.shared_read) - members * cost.shared_member


@njit_in_place
def decode_seconds(cost: StepCost, known: float, remaining: float) -> float:
    """Return the memory time of generating `remaining` tokens after `known` ones: the KV read for them."""
    return remaining * (known + 0.5 * remaining) * cost.kv_bytes_per_token / cost.read_bytes


@entry(in_place=True)
def pair_seconds(cost: StepCost, compute: float, memory: float) -> float:
    """Return the time of compute and memory work given together."""
    interference = cost.interference
    if cost.pair_share.shape[0] > 0 and compute + memory > 0.0:
        interference = _interpolate(memory / (compute + memory), cost.pair_share, cost.pair_interference)
    return max(compute, memory) + interference * min(compute, memory)


@entry(in_place=True)
def step_seconds(
    cost: StepCost, tokens: float, samples: float, attended: float, kv_tokens_read: float
) -> float:
    """Return the modelled time of a step."""
    return pair_seconds(
        cost,
        step_compute_seconds(cost, tokens, samples, attended),
        step_memory_seconds(cost, tokens, kv_tokens_read),
    )
