"""A night that has run, with some of everything, ready to be published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.base.accounting import Account
from tasks.profile.profile import profile
from tests.support.nights import AT, INFER, error, output, quarantined, request, write, write_inputs

if TYPE_CHECKING:
    from tasks.night.night import Night


ACCOUNT = Account(lines=8, blank=1, filtered=1, quarantined=1, requests=5, errors=1)


PASSED = '{"body":{"metadata":{"workload":"pick"},"user":"u"},"envelope":{"note":1}}'


STEP = {
    "step": 0,
    "started_at": AT,
    "seconds": 0.5,
    **dict.fromkeys(("prefill_tokens", "decode_tokens", "sequences", "kv_tokens_read", "free_pages"), 1),
    **dict.fromkeys(("modelled_compute_seconds", "modelled_memory_seconds"), 0.1),
    **dict.fromkeys(("hit_tokens", "recomputed_tokens", "retractions", "evicted_pages"), 0),
}


def fill(night: Night) -> None:
    """Five requests: three answered in two parts, one refused while parsed, one failed in the engine."""
    write_inputs(night, [request(name) for name in "abcd"], ACCOUNT)
    write(night, "errors", [error("refused")])
    write(night, "quarantine", [quarantined(3)])
    profile(night)
    night.log.finish_step("plan", {"policy": "blend", "hit_rate_optimum": 0.5})
    write(
        night, "outputs", [output("a", workload="pick", passthrough_json=PASSED), output("b", "line\u2028")]
    )
    write(night, "outputs", [output("c", endpoint="completions", finish_reason="length")])
    write(night, "errors", [error("d", code="internal_error", field=None, retryable=True)])
    write(night, "steps", [STEP])
    night.log.finish_step("infer", INFER)
