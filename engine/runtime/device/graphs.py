"""CUDA graphs of whole steps: a launch costs one call instead of hundreds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.runtime.schedule.buckets import Bucket, HalvedBucket

    AnyBucket = Bucket | HalvedBucket


class StepGraphs:
    """Runs steps by their bucket: from a captured graph where there is one, else directly.

    Parameters
    ----------
    run
        Computes the step in the fixed buffers. It must not read anything back from the device, and leaves
        its results in fixed buffers too.
    """

    def __init__(self, run: Callable[[AnyBucket], None], device: torch.device) -> None:
        self._run, self._device = run, device
        self._graphs: dict[AnyBucket, torch.cuda.CUDAGraph] = {}
        self._wanted: frozenset[AnyBucket] = frozenset()
        self._pool: Any = None
        self._side: torch.cuda.Stream | None = None

    def __call__(self, bucket: AnyBucket) -> None:
        """Compute the step in the buffers."""
        graph = self._graphs.get(bucket)
        if graph is None and bucket in self._wanted:
            graph = self._capture(bucket)
        if graph is None:
            self._run(bucket)
        else:
            graph.replay()

    def ready(self, bucket: AnyBucket) -> bool:
        """Return whether a step is as fast as it can be: it has a graph, or there are none at all."""
        return not self._wanted or bucket in self._wanted

    def capture(self, buckets: Sequence[AnyBucket], *, lazily: bool = False) -> int:
        """Capture a graph for each bucket and return how many there are; none on the CPU.

        `buckets` come largest first: all graphs share one pool of memory, in which a later one then finds
        room that an earlier one has taken. That is safe because steps run one after the other. Captured
        lazily, a graph is made when its bucket is first asked for: for a few steps out of many kinds.
        """
        if self._device.type != "cuda":
            return 0
        self._wanted = frozenset(buckets)
        if not lazily:
            for bucket in buckets:
                self._capture(bucket)
        torch.cuda.synchronize(self._device)
        return len(self._graphs)

    def _capture(self, bucket: AnyBucket) -> torch.cuda.CUDAGraph:
        # One for all: memory that one stream has freed is not there for another.
        side = self._side = self._side or torch.cuda.Stream(self._device)
        current = torch.cuda.current_stream(self._device)
        with torch.inference_mode():
            # The first run of a shape compiles kernels and chooses algorithms, which no graph may hold.
            side.wait_stream(current)
            with torch.cuda.stream(side):
                self._run(bucket)
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=side):
                self._run(bucket)
        self._pool, self._graphs[bucket] = graph.pool(), graph
        return graph
