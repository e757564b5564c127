"""The plots of a night's report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.ticker import FuncFormatter, PercentFormatter

from tasks.report import plots
from tasks.report.document import Figure

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars as pl
    from matplotlib.axes import Axes

    from tasks.report.lanes import Lanes
    from tasks.report.night_data import LengthMap, NightData
    from tasks.report.orders import Orders

    Floats = npt.NDArray[np.float64]

MOST_LANES: Final = 16
UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def timeline(night: NightData) -> Figure | None:
    """Plot compute and memory time, running requests, tokens and KV memory over the run."""
    rows = night.timeline
    if rows.height < 2:
        return None
    scale, unit, at = _clock(rows)
    step = {"where": "post"}
    busy = rows["seconds"].to_numpy()
    with plots.drawing(6.4) as figure:
        work, tokens, running = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
        for name, style in (
            ("modelled_compute_seconds", plots.COMPUTE),
            ("modelled_memory_seconds", plots.MEMORY),
        ):
            share = rows[name].to_numpy() / np.maximum(busy, 1e-9)
            work.plot(*_steps(at, share), **style)
        # Far below it, the line would only press the others down.
        if max(line.get_ydata().max() for line in work.get_lines()) > 0.5:
            work.axhline(1.0, color=plots.BLACK, linewidth=0.8)
        work.set(title="Modelled time of the work per second of engine time", ylabel="s/s", ylim=(0, None))
        work.legend(ncols=2, loc="upper right")
        for name, label, style in (
            ("prefill_tokens", "prompt (computed)", plots.SERIES[0]),
            ("decode_tokens", "answer", plots.SERIES[1]),
        ):
            rate = rows[name].to_numpy() / np.maximum(busy, 1e-9)
            tokens.plot(*_steps(at, rate), label=label, **style)
        tokens.set(title="Tokens per second", ylim=(0, None))
        tokens.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plots.short(value)))
        tokens.legend(ncols=2, loc="upper right")
        occupancy = rows["kv_occupancy"].to_numpy().astype(np.float64)
        running.step(at, rows["sequences"].to_numpy(), **step, **plots.SERIES[2], label="requests in a step")
        running.set(title="Requests in a step, and part of the KV memory held", ylim=(0, None))
        right = running.twinx()
        right.step(at, occupancy, **step, **plots.SERIES[3], label="KV memory held")
        right.set_ylim(0, 1)
        right.yaxis.set_major_formatter(PercentFormatter(1.0))
        right.grid(visible=False)
        right.spines["right"].set_visible(True)
        lines = [*running.get_lines(), *right.get_lines()]
        running.legend(lines, [str(line.get_label()) for line in lines], ncols=2, loc="upper right")
        running.set_xlabel(f"time since the first step, {unit}")
        for axes in (work, tokens, running):
            axes.set_xlim(0, max(at[-1], night.stretch_s / scale))
            _headroom(axes)
        drawn = plots.svg(figure)
    return Figure(
        drawn,
        "Work over the run. Above 1 the cost model takes longer than the engine did; compute and memory "
        "together above 1 means that they passed at the same time. Modelled work over measured time."
        + (" Of one replica, on average." if len(night.replicas) > 1 else ""),
        _describe_timeline(rows, unit, at),
    )


def lanes(found: Lanes) -> Figure:
    """Plot what each replica had in hand over the run, a lane each, and its tail."""
    count = min(len(found.replicas), MOST_LANES)
    scale, unit = _unit(float(found.edges[-1]))
    edges, most = found.edges / scale, max(1.0, float(found.running.max()))
    with plots.drawing(1.2 + 0.55 * count) as figure:
        rows = figure.subplots(count, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for lane, axes in enumerate(rows):
            axes.stairs(found.running[lane], edges, fill=True, color=plots.SKY)
            axes.stairs(found.running[lane], edges, color=plots.BLACK, linewidth=0.6)
            for number, begin, end in found.tails:
                if number == lane:
                    axes.axvspan(
                        begin / scale,
                        end / scale,
                        fill=False,
                        hatch="////",
                        edgecolor=plots.BLACK,
                        linewidth=0.6,
                    )
            axes.set_ylabel(f"replica {found.replicas[lane]}", rotation=0, ha="right", va="center")
            axes.set_yticks([0, most], ["0", plots.short(most)])
            axes.set(xlim=(0, edges[-1]), ylim=(0, 1.1 * most))
            axes.grid(visible=False, axis="y")
        rows[0].set_title("Requests in a step, by replica")
        rows[-1].set_xlabel(f"time since the first step, {unit}")
        drawn = plots.svg(figure)
    left = f" The first {count} of {len(found.replicas)}." if count < len(found.replicas) else ""
    means = ", ".join(
        f"replica {number} {plots.short(float(mean))}"
        for number, mean in zip(found.replicas[:count], found.running.mean(axis=1), strict=False)
    )
    return Figure(
        drawn,
        "What each replica had in hand; hatched: from its last step to the end of the slowest, when it had "
        f"nothing more. Measured.{left}",
        f"Requests in a step on average over the whole time: {means}.",
    )


def device(night: NightData) -> Figure | None:
    """Plot what the device counted of itself over the run."""
    rows = night.measured
    names = {
        "measured_tensor_active": "tensor cores active",
        "measured_dram_active": "DRAM bandwidth in use",
        "measured_gpu_utilization": "a kernel running",
    }
    told = [name for name in names if rows.height > 1 and rows[name].null_count() < rows.height]
    if not told:
        return None
    _, unit, at = _clock(rows)
    with plots.drawing(2.6) as figure:
        axes = figure.add_subplot()
        for name, style in zip(told, plots.SERIES, strict=False):
            axes.step(at, rows[name].to_numpy().astype(np.float64), where="post", label=names[name], **style)
        axes.set(ylim=(0, 1.18), xlim=(0, at[-1]), xlabel=f"time since the first reading, {unit}")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(ncols=3, loc="upper center")
        drawn = plots.svg(figure)
    means = ", ".join(
        f"{names[name]} {float(np.nanmean(rows[name].to_numpy().astype(np.float64))):.0%}" for name in told
    )
    return Figure(drawn, "The device's own counters. Measured.", f"On average: {means}.")


def densities(rows: list[dict[str, Any]]) -> Figure | None:
    """Plot compute over memory time of the requests of each workload."""
    rows = [row for row in rows if row["p50"] > 0]
    if not rows:
        return None
    with plots.drawing(1.1 + 0.36 * len(rows)) as figure:
        axes = figure.add_subplot()
        places = np.arange(len(rows))
        low, middle, high = (np.array([row[q] for row in rows]) for q in ("p10", "p50", "p90"))
        axes.hlines(places, np.maximum(low, 1e-6), high, color=plots.BLUE, linewidth=5, alpha=0.35)
        axes.plot(middle, places, "D", color=plots.BLUE, markersize=6)
        axes.axvline(1.0, color=plots.BLACK, linewidth=1, linestyle="--")
        axes.set(xscale="log", ylim=(len(rows) - 0.4, -1.0), xlabel="density: compute over memory time")
        axes.set_yticks(places, [_shortened(row["workload"]) for row in rows])
        plots.label_log(axes.xaxis)
        axes.set_xlim(min(0.15, low.min() / 1.5), max(6.0, high.max() * 1.5))
        axes.text(0.98, -0.62, "memory-bound ", ha="right", va="center", fontsize=9)
        axes.text(1.02, -0.62, " compute-bound", ha="left", va="center", fontsize=9)
        drawn = plots.svg(figure)
    text = ", ".join(f"{row['workload']} {row['p50']:.2g}" for row in rows)
    return Figure(
        drawn,
        "Density of the requests by workload: the median, and a bar from the 10th to the 90th percentile. "
        "Modelled, from true lengths and what came from the cache.",
        f"Medians: {text}.",
    )


def length_map(found: LengthMap | None) -> Figure | None:
    """Plot prompt and answer lengths of the requests."""
    if found is None:
        return None
    with plots.drawing(3.4) as figure:
        axes = figure.add_subplot()
        plots.heat_map(figure, axes, found.counts, found.prompt_edges, found.output_edges, "requests")
        axes.set(xlabel="prompt, tokens", ylabel="answer, tokens")
        drawn = plots.svg(figure)
    x, y = np.unravel_index(int(found.counts.argmax()), found.counts.shape)
    most = (
        f"{plots.short(found.prompt_edges[x])} prompt and {plots.short(found.output_edges[y])} answer tokens"
    )
    return Figure(drawn, "Lengths of prompts and answers. Measured.", f"Most requests are near {most}.")


def sharing(achieved: float, optimum: float, orders: Orders | None) -> Figure:
    """Plot the hit rate that was achieved against what could be."""
    bars = [("achieved", achieved, plots.ORANGE), ("best in unlimited memory", optimum, plots.SKY)]
    depth_first = next((o for o in orders.orders if o.policy == "dfs"), None) if orders else None
    # Of a sample it would be the hit rate of other requests.
    if depth_first is not None and orders is not None and orders.requests == orders.of:
        bars.insert(1, ("depth-first in this memory", depth_first.hit_rate, plots.SKY))
    with plots.drawing(0.8 + 0.36 * len(bars)) as figure:
        axes = figure.add_subplot()
        values = [value for _, value, _ in bars]
        plots.bars(axes, [n for n, _, _ in bars], values, [f"{v:.1%}" for v in values], [c for *_, c in bars])
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlim(0, max(0.05, 1.2 * max(values)))
        axes.set_xlabel("part of the prompt tokens taken from the prefix cache")
        drawn = plots.svg(figure)
    text = ", ".join(f"{name} {value:.1%}" for name, value, _ in bars)
    return Figure(
        drawn, "Prefix sharing. Achieved is measured; depth-first in this memory is simulated.", f"{text}."
    )


def planned(night: NightData) -> Figure | None:
    """Plot actual figures relative to the planned ones."""
    rows = [
        (name.replace("_", " "), row["actual"] / row["planned"])
        for name, row in night.planned.items()
        if row["planned"] and row["actual"]
    ]
    if not rows:
        return None
    with plots.drawing(0.9 + 0.3 * len(rows)) as figure:
        axes = figure.add_subplot()
        places, ratios = np.arange(len(rows)), np.array([ratio for _, ratio in rows])
        axes.hlines(places, np.minimum(1.0, ratios), np.maximum(1.0, ratios), color=plots.BLUE, linewidth=2)
        axes.plot(ratios, places, "o", color=plots.BLUE, markersize=7)
        axes.axvline(1.0, color=plots.BLACK, linewidth=1, linestyle="--")
        span = max(1.25, float(np.exp(1.3 * np.abs(np.log(np.maximum(ratios, 1e-3))).max())))
        for place, ratio in zip(places, ratios, strict=True):
            side = 1 if ratio >= 1 else -1
            axes.annotate(
                f"{ratio:.2f}",
                (ratio, place),
                xytext=(9 * side, 0),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center",
                fontsize=9,
            )
        axes.set_yticks(places, [name for name, _ in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xscale="log", xlabel="actual over planned")
        axes.set_xlim(1 / span, span)
        near, far = (0.8, 0.9, 1.0, 1.1, 1.25), (0.01, 0.1, 0.5, 1.0, 2.0, 10.0, 100.0)
        ticks = [tick for tick in (near if span < 2.0 else far) if 1 / span <= tick <= span]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(visible=False, axis="y")
        drawn = plots.svg(figure)
    text = ", ".join(f"{name} {ratio:.2f}" for name, ratio in rows)
    return Figure(drawn, "Actual over planned figures; 1 is as planned.", f"{text}.")


def orders(found: Orders, used: str) -> Figure:
    """Plot what each order would have taken."""
    names = [f"{o.policy} (used)" if o.policy == used else o.policy for o in found.orders]
    seconds = [o.seconds for o in found.orders]
    colors = [plots.ORANGE if o.policy == used else plots.SKY for o in found.orders]
    with plots.drawing(1.1 + 0.36 * len(names)) as figure:
        axes = figure.add_subplot()
        plots.bars(axes, names, seconds, [duration(s) for s in seconds], colors)
        axes.axvline(
            found.ideal_seconds, color=plots.BLACK, linestyle="--", linewidth=1.2, label="no order is faster"
        )
        axes.set_xlim(0, 1.2 * max(*seconds, found.ideal_seconds))
        axes.set_ylim(len(names) - 0.4, -1.1)
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, 1.04))
        axes.set_xlabel("simulated time, s")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plots.short(value)))
        drawn = plots.svg(figure)
    text = ", ".join(f"{name} {duration(s)}" for name, s in zip(names, seconds, strict=True))
    return Figure(
        drawn,
        "The same requests in each order. Simulated.",
        f"{text}; no order takes less than {duration(found.ideal_seconds)}.",
    )


def held_and_busy(held: float, busy: float) -> Figure:
    """Plot the device time held, and how much of it was in engine steps."""
    with plots.drawing(1.3) as figure:
        axes = figure.add_subplot()
        rest = max(0.0, held - busy)
        axes.barh([0], [busy], color=plots.SKY, edgecolor=plots.BLACK, linewidth=0.6, label="in engine steps")
        axes.barh(
            [0],
            [rest],
            left=[busy],
            color="white",
            hatch="////",
            edgecolor=plots.BLACK,
            linewidth=0.6,
            label="loading, waiting, ending",
        )
        axes.set(yticks=[], ylim=(-0.6, 1.3), xlabel="device seconds held", xlim=(0, max(held, busy, 1e-9)))
        axes.legend(loc="upper left", ncols=2)
        axes.grid(visible=False, axis="y")
        drawn = plots.svg(figure)
    part = busy / held if held > 0 else 0.0
    return Figure(drawn, "Device time held. Measured.", f"{duration(busy)} of {duration(held)}, {part:.0%}.")


def _clock(rows: pl.DataFrame) -> tuple[float, str, Floats]:
    """Return seconds per unit, the unit, and the times of rows in it, from 0 on."""
    at = rows["started_at"].dt.timestamp("us").to_numpy() / 1e6
    at = at - at[0]
    scale, unit = _unit(float(at[-1]))
    return scale, unit, at / scale


def _unit(seconds: float) -> tuple[float, str]:
    """Return the unit that a time is shown in: its seconds and its name."""
    return next((size, name) for size, name in UNITS if seconds >= 2 * size or name == "s")


def _steps(at: Floats, values: Floats) -> tuple[Floats, Floats]:
    return np.repeat(at, 2)[1:], np.repeat(values, 2)[:-1]


def _headroom(axes: Axes) -> None:
    """Leave room for a legend above the lines."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.28 * (high - low))


def _shortened(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"


def duration(seconds: float) -> str:
    """Return a time in few characters: 12.3 s, 4.5 min, 3.2 h."""
    if seconds < 1e-6:
        return "0 s"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes < 100 else f"{minutes / 60:,.1f} h"


def _describe_timeline(rows: pl.DataFrame, unit: str, at: Floats) -> str:
    compute, memory, busy = (
        float(rows[name].sum()) for name in ("modelled_compute_seconds", "modelled_memory_seconds", "seconds")
    )
    return (
        f"Over {at[-1]:,.3g} {unit}: modelled compute time {duration(compute)} and memory time "
        f"{duration(memory)} in {duration(busy)} of engine steps."
    )
