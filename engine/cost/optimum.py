"""What no schedule can beat: the optimum of requests, room for KV; terms of `engine.cost.step`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.cost.step import ModelShape, step_compute_seconds, step_memory_seconds
from engine.jit import entry

if TYPE_CHECKING:
    from engine.arrays import Float64
    from engine.cost.step import DeviceProfile, StepCost

COMPUTE, MEMORY, LONGEST = "compute", "memory", "longest"

PRESETS: Final = {
    "llama-3.1-8b": ModelShape.make(
        hidden=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        intermediate=14336,
        vocabulary=128256,
        tied=False,
    ),
    "llama-3.1-70b": ModelShape.make(
        hidden=8192,
        layers=80,
        heads=64,
        kv_heads=8,
        head_dim=128,
        intermediate=28672,
        vocabulary=128256,
        tied=False,
    ),
    "llama-2-7b": ModelShape.make(
        hidden=4096,
        layers=32,
        heads=32,
        kv_heads=32,
        head_dim=128,
        intermediate=11008,
        vocabulary=32000,
        tied=False,
    ),
    "qwen3-0.6b": ModelShape.make(
        hidden=1024,
        layers=28,
        heads=16,
        kv_heads=8,
        head_dim=128,
        intermediate=3072,
        vocabulary=151936,
        tied=True,
    ),
    "qwen3-30b-a3b": ModelShape.make(
        hidden=2048,
        layers=48,
        heads=32,
        kv_heads=4,
        head_dim=128,
        intermediate=768,
        vocabulary=151936,
        tied=False,
        experts=128,
        experts_per_token=8,
    ),
}
"""Published shapes, with weights and KV of 2 bytes per element."""


@dataclass(frozen=True)
class Optimum:
    """Bounds on the time of a set of requests, in seconds: no schedule takes less on the modelled device.

    Attributes
    ----------
    compute
        Every distinct prompt token and every answer token once, in GEMMs of the best sizes that the fewest
        steps allow.
    memory
        All KV read and written, and the weights once a step, in as few steps as the KV memory allows.
    longest
        The same with a step for each token of the longest answer, or the slowest request by itself,
        whichever takes longer.
    kv_read
        Reading the KV of all decoding requests: part of `memory`.
    plain, practical
        ``max(compute, memory, longest)``, as if work side by side were free; and with the device's `pair`,
        at the least interference that it has.
    plain_limit, practical_limit
        Which of the terms binds: ``compute``, ``memory`` or ``longest``.
    steps
        Fewest steps: KV token-steps over KV memory, and not below the longest answer.
    """

    compute: float
    memory: float
    longest: float
    kv_read: float
    plain: float
    practical: float
    plain_limit: str
    practical_limit: str
    steps: float


def optimum(cost: StepCost, prompt: Float64, cached: Float64, output: Float64, kv_tokens: float) -> Optimum:
    """Return the optimum of a set of requests.

    Parameters
    ----------
    prompt, cached, output
        float64 [N], tokens: prompts; what of each another one of them has computed, with unlimited memory
        (`engine.plan.tree.cached_tokens`: every distinct token belongs to one request only); and answers, of
        at least one token.
    kv_tokens
        Tokens of KV that memory holds.

    Raises
    ------
    ValueError
        If `kv_tokens` is not above 0.
    """
    if kv_tokens <= 0.0:
        raise ValueError(f"kv_tokens: {kv_tokens} is not above 0")
    if not len(prompt):
        return Optimum(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, COMPUTE, COMPUTE, 0.0)
    # The first token of an answer comes from the prompt's last row: d - 1 are computed, after 1 .. d - 1.
    own, later = prompt - cached, output - 1.0
    tokens, samples = float((own + later).sum()), float(output.sum())
    attended = float((own * (prompt + cached + 1.0)).sum()) / 2.0
    generated = float((later * output).sum()) / 2.0
    # All that decode read a shared prefix, unless the device reads it once for all of them, but it takes
    # memory once: it belongs to one of them.
    room = (float((own * later).sum()) + generated) / kv_tokens
    steps = max(room, float(output.max()), 1.0)
    efficiency = _best_efficiency(cost)
    flops = _fewest_rows(cost, tokens, steps) * (cost.flops_per_token - cost.expert_flops_per_token)
    flops += (tokens * cost.expert_flops_per_token + samples * cost.flops_per_sample) / efficiency
    flops += attended * cost.flops_per_attended
    fixed = tokens * cost.reduce_per_token + steps * cost.fixed_per_step
    compute = flops / cost.flops + fixed
    read = float(((prompt - (1.0 - cost.shared_read) * cached) * later).sum()) + generated
    kv_read = read * cost.kv_bytes_per_token / cost.read_bytes
    memory, by_steps = (_bus(cost, tokens, read, count) for count in (room, float(output.max())))
    alone = _slowest(cost, efficiency, *(np.ascontiguousarray(x, np.float64) for x in (prompt, output)))
    least = float(cost.pair_interference.min(initial=1.0)) if len(cost.pair_share) else cost.interference
    bus = max(memory, by_steps)
    together = max(compute, bus) + least * min(compute, bus)
    longest = max(by_steps, alone)
    limits = {COMPUTE: compute, MEMORY: memory, LONGEST: longest}
    plain_limit = max(limits, key=limits.__getitem__)
    return Optimum(
        compute=compute,
        memory=memory,
        longest=longest,
        kv_read=kv_read,
        plain=limits[plain_limit],
        practical=max(together, alone),
        plain_limit=plain_limit,
        practical_limit=LONGEST if alone > together else plain_limit,
        steps=steps,
    )


def _bus(cost: StepCost, tokens: float, kv_tokens_read: float, steps: float) -> float:
    """Return the least memory time of all steps: the fewest experts are met with one token in all but one."""
    others = min(max(steps, 1.0), tokens) - 1.0
    large = step_memory_seconds(cost, tokens - others, kv_tokens_read)
    return large + others * step_memory_seconds(cost, 1.0, 0.0)


def _fewest_rows(cost: StepCost, tokens: float, steps: float) -> float:
    """Return the rows that GEMMs of the largest efficiency would compute in the time of all steps.

    Each of at least `steps` steps computes a token or more. Their mean time is at least that of the lower
    convex envelope of the time by rows, at the mean of the rows. The points of the table span it: between
    them the time is concave, once efficiency is taken as never falling.
    """
    if not len(cost.gemm_rows):
        return tokens
    rows = np.concatenate(([1.0], np.exp(cost.gemm_rows)))
    part = np.maximum.accumulate(np.exp(cost.gemm_efficiency))
    time = np.concatenate(([rows[1] / part[0]], rows[1:] / part))
    mean = max(tokens / steps, 1.0)
    left, right = rows <= mean, rows >= mean
    least = float((time[left] + (mean - rows[left]) / part[-1]).min())
    for x, y in zip(rows[left], time[left], strict=True):
        share = (mean - x) / np.maximum(rows[right] - x, 1e-9)
        least = min(least, float((y + share * (time[right] - y)).min(initial=np.inf)))
    return steps * least


def _best_efficiency(cost: StepCost) -> float:
    """Return the largest part of F that a GEMM of any size reaches."""
    return float(np.exp(cost.gemm_efficiency.max())) if len(cost.gemm_efficiency) else 1.0


@entry()
def _slowest(cost: StepCost, efficiency: float, prompt: Float64, output: Float64) -> float:
    """Return the time of the slowest request by itself: its prompt in one step, then a token a step.

    Nothing of its prompt is computed while it decodes, whoever computes it. Work of one step is taken as
    perfectly overlapped, so this is a lower bound under every `pair`.
    """
    most = 0.0
    for i in range(prompt.shape[0]):
        p, d = prompt[i], output[i]
        flops = (p * cost.flops_per_token + cost.flops_per_sample) / efficiency
        flops += 0.5 * p * (p + 1.0) * cost.flops_per_attended
        compute = flops / cost.flops + p * cost.reduce_per_token + cost.fixed_per_step
        first = max(compute, step_memory_seconds(cost, p, 0.0))
        mean = step_memory_seconds(cost, 1.0, p + 0.5 * d)
        one = max(step_compute_seconds(cost, 1.0, 1.0, 0.0), mean)
        most = max(most, first + (d - 1.0) * one)
    return most


def kv_tokens_left(
    shape: ModelShape, device: DeviceProfile, token_budget: int, max_sequences: int, usable: float = 0.9
) -> int:
    """Return how many tokens of KV fit beside the weights and activations; 0 if the weights leave no room.

    Activations are those of one layer for `token_budget` tokens, and float32 logits of `max_sequences` rows.

    Raises
    ------
    ValueError
        If the memory of the device is unknown.
    """
    if device.memory_bytes is None:
        raise ValueError(f"{device.name}: its memory is unknown")
    logits = 4 * max_sequences * (shape.head_parameters // shape.hidden_size)
    used = shape.resident_bytes + token_budget * shape.activation_bytes + logits
    return max(0, int((usable * device.memory_bytes - used) // shape.kv_bytes_per_token))
