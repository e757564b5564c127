"""Parts of the overlap benchmark: one layer's matrix products and a decode attention, apart and together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from engine.kernels.backend import kernel, tl
from engine.kernels.decode_attention import decode_attention
from engine.models.lanes import carveout
from tests.benchmarks.gpu.bench import Bench, Row, Unmeasured
from tests.benchmarks.gpu.engine import LLAMA_8B
from tests.benchmarks.gpu.report import driver
from tests.benchmarks.overlap.green import green_streams
from tests.engine.kernels.triton.launches import relative_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Streams = tuple[torch.cuda.Stream, torch.cuda.Stream]

BLOCKS = (8, 16, 24, 32, 38, 48, 64, 96, 132)
"""Blocks of decode attention whose read rate is measured."""
KEPT = (16, 24, 32, 40, 48, 64)
"""Multiprocessors kept for attention, of the pair: multiples of 8, as green contexts have them."""
ROWS = (128, 256, 512, 1024, 2048, 4096)
BALANCED_ROWS = 1024
PAGE = 16


@dataclass(frozen=True)
class Layer:
    """The four matrix products of a layer of Llama-3.1-8B on `rows` tokens, and attention over `kv` tokens.

    The products read their own inputs and write their own outputs: nothing orders them but their stream.
    """

    bench: Bench
    rows: int
    sequences: int
    length: int

    @cached_property
    def matrices(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Input, weight and output of each product."""
        config, bench = LLAMA_8B, self.bench
        hidden, inner = bench.size(config.hidden_size, 32), bench.size(config.intermediate_size, 48)
        packed = bench.size((config.heads + 2 * config.kv_heads) * config.head_dim, 64)
        shapes = ((hidden, packed), (hidden, hidden), (hidden, 2 * inner), (inner, hidden))
        return [
            (
                bench.random(self.rows, i),
                bench.random(o, i) / i**0.5,
                torch.zeros((self.rows, o), dtype=bench.dtype, device=bench.device),
            )
            for i, o in shapes
        ]

    @cached_property
    def attended(self) -> dict[str, Any]:
        """Arguments of decode attention."""
        config, bench = LLAMA_8B, self.bench
        heads, kv_heads, dim = (
            bench.size(config.heads, 4),
            bench.size(config.kv_heads, 2),
            bench.size(128, 16),
        )
        pages = self.sequences * -(-self.length // PAGE)
        q = bench.random(self.sequences, heads, dim)
        order = torch.randperm(pages, device=bench.device).to(torch.int32).view(self.sequences, -1)
        return {
            "q": q,
            "cache": bench.random(pages, 2, kv_heads, PAGE, dim),
            "block_table": order,
            "context": torch.full((self.sequences,), self.length, dtype=torch.int32, device=bench.device),
            "scale": dim**-0.5,
            "out": torch.zeros_like(q),
        }

    @property
    def kv_bytes(self) -> int:
        """Bytes that attention reads."""
        return self.attended["cache"].nbytes

    @property
    def flops(self) -> int:
        """Of all products."""
        return sum(2 * x.shape[0] * w.numel() for x, w, _ in self.matrices)

    def products(self) -> None:
        """Compute the four products."""
        for x, w, out in self.matrices:
            torch.mm(x, w.t(), out=out)

    def attend(self, blocks: int | None = None) -> None:
        """Compute attention on so many blocks."""
        decode_attention(**self.attended, programs=blocks)

    def outputs(self) -> list[Tensor]:
        """Return copies of all results, and fill them with nonsense."""
        kept = [*(out for _, _, out in self.matrices), self.attended["out"]]
        found = [out.clone() for out in kept]
        for out in kept:
            out.fill_(12345.0)
        return found


def some(bench: Bench, values: tuple[int, ...]) -> tuple[int, ...]:
    """Return `values`, in a dry run the first and the last."""
    return values if not bench.dry else (values[0], values[-1])


def multiprocessors(bench: Bench) -> int:
    """Return how many the device has; of a stand-in 132."""
    if bench.device.type != "cuda":
        return 132
    return int(torch.cuda.get_device_properties(bench.device).multi_processor_count)


def beside(first: Callable[[], None], second: Callable[[], None], lanes: Streams | None) -> None:
    """Run both on their lanes, from and back to the current stream; one after the other without lanes."""
    if lanes is None:
        first()
        second()
        return
    current = torch.cuda.current_stream()
    for lane, work in zip(lanes, (first, second), strict=True):
        lane.wait_stream(current)
        with torch.cuda.stream(lane):
            work()
    for lane in lanes:
        current.wait_stream(lane)


class Lanes:
    """The streams of the strategies; on the CPU there are none."""

    def __init__(self, bench: Bench) -> None:
        self._cuda, self._all = bench.device.type == "cuda", multiprocessors(bench)
        self._green: dict[int, Streams] = {}

    @cached_property
    def plain(self) -> Streams | None:
        """One of high priority for attention, which is to get its blocks first, and one for products."""
        if not self._cuda:
            return None
        return torch.cuda.Stream(priority=-1), torch.cuda.Stream()

    def green(self, kept: int) -> Streams | None:
        """Streams of green contexts of `kept` multiprocessors and of the others.

        Raises
        ------
        Unmeasured
            If the driver has none, or the two share multiprocessors.
        """
        if not self._cuda:
            return None
        if kept not in self._green:
            lanes = green_streams(kept)
            used = [used_multiprocessors(lane, self._all) for lane in lanes]
            if used[0] & used[1]:
                raise Unmeasured(f"green contexts share {len(used[0] & used[1])} multiprocessors")
            self._green[kept] = lanes
        return self._green[kept]


@kernel
def where_kernel(out: tl.tensor) -> None:
    """Write the number of the multiprocessor that each block runs on, after a while."""
    block = tl.program_id(0)
    place = tl.inline_asm_elementwise(
        "mov.u32 $0, %smid;", "=r,r", [block], dtype=tl.int32, is_pure=False, pack=1
    )
    # Long enough that the blocks of a launch are spread over all there are.
    total = 0.0
    for i in range(20000):
        total += tl.sqrt(i * 1.0 + block)
    tl.store(out + block, tl.where(total < 0, -1, place))


def used_multiprocessors(stream: torch.cuda.Stream, count: int) -> set[int]:
    """Return which multiprocessors the blocks of a stream get."""
    with torch.cuda.stream(stream):
        found = torch.full((4 * count,), -1, dtype=torch.int32, device="cuda")
        where_kernel[(4 * count,)](found)
    stream.synchronize()
    return set(found.tolist()) - {-1}


def graphed(bench: Bench, work: Callable[[], None]) -> Callable[[], None]:
    """Return a captured graph of `work`; itself on the CPU."""
    if bench.device.type != "cuda":
        return work
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def curves(bench: Bench, figures: dict[str, Any]) -> tuple[dict[str, Any], list[Row]]:
    """Read rate of decode attention by its blocks; rate of the products by rows and by what they may use."""
    del figures
    count = multiprocessors(bench)
    layer = Layer(bench, bench.size(BALANCED_ROWS, 4), bench.size(256, 2), bench.size(4096, 48))
    reads, rows = {}, []
    for blocks in (*some(bench, BLOCKS), 2 * count):
        rate = layer.kv_bytes / bench.seconds(partial(layer.attend, blocks)) / 1e9
        reads[str(blocks)] = rate
        rows.append(Row(f"decode attention on {blocks} blocks", rate, "GB/s"))
    products: dict[str, dict[str, float]] = {}
    for n in ROWS:
        layer = Layer(bench, bench.size(n, 4), 1, PAGE)
        for kept in (None, *some(bench, KEPT)):
            with carveout(kept):
                rate = layer.flops / bench.seconds(layer.products) / 1e12
            products.setdefault(str(n), {})[str(kept or 0)] = rate
            rows.append(Row(f"products of {n} rows, {kept or 0} SMs left out", rate, "TFLOP/s"))
    full, part = products[str(BALANCED_ROWS)]["0"], products[str(BALANCED_ROWS)][str(KEPT[-1])]
    # 1 if the setting works as it should, count / (count - kept) if it does nothing.
    honoured = part / full * count / (count - KEPT[-1])
    rows.append(Row("rate with 64 SMs left out over what the others are worth", honoured, "x"))
    return {"read_by_blocks": reads, "products_by_rows": products, "carveout_over_expected": honoured}, rows


def balanced(bench: Bench, share: float = 0.5) -> tuple[Layer, float, float]:
    """Return a layer whose attention takes `share` of the time of both, and both times alone."""
    rows, length = bench.size(BALANCED_ROWS, 4), bench.size(4096, 48)
    trial = Layer(bench, rows, bench.size(64, 1), length)
    products, attention = bench.seconds(trial.products), bench.seconds(trial.attend)
    wanted = products * share / (1 - share)
    sequences = max(1, min(round(trial.sequences * wanted / attention), bench.size(1024, 2)))
    layer = Layer(bench, rows, sequences, length)
    return layer, bench.seconds(layer.products), bench.seconds(layer.attend)


def strategies(lanes: Lanes, layer: Layer, *, green: bool) -> dict[str, Callable[[], None]]:
    """Return what runs a layer's products and attention together, by name; most of them for each k."""

    ks = some(layer.bench, KEPT)

    def run(blocks: int | None, kept: int | None) -> None:
        with carveout(kept):
            beside(partial(layer.attend, blocks), layer.products, lanes.plain)

    def run_green(k: int) -> None:
        beside(partial(layer.attend, k), layer.products, lanes.green(k))

    if green:
        return {f"green contexts {k}": partial(run_green, k) for k in ks}
    found = {"streams": partial(run, None, None)}
    found |= {f"k-limited {k}": partial(run, k, None) for k in ks}
    return found | {f"k-limited and carveout {k}": partial(run, k, k) for k in ks}


def pair(bench: Bench, figures: dict[str, Any], *, green: bool = False) -> tuple[dict[str, Any], list[Row]]:
    """The balanced pair by every strategy, launched and captured, as a share of one after the other."""
    layer, products, attention = balanced(bench)
    one_by_one = partial(beside, layer.products, layer.attend, None)
    # The baseline is captured too where that is faster.
    serial = min(bench.seconds(one_by_one), bench.seconds(graphed(bench, one_by_one)))
    layer.outputs()
    one_by_one()
    expected = layer.outputs()
    rows = [
        Row("products alone", 1e3 * products, "ms"),
        Row("attention alone", 1e3 * attention, "ms"),
        Row("one after the other", 1e3 * serial, "ms"),
    ]
    fastest = one_by_one
    ratios, refused = dict(figures.get("pair_ratios", {})), dict(figures.get("refused", {}))
    for name, work in strategies(Lanes(bench), layer, green=green).items():
        for captured in (False, True):
            label = name + ", captured" * captured
            try:
                run = graphed(bench, work) if captured else work
                run()
                if bench.device.type == "cuda":
                    torch.cuda.synchronize()
                error = max(relative_error(a, b) for a, b in zip(layer.outputs(), expected, strict=True))
                ratios[label] = bench.seconds(run) / serial
            except (Unmeasured, RuntimeError, AttributeError, TypeError) as reason:
                # One that this torch or driver does not have must not keep the others from being measured.
                refused[label] = f"{type(reason).__name__}: {reason}"[:300]
                print(f"  {label}: {refused[label]}")
                continue
            rows.append(Row(f"pair: {label}", ratios[label], "x serial", error=error))
            if ratios[label] == min(ratios.values()):
                fastest = run
    if not ratios:
        raise RuntimeError(f"no strategy could be measured: {refused}")
    best = min(ratios, key=ratios.__getitem__)
    found = {"pair_ratio": ratios[best], "pair_strategy": best, "pair_ratios": ratios, "refused": refused}
    works = {"products": layer.products, "attention": layer.attend, "together": fastest}
    clocks = {name: clocks_during(bench, work) for name, work in works.items()}
    key = "green_clocks" if green else "clocks"
    return {**found, "products_ms": 1e3 * products, "attention_ms": 1e3 * attention, key: clocks}, rows


def clocks_during(bench: Bench, work: Callable[[], None]) -> str | None:
    """Return what the driver says of clocks and power while the device does the work for about a second."""
    if bench.device.type != "cuda":
        work()
        return None
    for _ in range(min(5000, int(1.0 / bench.seconds(work, repeats=3)) + 1)):
        work()
    found = driver()
    torch.cuda.synchronize()
    return found


def family(name: str) -> tuple[str, int | None]:
    """Return a strategy's name without k, and its k."""
    match = re.fullmatch(r"(.*?)(?: (\d+))?(?:, captured)?", name)
    assert match is not None
    return match[1], int(match[2]) if match[2] else None


def surface(bench: Bench, figures: dict[str, Any]) -> tuple[dict[str, Any], list[Row]]:
    """The interference of the best strategy by the share of memory time, for each k.

    The runner chooses k by it; the cost model takes the least interference of all k.
    """
    (name, _), captured = family(figures["pair_strategy"]), figures["pair_strategy"].endswith(", captured")
    lanes, rows = Lanes(bench), []
    by_k: dict[str, list[tuple[float, float]]] = {}
    for share in (0.2, 0.35, 0.5, 0.65, 0.8) if not bench.dry else (0.3, 0.6):
        layer, products, attention = balanced(bench, share)
        place = attention / (products + attention)
        # Times in the interpreter say nothing, and a surface must rise.
        place = share if bench.dry else place
        for label, work in strategies(lanes, layer, green=name.startswith("green")).items():
            same, k = family(label)
            if same != name:
                continue
            together = bench.seconds(graphed(bench, work) if captured else work)
            loss = (together - max(products, attention)) / min(products, attention)
            by_k.setdefault(str(k or 0), []).append((place, min(max(loss, 0.0), 1.0)))
            rows.append(Row(f"interference with {place:.0%} attention: {label}", loss, ""))
    return {"surface_by_k": by_k, "pair_surface": envelope(by_k)}, rows


def envelope(by_k: dict[str, list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return the surface with the best k at every share of memory time."""
    columns = zip(*(sorted(points) for points in by_k.values()), strict=True)
    return [(column[0][0], min(g for _, g in column)) for column in columns]
