"""The answer in a few plain sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.estimate.read import ASSUMED, PARTLY, PAST

if TYPE_CHECKING:
    from tasks.estimate.machine import Machine
    from tasks.estimate.requests import Requests
    from tasks.estimate.trust import Corrections

WORTH, UNCERTAIN, NOT_WORTH = "worth it", "uncertain", "not worth it"
SMALL: Final = 0.05
"""A saving below this part is not worth a change."""


def judge(result: dict[str, Any]) -> dict[str, Any]:
    """Return `answer` (one of the three) and `reasons`, sentences."""
    saving = result["saving"]
    if saving["central"] < SMALL:
        answer = NOT_WORTH
    elif saving["low"] < SMALL:
        answer = UNCERTAIN
    else:
        answer = WORTH
    return {"answer": answer, "reasons": list(_reasons(result, answer))}


def _reasons(result: dict[str, Any], answer: str) -> list[str]:
    found = []
    largest = max(result["sources"], key=lambda source: float(source["factor"]))
    workload, optimum = result["workload"], result["optimum"]
    single = workload["requests"] == 1
    if answer == NOT_WORTH:
        found.append(_why_not(result))
    elif single:
        found.append(
            "All requests are equal: their one answer is computed once, and nothing is left to order."
        )
    elif largest["factor"] > 1.0:
        found.append(f"Most of it comes from {largest['name']}: {largest['what']}.")
    if optimum["limit"] == "longest" and not single:
        found.append(
            "The longest answer alone takes as long as everything else together: more GPUs or a better order "
            "would not end the night sooner."
        )
    auto = result["auto"]
    if not single:
        found.append(
            f"--policy auto, the default, goes by what is simulated: here {auto['order']}, "
            f"{auto['seconds'] / 3600:,.2f} h; {auto['runner_up']} would take "
            f"{auto['vs_runner_up']:.1%} more."
        )
    if result["best_order"] not in (auto["order"], auto["runner_up"]):
        found.append(f"The order {result['best_order']} does better here: --policy chooses it.")
    small = [name for name, w in workload["workloads"].items() if w["memory_seconds"] <= 0.0]
    if small:
        found.append(f"{', '.join(small)}: answers so short that nothing is decoded.")
    return found


def _why_not(result: dict[str, Any]) -> str:
    workload = result["workload"]
    if workload["requests"] == 1:
        return (
            "There is one request to compute: nothing to order, nothing to share, nothing to run beside it."
        )
    density = workload["density"]
    if density > 5.0:
        return (
            f"The work is almost all arithmetic (density {density:.1f}): there is little memory work to hide "
            "beside it."
        )
    if density < 0.2:
        return (
            f"The work is almost all reading of the KV cache (density {density:.2f}): there is little "
            "arithmetic to hide beside it."
        )
    if not result["overlap"]["possible"]:
        return "This device cannot run compute and memory work side by side, and there is little to share."
    return "Today's way is already close to what the device can do with these requests."


def assumptions(
    requests: Requests,
    machines: list[Machine],
    corrections: dict[str, Corrections],
    *,
    asked_for_past: bool,
) -> list[str]:
    """Return what the figures rest on, as sentences for people."""
    about, found = requests.about, []
    source = about.get("length_source")
    if source == ASSUMED:
        found.append(
            "Answer lengths are assumed, none is in the log: the bounds take half and one and a half times "
            "the mean."
        )
    elif source == PARTLY:
        lengths = about["lengths"]
        found.append(
            f"{lengths['assumed']:,} of {len(requests):,} answers have no logged length and take the mean of "
            "their workload."
        )
    elif source == PAST:
        lengths = about["lengths"]
        found.append(
            f"{lengths['assumed']:,} of {len(requests):,} answers have no logged length; theirs are drawn "
            "from those of the same workload in earlier runs."
        )
    if about.get("too_long"):
        found.append(f"Left out, as they do not fit the model's context: {about['too_long']:,} requests.")
    if "pieces" in str(about.get("counted_by")):
        found.append(
            "Prompts are counted in pieces of words, as there is no tokenizer: token counts may be off by a "
            "fifth."
        )
    found.append("The scheduler knows the mean answer length of each workload, not each answer's length.")
    for machine in machines:
        if not machine.measured:
            found.append(
                f"{machine.name}: datasheet peaks times an assumed efficiency; `nightblend calibrate` on "
                "such a GPU replaces them by measured figures."
            )
        if machine.interference is not None and machine.overlaps:
            low, central, high = machine.interference
            found.append(
                f"{machine.name}: how well compute and memory work run side by side is assumed, not "
                f"measured: together they take max + g * min, with g = {central} (bounds: {low} to {high})."
            )
        c = corrections[machine.name]
        if c.runs:
            found.append(
                f"{machine.name}: times are corrected by {c.runs} past runs (measured): {c.factor:.2f} times "
                f"the modelled ones, and {c.overhead_seconds:.0f} s beside the engine's steps."
            )
        elif asked_for_past:
            found.append(
                f"{machine.name}: no past run was planned with this device profile, so nothing is corrected."
            )
    return found
