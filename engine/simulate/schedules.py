"""Schedules: an order policy with the settings that go with it, and which of them are worth a try."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from engine.plan.scan import HALF_RESERVE, RESERVE, WHOLE_RESERVE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.plan.policies import Plan
    from engine.runtime.settings import EngineSettings

BUDGETS: Final = (512, 1024, 2048)
"""Most tokens per step that are tried, up to what the engine is made for."""
THREE_QUARTERS: Final = (0.75, 0.75)
RESERVES: Final = (HALF_RESERVE, THREE_QUARTERS, WHOLE_RESERVE)
"""Reserves of `blend` that are tried (`engine.plan.scan.HALF_RESERVE`), the middle one with pacing alone.

None is best for everything. Simulated with overlap on half of Mooncake's conversations beside videos, half of
it, the default, loses 11 % to the whole on an A100 and 2 % to three quarters on an H200. On an A100 the whole
loses 4.5 % to half without the videos, 2.3 % on chats and code with many videos and little sharing (density
0.9, sharing 5 %), 1.3 % on long documents, and nothing on the other mixes; three quarters lose 3.3 % at most.
`make bench-plan` has all of them for every mix, among the candidates of its section `auto`.
"""


@dataclass(frozen=True)
class Schedule:
    """How requests are ordered, and how large the steps are.

    Attributes
    ----------
    policy
        A key of `engine.choices.POLICIES`.
    token_budget
        Most tokens per step.
    pacing
        Whether the remaining work decides how many tokens a step takes, at most `token_budget`.
    reserve
        Of `blend`: see `engine.plan.policies.Plan`.
    """

    policy: str
    token_budget: int
    pacing: bool
    reserve: tuple[float, float] = RESERVE

    def settings(self, most: EngineSettings) -> EngineSettings:
        """Return the sizes of an engine that follows it; `most` are the largest that there may be."""
        sequences = min(most.max_sequences, self.token_budget)
        return replace(most, token_budget=self.token_budget, max_sequences=sequences, pacing=self.pacing)

    def of(self, plan: Plan) -> Plan:
        """Return a plan of its policy with its reserve."""
        return replace(plan, reserve=self.reserve)

    def told(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**asdict(self), "reserve": list(self.reserve)}

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Schedule:
        """Return what `told` was made from."""
        left, less = told["reserve"]
        return cls(str(told["policy"]), int(told["token_budget"]), bool(told["pacing"]), (left, less))

    def __str__(self) -> str:
        """For people."""
        steps = "steps paced, up to" if self.pacing else "steps of up to"
        room = f", reserve {self.reserve[0]:g}" if self.policy == "blend" else ""
        return f"{self.policy}, {steps} {self.token_budget:,} tokens{room}"


def candidates(most: EngineSettings, *, order_only: bool = False) -> tuple[Schedule, ...]:
    """Return the schedules that have been the best one for some requests and device.

    Parameters
    ----------
    most
        The largest sizes of the engine. Pacing and budgets go up to its `token_budget`.
    order_only
        Whether the engine chooses its steps by itself, so that only orders can be chosen.
    """
    own = most.token_budget
    if order_only:
        return tuple(Schedule(policy, own, most.pacing) for policy in ("blend", "dfs"))
    steps = [(own, True), *((budget, False) for budget in sorted({*BUDGETS, own}) if budget <= own)]
    # The budget that a run has without a search is among them, larger ones than `BUDGETS` only as that.
    found = [
        Schedule("blend", budget, pacing, reserve)
        for reserve in RESERVES
        for budget, pacing in steps
        if pacing or reserve != THREE_QUARTERS
    ]
    return (*found, *(Schedule("dfs", budget, pacing) for budget, pacing in steps))
