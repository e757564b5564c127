"""What no schedule can beat: the optimum of requests, utilisation, room for KV; terms of `engine.cost`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.cost import ModelShape, pair_seconds, step_compute_seconds, step_memory_seconds
from engine.jit import njit

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from engine.cost import DeviceProfile, StepCost

    Floats = npt.NDArray[np.float64]

COMPUTE, MEMORY, LONGEST = "compute", "memory", "longest request"

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
    """Bounds on the time of a set of requests, in seconds.

    Attributes
    ----------
    compute, memory, longest
        All compute work; all KV and weight traffic with the fewest steps; the slowest request by itself.
    plain, practical
        ``max(compute, memory, longest)``, as if work side by side were free; and with the device's `pair`.
    plain_limit, practical_limit
        Which of the terms binds: ``compute``, ``memory`` or ``longest request``.
    steps
        Fewest steps: KV token-steps over KV memory, and not below the longest answer.
    """

    compute: float
    memory: float
    longest: float
    plain: float
    practical: float
    plain_limit: str
    practical_limit: str
    steps: float


def optimum(
    shape: ModelShape, cost: StepCost, prompt: Floats, cached: Floats, output: Floats, kv_tokens: float
) -> Optimum:
    """Return the optimum of a set of requests.

    Parameters
    ----------
    prompt, cached, output
        float64 [N], tokens: prompts, what of them comes from the prefix cache, and answers.
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
        return Optimum(0.0, 0.0, 0.0, 0.0, 0.0, COMPUTE, COMPUTE, 0.0)
    kv_bytes = float(shape.request_kv_bytes(prompt, output).sum())
    tokens = float((prompt - cached + output).sum())
    steps = max(kv_bytes / shape.kv_bytes_per_token / kv_tokens, float(output.max()), 1.0)
    reduce = tokens * cost.reduce_per_token + steps * cost.fixed_per_step
    compute = float(shape.request_flops(prompt, cached, output).sum()) / cost.flops + reduce
    memory = kv_bytes / cost.read_bytes + steps * step_memory_seconds(cost, tokens / steps, 0.0)
    longest = _longest(cost, prompt, cached, output)
    limit = COMPUTE if compute >= memory else MEMORY
    plain, practical = max(compute, memory), pair_seconds(cost, compute, memory)
    return Optimum(
        compute=compute,
        memory=memory,
        longest=longest,
        plain=max(plain, longest),
        practical=max(practical, longest),
        plain_limit=LONGEST if longest > plain else limit,
        practical_limit=LONGEST if longest > practical else limit,
        steps=steps,
    )


@njit
def _longest(cost: StepCost, prompt: Floats, cached: Floats, output: Floats) -> float:
    """Return the time of the slowest request by itself: its prefill in one step, then a token a step.

    Work of one step is taken as perfectly overlapped, so this is a lower bound under every `pair`.
    """
    most = 0.0
    for i in range(prompt.shape[0]):
        p, c, d = prompt[i], cached[i], output[i]
        attended = 0.5 * (p * p - c * c)
        first = max(step_compute_seconds(cost, p - c, 1.0, attended), step_memory_seconds(cost, p - c, 0.0))
        mean = step_memory_seconds(cost, 1.0, p + 0.5 * d)
        one = max(step_compute_seconds(cost, 1.0, 1.0, 0.0), mean)
        most = max(most, first + max(d - 1.0, 0.0) * one)
    return most


def utilisation(
    device: DeviceProfile, flops: float, moved_bytes: float, seconds: float
) -> tuple[float | None, float | None]:
    """Return (MFU, MBU): achieved FLOP/s and bytes/s over the peaks; None where the peak is unknown."""
    mfu = None if device.peak_flops is None else flops / seconds / device.peak_flops
    mbu = None if device.peak_bytes is None else moved_bytes / seconds / device.peak_bytes
    return mfu, mbu


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
