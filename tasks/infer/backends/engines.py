"""The engine of a night: its options checked, looked at before any work, and what it cannot do refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol

from engine.backends.endpoint.options import parse_options
from engine.backends.facts import NATIVE_FACTS
from engine.backends.sglang import examine as sglang
from engine.backends.sglang.options import parse_options as parse_sglang_options
from engine.backends.vllm import examine as vllm
from engine.backends.vllm.options import parse_options as parse_vllm_options
from engine.choices import ENDPOINT, NATIVE, SGLANG, VLLM
from engine.errors import OptionError
from engine.grammar.constraint import field_of
from tasks.base.errors import OF_ENGINE, ConfigurationError, ErrorCode, RequestError
from tasks.night.model import has_vision, model_name
from tasks.requests.embeddings import ENDPOINT as EMBEDDINGS
from tasks.requests.images import has_images, images_of
from tasks.requests.prompts import without_turn
from tasks.requests.sampling import OFF, effective_sampling, stored_sampling
from tasks.requests.tool_messages import CALLS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from engine.backends.facts import EngineFacts
    from tasks.requests.sampling import SamplingDefaults

SAMPLE: Final = "Hello, world"
"""What a server is asked to go on with for one token."""
_OFF: Final[Mapping[str, Any]] = {
    "top_k": 0,
    "top_p": 1.0,
    "seed": None,
    "stop_token_ids": [],
    "ignore_eos": False,
    "logprobs": None,
    "constraint": None,
    "tools": None,
    **OFF,
}
"""Sampling settings as they are where a request does not ask for them."""


class Encode(Protocol):
    """Encodes texts to token ids."""

    def __call__(self, texts: Sequence[str], *, special: bool) -> list[list[int]]: ...  # noqa: D102 - described by the class


def check_engine(
    engine: str,
    options: Sequence[str],
    max_in_flight: int | None,
    python: str | None = None,
    hours: str | None = None,
) -> None:
    """Check the options of an engine as they were typed; nothing is asked of it yet.

    Raises
    ------
    ConfigurationError
        Naming the option.
    """
    meant_for = {
        "--engine-option": f"{VLLM}, {SGLANG} or {ENDPOINT}",
        "--max-in-flight": ENDPOINT,
        "--hours": ENDPOINT,
        "--engine-python": f"{VLLM} or {SGLANG}",
    }
    has = {
        NATIVE: (),
        VLLM: ("--engine-option", "--engine-python"),
        SGLANG: ("--engine-option", "--engine-python"),
        ENDPOINT: ("--engine-option", "--max-in-flight", "--hours"),
    }
    given = {
        "--engine-option": options,
        "--max-in-flight": max_in_flight,
        "--engine-python": python,
        "--hours": hours,
    }
    for name, value in given.items():
        if value and name not in has[engine]:
            raise ConfigurationError(
                name, "is for an engine elsewhere", f"Leave it out, or add --engine {meant_for[name]}"
            )
    try:
        if engine == VLLM:
            parse_vllm_options(options)
        elif engine == SGLANG:
            parse_sglang_options(options)
        elif engine == ENDPOINT:
            parse_options(options, max_in_flight, hours).headers()
    except OptionError as error:
        raise _configuration(error) from None


def find_engine(
    engine: str,
    options: Sequence[str],
    max_in_flight: int | None,
    model_dir: Path,
    encode: Encode,
    model: str,
    *,
    python: str | None = None,
    device: str = ENDPOINT,
    hours: str | None = None,
    timezone: str = "UTC",
) -> EngineFacts:
    """Return what is known of an engine, asking it if it is elsewhere.

    Parameters
    ----------
    model_dir, model
        Folder of the model, and the name that it was asked for by: an engine elsewhere may have it under
        either, if the options do not say.
    encode
        `tasks.profile.tokenizer.PromptTokenizer.encode` of that model.
    python, device
        The interpreter that has the engine, None for this one, and what it is to compute on.
    hours, timezone
        When the servers may be used, by whose clock; None: at any time.

    Raises
    ------
    ConfigurationError
        One line, if it cannot be reached or does not have the model.
    """
    check_engine(engine, options, max_in_flight, python, hours)
    if engine == NATIVE:
        return NATIVE_FACTS
    try:
        if engine == VLLM:
            return vllm.examine(parse_vllm_options(options), python, model_dir, on_cpu=device == "cpu")
        if engine == SGLANG:
            return sglang.examine(parse_sglang_options(options), python, model_dir, on_cpu=device == "cpu")
        names = (model_name(model_dir), model, str(model_dir))
        (sample,) = encode([SAMPLE], special=False)
        # Its HTTP client is loaded for nights that ask a server only.
        from engine.backends.endpoint.examine import examine

        asked = parse_options(options, max_in_flight, hours, timezone)
        return examine(asked, names, sample, images=has_vision(model_dir))
    except OptionError as error:
        raise _configuration(error) from None


def _configuration(error: OptionError) -> ConfigurationError:
    return ConfigurationError(error.option, error.message, error.remedy[:1].upper() + error.remedy[1:])


def check_defaults(facts: EngineFacts, defaults: SamplingDefaults) -> None:
    """Check that an engine honours what applies where a request sets nothing.

    Raises
    ------
    ConfigurationError
        Naming the option.
    """
    if "top_k" in facts.unsupported and defaults.top_k:
        raise ConfigurationError("--top-k", f"{facts.version} does not honour it", "Leave it out")


def refusal_of(
    facts: EngineFacts, defaults: SamplingDefaults
) -> Callable[[Mapping[str, Any]], RequestError | None]:
    """Return a function that tells why the engine cannot answer a row of the requests table; None: it can."""

    def refusal(row: Mapping[str, Any]) -> RequestError | None:
        if row.get("endpoint") == EMBEDDINGS:
            return None if facts.capabilities.embeddings else _no_embeddings(facts)
        settings = effective_sampling(stored_sampling(row), defaults)
        pictured = has_images(row["messages_json"])
        if pictured and (unseen := _not_seen(row, facts, settings)) is not None:
            return unseen
        # Messages with images go as they are, whatever else is taken.
        as_text = pictured or facts.prompts == "text"
        for name in facts.unsupported:
            # A chat is rendered here, unless the engine does that.
            if name == "chat_template_kwargs" and not as_text:
                continue
            if _asks_for(settings, name):
                field = field_of(settings[name]) if name == "constraint" else name
                return _unsupported(field, facts)
        for first, second in facts.apart:
            if _asks_for(settings, first) and _asks_for(settings, second):
                return _unsupported(second, facts, f"does not honour this setting beside {first}")
        return _not_as_text(row, facts) if as_text else None

    return refusal


def _asks_for(settings: Mapping[str, Any], name: str) -> bool:
    """Tell whether a setting changes the answer; a greedy one does not depend on some of them."""
    if settings["temperature"] == 0 and name in {"seed", "top_k", "min_p"}:
        return False
    off = _OFF[name]
    return bool(settings.get(name, off) != off)


def _not_seen(row: Mapping[str, Any], facts: EngineFacts, settings: Mapping[str, Any]) -> RequestError | None:
    """Tell why an engine cannot answer a row with images; None: it can, as far as these go."""
    if not facts.capabilities.images:
        return _no_images(row["messages_json"], facts)
    if _asks_for(settings, "tools"):
        return _unsupported("tools", facts, "is not known to take tools beside images")
    return None


def _no_embeddings(facts: EngineFacts) -> RequestError:
    message = f"{OF_ENGINE} ({facts.version}) is not asked for embeddings; our own engine makes them"
    return RequestError(ErrorCode.UNSUPPORTED_URL, "url", message)


def _no_images(messages: str, facts: EngineFacts) -> RequestError:
    where = next(place for place, _ in images_of(json.loads(messages)))
    able = f"{ENDPOINT} does, where the model has a vision tower and the server looks at images"
    return _unsupported(where, facts, f"takes no images; {able}")


def _not_as_text(row: Mapping[str, Any], facts: EngineFacts) -> RequestError | None:
    """Tell why an engine that takes prompts as text cannot take a row's; None: it can."""
    if row["token_ids"] is not None:
        return _unsupported("prompt", facts, "takes no token ids")
    if _says_whose_turn(row["messages_json"]):
        return _unsupported("continue_final_message", facts, "cannot be told whose turn it is")
    if _has_calls(row["messages_json"]):
        return _unsupported("messages", facts, "is not known to take calls of tools and their results")
    return None


def _says_whose_turn(messages: str | None) -> bool:
    """Tell whether a chat's last message says that it is gone on with, or is an answer that is not."""
    if messages is None or '"prefix"' not in messages:
        return False
    turns, goes_on = without_turn(json.loads(messages))
    return bool(goes_on) or (goes_on is not None and turns[-1]["role"] == "assistant")


def _has_calls(messages: str | None) -> bool:
    """Tell whether a chat holds calls of tools or what they gave back."""
    if messages is None or '"tool' not in messages:
        return False
    return any(turn["role"] == "tool" or CALLS in turn for turn in json.loads(messages))


def _unsupported(name: str, facts: EngineFacts, why: str = "does not honour this setting") -> RequestError:
    message = f"{OF_ENGINE} ({facts.version}) {why}"
    return RequestError(ErrorCode.UNSUPPORTED_PARAMETER, name, message)
