"""What a pilot says: the decision, and its figures as rows of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.estimate.verdict import SMALL
from tasks.estimate.words import ORDERS, money

if TYPE_CHECKING:
    from collections.abc import Mapping

GO_ON, NOT_SURE, STAY = "go on", "not sure yet", "stay"
COLUMNS: Final = ("order", "the sample took", "the whole night", "between", "the estimate said", "costs")
UNKNOWN: Final = "-"


def duration(seconds: float) -> str:
    """Return seconds in a unit that suits them."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def decide(found: Mapping[str, Any]) -> dict[str, str]:
    """Return `decision`, one of the three, and `reason`: one line for who decides."""
    saving = found["saving"]
    today, ours = (row["seconds"] for row in found["orders"])
    said = (
        f"The whole night would take {duration(ours['central'])} ({duration(ours['low'])} to "
        f"{duration(ours['high'])}) in the blend and {duration(today['central'])} in today's order"
    )
    bounds = f"between {saving['low']:.0%} and {saving['high']:.0%}"
    if saving["low"] >= SMALL:
        return {"decision": GO_ON, "reason": f"{said}: {saving['central']:.0%} less, {bounds}."}
    if saving["high"] < SMALL:
        return {"decision": STAY, "reason": f"{said}: {saving['central']:.0%} less, {bounds}; not worth it."}
    text = f"{said}: {saving['central']:.0%} less, but {bounds}; answer more requests, in more rounds."
    return {"decision": NOT_SURE, "reason": text}


def headline(found: Mapping[str, Any]) -> str:
    """Return the decision and its reason as one line."""
    return f"{found['decision'].capitalize()}. {found['reason']}"


def order_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of text for each order, in the order of `COLUMNS`."""
    rows: list[tuple[str, ...]] = []
    for row in found["orders"]:
        seconds, told = row["seconds"], found["estimate"]
        rounds = row["round_seconds"]
        rows.append(
            (
                ORDERS[row["order"]],
                duration(sum(rounds) / len(rounds)),
                duration(seconds["central"]),
                f"{duration(seconds['low'])} to {duration(seconds['high'])}",
                UNKNOWN if told is None else duration(told["seconds"][row["order"]]["central"]),
                UNKNOWN if row["cost"] is None else f"{money(row['cost'])} {found['currency']}",
            )
        )
    return rows


def notes(found: Mapping[str, Any]) -> list[str]:
    """Return what the figures rest on, as sentences."""
    device = found["device"]
    on = "a device fitted to the measured steps" if device["fitted"] else f"device profile {device['name']}"
    measured = (
        f"Measured: {found['sampled']:,} of {found['requests']:,} requests of {found['run_date']}, in "
        f"{found['rounds']} rounds of each order in turn. Nothing was published."
    )
    simulated = (
        f"The rest is the simulated scheduler over all requests, on {on}, times what the sample took beyond "
        "its own simulated time. The whole night is step infer: loading the model, and the engine's steps."
    )
    bounds = (
        f"Bounds: rounds scatter by {found['rounds_error']:.1%}, the answers' lengths may be off by "
        f"{found['length_error']:.1%}, and the next night is never quite like this one."
    )
    equal = f"Answers that are the same in both orders: {found['equal_answers']:.1%}."
    said = [measured, simulated, bounds, equal]
    if found["refused"]:
        said.append(f"Left out, as the engine cannot answer them: {found['refused']:,} requests.")
    if found["no_estimate"]:
        said.append(f"There is no estimate beside it ({found['no_estimate']}).")
    elif found["estimate"]["past_runs"]:
        said.append(f"The estimate is corrected by {found['estimate']['past_runs']} past runs.")
    elif not found["estimate"]["measured_device"]:
        said.append("The estimate goes by the nominal figures of the device; it was never measured.")
    return said
