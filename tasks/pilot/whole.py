"""From the measured seconds of a sample to those of the whole night.

Both are simulated with the night's own scheduler, on a device whose speed is fitted to the steps that the
sample took; the whole takes the simulated seconds times what the sample took beyond its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.cost.devices import model_shape
from engine.cost.fit import fit
from engine.cost.metrics import StepSample
from engine.cost.step import step_cost
from engine.models.config import load_config
from engine.plan.policies import plan_tree
from engine.plan.tree import build_tree
from engine.simulate.simulate import simulate
from tasks.estimate.savings import Range
from tasks.estimate.trust import KEPT_ERROR
from tasks.plan.asked import Asked
from tasks.plan.lengths import workload_numbers
from tasks.plan.plan import constraints_of
from tasks.plan.prediction import expected_sizes
from tasks.requests.choices import Choices

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from engine.cost.profiles import DeviceProfile
    from engine.simulate.simulate import SimulatedRun
    from tasks.compare.measure import Measured
    from tasks.night.night import Night
    from tasks.plan.work import NightWork

LEAST_STEPS: Final = 30
"""Steps from which on a device profile is fitted to them."""
_T95: Final = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Student's t by degrees of freedom, from 1 on: 95 of 100 cases."""
_T95_MANY: Final = 2.0
ONE_ROUND: Final = 0.1
"""Relative error of a time that was measured only once."""


@dataclass(frozen=True)
class Sequences:
    """What an engine is asked, flat: one for each answer, those that share one counted once.

    Attributes
    ----------
    names
        (request_id, choice).
    tokens, offsets
        int32 [total], int64 [N + 1]: the prompts.
    limit, group
        int64 [N]: most output tokens; number of the workload.
    logged
        float64 [N], tokens; NaN where the log has no length.
    """

    rows: list[dict[str, Any]]
    names: list[tuple[str, int]]
    tokens: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    limit: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    logged: npt.NDArray[np.float64]

    @classmethod
    def of(cls, night: Night, work: NightWork) -> Sequences:
        """Return all sequences of some work, in input order."""
        asked = Asked.of(night, work, Choices())
        seen = [row["observed_output_tokens"] for row in asked.rows]
        return cls(
            asked.rows,
            [(name, choice) for name, choice, _ in asked.named],
            asked.tokens,
            asked.offsets,
            np.array([sampling.max_tokens for _, _, sampling in asked.named], np.int64),
            workload_numbers([row["workload"] for row in asked.rows]),
            np.array([np.nan if length is None else length for length in seen], np.float64),
        )

    def simulated(
        self, night: Night, policy: str, output: npt.NDArray[np.int32], device: DeviceProfile
    ) -> SimulatedRun | None:
        """Return a simulated run in an order; the scheduler knows mean lengths by workload."""
        settings = night.settings
        shape = model_shape(load_config(night.model_dir), settings.dtype, settings.kv_dtype)
        _, kind = np.unique(self.group, return_inverse=True)
        mean = np.bincount(kind, output) / np.maximum(np.bincount(kind), 1)
        priority, window = constraints_of(self.rows)
        made = plan_tree(
            policy,
            build_tree(self.tokens, self.offsets),
            np.minimum(mean[kind], self.limit),
            shape,
            device,
            seed=settings.run_seed,
            group=self.group,
            priority=priority,
            window=window,
        )
        sizes = expected_sizes(self.offsets, self.limit, shape, device, settings)
        if sizes is None:
            return None
        return simulate(made, self.tokens, self.offsets, output, sizes, step_cost(shape, device))


def fitted_device(night: Night, runs: Sequence[Measured]) -> tuple[DeviceProfile, bool]:
    """Return the device of a night as its steps show it, and whether it is fitted to them.

    A device that runs compute and memory work side by side keeps its profile, and so does one whose engine
    tells no steps: only the level of the times is learnt then.
    """
    device = night.settings.planned_on
    names = {field.name for field in fields(StepSample)}
    told = [sample for run in runs for sample in run.samples if names <= set(sample) and sample["tokens"]]
    steps = [StepSample(**{name: sample[name] for name in names}) for sample in told]
    steps = [step for step in steps if step.seconds > 0]
    if len(steps) < LEAST_STEPS or device.overlaps or device.pair:
        return device, False
    shape = model_shape(load_config(night.model_dir), night.settings.dtype, night.settings.kv_dtype)
    return fit(steps, shape, device).profile, True


def rounds_error(seconds: Sequence[Sequence[float]]) -> float:
    """Return the relative error of mean seconds over rounds, in 95 of 100 cases.

    Parameters
    ----------
    seconds
        For each of the orders the seconds of its rounds; how far rounds scatter is taken of all together.
    """
    logs = [np.log(np.array(one)) for one in seconds]
    degrees = sum(len(one) - 1 for one in logs)
    if degrees < 1:
        return ONE_ROUND
    spread = math.sqrt(sum(float(((one - one.mean()) ** 2).sum()) for one in logs) / degrees)
    t = _T95[degrees - 1] if degrees <= len(_T95) else _T95_MANY
    return t * spread / math.sqrt(min(len(one) for one in logs))


def levels(seconds: Sequence[Sequence[float]], simulated: Sequence[float]) -> list[float]:
    """Return for each order how much longer it took than simulated.

    All orders ran on one device, so they share one level; what an order deviates from it counts as far as
    chance does not explain it (positive-part James-Stein: the part 1 - variance / deviation**2).

    Parameters
    ----------
    seconds
        For each of the orders the seconds of its rounds.
    simulated
        The simulated seconds of each.
    """
    own = np.array(
        [math.log(float(np.mean(one)) / other) for one, other in zip(seconds, simulated, strict=True)]
    )
    rounds, orders = min(len(one) for one in seconds), len(own)
    logs = [np.log(np.array(one)) for one in seconds]
    degrees = orders * (rounds - 1)
    if degrees < 1:
        return [float(one) for one in np.exp(own)]
    variance = sum(float(((one - one.mean()) ** 2).sum()) for one in logs) / degrees / rounds
    away = own - own.mean()
    # Of a deviation from the mean of all orders, not of an order by itself.
    chance = variance * (1.0 - 1.0 / orders)
    part = np.maximum(0.0, 1.0 - chance / np.maximum(away**2, 1e-300))
    return [float(one) for one in np.exp(own.mean() + part * away)]


def around(central: float, *errors: float) -> Range:
    """Return a figure between the bounds that independent relative errors give it, `KEPT_ERROR` at least."""
    together = math.sqrt(sum(error**2 for error in errors) + KEPT_ERROR**2)
    return Range(central * math.exp(-together), central, central * math.exp(together))
