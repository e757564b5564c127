"""The estimate in words and tables, the same for terminal and document."""

from __future__ import annotations

import math
from typing import Any, Final

Row = tuple[str, ...]
Table = tuple[str, Row, list[Row]]

ORDERS: Final = {
    "fcfs": "as they arrive",
    "random": "shuffled",
    "dfs": "by prefix",
    "interleave": "workloads in turn",
    "blend": "blend",
}
"""Order policy -> its name for people."""


def headline(result: dict[str, Any], machine: dict[str, Any]) -> str:
    """Return the answer for one machine in a sentence or two."""
    saving, hours = machine["saving"], machine["gpu_hours"]
    answer = machine["verdict"]["answer"]
    today, ours = (gpu_time(hours[name]["central"]) for name in ("today", "ours"))
    text = f"{machine['machine']}: {answer}. "
    if saving["central"] >= 0.005:
        text += f"A night takes {ours} instead of {today}, {span(saving)} less (simulated)."
    else:
        text += f"A night takes {ours}, today {today} (simulated)."
    sums = machine["money"]
    if sums is not None and machine["price_per_gpu_hour"] == 0:
        text += " At a price of 0 nothing is saved in money; the time is."
    elif sums is not None:
        unit = f" {result['currency']}".rstrip()
        now, then = (money(sums[name]["central"]) for name in ("today", "ours"))
        text += f" At {machine['price_per_gpu_hour']:g}{unit} an hour: {then}{unit} instead of {now}{unit}."
    return text


def tables_of(machine: dict[str, Any]) -> list[Table]:
    """Return title, columns and rows of each table of a machine, as text."""
    return [
        _orders(machine),
        _sources(machine),
        _workloads(machine),
        _replicas(machine),
        _effects(machine),
    ]


def facts(result: dict[str, Any]) -> list[Row]:
    """Return what was read, as (name, value)."""
    requests = result["requests"]
    lengths = requests.get("length_source", "logged")
    return [
        ("requests", f"{requests['count']:,}, {requests['distinct']:,} of them with an answer of their own"),
        ("tokens", f"{requests['prompt_tokens']:,} in prompts, {requests['output_tokens']:,} in answers"),
        ("prompts counted by", str(requests.get("counted_by", "the caller"))),
        ("answer lengths", lengths),
    ]


def _orders(machine: dict[str, Any]) -> Table:
    rows = sorted(machine["orders"], key=lambda row: float(row["seconds"]))
    columns: dict[str, list[str]] = {
        "order": [ORDERS[row["order"]] for row in rows],
        "overlap": ["yes" if row["overlap"] else "no" for row in rows],
        "budget": ["paced" if row["paced"] else f"{row['budget']:,}" for row in rows],
        "tokens/s": [f"{row['tokens_per_second']:,.0f}" for row in rows],
        "GPU hours": [amount(row["gpu_hours"]) for row in rows],
    }
    if machine["price_per_gpu_hour"] is not None:
        columns["money"] = [money(row["money"]) for row in rows]
    if machine["gpus"] > 1:
        columns["hours"] = [amount(row["hours"]) for row in rows]
    columns["of optimum"] = [f"{row['optimum_share']:.0%}" for row in rows]
    columns["prefix hits"] = [f"{row['hit_rate']:.1%}" for row in rows]
    columns["figures"] = [row["label"] for row in rows]
    title = "Orders (simulated"
    if "sampled" in columns["figures"]:
        title += f"; sampled: on {machine['base']:,} requests, scaled"
    title += ")"
    return title, tuple(columns), list(zip(*columns.values(), strict=True))


def _sources(machine: dict[str, Any]) -> Table:
    rows: list[Row] = [
        (s["name"], s["what"], f"{s['factor']:.2f}x", amount(s["seconds"] / 3600))
        for s in machine["sources"]
        if abs(s["factor"] - 1.0) >= 0.0005
    ]
    gain = machine["gain"]["central"]
    hours = (machine["today"]["seconds"] - machine["ours"]["seconds"]) / 3600
    rows.append(("all", "today over the blend", f"{gain:.2f}x", amount(hours)))
    title = f"Where the gain comes from ({machine['sources_label']})"
    return title, ("part", "what", "factor", "hours saved"), rows


def _workloads(machine: dict[str, Any]) -> Table:
    rows: list[Row] = [
        (
            name,
            f"{w['requests']:,}",
            f"{w['prompt_tokens'] / w['requests']:,.0f}",
            f"{w['output_tokens'] / w['requests']:,.0f}",
            f"{w['density']:.2f}",
            f"{w['bound']}-bound",
            f"{w['sharing']:.1%}",
        )
        for name, w in [*machine["workload"]["workloads"].items(), ("all", machine["workload"])]
    ]
    columns = ("workload", "requests", "in", "out", "density", "is", "compute saved by sharing")
    return "Workloads (modelled; tokens are means)", columns, rows


def _replicas(machine: dict[str, Any]) -> Table:
    rows: list[Row] = [
        (f"{row['gpus']}", amount(row["today_hours"]), amount(row["ours_hours"]))
        for row in machine["replicas"]
    ]
    return "Hours until done (simulated)", ("GPUs", "today", "blend"), rows


def _effects(machine: dict[str, Any]) -> Table:
    gain = machine["gain"]
    rows: list[Row] = [(e["assumption"], e["change"], f"{e['gain']:.2f}x") for e in machine["effects"]]
    rows.append(("all together", "bounds", f"{gain['low']:.2f}x to {gain['high']:.2f}x"))
    title = f"The gain under other assumptions (on {machine['sample']:,} requests)"
    return title, ("assumption", "changed to", "gain"), rows


def vanishing(machine: dict[str, Any]) -> list[str]:
    """Return sentences about the mixes for which the gain vanishes."""
    found = []
    low, high = machine["map"]["densities"][0], machine["map"]["densities"][-1]
    for first, last in machine["map"]["vanishes"]:
        if first <= low and last >= high:
            found.append("At this sharing the gain is below 5 % at every density.")
        elif first <= low:
            found.append(f"The gain falls below 5 % for mixes of a density below {last:.2g}: only decoding.")
        elif last >= high:
            found.append(f"The gain falls below 5 % for mixes of a density above {first:.2g}: only prompts.")
        else:
            found.append(f"The gain is below 5 % for mixes of a density between {first:.2g} and {last:.2g}.")
    if not found:
        found.append("At this sharing there is a gain of 5 % or more at every density from 0.05 to 50.")
    return found


def span(saving: dict[str, float]) -> str:
    """Return a saving with its bounds, such as ``18 % (7 to 27 %)``."""
    low, central, high = (round(100 * saving[name]) for name in ("low", "central", "high"))
    return f"{central} % ({low} to {high} %)"


def amount(value: float) -> str:
    """Return a number with three digits that count, thousands by commas."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def gpu_time(hours: float) -> str:
    """Return GPU time in a unit that suits it."""
    for unit, seconds in (("hours", 3600), ("minutes", 60)):
        if hours * 3600 >= seconds:
            return f"{amount(hours * 3600 / seconds)} GPU {unit}"
    return f"{amount(hours * 3600)} GPU seconds"


def money(value: float) -> str:
    """Return a sum of money, with hundredths where they matter."""
    return f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"
