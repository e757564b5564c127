"""Where the GPU benchmarks measure, how they time, and what a line of their tables holds."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch

from tests.engine.kernels.triton.launches import poisoned_allocations

if TYPE_CHECKING:
    from collections.abc import Callable


class Unmeasured(Exception):  # noqa: N818 - no error: it says why a part has no figures
    """Raised by a part that cannot be measured here; the message says why."""


class Row(NamedTuple):
    """One line of the table: a rate, its share of the ceiling, the error against float32 and its limit."""

    name: str
    value: float
    unit: str
    share: float | None = None
    error: float | None = None
    limit: float = 0.02

    def __str__(self) -> str:
        """The line."""
        share = "" if self.share is None else f"{self.share:8.1%} of its ceiling"
        wrong = "" if self.error is None else f"   error {self.error:.1e}"
        return f"{self.name:52}{self.value:12.4g} {self.unit:9}{share}{wrong}"


@dataclass(frozen=True)
class Bench:
    """Where and how to measure; `dry` is the CPU with tiny sizes, whose times mean nothing."""

    device: torch.device
    dtype: torch.dtype
    dry: bool

    def size(self, full: int, tiny: int) -> int:
        """`full` on a GPU, `tiny` in a dry run."""
        return tiny if self.dry else full

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Standard normal numbers; zeros would run faster than data does."""
        return torch.randn(*shape, device=self.device, dtype=torch.float32).to(dtype or self.dtype)

    @cached_property
    def _other(self) -> torch.Tensor:
        """Memory that no work uses, larger than any cache."""
        return torch.zeros(1 << 28, device=self.device)

    def seconds(self, *works: Callable[[], object], repeats: int = 20) -> float:
        """Median time of the works, which do the same on different inputs so that no cache serves them.

        Before each of them the device reads other memory. That empties its cache, and keeps it busy while the
        host queues the work, whose launches would be timed otherwise.
        """
        for work in works:
            work()
        if self.device.type != "cuda":
            begin = time.perf_counter()
            works[0]()
            return time.perf_counter() - begin
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for i, (begun, ended) in enumerate(events):
            self._other.sum()
            begun.record()
            works[i % len(works)]()
            ended.record()
        torch.cuda.synchronize()
        return statistics.median(begun.elapsed_time(ended) / 1e3 for begun, ended in events)


def checked(run: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Return what an operation gives if the memory for its results holds nonsense before."""
    with poisoned_allocations():
        return run()
