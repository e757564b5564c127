"""Which order a night takes and in what steps: as its settings say, or the fastest that a search finds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from engine.choices import AUTO_ORDER
from engine.runtime.settings import EngineSettings
from engine.simulate.schedules import Schedule, candidates
from engine.simulate.search import search
from tasks.plan.prediction import profile_digest

if TYPE_CHECKING:
    from engine.cost.profiles import DeviceProfile
    from engine.cost.step import ModelShape
    from engine.simulate.search import Work
    from tasks.night.night import Night

DEFAULT: Final = "blend"
"""The order that is taken where nothing can be searched."""
CHOICE: Final = "choice"
"""Of the results of step plan: what `auto` has chosen; None where the settings name an order."""


def choose(
    night: Night, work: Work, shape: ModelShape, device: DeviceProfile, most: EngineSettings | None
) -> tuple[Schedule, dict[str, Any] | None]:
    """Return the schedule of a night, and what a search found.

    A run that is resumed keeps what it has chosen, as long as device and sizes are those it was chosen for.

    Parameters
    ----------
    most
        Memory and largest sizes of the engine; None where the memory is not known to hold every request.

    Returns
    -------
    (schedule, told)
        `told` is as `engine.simulate.search.Choice.told` returns it, and `chosen_for`: the digest of the
        device profile, engine, and sizes. None if the settings name an order.
    """
    settings = night.settings
    paced = bool(night.engine.options.get("pacing", False))
    policy = DEFAULT if settings.policy == AUTO_ORDER else settings.policy
    plain = Schedule(policy, max(settings.token_budget, settings.max_sequences), paced)
    if settings.policy != AUTO_ORDER:
        return plain, None
    chosen_for = [
        profile_digest(device),
        settings.engine,
        settings.kv_tokens,
        settings.token_budget,
        settings.max_sequences,
    ]
    recorded = recorded_choice(night)
    if recorded is not None and recorded["chosen_for"] == chosen_for:
        return Schedule.read(recorded["schedule"]), recorded
    sizes = most or EngineSettings(1, settings.page_size, plain.token_budget, settings.max_sequences)
    # Servers elsewhere take the order alone.
    tried = candidates(replace(sizes, pacing=paced), order_only=not night.engine.capabilities.paced)
    tried = tuple(dict.fromkeys((plain, *tried)))
    if any(option.startswith("pacing=") for option in settings.engine_options):
        tried = tuple(one for one in tried if one.pacing == paced)
    found = search(work, tried if most else tried[:1], shape, device, sizes, seed=settings.run_seed)
    return found.schedule, {**found.told(), "chosen_for": chosen_for}


def recorded_choice(night: Night) -> dict[str, Any] | None:
    """Return what the last plan of this run has chosen, if it has."""
    step = night.log.state.steps.get("plan")
    return None if step is None else step.results.get(CHOICE)
