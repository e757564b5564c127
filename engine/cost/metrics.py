"""What the figures of utilisation mean: names, units and formulas of all of them, on the resource model.

A name tells where a figure comes from:

    modelled_*     the resource model alone (`engine.cost.step`): what the work should take
    measured_*     the device's own counters, read beside the engine; absent where there are none, never 0
    ideal_*        what a perfect schedule could reach
    all others     counted by the engine, or modelled work over measured time (MFU, MBU, overlap)

Storage, warehouse, Prometheus and report take units and meanings from `METRICS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.cost.step import pair_seconds, step_compute_seconds, step_memory_seconds

if TYPE_CHECKING:
    from engine.arrays import Float64, Int64
    from engine.cost.profiles import DeviceProfile
    from engine.cost.step import ModelShape, StepCost


@dataclass(frozen=True)
class Metric:
    """Unit and meaning of a figure; of a share the unit is 1."""

    unit: str
    meaning: str


METRICS: Final[dict[str, Metric]] = {
    "model_flops": Metric(
        "FLOP", "Arithmetic of the tokens computed; tokens from the prefix cache take none"
    ),
    "model_bytes": Metric("bytes", "Weights and KV read and written"),
    "modelled_compute_seconds": Metric("s", "Compute time by the cost model"),
    "modelled_memory_seconds": Metric("s", "Memory time by the cost model"),
    "modelled_seconds": Metric("s", "Time of the steps by the cost model, compute and memory work together"),
    "mfu": Metric("1", "model_flops over measured time, as a share of the device's peak FLOP/s"),
    "mbu": Metric("1", "model_bytes over measured time, as a share of the device's peak bytes/s"),
    "overlap_fraction": Metric(
        "1", "Part of the smaller of compute and memory time that passed beside the other; 0: none"
    ),
    "density": Metric("1", "Compute over memory time by the cost model; above 1 is compute-bound"),
    "kv_occupancy": Metric("1", "Part of the KV pages that running requests hold"),
    "hit_rate": Metric("1", "Part of the prompt tokens taken from the prefix cache"),
    "hit_rate_optimum": Metric("1", "The most that could be, in unlimited memory"),
    "recomputed_tokens": Metric("tokens", "Tokens computed twice: again after a preemption"),
    "idle_tail_seconds": Metric(
        "s", "What the steps after the last prompt token took beyond the pace of those before"
    ),
    "ideal_seconds": Metric("s", "What a perfect schedule of the same work would take on this device"),
    "gpu_seconds_held": Metric("s", "Device time that the engine's process held, loading included"),
    "gpu_seconds_busy": Metric("s", "Device time in engine steps"),
    "measured_tensor_active": Metric("1", "Part of the time that tensor cores were active, by the device"),
    "measured_dram_active": Metric("1", "Part of the peak DRAM bandwidth in use, by the device"),
    "measured_sm_active": Metric("1", "Part of the multiprocessors in use, by the device"),
    "measured_gpu_utilization": Metric("1", "Part of the time that a kernel ran, by the device"),
    "measured_memory_utilization": Metric(
        "1", "Part of the time that device memory was accessed, by the device"
    ),
    "measured_power_watts": Metric("W", "Power drawn, by the device"),
    "measured_energy_joules": Metric("J", "Energy drawn, by the device"),
    "measured_sm_clock_mhz": Metric("MHz", "Clock of the multiprocessors, by the device"),
    "measured_memory_used_bytes": Metric("bytes", "Device memory in use by all processes, by the device"),
}
"""Name -> what it is."""

MEASURED: Final = tuple(name for name in METRICS if name.startswith("measured_"))
"""Those that the device itself counts."""


def mfu(device: DeviceProfile, flops: float, seconds: float) -> float | None:
    """Return FLOPs over time as a share of the peak; None where the peak or the time is unknown.

    Tokens from the prefix cache take no FLOPs and do not count. Tokens computed twice do count: they are told
    by `recomputed_tokens`.
    """
    if device.peak_flops is None or seconds <= 0.0:
        return None
    return flops / seconds / device.peak_flops


def mbu(device: DeviceProfile, moved_bytes: float, seconds: float) -> float | None:
    """Return bytes moved over time as a share of the peak; None where the peak or the time is unknown."""
    if device.peak_bytes is None or seconds <= 0.0:
        return None
    return moved_bytes / seconds / device.peak_bytes


def overlap_fraction(compute: float, memory: float, seconds: float) -> float | None:
    """Return ``(compute + memory - seconds) / min(compute, memory)`` in [0, 1]; None if there is neither.

    Times of a model that is wrong by a few percent make it wrong by more: it is meant for sums over many
    steps, with a calibrated profile.
    """
    smaller = min(compute, memory)
    if smaller <= 0.0 or seconds <= 0.0:
        return None
    return min(1.0, max(0.0, (compute + memory - seconds) / smaller))


def density(compute: float, memory: float) -> float | None:
    """Return compute over memory time; None without memory time."""
    return compute / memory if memory > 0.0 else None


def kv_occupancy(available_pages: int, pages: int) -> float:
    """Return the part of all pages that is held: neither free nor evictable."""
    return 1.0 - available_pages / pages if pages else 0.0


def idle_tail_seconds(seconds: Float64, prefill_tokens: Int64, work: Float64) -> float:
    """Return what the tail of a run took beyond what its work takes at the pace of the steps before.

    The tail are the steps after the last one that computed a prompt token: nothing new comes in, and a few
    long answers keep the device. Weights are left out of the work, or reading them for one sequence would
    count as much as for five hundred.

    Parameters
    ----------
    seconds, prefill_tokens
        float64 [steps], int64 [steps], in the order of time.
    work
        float64 [steps]: modelled seconds of each step's work on the tighter resource (`useful_seconds`).
    """
    with_prefill = np.flatnonzero(prefill_tokens > 0)
    begin = int(with_prefill[-1]) + 1 if with_prefill.size else 0
    before = float(work[:begin].sum())
    if before <= 0.0 or begin == len(seconds):
        return 0.0
    pace = float(seconds[:begin].sum()) / before
    return max(0.0, float(seconds[begin:].sum()) - float(work[begin:].sum()) * pace)


def useful_seconds(shape: ModelShape, device: DeviceProfile, flops: Float64, moved_bytes: Float64) -> Float64:
    """Return the larger of compute time and KV time of steps, weights left out, float64 [steps]."""
    kv = np.maximum(moved_bytes - shape.weight_bytes, 0.0)
    return np.asarray(np.maximum(flops / device.flops, kv / device.read_bytes), np.float64)


def step_metrics(sample: StepSample, shape: ModelShape, cost: StepCost, pages: int) -> dict[str, Any]:
    """Return what the resource model says of an engine step, by the names of `METRICS`.

    Parameters
    ----------
    cost
        Of the device that the step ran on, for steps that are not cut.
    pages
        KV pages there are.
    """
    tokens, attended = float(sample.tokens), float(sample.attended_tokens)
    compute = memory = flops = moved = 0.0
    # A step that only waits for the result of the one before does no work.
    if tokens:
        # Times in the terms of planner and simulator: attention of decoding counts as memory work alone;
        # FLOPs and bytes are all that there are.
        decode = float(sample.kv_tokens_decode)
        compute = step_compute_seconds(cost, tokens, float(sample.samples), attended - decode)
        memory = step_memory_seconds(cost, tokens, decode)
        flops = shape.step_flops(sample.tokens, sample.samples, attended)
        # The cost knows which experts a step meets.
        moved = step_memory_seconds(cost, tokens, float(sample.kv_tokens_read)) * cost.read_bytes
        # Every nano-batch after the first reads the weights once more.
        again = (sample.nano_batches - 1) * cost.weight_bytes
        memory, moved = memory + again / cost.read_bytes, moved + again
    return {
        "model_flops": flops,
        "model_bytes": moved,
        "modelled_compute_seconds": compute,
        "modelled_memory_seconds": memory,
        "modelled_seconds": pair_seconds(cost, compute, memory),
        "kv_occupancy": kv_occupancy(sample.available_pages, pages),
    }


@dataclass(frozen=True)
class StepSample:
    """Measurements of one step. Times in seconds, the rest are counts; `started_at` is Unix time.

    `kv_tokens_decode` is the part of `kv_tokens_read` that decoding sequences read, `nano_batches` the parts
    that the step was cut into.
    """

    step: int
    started_at: float
    seconds: float
    tokens: int
    prefill_tokens: int
    decode_tokens: int
    samples: int
    sequences: int
    running: int
    kv_tokens_read: int
    kv_tokens_decode: int
    attended_tokens: int
    nano_batches: int
    available_pages: int
    hit_tokens: int
    recomputed_tokens: int
    evicted_pages: int
    preemptions: int
