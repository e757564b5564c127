"""The parameters of a candidate: those of its night, but for what is different with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flows.parameters.form import option
from flows.parameters.nightly import NightlyParameters
from tasks.base.errors import ConfigurationError
from tasks.canary.rules import name_of
from tasks.night.request import Limits, Rules

if TYPE_CHECKING:
    from collections.abc import Sequence

FIELDS: Final = (
    *("model", "policy", "lengths", "engine", "engine_python", "engine_option", "max_in_flight", "device"),
    *("dtype", "kv_dtype", "device_profile", "kv_tokens", "token_budget", "max_sequences", "page_size"),
)
"""What may be different. Sampling may not: then every answer would be another one."""
_OFF: Final[dict[str, Any]] = {
    **dict.fromkeys(("publish", "report", "failed_only", "give_way", "force"), False),
    **dict.fromkeys(("canary", "canary_scorer", "canary_steps", "metrics_port")),
    "canary_option": [],
    "canary_answers": 0,
}


def differences(given: Sequence[str], name: str = "canary_option") -> dict[str, Any]:
    """Return the fields of ``FIELD=VALUE`` texts; `engine_option` may be repeated.

    Raises
    ------
    ConfigurationError
        If one is of no field that may be different, or is given twice.
    """
    found: dict[str, Any] = {}
    for text in given:
        field, sign, value = text.partition("=")
        field = field.strip().removeprefix("--").replace("-", "_")
        if not sign or field not in FIELDS or not value:
            # Not repeated: it may hold what is secret.
            raise ConfigurationError(
                option(name),
                "one is not of the form FIELD=VALUE with a field that may be different",
                f"Give some of {', '.join(FIELDS)}",
            )
        if field == "engine_option":
            found.setdefault(field, []).append(value)
        elif field in found:
            raise ConfigurationError(option(name), f"{field} is given twice", "Leave one out")
        else:
            found[field] = value
    return found


def side_parameters(parameters: NightlyParameters, changed: dict[str, Any]) -> NightlyParameters:
    """Return the parameters of a side of a night: nothing of it is published."""
    values = parameters.model_dump(exclude_unset=True) | _OFF
    if "engine" in changed and changed["engine"] != parameters.engine:
        # Options are those of one engine.
        values = {name: v for name, v in values.items() if name not in {"engine_option", "max_in_flight"}}
    return NightlyParameters.parse(values | changed)


def check_candidate(parameters: NightlyParameters) -> None:
    """Check that what is asked about a candidate goes together.

    Raises
    ------
    ConfigurationError
        If it does not.
    """
    if parameters.canary is None and parameters.canary_steps is None:
        for name in ("canary_option", "canary_answers", "canary_scorer"):
            if getattr(parameters, name):
                raise ConfigurationError(
                    option("canary"), f"is missing beside {option(name)}", "Give the candidate's share"
                )
        return
    if parameters.canary is not None and parameters.canary_steps is not None:
        raise ConfigurationError(
            option("canary"), "does not go with --canary-steps", "Give one share, or those of the rules"
        )
    if not parameters.canary_option:
        raise ConfigurationError(
            option("canary_option"), "is missing", "Say what is different with it, as policy=dfs"
        )
    if parameters.canary_scorer is not None and not parameters.canary_answers:
        raise ConfigurationError(
            option("canary_answers"), "is missing beside --canary-scorer", "Say how many answers to compare"
        )
    steps(parameters)
    for name, value in (("compute_on", parameters.compute_on), ("failed_only", parameters.failed_only)):
        if value:
            raise ConfigurationError(option(name), "does not go with --canary yet", "Leave one of them out")


def steps(parameters: NightlyParameters) -> tuple[float, ...]:
    """Return the shares to go through, percent; none where they are not by rules.

    Raises
    ------
    ConfigurationError
        If they do not rise, or are not above 0 and at most 100.
    """
    found = tuple(float(text) for text in (parameters.canary_steps or "").split(",") if text)
    rising = all(one < other for one, other in zip((0.0, *found), found, strict=False))
    if not rising or any(one > 100.0 for one in found):
        raise ConfigurationError(
            option("canary_steps"), f"{parameters.canary_steps} are no rising shares", "Give them as 5,25,100"
        )
    return found


def rules_of(parameters: NightlyParameters, changed: dict[str, Any]) -> Rules | None:
    """Return the rules by which a candidate's share grows; None where the share is given."""
    shares = steps(parameters)
    if not shares:
        return None
    limits = Limits(
        parameters.canary_slower / 100.0,
        parameters.canary_errors / 100.0,
        parameters.canary_lengths / 100.0,
        parameters.canary_differing / 100.0,
    )
    return Rules(name_of(changed), shares, parameters.canary_nights, limits)
