"""The report of a night: what it did, how well, why in this order, and what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.choices import NATIVE
from engine.cost.metrics import METRICS
from tasks.report import night_plots
from tasks.report.document import Document, Facts, Section, Table, Text
from tasks.report.night_plots import duration
from tasks.report.promises import promises
from tasks.report.replicas import replicas
from tasks.report.sides import sides
from tasks.store.contract import plain_path

if TYPE_CHECKING:
    from tasks.report.document import Block
    from tasks.report.night_data import NightData
    from tasks.report.orders import Order, Orders

MOST_ROWS = 20
"""Of a table; the rest is in summary.json."""
CLOSE = 0.005
"""Orders that differ by less than this are called equal: no simulator is that good."""


def night_document(night: NightData) -> Document:
    """Return the report; a section without figures is left out."""
    infer = night.steps.get("infer", {})
    name = (infer.get("device") or {}).get("name")
    # Runs of earlier versions have only had our own.
    engine = infer.get("engine") or {"engine": NATIVE}
    parts = [
        f"run {night.run_key}",
        f"order {night.policy}",
        *([f"device {name}"] if name else []),
        *([f"engine {engine['engine']}, {engine['version']}"] if engine.get("engine") != NATIVE else []),
        night.status,
    ]
    sections = [
        Section("In short", _in_short(night)),
        Section("Rows without an answer", _bad_rows(night)),
        Section("Promises", promises(night.summary.get("promises") or ())),
        Section("The candidate", sides(night.summary.get("comparisons") or (), night.steps.get("canary"))),
        Section("Over the run", _blocks(night_plots.timeline(night), night_plots.device(night))),
        Section("Replicas", replicas(night)),
        Section("Why this order", _why(night)),
        Section(
            "Requests",
            _blocks(night_plots.densities(night.densities), night_plots.length_map(night.length_map)),
        ),
        Section("Prefix sharing", _sharing(night)),
        Section("Planned and actual", _planned(night)),
        Section("Cost", _cost(night)),
        Section("What the figures mean", [_glossary()]),
    ]
    title = f"{night.job}, {night.run_date}"
    return Document(title, ", ".join(parts), [section for section in sections if section.blocks])


def _blocks(*blocks: Block | None) -> list[Block]:
    return [block for block in blocks if block is not None]


def _in_short(night: NightData) -> list[Block]:
    infer, summary = night.steps.get("infer", {}), night.summary
    measured, modelled = "measured", "modelled work over measured time"
    requests = summary.get("requests")
    facts = [
        ("Requests", _number(requests), _and_errors(summary)),
        ("Exit code", _number(summary.get("exit_code")), night.status),
        ("Prompt tokens", _number(infer.get("input_tokens")), ""),
        ("Answer tokens", _number(infer.get("output_tokens")), ""),
        ("Time in engine steps", _time(infer.get("engine_seconds")), f"{measured}{_of_all(night)}"),
        ("Tokens per second", _number(summary.get("tokens_per_second")), "prompt and answer, delivered"),
        ("MFU", _share(infer.get("mfu")), modelled),
        ("MBU", _share(infer.get("mbu")), modelled),
        ("Overlap", _share(infer.get("overlap_fraction")), "of the smaller of the modelled times"),
        ("Hit rate", _share(infer.get("hit_rate")), f"best possible {_share(infer.get('hit_rate_optimum'))}"),
        ("KV memory held", _share(infer.get("kv_occupancy")), "on average"),
        ("Computed twice", _number(infer.get("recomputed_tokens")), "tokens, after preemptions"),
        ("Idle tail", _time(infer.get("idle_tail_seconds")), "beyond the pace before"),
        ("Best schedule", _time(infer.get("ideal_seconds")), _best_of(night)),
        ("Energy", _energy(infer.get("measured_energy_joules")), measured),
        ("Cost", _money(summary.get("cost"), summary), _at_price(summary)),
    ]
    return [Facts([fact for fact in facts if fact[1]])]


def _of_all(night: NightData) -> str:
    count = len(night.replicas)
    return f", of {count} replicas together" if count > 1 else ""


def _best_of(night: NightData) -> str:
    return f"no order could be faster{' on one device' if len(night.replicas) > 1 else ''}; modelled"


def _and_errors(summary: Any) -> str:  # noqa: ANN401 - as it was read
    parts = [
        f"{summary[name]:,} {text.removesuffix('s') if summary[name] == 1 else text}"
        for name, text in (("errors", "errors"), ("quarantined", "quarantined"), ("filtered", "filtered"))
        if summary.get(name)
    ]
    return ", ".join(parts)


def _bad_rows(night: NightData) -> list[Block]:
    rows = [
        (
            row["kind"],
            row["code"],
            f"{plain_path(row['source_uri'])}:{row['source_line']}",
            _number(row["count"]),
        )
        for row in night.summary.get("bad_rows") or []
    ]
    if not rows:
        return []
    caption = "By code, with the first such line."
    return [Table(caption, ("kind", "code", "first at", "rows"), rows[:MOST_ROWS], words=3)]


def _sharing(night: NightData) -> list[Block]:
    infer = night.steps.get("infer", {})
    if infer.get("hit_rate") is None or infer.get("hit_rate_optimum") is None:
        return []
    return [night_plots.sharing(infer["hit_rate"], infer["hit_rate_optimum"], night.orders)]


def _planned(night: NightData) -> list[Block]:
    rows = [
        (name.replace("_", " "), _figure(row["planned"]), _figure(row["actual"]))
        for name, row in night.planned.items()
        if row["planned"] is not None or row["actual"] is not None
    ]
    if not rows:
        return []
    estimates = [
        (
            row["source"],
            *(
                _figure(row[key])
                for key in ("requests", "expected", "actual", "mean_error", "mean_absolute_error")
            ),
        )
        for row in night.estimates
    ]
    blocks = _blocks(
        night_plots.planned(night),
        Table(
            f"Of the last plan, over what was left to do then. Times are modelled.{_together(night)}",
            ("", "planned", "actual"),
            rows,
        ),
    )
    if estimates:
        columns = ("known from", "requests", "expected", "actual", "error", "absolute error")
        blocks.append(Table("Answer lengths in tokens, means.", columns, estimates))
    return blocks


def _together(night: NightData) -> str:
    if len(night.replicas) < 2:
        return ""
    return " Planned is for one device; actual is of all replicas together."


def _why(night: NightData) -> list[Block]:
    orders = night.orders
    if orders is None:
        return _chosen(night)
    used = next((order for order in orders.orders if order.policy == night.policy), None)
    rows = [
        (
            order.policy,
            duration(order.seconds),
            _change(order.seconds, used.seconds) if used else "",
            f"{orders.ideal_seconds / order.seconds:.0%}" if order.seconds > 0 else "",
            *(duration(seconds) for seconds in (order.compute, order.memory, order.hidden)),
            f"{order.hit_rate:.1%}",
            f"{order.recomputed_tokens:,}",
            f"{order.tokens_per_second:,.0f}",
        )
        for order in orders.orders
    ]
    columns = (
        "order",
        "time",
        "to used",
        "of optimum",
        "compute",
        "memory",
        "hidden",
        "hit rate",
        "twice",
        "tokens/s",
    )
    return [
        *_chosen(night),
        *([Text(text) for text in explain(orders, used)] if used else []),
        *([Text("Simulated as if one replica had all requests.")] if len(night.replicas) > 1 else []),
        night_plots.orders(orders, night.policy),
        Table(
            "Simulated. Hidden: compute and memory time that passed beside each other; twice: tokens "
            "computed again after a preemption.",
            columns,
            rows,
        ),
    ]


def _chosen(night: NightData) -> list[Block]:
    """Return what policy `auto` has chosen, why, and what the other candidates would have taken."""
    choice = night.steps.get("plan", {}).get("choice")
    if choice is None:
        return []
    blocks: list[Block] = [Text(f"Chosen by auto: {choice['text']}. {choice['why']}")]
    if choice["trials"]:
        best = choice["trials"][0]["seconds"]
        rows = [
            (row["text"], duration(row["seconds"]), _change(row["seconds"], best), f"{row['requests']:,}")
            for row in choice["trials"]
        ]
        about = (
            "Candidates, best first: those that were tried on more requests first. Simulated before the run, "
            "with the lengths expected then."
        )
        blocks.append(Table(about, ("candidate", "time", "to chosen", "requests simulated"), rows))
    return blocks


def explain(orders: Orders, used: Order) -> list[str]:
    """Return in sentences why the order that was used is good, or that another one would have been better."""
    best = orders.orders[0]
    sampled = (
        f"A sample of {orders.requests:,} of {orders.of:,} requests was simulated, in groups that begin "
        "alike; in a sample the end of the run, when few requests are left, weighs more than it did. "
        if orders.requests < orders.of
        else f"All {orders.requests:,} requests were simulated. "
    )
    first = (
        f"{sampled}The scheduler and its memory are the real ones, the device is modelled, and the answers "
        "have their true lengths."
    )
    others = [order for order in orders.orders if order.policy != used.policy]
    if best.seconds < used.seconds * (1 - CLOSE):
        verdict = (
            f"{best.policy} would have been faster than {used.policy}, by "
            f"{1 - best.seconds / used.seconds:.1%}: {_reasons(best, used)}."
        )
    elif others and all(order.seconds <= used.seconds * (1 + CLOSE) for order in others):
        verdict = "The order makes no difference worth naming to these requests on this device."
    else:
        slowest = max(others, key=lambda order: order.seconds)
        verdict = (
            f"No order is faster than {used.policy} by more than {CLOSE:.1%}. "
            f"{slowest.policy} would have taken "
            f"{slowest.seconds / used.seconds - 1:.1%} more: against it {used.policy} "
            f"{_reasons(used, slowest)}."
        )
    found = [first, verdict]
    if not orders.overlaps:
        found.append(
            "By its profile this device does not do compute and memory work at the same time. So blending "
            "them gains nothing here, and orders differ by what they share and how full they keep the steps."
        )
    found.append(
        f"The best that any schedule could do is {duration(orders.ideal_seconds)}, bound by "
        f"{'the ' if orders.limit.endswith('request') else ''}{orders.limit}."
    )
    return found


def _reasons(faster: Order, slower: Order) -> str:
    """Return where the time of the faster order comes from, most first."""
    gains = [
        (
            slower.compute - faster.compute,
            "computes {} less, since it shares more prefixes or fills its steps",
        ),
        (slower.memory - faster.memory, "moves memory for {} less, since it needs fewer steps"),
        (faster.hidden - slower.hidden, "has {} more of compute and memory time pass side by side"),
    ]
    least = max(1e-9, 0.05 * (slower.seconds - faster.seconds))
    told = [text.format(duration(gain)) for gain, text in sorted(gains, reverse=True) if gain > least]
    return " and ".join(told) or "gains a little everywhere"


def _cost(night: NightData) -> list[Block]:
    infer, summary = night.steps.get("infer", {}), night.summary
    held, busy = infer.get("gpu_seconds_held"), infer.get("gpu_seconds_busy")
    if held is None or busy is None:
        return []
    blocks: list[Block] = [night_plots.held_and_busy(held, busy)]
    if summary.get("cost") is not None:
        blocks.append(
            Facts(
                [
                    ("This run", _money(summary["cost"], summary), _at_price(summary)),
                    ("1,000 requests", _money(summary.get("cost_per_1000_requests"), summary), ""),
                    (
                        "A million tokens",
                        _money(summary.get("cost_per_million_tokens"), summary),
                        "in and out",
                    ),
                ]
            )
        )
    elif summary:
        blocks.append(Text("No price of a GPU hour was given (--gpu-hour-price), so no cost is told."))
    for by, title in (("cost_by_workload", "workload"), ("cost_by_tenant", "tenant")):
        rows = summary.get(by) or []
        if not rows or (by == "cost_by_tenant" and [row["name"] for row in rows] == [None]):
            continue
        with_price = summary.get("cost") is not None
        columns = [
            title,
            "requests",
            "share",
            "device seconds",
            *(["cost", "per 1,000"] if with_price else []),
        ]
        shown = [
            (
                row["name"] if row["name"] is not None else "(none)",
                _number(row["requests"]),
                f"{row['share']:.1%}",
                _figure(row["gpu_seconds"]),
                *(
                    (_money(row["cost"], summary), _money(row["cost_per_1000_requests"], summary))
                    if with_price
                    else ()
                ),
            )
            for row in rows[:MOST_ROWS]
        ]
        left = f" {len(rows) - MOST_ROWS:,} more are in summary.json." if len(rows) > MOST_ROWS else ""
        blocks.append(
            Table(
                f"By {title}: device time held, shared out by the modelled work of the answers.{left}",
                columns,
                shown,
            )
        )
    return blocks


def _glossary() -> Table:
    names = (
        *("mfu", "mbu", "overlap_fraction", "density", "kv_occupancy", "hit_rate", "hit_rate_optimum"),
        *("recomputed_tokens", "idle_tail_seconds", "ideal_seconds", "gpu_seconds_held", "gpu_seconds_busy"),
    )
    rows = [(name, METRICS[name].meaning, METRICS[name].unit.replace("1", "")) for name in names]
    return Table("As in summary.json and the tables.", ("figure", "meaning", "unit"), rows, words=3)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _energy(joules: float | None) -> str:
    return "" if joules is None else f"{joules / 3.6e6:.3g} kWh"


def _money(value: float | None, summary: Any) -> str:  # noqa: ANN401 - as it was read
    if value is None:
        return ""
    digits = 2 if value >= 1 or value == 0 else 4
    return f"{value:,.{digits}f} {summary.get('currency') or ''}".rstrip()


def _at_price(summary: Any) -> str:  # noqa: ANN401 - as it was read
    price = summary.get("gpu_hour_price")
    return "" if price is None else f"at {price:g} {summary.get('currency')} per device hour held"


def _change(seconds: float, used: float) -> str:
    return f"{seconds / used - 1:+.1%}" if used > 0 else ""
