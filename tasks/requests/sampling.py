"""From the body of an OpenAI request to the sampling settings the engine runs with.

Where a request leaves a setting unset (absent or null), the *run's* default applies, never the default of the
OpenAI service: a run answers greedily (temperature 0) with 256 tokens unless told otherwise, and both values
are part of the run's identity. A setting that is given is either honoured or refused by its name:

- `HONOURED` fields are checked for type and range (`invalid_parameter`);
- fields that constrain the answer are checked by `tasks.requests.structured`;
- `WITHOUT_EFFECT` fields do not change the answer and pass through to the results;
- `NEUTRAL` fields are accepted at the values that mean "off" and refused otherwise (`unsupported_parameter`);
- every other field is refused (`unsupported_parameter`) unless it is null, which asks for nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from tasks.base.errors import ConfigurationError, ErrorCode, RequestError
from tasks.base.identity import canonical_json, default_seed
from tasks.requests.embeddings import ENDPOINT as EMBEDDINGS
from tasks.requests.embeddings import INPUT, LENGTHS
from tasks.requests.structured import FIELDS as CONSTRAINTS
from tasks.requests.structured import constraint_of
from tasks.requests.template_variables import more_settings, template_variables
from tasks.requests.tools import TOOLS, tool_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Endpoint = Literal["chat", "completions", "embeddings"]

CONTENT_FIELD: Final[dict[Endpoint, str]] = {
    "chat": "messages",
    "completions": "prompt",
    EMBEDDINGS: INPUT,
}
"""The field of the body that holds the prompt."""

HONOURED: Final = frozenset(
    {
        "frequency_penalty",
        "ignore_eos",
        "include_stop_str_in_output",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "min_p",
        "min_tokens",
        "n",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "stop_token_ids",
        "temperature",
        "top_k",
        "top_logprobs",
        "top_p",
    }
)
"""Sampling fields the engine honours."""

HONOURED_IN: Final[dict[Endpoint, frozenset[str]]] = {
    "chat": frozenset(
        {"add_generation_prompt", "chat_template_kwargs", "reasoning_effort", "tool_choice", "tools"}
    ),
    "completions": frozenset({"echo"}),
}
"""Fields that mean something in requests to one endpoint alone."""

WITHOUT_EFFECT: Final = frozenset(
    {
        "cache_salt",
        "max_retries",
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "request_timeout",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "timeout",
        "user",
    }
)
"""Fields that do not change the answer (who asked, how it is sent); they pass through to the results."""

NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "add_generation_prompt": (True,),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "detokenize": (True,),
    "documents": ([],),
    "early_stopping": (False,),
    "echo": (False,),
    "extra_body": ({},),
    "extra_headers": ({},),
    "extra_query": ({},),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guardrails": ([],),
    "kv_transfer_params": ({},),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "model_kwargs": ({},),
    "no_repeat_ngram_size": (0,),
    "no_stop_trim": (False,),
    "num_beams": (1,),
    "plugins": ([],),
    "priority": (0,),
    "provider": ({},),
    "raw": (False,),
    "reasoning_effort": (),
    "return_full_text": (False,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "safe_prompt": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_a": (0,),
    "transforms": ([],),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "verbosity": (),
    "vllm_xargs": ({},),
    "watermark": (False,),
    "web_search_options": (),
}
"""Fields that would change the answer, with the values (null aside) at which they do not.

`best_of` is also neutral where it equals `n`: the best n of n are all of them. `add_special_tokens` is
neutral at what the endpoint does anyway: true for completions, false for chats, whose template writes them.
Empty is not always off: `web_search_options: {}` asks for a search. In chat `TURN_FIELDS` may say more, and
fields of `HONOURED_IN` any value.
"""

TURN_FIELDS: Final = ("add_generation_prompt", "continue_final_message")
"""Whether an answer is a new turn or goes on with the last message; see `tasks.requests.prompts`."""

OFF: Final[dict[str, Any]] = {
    "chat_template_kwargs": "",
    "echo": False,
    "frequency_penalty": 0.0,
    "include_stop_str_in_output": False,
    "logit_bias": "",
    "min_p": 0.0,
    "min_tokens": 0,
    "n": 1,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
}
"""Settings that are kept only where a request asks for something, with the values that ask for nothing."""

MAX_STOP_STRINGS: Final = 16
MAX_STOP_CHARACTERS: Final = 1000
MAX_CHOICES: Final = 128
MAX_TOP_LOGPROBS: Final = 20
_INT32_MAX: Final = 2**31 - 1
_UINT64: Final = 2**64


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What applies where a request leaves a setting unset.

    Parameters
    ----------
    max_tokens : int
        Most output tokens of a request, at least 1.
    temperature : float
        0 (greedy) to 2.
    top_k : int
        0 is off.
    top_p : float
        Above 0, at most 1.

    Raises
    ------
    ConfigurationError
        If a default is out of range.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            try:
                _CHECKS[name](name, value)
            except RequestError as error:
                option = "--" + name.replace("_", "-")
                raise ConfigurationError(
                    option, error.message, f"Give {option} a value in that range"
                ) from None

    def as_dict(self) -> dict[str, Any]:
        """Return the defaults as a plain dict, in the form that enters identities."""
        return asdict(self)


def check_supported(body: Mapping[str, Any], endpoint: Endpoint) -> None:
    """Refuse a body that asks for something the engine does not do.

    Raises
    ------
    RequestError
        `unsupported_parameter`, naming the first such field in alphabetical order; `invalid_parameter`, if
        the answer is to be a new turn and to go on with the last one.
    """
    known = (
        HONOURED | CONSTRAINTS | WITHOUT_EFFECT | HONOURED_IN[endpoint] | {"model", CONTENT_FIELD[endpoint]}
    )
    if endpoint == "chat":
        _goes_on(body)
    for name in sorted(body):
        value = body[name]
        neutral = _neutral(name, body, endpoint)
        if value is None or name in known or any(_same(value, off) for off in neutral):
            continue
        if endpoint == "chat" and name in TURN_FIELDS and _goes_on(body):
            continue
        if name in NEUTRAL or neutral:
            message = "this setting would change the answer and is not supported"
        else:
            message = "this field is not known, so it cannot be shown to leave the answer unchanged"
        raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, name, message)


def explicit_sampling(body: Mapping[str, Any], endpoint: Endpoint = "chat") -> dict[str, Any]:
    """Read the settings that a body gives itself, checked and in one form.

    Parameters
    ----------
    body : mapping
        The request's body.
    endpoint : Endpoint
        `logprobs` is a flag beside `top_logprobs` in chat and a number in completions.

    Returns
    -------
    dict
        Any of `max_tokens, temperature, top_k, top_p, seed, stop, stop_token_ids, ignore_eos, logprobs,
        constraint`, those of `OFF` and of `tasks.requests.tools`; a setting that the body leaves unset is
        absent.
        `max_completion_tokens` becomes `max_tokens`, a `stop` string becomes a list, `top_k` -1 becomes 0
        (off), a negative `seed` its two's complement. `n` is present if above 1, the others of `OFF` if they
        are not at the value there, `logprobs` if asked for: the number of alternatives wanted per token, from
        0.

    Raises
    ------
    RequestError
        `invalid_parameter`, naming the field; `unsupported_parameter`, if the answer cannot be constrained
        as it is asked for.
    """
    settings: dict[str, Any] = {}
    for name in sorted(HONOURED - {"logprobs", "top_logprobs"}):
        value = body.get(name)
        if value is None:
            continue
        checked = _CHECKS[name](name, value)
        key = "max_tokens" if name == "max_completion_tokens" else name
        if settings.get(key, checked) != checked:
            raise _invalid(name, "max_tokens and max_completion_tokens are both given and differ")
        if checked != [] and (name not in OFF or checked != OFF[name]):
            settings[key] = checked
    if settings.get("min_tokens", 0) > settings.get("max_tokens", _INT32_MAX):
        raise _invalid("min_tokens", "must be at most max_tokens")
    settings |= {**template_variables(body), **tool_settings(body)} if endpoint == "chat" else _echo(body)
    found = {"logprobs": _logprobs(body, endpoint), "constraint": constraint_of(body)}
    if found["logprobs"] is not None and "echo" in settings:
        message = "log probabilities of the prompt are not given"
        raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, "echo", message)
    if found["constraint"] is not None or TOOLS in settings:
        _check_beside_constraint(settings, found["constraint"])
    return settings | {name: value for name, value in found.items() if value is not None}


def effective_sampling(explicit: Mapping[str, Any], defaults: SamplingDefaults) -> dict[str, Any]:
    """Fill the unset settings from the run's defaults.

    Returns
    -------
    dict
        All settings of the engine except `seed`, `logprobs`, `constraint` and those of `OFF`, which are
        present only if they were given. (So the keys of answers that ask for none are those of before there
        were such settings.)
    """
    unset = {"stop": [], "stop_token_ids": [], "ignore_eos": False}
    return {**defaults.as_dict(), **unset, **explicit}


def engine_sampling(row: Mapping[str, Any], defaults: SamplingDefaults, run_seed: int) -> dict[str, Any]:
    """Return the settings the engine runs one row of the requests table with.

    Parameters
    ----------
    row : mapping
        With the columns `request_id`, `max_tokens` and `sampling` of the requests table.
    defaults : SamplingDefaults
        The run's defaults.
    run_seed : int
        The run's seed; a request without an own seed gets a hash of its id and this.

    Returns
    -------
    dict
        `max_tokens, temperature, top_k, top_p, seed, stop, stop_token_ids, ignore_eos, n, logprobs,
        constraint`, all present; the last two are None if not asked for.
    """
    stored = stored_sampling(row)
    if LENGTHS in stored:
        # One sequence for each input, of which nothing is sampled.
        defaults, stored["n"] = _GREEDY, len(stored[LENGTHS])
    settings = effective_sampling(stored, defaults)
    settings.setdefault("seed", default_seed(row["request_id"], run_seed))
    return {"n": 1, "logprobs": None, "constraint": None, **settings}


def stored_sampling(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the explicit settings of a row of the requests table, as `explicit_sampling` gave them."""
    given = {**(row["sampling"] or {}), **more_settings(row), "max_tokens": row["max_tokens"]}
    return {name: value for name, value in given.items() if value is not None}


def shares_answer(explicit: Mapping[str, Any], defaults: SamplingDefaults) -> bool:
    """Tell whether equal requests may share one computed answer: greedy, or with a seed of their own.

    A request that samples without a seed was sent twice to get two answers.
    """
    return bool(effective_sampling(explicit, defaults)["temperature"] == 0 or "seed" in explicit)


def _echo(body: Mapping[str, Any]) -> dict[str, Any]:
    value = body.get("echo")
    return {"echo": True} if value is not None and _flag("echo", value) else {}


def _check_beside_constraint(settings: Mapping[str, Any], constraint: object) -> None:
    """Refuse what does not go with an answer that is constrained, or may become so with its tools."""
    if "min_tokens" in settings:
        message = "an answer that is constrained ends where it is complete"
        raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, "min_tokens", message)
    if constraint is not None and TOOLS in settings:
        message = "tools beside a constraint of the answer are not supported"
        raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, TOOLS, message)


def _goes_on(body: Mapping[str, Any]) -> bool:
    """Tell whether the answer is to go on with the last message."""
    begins, goes_on = (body.get(name) for name in TURN_FIELDS)
    if goes_on is not True or begins not in (None, False, True):
        return False
    if begins:
        raise _invalid("continue_final_message", "excludes add_generation_prompt, which begins a new turn")
    return True


def _neutral(name: str, body: Mapping[str, Any], endpoint: Endpoint) -> tuple[Any, ...]:
    if name == "best_of":
        return (body.get("n") or 1,)
    return (endpoint == "completions",) if name == "add_special_tokens" else NEUTRAL.get(name, ())


def _invalid(field: str, message: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_PARAMETER, field, message)


def _same(value: object, neutral: object) -> bool:
    # JSON's true is not 1, though Python's is.
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _number(name: str, value: object, least: float, most: float, *, above: bool = False) -> float:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not least <= value <= most
        or (above and value == least)
    ):
        bounds = f"above {least:g} and at most {most:g}" if above else f"from {least:g} to {most:g}"
        raise _invalid(name, f"must be a number {bounds}")
    # -0.0 would be another temperature to a digest, and the same one to the engine.
    return float(value) + 0.0


def _integer(name: str, value: object, least: int, most: int) -> int:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not least <= value <= most
        or value != int(value)
    ):
        raise _invalid(name, f"must be an integer from {least} to {most}")
    return int(value)


def _logprobs(body: Mapping[str, Any], endpoint: Endpoint) -> int | None:
    """Return how many alternatives per token are wanted; None if no log probabilities are."""
    wanted, top = body.get("logprobs"), body.get("top_logprobs")
    if endpoint == "completions":
        if top is not None and not _same(top, 0):
            raise _invalid("top_logprobs", "completions take the number of alternatives in logprobs")
        off = wanted is None or wanted is False
        return None if off else _integer("logprobs", wanted, 0, MAX_TOP_LOGPROBS)
    if wanted is not None and not isinstance(wanted, bool):
        raise _invalid("logprobs", "must be true or false")
    alternatives = 0 if top is None else _integer("top_logprobs", top, 0, MAX_TOP_LOGPROBS)
    if alternatives and not wanted:
        raise _invalid("top_logprobs", "needs logprobs to be true")
    return alternatives if wanted else None


def _top_k(name: str, value: object) -> int:
    return max(_integer(name, value, -1, _INT32_MAX), 0)


def _stop(name: str, value: object) -> list[str]:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(item, str) and item for item in strings):
        raise _invalid(name, "must be a string or a list of strings, none of them empty")
    if len(strings) > MAX_STOP_STRINGS or any(len(item) > MAX_STOP_CHARACTERS for item in strings):
        raise _invalid(name, f"at most {MAX_STOP_STRINGS} strings of {MAX_STOP_CHARACTERS} characters")
    return list(dict.fromkeys(strings))


def _stop_token_ids(name: str, value: object) -> list[int]:
    if not isinstance(value, list):
        raise _invalid(name, "must be a list of token ids")
    return list(dict.fromkeys(_integer(name, item, 0, _INT32_MAX) for item in value))


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _invalid(name, "must be true or false")
    return value


def _logit_bias(name: str, value: object) -> str:
    """Return the biases in one form: the JSON of pairs (token id, bias), those of 0 left out; '' for none."""
    if value == []:
        return ""
    if not isinstance(value, dict):
        raise _invalid(name, "must be an object of biases by token id")
    found: dict[int, float] = {}
    for key, bias in value.items():
        if not key.isascii() or not key.isdigit() or int(key[:11]) > _INT32_MAX:
            raise _invalid(name, "its names must be token ids")
        if found.setdefault(int(key), bias := _number(name, bias, -100, 100)) != bias:
            raise _invalid(name, "it has two biases of one token")
    pairs = [[token, bias] for token, bias in sorted(found.items()) if bias]
    return canonical_json(pairs) if pairs else ""


_CHECKS: Final[dict[str, Callable[[str, object], Any]]] = {
    "frequency_penalty": lambda name, value: _number(name, value, -2, 2),
    "ignore_eos": _flag,
    "include_stop_str_in_output": _flag,
    "logit_bias": _logit_bias,
    "max_completion_tokens": lambda name, value: _integer(name, value, 1, _INT32_MAX),
    "max_tokens": lambda name, value: _integer(name, value, 1, _INT32_MAX),
    "min_p": lambda name, value: _number(name, value, 0, 1),
    "min_tokens": lambda name, value: _integer(name, value, 0, _INT32_MAX),
    "n": lambda name, value: _integer(name, value, 1, MAX_CHOICES),
    "presence_penalty": lambda name, value: _number(name, value, -2, 2),
    "repetition_penalty": lambda name, value: _number(name, value, 0, 100, above=True),
    "seed": lambda name, value: _integer(name, value, -(2**63), _UINT64 - 1) % _UINT64,
    "stop": _stop,
    "stop_token_ids": _stop_token_ids,
    "temperature": lambda name, value: _number(name, value, 0, 2),
    "top_k": _top_k,
    "top_p": lambda name, value: _number(name, value, 0, 1, above=True),
}
_GREEDY: Final = SamplingDefaults(max_tokens=1)
"""What holds for requests that sample nothing."""
