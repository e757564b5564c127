"""What the planner's benchmark answers: mixes of the recipe, whole traces, and mixes nothing was tuned on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.cost.optimum import PRESETS
from engine.cost.step import NOMINAL
from tests.benchmarks.lib import sources, workloads
from tests.benchmarks.lib.holdout import holdout_mix

if TYPE_CHECKING:
    from tests.benchmarks.lib.sources import Source
    from tests.benchmarks.lib.workloads import Workload

SHAPE = PRESETS["llama-3.1-8b"]
MODEL = "Llama-3.1-8B"
HOLDOUT = "holdout"
ALONE = ("mooncake_alone", "chats", "mmlu", "pictures")
"""Traces by themselves: conversations that go on, chats of the lengths of ShareGPT, questions by subject; and
questions about pictures, which have the tokens that a model's processor makes of them."""


@dataclass(frozen=True)
class Mix:
    """What is to be answered, on which device.

    Attributes
    ----------
    base
        A key of `workloads.BASES`; ``mooncake`` or ``documents``, which take no `sharing`; one of `ALONE` or
        `HOLDOUT` and a seed, which take neither that nor a `density`.
    """

    device: str
    density: float
    sharing: float
    base: str = "azure"
    requests: int = workloads.REQUESTS

    @property
    def key(self) -> str:
        """A name that is a file name as well."""
        return f"{self.device}-{self.base}-d{self.density:.2f}-s{self.sharing:.2f}-n{self.requests}"

    def build(self, seed: int = 1) -> Workload:
        """Return the requests; those of the recipe are other ones with another seed."""
        device = NOMINAL[self.device]
        if self.base in workloads.BASES:
            return workloads.recipe(self.density, self.sharing, SHAPE, device, self.requests, self.base, seed)
        if self.base.startswith(HOLDOUT):
            return holdout_mix(int(self.base.removeprefix(HOLDOUT)), self.requests, SHAPE, device)
        if self.base in ALONE:
            return workloads.alone(self._source(seed), SHAPE, device)
        if self.base == "mooncake":
            source = sources.mooncake_source(self.requests)
        else:
            source = sources.documents_source(self.requests, seed=3)
        return workloads.with_videos(self.base, source, self.density, SHAPE, device)

    def _source(self, seed: int) -> Source:
        if self.base == "mooncake_alone":
            return sources.mooncake_source(self.requests)
        if self.base == "mmlu":
            return sources.mmlu_source(self.requests, seed)
        if self.base == "pictures":
            return sources.picture_source(self.requests, seed)
        return sources.length_source("chats", "sharegpt_lengths.csv", self.requests, seed)
