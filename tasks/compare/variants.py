"""What is compared: engines with their options, in orders; and the night that each makes of another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.choices import ELSEWHERE, ENDPOINT, ENGINES, ORDERS
from tasks.base.errors import ConfigurationError
from tasks.infer.backends.engines import find_engine, refusal_of
from tasks.plan.work import NightWork, load_work
from tasks.profile.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.backends.facts import EngineFacts
    from tasks.night.night import Night


@dataclass(frozen=True)
class Variant:
    """An engine with its options, and an order.

    Attributes
    ----------
    options
        Of the engine, as KEY=VALUE.
    python
        Its interpreter; None is this one.
    """

    engine: str
    policy: str
    options: tuple[str, ...] = ()
    python: str | None = None


def variants_of(
    engines: Sequence[str], policies: Sequence[str], options: Sequence[str], pythons: Sequence[str]
) -> list[Variant]:
    """Return every engine in every order.

    Parameters
    ----------
    options
        As ``ENGINE:KEY=VALUE``: each is for one of the engines.
    pythons
        Interpreters as ``ENGINE:PATH``, or PATH where one engine alone has one.

    Raises
    ------
    ConfigurationError
        If an option is for none of them, or a name is given twice or unknown.
    """
    for name, given, known in (
        ("--engines", engines, tuple(ENGINES)),
        ("--policies", policies, tuple(ORDERS)),
    ):
        unknown = [one for one in given if one not in known]
        if unknown or not given or len(set(given)) < len(given):
            said = f"{unknown[0]!r} is unknown" if unknown else "names none, or one twice"
            raise ConfigurationError(name, said, f"Name some of {', '.join(known)}")
    of: dict[str, list[str]] = {engine: [] for engine in engines}
    for one in options:
        engine, colon, option = one.partition(":")
        if not colon or engine not in of:
            # Not repeated: it may hold what is secret.
            raise ConfigurationError(
                "--engine-option", "one is for none of the engines", "Give it as ENGINE:KEY=VALUE"
            )
        of[engine].append(option)
    python = _interpreters(engines, pythons)
    return [
        Variant(engine, policy, tuple(of[engine]), python.get(engine))
        for engine in engines
        for policy in policies
    ]


def _interpreters(engines: Sequence[str], pythons: Sequence[str]) -> dict[str, str]:
    """Return the interpreter of each engine that is given one."""
    having = [engine for engine in engines if engine in ELSEWHERE]
    found: dict[str, str] = {}
    for one in pythons:
        engine, colon, path = one.partition(":")
        if not colon and len(having) == 1:
            engine, path = having[0], one
        if engine not in having or engine in found:
            raise ConfigurationError(
                "--engine-python", "one is for none of the engines, or for two", "Give it as ENGINE:PATH"
            )
        found[engine] = path
    return found


def facts_of(night: Night, model: str, variant: Variant) -> EngineFacts:
    """Return what the engine of a variant is and can do; `model` is as the night was asked for it.

    Raises
    ------
    ConfigurationError
        If the engine is not there.
    """
    return find_engine(
        variant.engine,
        variant.options,
        None,
        night.model_dir,
        load_tokenizer(str(night.model_dir)).encode,
        model,
        python=variant.python,
        device=night.settings.device,
    )


def night_of(night: Night, variant: Variant, facts: EngineFacts) -> Night:
    """Return a night as a variant would run it."""
    settings = replace(
        night.settings,
        policy=variant.policy,
        engine=variant.engine,
        engine_python=variant.python,
        engine_options=variant.options,
        device=ENDPOINT if variant.engine == ENDPOINT else night.settings.device,
        # All orders are made for one device, or they would be compared along with what is asked.
        device_profile=night.settings.planned_on,
    )
    return replace(night, engine=facts, settings=settings)


def answerable(night: Night, facts: Sequence[EngineFacts]) -> tuple[NightWork, int]:
    """Return the work of the requests that each of some engines can answer, and how many cannot be.

    Raises
    ------
    ConfigurationError
        If none is left.
    """
    work = load_work(night)
    refusals = [refusal_of(one, night.settings.defaults) for one in facts]
    refused = {
        row["request_id"]
        for row in night.read_table("requests").to_pylist()
        if any(refusal(row) is not None for refusal in refusals)
    }
    open_keys = set(work.open_keys())
    members = {
        key: rows
        for key, rows in work.members.items()
        if key in open_keys and not any(work.rows[i]["request_id"] in refused for i in rows)
    }
    if not members:
        raise ConfigurationError("--source", "no request is left that all engines answer", "Name other logs")
    return replace(work, members=members), len(refused)
