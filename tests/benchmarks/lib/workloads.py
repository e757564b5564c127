"""Mixes of a given density and sharing, after the recipe of BlendServe (Zhao et al., ASPLOS 2026).

One compute-bound trace, video generations for the memory traffic, and 5-shot MMLU for the sharing. The counts
of the three are solved so that the density of the whole after sharing and its best hit rate are as asked:

    density  = sum of compute seconds with every shared prefix computed once / sum of KV read seconds
    hit rate = prompt tokens reused / prompt tokens, with unlimited memory
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.lib import sources
from tests.benchmarks.lib.sources import FIRST_ID, LAST_ID, SYSTEM_TOKENS, Source

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from engine.cost.step import DeviceProfile, ModelShape

    Int16 = npt.NDArray[np.int16]
    Int32 = npt.NDArray[np.int32]
    Int64 = npt.NDArray[np.int64]
    Float64 = npt.NDArray[np.float64]

REQUESTS = 30_000
BURST = 32
"""Requests of one source arrive in bursts of this mean size."""
TRACES = {"#1": (1.4, 0.35), "#2": (0.9, 0.35), "#3": (1.4, 0.05), "#4": (0.9, 0.05)}
"""Density and sharing of the published main traces."""
GRID = [(round(0.8 + 0.05 * i, 2), round(0.05 + 0.1 * j, 2)) for i in range(13) for j in range(5)]
"""Density and sharing of the 65 published synthetic mixes."""


@dataclass(frozen=True)
class Workload:
    """N requests in order of arrival.

    Attributes
    ----------
    name
        The mix.
    tokens, start
        int32 [tokens], int64 [N + 1]: the prompts, flat: ``tokens[start[i]:start[i + 1]]``.
    output
        int32 [N]: true answer lengths.
    workload
        int16 [N]: index into `workloads`, the names of the sources.
    density, hit_rate
        Of the whole, as solved for.
    """

    name: str
    tokens: Int32
    start: Int64
    output: Int32
    workload: Int16
    workloads: tuple[str, ...]
    density: float
    hit_rate: float

    @property
    def requests(self) -> int:
        """The number of requests."""
        return int(self.output.shape[0])

    @property
    def total_tokens(self) -> int:
        """Prompt and answer tokens."""
        return int(self.start[-1] + self.output.sum(dtype=np.int64))

    def take(self, chosen: Int64) -> Workload:
        """Return the requests with these indices; density and hit rate stay those of the whole."""
        length = np.diff(self.start)[chosen]
        start = np.concatenate(([0], np.cumsum(length))).astype(np.int64)
        tokens = np.empty(start[-1], np.int32)
        for to, request in enumerate(chosen):
            tokens[start[to] : start[to + 1]] = self.tokens[self.start[request] : self.start[request + 1]]
        return replace(
            self,
            tokens=tokens,
            start=start,
            output=self.output[chosen],
            workload=self.workload[chosen],
        )

    def sample(self, count: int, seed: int = 0) -> Workload:
        """Return a stratified sample: every source in proportion, long and short answers in proportion."""
        if count >= self.requests:
            return self
        # Every so-many-th request by source and answer length, from a random place on.
        order = np.lexsort((self.output, self.workload))
        step = self.requests / count
        first = np.random.default_rng(seed).uniform(0, step)
        return self.take(np.sort(order[(first + step * np.arange(count)).astype(np.int64)]))


@dataclass(frozen=True)
class _Sums:
    """Running sums over a source's sequence: entry n is the sum over its first n requests."""

    prompt: Float64
    shared: Float64
    compute: Float64
    memory: Float64

    @classmethod
    def of(cls, source: Source, shape: ModelShape, device: DeviceProfile) -> _Sums:
        p, c = source.prompt.astype(np.float64), source.shared.astype(np.float64)
        d = source.output.astype(np.float64)
        compute = shape.request_flops(p, c, d) / device.flops
        memory = shape.request_kv_bytes(p, d) / device.read_bytes
        columns = (np.concatenate(([0.0], np.cumsum(x))) for x in (p, c, compute, memory))
        return cls(*columns)


def _first_at(low: int, high: int, reached: Callable[[int], bool]) -> int:
    """Return the first integer of ``low .. high`` at which `reached` holds, or `high`."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle + 1, high)
    return low


def solve(
    base: list[_Sums], video: _Sums, mmlu: _Sums, requests: int, density: float, hit_rate: float
) -> tuple[int, int, int]:
    """Return the counts of compute-bound, video and MMLU requests, at least `requests` together.

    A video weighs as much as a hundred others, so the total gives way: it is the smallest that meets the
    density with a whole number of videos.

    Raises
    ------
    ValueError
        If no counts reach the density and the hit rate within 1 %.
    """

    def figures(total: int, videos: int, questions: int) -> tuple[float, float]:
        counts = [*split(total - videos - questions, len(base)), videos, questions]
        prompt, shared, compute, memory = add_up([*base, video, mmlu], counts)
        return compute / max(memory, 1e-12), shared / prompt

    def questions_for(total: int, videos: int) -> int:
        return _first_at(0, total - videos, lambda m: figures(total, videos, m)[1] >= hit_rate)

    def density_of(total: int, videos: int) -> float:
        return figures(total, videos, questions_for(total, videos))[0]

    videos = _first_at(0, requests, lambda v: density_of(requests, v) <= density)
    most = len(video.prompt) - 1
    total = _first_at(requests, most, lambda n: density_of(n, videos) >= density)
    questions = questions_for(total, videos)
    found = figures(total, videos, questions)
    if abs(found[0] / density - 1) > 0.01 or abs(found[1] / hit_rate - 1) > 0.01:
        raise ValueError(f"density {density} and sharing {hit_rate}: the nearest are {found}")
    return total - videos - questions, videos, questions


def add_up(sums: list[_Sums], counts: list[int]) -> list[float]:
    """Return prompt tokens, shared tokens, compute and memory seconds of the first `counts` of each."""
    fields = ("prompt", "shared", "compute", "memory")
    return [float(sum(getattr(s, f)[n] for s, n in zip(sums, counts, strict=True))) for f in fields]


def split(count: int, parts: int) -> list[int]:
    """Return `count` divided into `parts` almost equal numbers."""
    return [(count + i) // parts for i in range(parts)]


BASES: dict[str, tuple[tuple[str, str], ...]] = {
    "azure": (
        ("code", "AzureLLMInferenceTrace_code.csv"),
        ("conversation", "AzureLLMInferenceTrace_conv.csv"),
    ),
    "code": (("code", "AzureLLMInferenceTrace_code.csv"),),
    "conversation": (("conversation", "AzureLLMInferenceTrace_conv.csv"),),
    "sharegpt": (("sharegpt", "sharegpt_lengths.csv"),),
}
"""The compute-bound part of a mix: name -> its workloads in equal numbers, with their files."""


def recipe(
    density: float,
    hit_rate: float,
    shape: ModelShape,
    device: DeviceProfile,
    requests: int = REQUESTS,
    base: str = "azure",
    seed: int = 1,
) -> Workload:
    """Return a mix of the recipe, solved for its density on `device` and its hit rate.

    Parameters
    ----------
    density, hit_rate
        The targets.
    requests
        The least N.
    base
        A key of `BASES`.

    Raises
    ------
    ValueError
        If no counts reach the targets within 1 %.
    """
    names = BASES[base]
    # The solved total is above `requests` by up to one video's part.
    most = requests + max(requests // 4, 2_000)
    parts = [
        sources.length_source(name, file, most // len(names) + 1, seed + i)
        for i, (name, file) in enumerate(names)
    ]
    parts += [sources.video_source(most, seed + 11), sources.mmlu_source(most, seed + 12)]
    sums = [_Sums.of(s, shape, device) for s in parts]
    rest, videos, questions = solve(sums[:-2], sums[-2], sums[-1], requests, density, hit_rate)
    name = f"{base} density {density:.2f} sharing {hit_rate:.0%}"
    return assemble(name, parts, [*split(rest, len(names)), videos, questions], sums, seed)


def with_videos(
    name: str, source: Source, density: float, shape: ModelShape, device: DeviceProfile, seed: int = 1
) -> Workload:
    """Return a whole source and as many video generations as bring the density down to `density`."""
    video = sources.video_source(20 * source.prompt.size, seed + 11)
    sums = [_Sums.of(s, shape, device) for s in (source, video)]
    count = source.prompt.size
    videos = _first_at(
        0,
        20 * count,
        lambda v: (
            sums[0].compute[count] + sums[1].compute[v]
            <= density * (sums[0].memory[count] + sums[1].memory[v])
        ),
    )
    return assemble(f"{name} density {density:.2f}", [source, video], [count, videos], sums, seed)


def alone(source: Source, shape: ModelShape, device: DeviceProfile, seed: int = 1) -> Workload:
    """Return a whole source and nothing else."""
    sums = [_Sums.of(source, shape, device)]
    return assemble(source.name, [source], [source.prompt.size], sums, seed)


def assemble(name: str, parts: list[Source], counts: list[int], sums: list[_Sums], seed: int) -> Workload:
    """Return the first `counts` requests of each source, in a seeded order of arrival.

    Every source hands in its requests in its own order and in bursts; the bursts of all sources are shuffled.
    """
    rng = np.random.default_rng((seed, 5))
    bursts = [
        (part, burst)
        for part, count in enumerate(counts)
        for burst in np.array_split(np.arange(count), max(1, count // BURST))
        if burst.size
    ]
    by_arrival = [bursts[i] for i in rng.permutation(len(bursts))]
    workload = np.repeat([part for part, _ in by_arrival], [burst.size for _, burst in by_arrival])
    place = np.concatenate([burst for _, burst in by_arrival])
    # How the bursts of one source were shuffled must not change which of its requests comes first.
    length, output = np.empty(place.size, np.int64), np.empty(place.size, np.int32)
    for part, source in enumerate(parts):
        mine = workload == part
        place[mine] = np.arange(counts[part])
        length[mine], output[mine] = source.prompt[place[mine]], source.output[place[mine]]
    start = np.concatenate(([0], np.cumsum(length))).astype(np.int64)
    tokens = rng.integers(FIRST_ID, LAST_ID, int(start[-1]), dtype=np.int32)
    systems = rng.integers(FIRST_ID, LAST_ID, (len(parts), SYSTEM_TOKENS), dtype=np.int32)
    for i in range(place.size):
        at = start[i] + SYSTEM_TOKENS
        tokens[start[i] : at] = systems[workload[i]]
        text = parts[workload[i]].text
        if text is not None:
            ids = text[place[i]]
            tokens[at : at + ids.size] = ids
    prompt, shared, compute, memory = add_up(sums, counts)
    return Workload(
        name=name,
        tokens=tokens,
        start=start,
        output=output,
        workload=workload.astype(np.int16),
        workloads=tuple(source.name for source in parts),
        density=compute / max(memory, 1e-12),
        hit_rate=shared / prompt,
    )
