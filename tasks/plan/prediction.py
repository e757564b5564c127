"""What a plan is expected to take: the simulator run over it, before any of it is computed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.cost.devices import cpu_kv_tokens
from engine.cost.optimum import kv_tokens_left
from engine.cost.step import step_cost
from engine.runtime.settings import EngineSettings
from engine.simulate.simulate import simulate

if TYPE_CHECKING:
    import numpy.typing as npt

    from engine.cost.profiles import DeviceProfile
    from engine.cost.step import ModelShape
    from engine.plan.policies import Plan
    from tasks.night.night import NightSettings

LEAST: Final = 100
"""A plan of fewer requests takes seconds, which say nothing of the model, and need no simulator."""


def expected_sizes(
    offsets: npt.NDArray[np.int64],
    limit: npt.NDArray[np.int64],
    shape: ModelShape,
    device: DeviceProfile,
    settings: NightSettings,
) -> EngineSettings | None:
    """Return the sizes of the engine that are to be expected; None if they do not hold the longest request.

    Parameters
    ----------
    limit
        int64 [N], tokens: most output tokens of each request.
    """
    size = settings.page_size
    pages = -(-(np.diff(offsets) + limit) // size)
    least, most = (int(pages.max(initial=0)) + 1) * size, (int(pages.sum()) + 1) * size
    budget = max(settings.token_budget, settings.max_sequences)
    kv_tokens = settings.kv_tokens
    if kv_tokens is None and device.memory_bytes is None:
        kv_tokens = cpu_kv_tokens(shape.kv_bytes_per_token, least, most)
    elif kv_tokens is None:
        kv_tokens = min(kv_tokens_left(shape, device, budget, settings.max_sequences), max(most, least))
    return None if kv_tokens < least else EngineSettings(kv_tokens, size, budget, settings.max_sequences)


def predict(
    plan: Plan,
    tokens: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    shape: ModelShape,
    device: DeviceProfile,
    sizes: EngineSettings | None,
) -> dict[str, Any] | None:
    """Return what the engine is expected to do with a plan whose expected lengths come true.

    Parameters
    ----------
    device
        What the plan was made with.
    sizes
        Of the engine, with the steps that it takes; from `expected_sizes`.

    Returns
    -------
    dict or None
        `seconds` (of the engine's steps), `steps, prefill_tokens, decode_tokens, hit_rate, retractions,
        kv_tokens` and `profile`, the digest of the device profile. None for fewer than `LEAST` requests, or
        if the KV memory that is to be expected does not hold the longest one.
    """
    if len(offsets) - 1 < LEAST or sizes is None:
        return None
    found = simulate(
        plan,
        tokens,
        offsets,
        np.maximum(np.rint(plan.estimate), 1).astype(np.int32),
        sizes,
        step_cost(shape, device),
    )
    return {
        "seconds": found.seconds,
        "steps": found.steps,
        "prefill_tokens": found.prefill_tokens,
        "decode_tokens": found.decode_tokens,
        "hit_rate": found.hit_rate,
        "retractions": found.preemptions,
        "kv_tokens": sizes.kv_tokens,
        "profile": profile_digest(device),
    }


def profile_digest(device: DeviceProfile) -> str:
    """Return a name of a device profile's figures, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(asdict(device), sort_keys=True).encode()).hexdigest()[:16]
