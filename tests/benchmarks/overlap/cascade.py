"""Part of the overlap benchmark: decode attention that reads shared pages once, beside the plain one."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from engine.cost.step import DeviceProfile, ModelShape, group_saving, step_cost
from engine.kernels.cascade_attention import SharedPages, cascade_attention
from engine.kernels.decode_attention import decode_attention
from engine.runtime.kv.shared_pages import find_groups, make_groups, make_room
from tests.benchmarks.gpu.bench import Bench, Row
from tests.benchmarks.gpu.engine import LLAMA_8B, TINY
from tests.benchmarks.overlap.pair import PAGE, graphed
from tests.engine.kernels.triton.launches import relative_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from engine.cost.step import StepCost

PREFIXES, SUFFIXES, GROUPS = (512, 4096, 16384, 32768), (256, 2048, 8192), (8, 64, 256)
GOAL = (16384, 256, 64)
SPARE_BYTES = 8 << 30
"""Memory that the cache leaves to everything else."""


class Cell(NamedTuple):
    """Tokens that all sequences share, tokens that each has of its own, and how many sequences."""

    prefix: int
    suffix: int
    group: int

    @property
    def tokens(self) -> int:
        """Tokens of KV in memory."""
        return self.prefix + self.group * self.suffix

    @property
    def name(self) -> str:
        """Key in the results."""
        return "/".join(map(str, self))


class Times(NamedTuple):
    """Seconds of plain and of cascade attention, and how far their results are apart."""

    plain: float
    cascade: float
    error: float


@dataclass(frozen=True)
class Layer:
    """The KV cache of one layer of Llama-3.1-8B, large enough for every cell."""

    bench: Bench
    tokens: int

    @cached_property
    def shape(self) -> ModelShape:
        """Of a model of this layer alone."""
        small: dict[str, Any] = {**TINY, "head_dim": 16} if self.bench.dry else {}
        config = replace(LLAMA_8B, **{**small, "layers": 1, "windows": (None,)})
        return ModelShape.of(config, self.cache.element_size())

    @cached_property
    def cache(self) -> Tensor:
        """[pages, 2, kv heads, page size, head dim]."""
        heads, dim = self.bench.size(LLAMA_8B.kv_heads, 2), self.bench.size(LLAMA_8B.head_dim, 16)
        return self.bench.random(-(-self.tokens // PAGE), 2, heads, PAGE, dim)

    def tables(self, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
        """Return block tables int32 [group, pages] on pages in random order, and contexts int32 [group]."""
        shared, own = cell.prefix // PAGE, -(-cell.suffix // PAGE)
        order = np.random.default_rng(7).permutation(self.cache.shape[0]).astype(np.int32)
        common = np.broadcast_to(order[:shared], (cell.group, shared))
        rest = order[shared : shared + cell.group * own].reshape(cell.group, own)
        context = np.full(cell.group, cell.prefix + cell.suffix, np.int32)
        return np.ascontiguousarray(np.concatenate((common, rest), 1)), context

    def times(self, cell: Cell) -> Times:
        """Measure both on the same inputs."""
        bench, cache = self.bench, self.cache
        pages, context = self.tables(cell)
        table, lengths = (torch.from_numpy(x).to(bench.device) for x in (pages, context))
        heads = bench.size(LLAMA_8B.heads, 4)
        q = bench.random(cell.group, heads, cache.shape[-1])
        one = torch.arange(cell.group, dtype=torch.int32, device=bench.device)
        group = SharedPages(
            torch.full_like(one, cell.prefix // PAGE), one, one[:1].new_tensor([0, cell.group])
        )
        out = [torch.full_like(q, torch.nan) for _ in range(2)]
        options = {"scale": q.shape[-1] ** -0.5}
        plain = partial(decode_attention, q, cache, table, lengths, out=out[0], **options)
        cascade = partial(cascade_attention, q, cache, table, lengths, group, out=out[1], **options)
        seconds = [warm_seconds(bench, work) for work in (plain, cascade)]
        return Times(*seconds, relative_error(out[1], out[0]))

    def used(self, cell: Cell, cost: StepCost) -> bool:
        """Return whether the engine would read the shared pages once."""
        pages, context = self.tables(cell)
        count = cell.group
        room, groups = make_room(count, self.cache.shape[0]), make_groups(count)
        slot = np.arange(count, dtype=np.int32)
        return find_groups(pages, slot, context, count, PAGE, cost, room, groups) > 0.0


def warm_seconds(bench: Bench, work: Callable[[], object], runs: int = 5, repeats: int = 10) -> float:
    """Return the time of `work` in a captured graph, run after run: what fits into the cache is in it."""

    def several() -> None:
        for _ in range(1 if bench.dry else runs):
            work()

    run = graphed(bench, several)
    run()
    if bench.device.type != "cuda":
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for begun, ended in events:
        begun.record()
        run()
        ended.record()
    torch.cuda.synchronize()
    return statistics.median(begun.elapsed_time(ended) for begun, ended in events) / 1e3 / runs


def cells(bench: Bench) -> tuple[list[Cell], list[Cell]]:
    """Return the cells of the grid that fit into memory, and those that do not."""
    if bench.dry:
        return [Cell(48, 20, 2), Cell(16, 1, 3)], []
    per_token = 4 * LLAMA_8B.kv_heads * LLAMA_8B.head_dim
    room = (torch.cuda.mem_get_info()[0] - SPARE_BYTES) // (3 * per_token)
    every = [Cell(*values) for values in itertools.product(PREFIXES, SUFFIXES, GROUPS)]
    return [c for c in every if c.tokens <= room], [c for c in every if c.tokens > room]


def fit(shape: ModelShape, device: DeviceProfile, times: dict[Cell, Times]) -> DeviceProfile:
    """Return the profile with the factor and the seconds by which it is decided.

    The seconds saved, as a part of those of plain attention, are fitted by least squares. The constant is
    then raised until no cell that lost is read together: few cells are near the border, and none may lose.
    """
    members = step_cost(shape, device).shared_member
    each = shape.kv_bytes_per_token / device.read_bytes
    rows, wanted = [], []
    for cell, found in times.items():
        repeated = (cell.group - 1) * cell.prefix * each
        saved = found.plain - found.cascade + cell.group * members * each
        rows.append((repeated / found.plain, -1.0 / found.plain))
        wanted.append(saved / found.plain)
    part, constant = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0].tolist()
    if constant < 0.0:
        constant, x = 0.0, np.array(rows)[:, 0]
        part = float(x @ np.array(wanted) / (x @ x))
    profile = replace(device, shared_read=min(max(1.0 - part, 0.0), 1.0))
    cost = step_cost(shape, profile)
    lost = [
        group_saving(cost, float(cell.group), float(cell.prefix)) * each
        for cell, found in times.items()
        if found.cascade > found.plain
    ]
    # A little more, so that rounding does not decide.
    return replace(profile, shared_seconds=max(constant, *((1 + 1e-6) * x for x in lost)))


def cascade(bench: Bench, figures: dict[str, Any]) -> tuple[dict[str, Any], list[Row]]:
    """Cascade beside plain decode attention on the grid, and the switch that is fitted to it."""
    measured, skipped = cells(bench)
    layer = Layer(bench, max(cell.tokens for cell in measured) + len(GROUPS) * PAGE * max(GROUPS))
    times = {cell: layer.times(cell) for cell in measured}
    read = 1e9 * figures["read_gb_s"]
    device = DeviceProfile(figures["device"], "measured", 1.0, read, 1.0, read, overlaps=False)
    fitted = fit(layer.shape, device, times)
    cost = step_cost(layer.shape, fitted)
    table, rows = {}, []
    for cell, found in times.items():
        ratio, used = found.plain / found.cascade, layer.used(cell, cost)
        table[cell.name] = {
            "plain_ms": 1e3 * found.plain,
            "cascade_ms": 1e3 * found.cascade,
            "raw_speedup": ratio,
            "used": used,
            "speedup": ratio if used else 1.0,
            "error": found.error,
        }
        label = f"prefix/suffix/group {cell.name}" + " (plain is used)" * (not used)
        rows.append(Row(label, ratio, "x", error=found.error))
    goal = table[Cell(*GOAL).name if not bench.dry else measured[0].name]
    result: dict[str, Any] = {
        "cascade_speedup_16k_256_64": goal["speedup"],
        "cascade_min": min(row["speedup"] for row in table.values()),
        "cascade_min_raw": min(row["raw_speedup"] for row in table.values()),
        "cascade_plain_cells": [name for name, row in table.items() if not row["used"]],
        "cascade_skipped_cells": [cell.name for cell in skipped],
        "cascade_cells": table,
        "shared_read": fitted.shared_read,
        "shared_seconds": fitted.shared_seconds,
    }
    if "profile" in figures:
        # The profile that is written beside the results has the switch too.
        kept = {name: result[name] for name in ("shared_read", "shared_seconds")}
        result["profile"] = {**figures["profile"], **kept}
    rows.append(Row("part of shared KV bytes that each further reader costs", fitted.shared_read, ""))
    rows.append(Row("and in each layer", 1e6 * fitted.shared_seconds, "us"))
    return result, rows
