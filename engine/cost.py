"""The resource model: compute and memory time of requests and steps, in one place.

The planner, the scheduler's ledgers, the run-time metrics and the profile all take their figures from
here. Notation of the formulas: ``p`` prompt tokens, ``c`` of them taken from the prefix cache, ``d`` output
tokens, ``P`` parameters, ``L`` layers, ``H`` query heads x head dim (BlendServe, ASPLOS 2026).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.jit import njit

if TYPE_CHECKING:
    import numpy.typing as npt

    from engine.models.config import ModelConfig

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ModelShape:
    """The constants of a model that cost depends on.

    Attributes
    ----------
    body_parameters
        Parameters that every token meets in a GEMM: no embedding, no LM head.
    head_parameters
        Parameters of the LM head, met by sampled rows only.
    layers, query_size
        L, and H = query heads x head dim.
    kv_bytes_per_token
        Bytes of keys and values of one token in all layers.
    weight_bytes
        Bytes read once per step: body and head.
    """

    body_parameters: int
    head_parameters: int
    layers: int
    query_size: int
    kv_bytes_per_token: int
    weight_bytes: int

    @classmethod
    def of(cls, config: ModelConfig, bytes_per_element: int = 4) -> ModelShape:
        """Return the shape of a dense model whose weights and KV both use `bytes_per_element`."""
        query, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        attention = config.hidden_size * (query + 2 * kv) + query * config.hidden_size
        body = config.layers * (attention + 3 * config.hidden_size * config.intermediate_size)
        head = config.vocab_size * config.hidden_size
        return cls(
            body_parameters=body,
            head_parameters=head,
            layers=config.layers,
            query_size=query,
            kv_bytes_per_token=2 * bytes_per_element * kv * config.layers,
            weight_bytes=(body + head) * bytes_per_element,
        )

    def request_flops(self, p: Floats, c: Floats, d: Floats) -> Floats:
        """Return ``2 (p - c + d) P_body + 2 max(d, 1) P_head + 2 (p^2 - c^2) H L`` (attention is causal)."""
        attention = 2.0 * (p * p - c * c) * self.query_size * self.layers
        gemm = 2.0 * (p - c + d) * self.body_parameters + 2.0 * np.maximum(d, 1) * self.head_parameters
        return gemm + attention

    def request_kv_bytes(self, p: Floats, d: Floats) -> Floats:
        """Return ``(p d + d^2 / 2) * KV bytes per token``: the KV read while decoding."""
        return (p * d + 0.5 * d * d) * self.kv_bytes_per_token

    def step_flops(self, tokens: int, samples: int, attended: float) -> float:
        """Return the FLOPs of a step; `attended` is the sum over its tokens of the keys each one sees."""
        gemm = 2.0 * tokens * self.body_parameters + 2.0 * samples * self.head_parameters
        return gemm + 4.0 * attended * self.query_size * self.layers

    def step_bytes(self, tokens: int, kv_tokens_read: float) -> float:
        """Return the bytes of a step: KV read and written, and one pass over the weights."""
        return (kv_tokens_read + tokens) * self.kv_bytes_per_token + self.weight_bytes


@dataclass(frozen=True)
class DeviceProfile:
    """What a device achieves.

    Attributes
    ----------
    name, source
        The device, and where the figures come from: ``measured`` here, or ``nominal``: datasheet peaks times
        an assumed efficiency, good enough to order requests by, not to promise times.
    flops, read_bytes
        F and W: achieved FLOP/s of the GEMMs, and achieved read bytes/s.
    peak_flops, peak_bytes
        The ceilings that MFU and MBU refer to; None where unknown.
    overlaps
        Whether compute and memory work run side by side.
    """

    name: str
    source: str
    flops: float
    read_bytes: float
    peak_flops: float | None
    peak_bytes: float | None
    overlaps: bool

    def pair_seconds(self, compute: float, memory: float) -> float:
        """Return the time of compute and memory work given together: their sum without overlap."""
        return max(compute, memory) if self.overlaps else compute + memory


def _nominal(name: str, tflops: float, gbytes: float) -> DeviceProfile:
    peak, bandwidth = tflops * 1e12, gbytes * 1e9
    return DeviceProfile(name, "nominal", 0.7 * peak, 0.85 * bandwidth, peak, bandwidth, overlaps=False)


NOMINAL = {
    profile.name: profile
    for profile in (
        _nominal("a100", 312, 2039),
        _nominal("h100", 989, 3350),
        _nominal("h200", 989, 4800),
        _nominal("l40s", 362, 864),
        # Two cores of a server processor in float32; `measure_cpu` replaces it in a real run.
        DeviceProfile("cpu", "nominal", 1e11, 1e10, None, None, overlaps=False),
    )
}
"""Dense bf16 peaks and memory bandwidths of the vendors' datasheets (SXM versions; L40S PCIe)."""


def measure_cpu(seconds: float = 0.3) -> DeviceProfile:
    """Measure this machine: a float32 GEMM of model-like shape, and a read-only sum over 64 MB.

    The best of several rounds within `seconds` is taken, since other processes only ever slow it down.
    """
    import torch

    left, right = torch.rand(256, 1024), torch.rand(1024, 1024)
    block = torch.rand(16 * 1024 * 1024)
    flops = bandwidth = 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not flops:
        begin = time.perf_counter()
        torch.mm(left, right)
        middle = time.perf_counter()
        block.sum()
        done = time.perf_counter()
        flops = max(flops, 2.0 * 256 * 1024 * 1024 / (middle - begin))
        bandwidth = max(bandwidth, block.numel() * 4 / (done - middle))
    return DeviceProfile("cpu", "measured", flops, bandwidth, flops, bandwidth, overlaps=False)


class StepCost(NamedTuple):
    """What the time of a step depends on, as plain numbers that compiled functions take.

    Attributes
    ----------
    flops_per_token, flops_per_sample, flops_per_attended
        FLOPs of a token in the body, of a sampled row in the LM head, of one key seen by one query.
    kv_bytes_per_token, weight_bytes
        Bytes of the KV of one token; bytes of the weights, read once per step.
    flops, read_bytes
        F and W of the device: FLOP/s and bytes/s.
    interference
        g of ``pair = max + g * min``: 0 is perfect overlap of compute and memory work, 1 is none.
    """

    flops_per_token: float
    flops_per_sample: float
    flops_per_attended: float
    kv_bytes_per_token: float
    weight_bytes: float
    flops: float
    read_bytes: float
    interference: float


def step_cost(
    shape: ModelShape,
    device: DeviceProfile,
    *,
    overlap: bool | None = None,
    interference: float | None = None,
) -> StepCost:
    """Return the cost of steps of a model on a device.

    Parameters
    ----------
    overlap
        Whether compute and memory work run side by side; None is what the device profile says.
    interference
        g of `StepCost`, in [0, 1]; None is 0 with overlap and 1 without.

    Raises
    ------
    ValueError
        If `interference` is outside [0, 1].
    """
    if interference is None:
        interference = 0.0 if (device.overlaps if overlap is None else overlap) else 1.0
    if not 0.0 <= interference <= 1.0:
        raise ValueError(f"interference: {interference} is outside 0 to 1")
    return StepCost(
        flops_per_token=2.0 * shape.body_parameters,
        flops_per_sample=2.0 * shape.head_parameters,
        flops_per_attended=4.0 * shape.query_size * shape.layers,
        kv_bytes_per_token=float(shape.kv_bytes_per_token),
        weight_bytes=float(shape.weight_bytes),
        flops=device.flops,
        read_bytes=device.read_bytes,
        interference=interference,
    )


@njit
def step_compute_seconds(cost: StepCost, tokens: float, samples: float, attended: float) -> float:
    """Return the compute time of a step; `attended` is the sum over prefill tokens of the keys each sees."""
    flops = tokens * cost.flops_per_token + samples * cost.flops_per_sample
    return (flops + attended * cost.flops_per_attended) / cost.flops


@njit
def step_memory_seconds(cost: StepCost, tokens: float, kv_tokens_read: float) -> float:
    """Return the memory time of a step: KV read by decoding requests, KV written, weights read once."""
    return ((kv_tokens_read + tokens) * cost.kv_bytes_per_token + cost.weight_bytes) / cost.read_bytes


@njit
def decode_seconds(cost: StepCost, known: float, remaining: float) -> float:
    """Return the memory time of generating `remaining` tokens after `known` ones: the KV read for them."""
    return remaining * (known + 0.5 * remaining) * cost.kv_bytes_per_token / cost.read_bytes


@njit
def pair_seconds(cost: StepCost, compute: float, memory: float) -> float:
    """Return the time of compute and memory work given together."""
    return max(compute, memory) + cost.interference * min(compute, memory)


@njit
def step_seconds(
    cost: StepCost, tokens: float, samples: float, attended: float, kv_tokens_read: float
) -> float:
    """Return the modelled time of a step."""
    return pair_seconds(
        cost,
        step_compute_seconds(cost, tokens, samples, attended),
        step_memory_seconds(cost, tokens, kv_tokens_read),
    )
