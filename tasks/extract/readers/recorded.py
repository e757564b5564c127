"""Settings of a call as tools record them: numbers as text, "not set" spelled out, names of other languages.

A setting that is recorded as not set is left out, so that the run's default applies; a text that is no number
stays, and is refused by the name of its field.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers.contract import parsed_json

if TYPE_CHECKING:
    from collections.abc import Mapping

_RENAMED: Final = {
    "frequencyPenalty": "frequency_penalty",
    "maxCompletionTokens": "max_completion_tokens",
    "maxOutputTokens": "max_tokens",
    "maxRetries": "max_retries",
    "maxTokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "presencePenalty": "presence_penalty",
    "stopSequences": "stop",
    "stop_sequences": "stop",
    "topK": "top_k",
    "topP": "top_p",
}
_NUMBERS: Final = frozenset(
    {
        "best_of",
        "frequency_penalty",
        "max_completion_tokens",
        "max_retries",
        "max_tokens",
        "min_p",
        "min_tokens",
        "n",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "temperature",
        "timeout",
        "top_k",
        "top_logprobs",
        "top_p",
    }
)
_FLAGS: Final = frozenset({"echo", "ignore_eos", "logprobs", "parallel_tool_calls", "store", "stream"})
_WHOLE: Final = re.compile(r"[+-]?\d{1,20}(?:\.0+)?")
_REAL: Final = re.compile(r"[+-]?(?:\d{1,20}(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?", re.I)
_UNSET: Final = frozenset(
    {"", "none", "null", "undefined", "nan", "inf", "+inf", "infinity", "+infinity", "not_given", "notgiven"}
)
_WORDS: Final = frozenset({"function_call", "reasoning_effort", "stop", "tool_choice", "user"})
"""Settings whose value may well be such a word."""
_SENTINEL: Final = re.compile(r"<openai\.[\w.]*(?:NotGiven|Omit) object at .*>|(?:Omit|NotGiven)\(\)")


def recorded_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under OpenAI's names, with numbers for texts of them, without those that are not set.

    Parameters
    ----------
    given
        As recorded. A name of another language is read where OpenAI's is not there, too.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        known = _RENAMED.get(name, name)
        if _is_unset(known, value) or (known != name and not _is_unset(known, given.get(known))):
            continue
        found[known] = _value(known, value)
    return found


def _is_unset(name: str, value: object) -> bool:
    """Tell a value that means "not set": null, an endless number, a text that says so."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if not isinstance(value, str):
        return value is None
    text = value.strip()
    if not text or _SENTINEL.fullmatch(text):
        return True
    return text.lower() in _UNSET and name not in _WORDS


def _value(name: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if name in _FLAGS and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if name in _NUMBERS or name in _FLAGS:
        if _WHOLE.fullmatch(text):
            return int(text.partition(".")[0])
        number = float(text) if _REAL.fullmatch(text) else math.inf
        return number if math.isfinite(number) else value
    if text[:1] not in ("[", "{"):
        return value
    parsed = parsed_json(text)
    if name == "stop" and not (isinstance(parsed, list) and all(isinstance(item, str) for item in parsed)):
        return value
    return value if parsed is None else parsed
