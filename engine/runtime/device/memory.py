"""How much KV memory a GPU has room for: what the largest step leaves, measured by running it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from engine.errors import CapacityError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEVICE_SHARE = 0.92
"""Share of the device's memory that the engine may fill; the rest is for fragmentation and the driver."""


class DeviceMemory(Protocol):
    """Memory of one device, in bytes."""

    def free_and_total(self) -> tuple[int, int]:
        """Return what no process holds, and all there is."""
        ...

    def peak_of(self, work: Callable[[], None]) -> int:
        """Return the most memory that `work` held at a time beyond what was allocated before it."""
        ...


class CudaMemory:
    """The memory of a CUDA device as torch's allocator and the driver report it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free_and_total(self) -> tuple[int, int]:
        """Return bytes that no process holds, and all there are."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self._device)
        return int(free), int(total)

    def peak_of(self, work: Callable[[], None]) -> int:
        """Return the most bytes that `work` held at a time beyond those allocated before it."""
        torch.cuda.synchronize(self._device)
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        work()
        torch.cuda.synchronize(self._device)
        return int(torch.cuda.max_memory_allocated(self._device)) - int(before)


def measured_kv_tokens(
    memory: DeviceMemory,
    parts: Sequence[Callable[[], None]],
    kv_bytes_per_token: int,
    page_size: int,
    share: float = DEVICE_SHARE,
) -> int:
    """Return the tokens of KV that fit beside what is allocated and what a step needs, in whole pages.

    Parameters
    ----------
    parts
        The parts of the largest step, each run once. Their peaks are added: what one part has freed is not
        always there for another (a graph keeps its own pool).

    Raises
    ------
    CapacityError
        If nothing is left.
    """
    needed = sum(memory.peak_of(part) for part in parts)
    free, total = memory.free_and_total()
    room = int(share * total) - (total - free) - needed
    # The page for padding comes on top of those that are handed out.
    pages = room // (kv_bytes_per_token * page_size) - 1
    if pages < 1:
        raise CapacityError(
            f"--device: {needed >> 20} MiB for a step leave no room for KV in the {free >> 20} MiB that are "
            f"free of {total >> 20} MiB; lower --token-budget or --max-sequences, or use a smaller model"
        )
    return pages * page_size
