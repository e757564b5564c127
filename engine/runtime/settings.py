"""Sizes of the engine, for whoever plans or simulates a run: without the model, and so without torch."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import CapacityError
from engine.runtime.schedule.forecast import RULES


@dataclass(frozen=True)
class EngineSettings:
    """Sizes of the engine.

    Attributes
    ----------
    kv_tokens
        KV memory in tokens, rounded down to whole pages.
    page_size
        Tokens per page.
    token_budget
        Most tokens computed in one step; at least `max_sequences`.
    max_sequences
        Most requests running at a time.
    pacing
        Let the remaining work decide how many tokens a step computes, at most `token_budget`: for devices
        that overlap compute and memory work.
    admission
        What has to fit into memory for a request to be admitted: a key of
        `engine.runtime.schedule.forecast.RULES`.
    verify
        Check the invariants of the page pool after every step (slow; for tests).
    """

    kv_tokens: int
    page_size: int = 16
    token_budget: int = 1024
    max_sequences: int = 256
    pacing: bool = False
    admission: str = "peak"
    verify: bool = False

    def __post_init__(self) -> None:
        if self.token_budget < self.max_sequences:
            raise CapacityError(
                f"token_budget: {self.token_budget} is below max_sequences = {self.max_sequences}; "
                "every running request needs one token per step"
            )
        if self.admission not in RULES:
            raise CapacityError(f"admission: {self.admission!r} is unknown; choose one of {', '.join(RULES)}")
