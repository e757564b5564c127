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
    from engine.simulate.simulate import SimulatedRun
    from tasks.night.night import NightSettings

LEAST: Final = 100
"""A plan of fewer requests takes seconds, which say nothing of the model, and need no simulator."""


def predict(
    plan: Plan,
    tokens: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    limit: npt.NDArray[np.int64],
    shape: ModelShape,
    device: DeviceProfile,
    settings: NightSettings,
) -> dict[str, Any] | None:
    """Return what the engine is expected to do with a plan whose expected lengths come true.

    Parameters
    ----------
    limit
        int64 [N], tokens: most output tokens of each request.
    device
        What the plan was made with.

    Returns
    -------
    dict or None
        `seconds` (of the engine's steps), `steps, prefill_tokens, decode_tokens, hit_rate, retractions,
        kv_tokens` and `profile`, the digest of the device profile. None for fewer than `LEAST` requests, or
        if the KV memory that is to be expected does not hold the longest one.
    """
    if len(limit) < LEAST:
        return None
    expected = np.maximum(np.rint(plan.estimate), 1).astype(np.int32)
    run = simulate_night(plan, tokens, offsets, limit, expected, shape, device, settings)
    if run is None:
        return None
    found, kv_tokens = run
    return {
        "seconds": found.seconds,
        "steps": found.steps,
        "prefill_tokens": found.prefill_tokens,
        "decode_tokens": found.decode_tokens,
        "hit_rate": found.hit_rate,
        "retractions": found.preemptions,
        "kv_tokens": kv_tokens,
        "profile": profile_digest(device),
    }


def simulate_night(
    plan: Plan,
    tokens: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    limit: npt.NDArray[np.int64],
    output: npt.NDArray[np.int32],
    shape: ModelShape,
    device: DeviceProfile,
    settings: NightSettings,
) -> tuple[SimulatedRun, int] | None:
    """Return the simulated run of a plan with the settings of a night, and its KV memory in tokens.

    Parameters
    ----------
    limit
        int64 [N], tokens: most output tokens of each request, by which the KV memory is chosen.
    output
        int32 [N], tokens: the answers' true lengths, at least 1.

    Returns
    -------
    (SimulatedRun, int) or None
        None if the KV memory that is to be expected does not hold the longest request.
    """
    lengths = np.diff(offsets) + limit
    size = settings.page_size
    pages = -(-lengths // size)
    least, most = (int(pages.max()) + 1) * size, (int(pages.sum()) + 1) * size
    budget = max(settings.token_budget, settings.max_sequences)
    kv_tokens = settings.kv_tokens
    if kv_tokens is None and device.memory_bytes is None:
        kv_tokens = cpu_kv_tokens(shape.kv_bytes_per_token, least, most)
    elif kv_tokens is None:
        kv_tokens = min(kv_tokens_left(shape, device, budget, settings.max_sequences), max(most, least))
    if kv_tokens < least:
        return None
    found = simulate(
        plan,
        tokens,
        offsets,
        output,
        EngineSettings(kv_tokens, size, budget, settings.max_sequences),
        step_cost(shape, device),
    )
    return found, kv_tokens


def profile_digest(device: DeviceProfile) -> str:
    """Return a name of a device profile's figures, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(asdict(device), sort_keys=True).encode()).hexdigest()[:16]
