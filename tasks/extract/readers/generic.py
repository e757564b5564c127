"""Rows of any table, by a mapping of the request's fields to its columns.

`prompt=question` reads the prompt of each row from its column `question`; `custom_id=meta.id` reads a field
inside a column. Needed is one of `messages`, `prompt`, `input_tokens`; see `FIELDS` for the others. Columns
that are not named are not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import ConfigurationError, QuarantineCode, QuarantineError
from tasks.extract.forms.contract import with_system
from tasks.extract.readers.contract import (
    Logged,
    Reader,
    Shape,
    count,
    event_time,
    fields_told,
    label,
    missing,
    parsed_json,
    required_count,
    seconds,
    text_id,
)
from tasks.requests.formats import GENERIC

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONTENT: Final = ("messages", "prompt", "input_tokens")
SETTINGS: Final = ("model", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "n")
OTHER: Final = ("custom_id", "system", "event_time", "output_tokens", "latency_s", "workload", "tenant")
FIELDS: Final = (*CONTENT, *SETTINGS, *OTHER)
"""What a column can be mapped to. `prompt` with `system` makes a chat; `prompt` alone a completion."""
_NUMBERS: Final = frozenset({"max_tokens", "temperature", "top_p", "top_k", "seed", "n"})


@dataclass(frozen=True, slots=True)
class _ByColumns:
    columns: Mapping[str, str]
    keep_rest: bool

    def read(self, record: Mapping[str, Any]) -> Logged:
        found = {name: _value(record, path) for name, path in self.columns.items()}
        logged = Logged(
            custom_id=text_id(found, "custom_id"),
            requested_model=label(found.get("model")),
            workload=label(found.get("workload")),
            tenant=label(found.get("tenant")),
            event_time=event_time(found, "event_time"),
            output_tokens=count(found.get("output_tokens")),
            latency_s=seconds(found.get("latency_s")),
        )
        if self.keep_rest:
            used = {path.partition(".")[0] for path in self.columns.values()}
            logged.rest = {name: value for name, value in record.items() if name not in used}
        content = next((found[name] for name in CONTENT[:2] if found.get(name) not in (None, "")), None)
        if content is None and "input_tokens" in self.columns:
            logged.shape = Shape(required_count(found, "input_tokens"))
            logged.endpoint = "completions"
            return logged
        if content is None:
            name = next(self.columns[name] for name in CONTENT if name in self.columns)
            if name in record or name.partition(".")[0] in record:
                raise missing(name)
            message = f"there is no {name} among the fields {fields_told(record)}; --columns names another"
            raise QuarantineError(QuarantineCode.MISSING_FIELD, name, message)
        body = {name: _setting(name, found.get(name)) for name in SETTINGS}
        body = {name: value for name, value in body.items() if value not in (None, "")}
        system = found.get("system")
        if "messages" in self.columns and found.get("messages") not in (None, ""):
            messages = parsed_json(content) if isinstance(content, str) else content
            body["messages"] = with_system(system, messages) if isinstance(messages, list) else messages
        elif system in (None, ""):
            logged.endpoint = "completions"
            body["prompt"] = content
        else:
            body["messages"] = [{"role": "system", "content": system}, {"role": "user", "content": content}]
        logged.body = body
        return logged


def generic_reader(columns: Mapping[str, str], *, keep_rest: bool = False) -> Reader:
    """Return the reader of a mapping.

    Parameters
    ----------
    columns
        Field of a request -> its column.
    keep_rest
        Whether the other columns are read and come back with the answer.

    Raises
    ------
    ConfigurationError
        If it names a field that requests do not have, or no prompt.
    """
    unknown = sorted(columns.keys() - set(FIELDS))
    if unknown:
        raise ConfigurationError(
            "--columns", f"{unknown[0]} is no field of a request", f"Use {', '.join(FIELDS)}"
        )
    if not set(CONTENT) & columns.keys():
        raise ConfigurationError(
            "--columns",
            "names no column of prompts",
            "Add prompt=COLUMN, messages=COLUMN or input_tokens=COLUMN",
        )
    if keep_rest:
        return Reader(
            GENERIC, "Rows of any table", _never, _ByColumns(columns, keep_rest=True).read, None, columns
        )
    top = tuple(dict.fromkeys(path.partition(".")[0] for path in columns.values()))
    read = _ByColumns(columns, keep_rest=False).read
    return Reader(GENERIC, "Rows of any table", _never, read, top, columns)


def parse_columns(given: Sequence[str]) -> dict[str, str]:
    """Read `field=column` pairs as they were typed.

    Raises
    ------
    ConfigurationError
        If one is no such pair.
    """
    found = {}
    for pair in given:
        name, separator, column = pair.partition("=")
        if not separator or not name or not column:
            raise ConfigurationError("--columns", f"{pair!r} is no pair", "Write it as prompt=COLUMN")
        found[name.strip()] = column.strip()
    return found


def _never(_: Mapping[str, Any]) -> bool:
    return False


def _value(record: Mapping[str, Any], path: str) -> object:
    if path in record:
        return record[path]
    found: object = record
    for step in path.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    return found


def _setting(name: str, value: object) -> object:
    # A table of texts (CSV) holds numbers and lists as texts.
    if isinstance(value, str) and (name in _NUMBERS or (name == "stop" and value.startswith("["))):
        parsed = parsed_json(value)
        return value if parsed is None else parsed
    return value
