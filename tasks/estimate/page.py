"""The estimate as a document: a web page to send around, and the same as markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import TwoSlopeNorm

from tasks.estimate.gainmap import SMALL
from tasks.estimate.words import ORDERS, amount, facts, headline, money, span, tables_of, vanishing
from tasks.report.document import Document, Facts, Figure, Section, Table, Text
from tasks.report.plots import BLACK, BLUE, ORANGE, SERIES, SKY, bars, drawing, label_log, svg

if TYPE_CHECKING:
    from tasks.report.document import Block


def document(result: dict[str, Any]) -> Document:
    """Return the document of an estimate (`tasks.estimate.estimate.estimate`)."""
    requests = result["requests"]
    subtitle = (
        f"{result['model']}, {requests['count']:,} requests of {requests['name']}; {result['label']}; "
        f"made {result['made_at'][:10]}"
    )
    answers: list[Block] = [Text(headline(result, machine)) for machine in result["machines"]]
    answers += [Text(f"{name} is left out. {reason}") for name, reason in result["refused"].items()]
    read = Table("What was read (measured: counted in the logs)", ("", ""), facts(result), words=2)
    sections = [Section("The answer", [*answers, read])]
    sections += [_machine(result, machine) for machine in result["machines"]]
    rests: list[Block] = [Text(text) for text in result["assumptions"]]
    sections.append(Section("What this rests on", rests))
    return Document("What a night would take and save", subtitle, sections)


def _machine(result: dict[str, Any], machine: dict[str, Any]) -> Section:
    orders, sources, workloads, replicas, effects = (
        Table(*table, words=words) for table, words in zip(tables_of(machine), (1, 2, 1, 1, 2), strict=True)
    )
    reasons: list[Block] = [Text(text) for text in machine["verdict"]["reasons"]]
    return Section(
        machine["machine"],
        [
            Facts(_tiles(result, machine)),
            *reasons,
            _hours(machine),
            orders,
            _gain(machine),
            sources,
            _map(machine),
            *(Text(text) for text in vanishing(machine)),
            workloads,
            _until_done(machine),
            replicas,
            effects,
        ],
    )


def _tiles(result: dict[str, Any], machine: dict[str, Any]) -> list[tuple[str, str, str]]:
    hours, sums = machine["gpu_hours"], machine["money"]
    ours = hours["ours"]
    central, _, bounds = span(machine["saving"]).rstrip(")").partition(" (")
    tiles = [
        ("answer", machine["verdict"]["answer"], ""),
        ("saved", central, f"{bounds}; against {ORDERS[machine['today']['way']['order']]}, no overlap"),
        (
            "GPU hours a night",
            amount(ours["central"]),
            f"{amount(ours['low'])} to {amount(ours['high'])}; today {amount(hours['today']['central'])}",
        ),
        ("tokens/s", f"{machine['ours']['tokens_per_second']:,.0f}", "prompts and answers"),
    ]
    if sums is not None:
        unit = f" {result['currency']}".rstrip()
        tiles.insert(
            3,
            (
                "a night costs",
                f"{money(sums['ours']['central'])}{unit}",
                f"today {money(sums['today']['central'])}{unit}",
            ),
        )
    return tiles


def _hours(machine: dict[str, Any]) -> Figure:
    rows = sorted(machine["orders"], key=lambda row: float(row["seconds"]))
    labels = [f"{ORDERS[row['order']]}, {'overlap' if row['overlap'] else 'no overlap'}" for row in rows]
    with drawing(0.6 + 0.34 * len(rows)) as figure:
        axes = figure.add_subplot()
        values = [row["gpu_hours"] for row in rows]
        colors = [BLUE if row["order"] == "blend" else SKY for row in rows]
        bars(axes, labels, values, [amount(value) for value in values], colors)
        axes.set_xlabel("GPU hours, simulated")
        picture = svg(figure)
    text = "; ".join(f"{label}: {amount(value)}" for label, value in zip(labels, values, strict=True))
    return Figure(picture, "GPU hours of each order, the blend in dark blue (simulated)", text)


def _gain(machine: dict[str, Any]) -> Figure:
    parts = [s for s in machine["sources"] if abs(s["factor"] - 1.0) >= 0.0005]
    with drawing(0.8 + 0.36 * max(len(parts), 1)) as figure:
        axes = figure.add_subplot()
        places = np.arange(len(parts))
        values = [100 * (s["factor"] - 1.0) for s in parts]
        drawn = axes.barh(
            places,
            values,
            height=0.6,
            color=[BLUE if value >= 0 else ORANGE for value in values],
            edgecolor=BLACK,
            linewidth=0.6,
        )
        axes.bar_label(drawn, labels=[f"{value:+.1f} %" for value in values], padding=4)
        axes.set_yticks(places, [s["name"] for s in parts])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.axvline(0, color=BLACK, linewidth=0.8)
        axes.margins(x=0.2)
        axes.set_xlabel("faster by, each after the ones above it")
        picture = svg(figure)
    text = "; ".join(f"{s['name']} {s['factor']:.2f}x" for s in parts) or "nothing"
    return Figure(picture, f"Where the gain comes from ({machine['sources_label']})", text)


def _map(machine: dict[str, Any]) -> Figure:
    found = machine["map"]
    gains = np.array(found["gains"])
    densities, sharings = np.array(found["densities"]), 100 * np.array(found["sharings"])
    with drawing(3.6) as figure:
        axes = figure.add_subplot()
        norm = TwoSlopeNorm(vcenter=SMALL, vmin=1.0, vmax=max(2.0, float(gains.max())))
        mesh = axes.pcolormesh(
            densities, sharings, gains, norm=norm, cmap="viridis", shading="gouraud", rasterized=True
        )
        levels = [level for level in (SMALL, 1.1, 1.2, 1.5, 2.0, 3.0) if gains.min() < level < gains.max()]
        if levels:
            lines = axes.contour(densities, sharings, gains, levels, colors="white", linewidths=1.0)
            axes.clabel(lines, fmt=lambda value: f"{value:g}x", fontsize=8)
        place = np.clip(found["density"], densities[0], densities[-1])
        axes.plot(
            [place],
            [min(100 * found["sharing"], sharings[-1])],
            marker="o",
            markersize=9,
            color=ORANGE,
            markeredgecolor=BLACK,
            linestyle="none",
            label=f"these requests: {found['simulated']:.2f}x",
            clip_on=False,
            zorder=5,
        )
        axes.set(
            xscale="log", xlabel="density (compute over memory time)", ylabel="compute saved by sharing, %"
        )
        label_log(axes.xaxis)
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, 1.14))
        axes.grid(visible=False)
        figure.colorbar(mesh, ax=axes, pad=0.02).set_label("gain over today")
        picture = svg(figure)
    return Figure(
        picture,
        "The gain over mixes of every density and sharing (modelled in closed form, which says "
        f"{found['closed']:.2f}x for these requests, and scaled to {found['simulated']:.2f}x as simulated; "
        f"below {SMALL:g}x it is not worth it)",
        f"These requests are at density {found['density']:.2f}, sharing {found['sharing']:.0%}, gain "
        f"{found['simulated']:.2f}x.",
    )


def _until_done(machine: dict[str, Any]) -> Figure:
    rows = machine["replicas"]
    with drawing(2.6) as figure:
        axes = figure.add_subplot()
        gpus = [row["gpus"] for row in rows]
        for name, label, style in (("today", "today", SERIES[1]), ("ours", "blend", SERIES[0])):
            hours = [row[f"{name}_hours"] for row in rows]
            axes.plot(gpus, hours, marker="o", label=label, **style)
        axes.set(xscale="log", xlabel="GPUs", ylabel="hours until done")
        axes.set_ylim(bottom=0)
        axes.set_xticks(gpus, [str(count) for count in gpus])
        axes.minorticks_off()
        axes.legend()
        picture = svg(figure)
    text = "; ".join(f"on {row['gpus']}: {amount(row['ours_hours'])} hours" for row in rows)
    return Figure(picture, "Hours until done by number of GPUs (simulated)", text)
