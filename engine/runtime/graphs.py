"""CUDA graphs of whole steps: a launch costs one call instead of hundreds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.runtime.buckets import Bucket


class StepGraphs:
    """Runs steps by their bucket: from a captured graph where there is one, else directly.

    Parameters
    ----------
    run
        Computes the step in the fixed buffers. It must not read anything back from the device, and leaves
        its results in fixed buffers too.
    """

    def __init__(self, run: Callable[[Bucket], None], device: torch.device) -> None:
        self._run, self._device = run, device
        self._graphs: dict[Bucket, torch.cuda.CUDAGraph] = {}

    def __call__(self, bucket: Bucket) -> None:
        """Compute the step in the buffers."""
        graph = self._graphs.get(bucket)
        if graph is None:
            self._run(bucket)
        else:
            graph.replay()

    def capture(self, buckets: Sequence[Bucket]) -> int:
        """Capture a graph for each bucket and return how many there are; none on the CPU.

        `buckets` come largest first: all graphs share one pool of memory, in which a later one then finds
        room that an earlier one has taken. That is safe because steps run one after the other.
        """
        if self._device.type != "cuda":
            return 0
        pool = None
        # One for all: memory that one stream has freed is not there for another.
        side = torch.cuda.Stream(self._device)
        with torch.inference_mode():
            for bucket in buckets:
                # The first run of a shape compiles kernels and chooses algorithms, which no graph may hold.
                side.wait_stream(torch.cuda.current_stream(self._device))
                with torch.cuda.stream(side):
                    self._run(bucket)
                torch.cuda.current_stream(self._device).wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, stream=side):
                    self._run(bucket)
                pool = graph.pool()
                self._graphs[bucket] = graph
        torch.cuda.synchronize(self._device)
        return len(self._graphs)
