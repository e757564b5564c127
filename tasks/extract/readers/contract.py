"""What every reader makes of a record, and the small checks that readers share.

A field that says *what was asked* (a prompt, a length where there is no prompt, a time that decides on the
date) must be right, or the record goes to quarantine by the field's name. A field that only says *how it
went* (tokens of the logged answer, its latency) is left out where it cannot be used.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import orjson

from tasks.base.errors import QuarantineCode, QuarantineError
from tasks.base.times import EPOCH, parse_time
from tasks.requests.formats import AUTO, FORMATS, GENERIC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from tasks.base.errors import RequestError
    from tasks.requests.sampling import Endpoint

INT32_MAX: Final = 2**31 - 1
_UNSET_YEAR: Final = EPOCH.year
"""Times of it, and of the year 1, may stand for none."""
RESPONSES: Final = "responses"
"""Column `endpoint` of calls to `/v1/responses`, and the name of what their answers tell again of them."""
_FIELD: Final = re.compile(r"[A-Za-z_][\w.:-]{0,39}", re.ASCII)
_SHOWN_FIELDS: Final = 12


@dataclass(slots=True)
class Shape:
    """A request of which only lengths are known.

    Attributes
    ----------
    input_tokens
        Prompt tokens.
    block_hashes
        Names of the prompt's leading blocks: equal leading hashes are a shared prefix. Empty if not known.
    block_size
        Tokens of a hashed block.
    choices
        How many answers were asked for (`n`).
    """

    input_tokens: int
    block_hashes: list[int] = field(default_factory=list)
    block_size: int = 1
    choices: int = 1


@dataclass(slots=True)
class Logged:
    """One record, understood.

    Attributes
    ----------
    body
        The request as the body of an OpenAI call to `endpoint`; None if only its `shape` or its `error` is
        known.
    error
        Why it cannot be answered, where the log says so.
    custom_id
        The log's own name of the request, unique in its object; None if it has none.
    rest
        Fields of the record that pass through to the results.
    told_again
        Of a call to `/v1/responses`, whose answer has that API's form: what of the call it tells again.
    requested_model
        Of a request without a body.
    output_tokens
        Of its logged answer; of one of its choices, if there are several.
    """

    body: Mapping[str, Any] | None = None
    shape: Shape | None = None
    endpoint: Endpoint = "chat"
    custom_id: str | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)
    told_again: Mapping[str, Any] | None = None
    requested_model: str | None = None
    workload: str | None = None
    tenant: str | None = None
    event_time: datetime | None = None
    output_tokens: int | None = None
    latency_s: float | None = None
    priority: int | None = None
    deadline: datetime | None = None
    error: RequestError | None = None


@dataclass(frozen=True, slots=True)
class Filtered:
    """A record that is no call of a text model.

    Attributes
    ----------
    reason
        What it is instead, in a few words: records are counted by it.
    """

    reason: str


Own: TypeAlias = "tuple[str | None, datetime | None, int | None, float | None]"
"""What each request has of its own: `custom_id`, `event_time`, `output_tokens`, `latency_s` of `Logged`."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What a reader looks at in the records that it can tell in short.

    Attributes
    ----------
    decides
        Members of a record that decide what `Reader.read` makes of it, but for what is its own; and which
        members of theirs do, if these are few. A name that ends in `*` stands for all that begin so. `read`
        looks at nothing else of a record that `key` tells.
    own
        Members that hold what a request has of its own; they may decide as well.
    key
        Takes a record, and returns a JSON value: of two records with equal ones, and with the same of their
        `content` and `text`, `read` makes the same request, but for what is their own. None for a record that
        is for `read`.
    told
        Takes a record, or only its members of `own`, and returns what is its own as `read` gives it. Raises
        `QuarantineError` where `read` does.
    """

    decides: Mapping[str, Sequence[str]]
    own: Sequence[str]
    key: Callable[[Mapping[str, Any]], Any]
    told: Callable[[Mapping[str, Any]], Own]


@dataclass(frozen=True, slots=True)
class Reader:
    """One format.

    Attributes
    ----------
    name
        What `--format` calls it.
    title
        What a person calls it.
    matches
        Tells from one record whether an object is of this format.
    read
        Makes a record a request; `Filtered` for a record that is no call of a text model, such as a span of a
        trace around it. Raises `QuarantineError`.
    columns
        Columns to read of a Parquet file; None reads all.
    mapping
        Of the generic reader: the fields of a request and their columns.
    outline
        Tells records in short, for the quick way (`tasks.extract.parse.quick_logs`). A text in a field
        `content` or `text` may only become a message or a part of one: it may be a stand-in.
    """

    name: str
    title: str
    matches: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any]], Logged | Filtered]
    columns: tuple[str, ...] | None = None
    mapping: Mapping[str, str] | None = None
    outline: Outline | None = None


_KIND: Final = re.compile(r"[\w.:/-]{1,60}", re.ASCII)


def kind_name(value: object) -> str:
    """Return what a record calls its kind, for a reason: only if it is a name, since reasons are logged."""
    return value if isinstance(value, str) and _KIND.fullmatch(value) else "unknown"


def invalid(name: str, message: str) -> QuarantineError:
    """Return the error for a field of a record that cannot be used."""
    return QuarantineError(QuarantineCode.INVALID_FIELD, name, message)


def is_name(value: object) -> bool:
    """Tell whether a text may be shown as the name of a field: others could be a piece of a prompt."""
    return isinstance(value, str) and _FIELD.fullmatch(value) is not None


def fields_told(names: Iterable[object]) -> str:
    """Return the names of a record's fields for a message: never a value, and no name that may be a text."""
    given = list(names)
    shown = [str(name) for name in given if is_name(name)][:_SHOWN_FIELDS]
    left = len(given) - len(shown)
    if left:
        shown.append(f"{left} more")
    return ", ".join(shown) or "(none)"


def unrecognised(names: Iterable[object]) -> str:
    """Return the message for a record of no known format."""
    known = ", ".join(name for name in FORMATS if name not in (AUTO, GENERIC))
    return (
        f"no known format has the fields {fields_told(names)}; known are {known}; --columns reads any other"
    )


def missing(name: str) -> QuarantineError:
    """Return the error for a field that a record lacks."""
    return QuarantineError(QuarantineCode.MISSING_FIELD, name, f"the record has no {name}")


def required_count(record: Mapping[str, Any], name: str, least: int = 0) -> int:
    """Return a number of tokens that must be there: a whole number, or a text of one (CSV)."""
    value = record.get(name)
    if value is None or value == "":
        raise missing(name)
    found = count(value)
    if found is None or found < least:
        raise invalid(name, f"must be a whole number of at least {least}")
    return found


def count(value: object) -> int | None:
    """Return a count of tokens from 0 to 2^31 - 1, None if the value is no such count."""
    if type(value) is int:
        return value if 0 <= value <= INT32_MAX else None
    number = _number(value)
    if number is None or not 0 <= number <= INT32_MAX or number != int(number):
        return None
    return int(number)


def seconds(value: object, unit: float = 1.0) -> float | None:
    """Return a duration in seconds, not negative; None if the value is no duration."""
    number = _number(value)
    return None if number is None or number < 0 else number * unit


def text_id(record: Mapping[str, Any], name: str) -> str | None:
    """Return a record's own name: a text that is not empty, or a whole number as text."""
    value = record.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise invalid(name, "must be a string")
    return value


def label(value: object) -> str | None:
    """Return a text that is not empty, None for anything else."""
    return value if isinstance(value, str) and value else None


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object, given as such or as its JSON text; an empty one for anything else."""
    if isinstance(value, str):
        value = parsed_json(value)
    return value if isinstance(value, dict) else {}


def parsed_json(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value of a JSON text; None if it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def event_time(record: Mapping[str, Any], name: str, unit: float | None = None) -> datetime | None:
    """Return when a request was made, None if the record does not say.

    Parameters
    ----------
    record, name
        The field holds what `tasks.base.times.parse_time` reads: a text, a datetime, or a number since 1970
        (also as text) whose unit its size tells. Zero in any form (0, 1970-01-01T00:00:00Z, the year 1) is
        what writers put for a time that is not set.
    unit
        Seconds of a number that is no time of the years 2001 to 2100 in any unit; None refuses such numbers.

    Raises
    ------
    QuarantineError
        If the field is there and holds no time: the time decides on the date that a request belongs to.
    """
    value = record.get(name)
    if value is None:
        return None
    if type(value) is not float and value in ("", "0"):
        return None
    if value == 0 and not isinstance(value, bool):
        return None
    found = parse_time(value)
    if found is not None and found.year > _UNSET_YEAR:
        return found
    if found is None and unit is not None:
        number = _number(value)
        try:
            found = None if number is None else EPOCH + timedelta(seconds=number * unit)
        except OverflowError:
            found = None
    if found is None:
        raise invalid(name, "is no time: give ISO 8601, or s, ms, us or ns since 1970 (years 2001 to 2100)")
    return None if found == EPOCH or found.year == 1 else found


def between(start: datetime | None, end: datetime | None) -> float | None:
    """Return the seconds from start to end, None unless both are known and in order."""
    if start is None or end is None:
        return None
    took = (end - start).total_seconds()
    return took if took >= 0 else None


def optional_time(record: Mapping[str, Any], name: str, unit: float | None = None) -> datetime | None:
    """`event_time` of a field that only says how it went: None if it holds no time."""
    try:
        return event_time(record, name, unit)
    except QuarantineError:
        return None


def turns_of(record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the turns of a conversation, which must be there."""
    turns = record.get(name)
    if turns is None:
        raise missing(name)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise invalid(name, "must be a list of turns")
    return turns


def without_last_answer(messages: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a conversation up to where its last answer was asked for."""
    kept = list(messages)
    while kept and kept[-1].get("role") == "assistant":
        kept.pop()
    return kept


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value) if len(value) <= 40 and "_" not in value else None
        except ValueError:
            return None
    if isinstance(value, int):
        return value if abs(value) < 2**63 else None
    return value if isinstance(value, float) and math.isfinite(value) else None
