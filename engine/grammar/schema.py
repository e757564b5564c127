"""JSON schemas as they are enforced: what cannot be enforced exactly is refused by its keyword.

llguidance refuses by itself most of what it cannot enforce. What is done here is what it would take in
silence and not hold to (large numbers are rounded, keys that are not declared may come twice), and what it
takes for an error although the specification makes it a note: a format that it does not know.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

from llguidance import LLMatcher

from engine.grammar.errors import ConstraintError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LARGEST: Final = 2**53
"""Numbers of a schema from here on are rounded to a double: 17 digits and more among them."""
_ONE: Final = ("additionalItems", "additionalProperties", "contains", "propertyNames", "not", "items")
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_COUNTS: Final = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NUMBERS: Final = ("minimum", "maximum", "multipleOf")
_LIMITS: Final = ("exclusiveMinimum", "exclusiveMaximum")
_TEXTS: Final = ("pattern", "format", "$ref", "$anchor", "$id", "$schema")
# Those of JSON, DEL included, that have no escape of one letter.
_UNSPELLABLE: Final = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f]")
# The year 0 and, but for a few dates, a second of 60: allowed by the formats, refused by validators.
_YEAR: Final = "^(000[1-9]|00[1-9]|0[1-9]|[1-9])"
_NARROWER: Final = {
    "date": _YEAR,
    "date-time": f"{_YEAR}[^:]+:[^:]+:[0-5]",
    "time": "^[^:]+:[^:]+:[0-5]",
}


def settled_schema(schema: object) -> dict[str, Any]:
    """Return a schema with the same meaning that is enforced exactly.

    Parameters
    ----------
    schema
        As JSON. The order of `properties` is that of the answers.

    Returns
    -------
    dict
        Formats that are not known are left out: the specification makes them notes.

    Raises
    ------
    ConstraintError
        Naming the keyword.
    """
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise ConstraintError("a JSON schema is an object; false is satisfied by nothing")
    walk = _Walk()
    settled = walk.schema(schema, "#")
    walk.check_references()
    return settled


@lru_cache(maxsize=256)
def is_known_format(name: str) -> bool:
    """Tell whether a format of strings is enforced."""
    made = LLMatcher.grammar_from_json_schema(json.dumps({"type": "string", "format": name}))
    failed, _ = LLMatcher.validate_grammar_with_warnings(made)
    return not failed


def _is_number(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    return _is_number(value) and value >= 0 and value % 1 == 0


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_TYPES: Final[tuple[tuple[Sequence[str], Callable[[Any], bool], str], ...]] = (
    (_COUNTS, _is_count, "a whole number from 0"),
    (_NUMBERS, _is_number, "a number"),
    # Flags beside minimum and maximum in draft 4.
    (_LIMITS, lambda value: _is_number(value) or isinstance(value, bool), "a number"),
    (_TEXTS, lambda value: isinstance(value, str), "a text"),
    (("required",), _are_texts, "a list of texts"),
    (("enum",), lambda value: isinstance(value, list), "a list"),
)
"""Keywords, what their values have to be, and that in words."""


class _Walk:
    """Visits the schemas within a schema, and only those: a constant may look like one."""

    def __init__(self) -> None:
        self._places: set[str] = set()
        self._anchors: set[str] = set()
        self._references: list[str] = []

    def schema(self, schema: Mapping[str, Any], place: str) -> dict[str, Any]:
        self._places.add(place)
        _check_values(schema)
        if place != "#" and "$id" in schema:
            _refuse("$id", "is supported at the root alone")
        if "$anchor" in schema:
            self._anchors.add(f"#{schema['$anchor']}")
        if "$ref" in schema:
            self._references.append(schema["$ref"])
        _check_count_of_keys(schema)
        settled = {key: self._inner(key, value, place) for key, value in schema.items()}
        return _with_format(settled)

    def check_references(self) -> None:
        """Refuse references to what has not been looked at."""
        for reference in self._references:
            if not reference.startswith("#"):
                _refuse("$ref", "leads out of the schema")
            if _unescaped(reference) not in self._places | self._anchors:
                _refuse("$ref", "leads to no schema of $defs, definitions or properties")

    def _inner(self, key: str, value: object, place: str) -> object:
        here = f"{place}/{key}"
        if key in _NAMED:
            if not isinstance(value, dict):
                _refuse(key, "must be an object of schemas")
            return {name: self._sub(key, inner, f"{here}/{name}") for name, inner in value.items()}
        if key in _LISTS and isinstance(value, list):
            return [self._sub(key, inner, f"{here}/{i}") for i, inner in enumerate(value)]
        if key in _ONE:
            return self._sub(key, value, here)
        if key in _LISTS:
            _refuse(key, "must be a list of schemas")
        return value

    def _sub(self, key: str, value: object, place: str) -> object:
        if isinstance(value, bool):
            self._places.add(place)
            return value
        if not isinstance(value, dict):
            _refuse(key, "holds something that is no schema")
        return self.schema(value, place)


def _check_values(schema: Mapping[str, Any]) -> None:
    """Refuse values of keywords that have no meaning, or that would be enforced as others."""
    if "x-guidance" in schema:
        _refuse("x-guidance", "would change how the schema is read")
    for keys, is_right, wanted in _TYPES:
        for key in keys:
            if key in schema and not is_right(schema[key]):
                _refuse(key, f"must be {wanted}")
    for key in (*_NUMBERS, *_COUNTS, *_LIMITS, "const", "enum"):
        _check_exact(key, schema.get(key))
    for name in (*schema.get("required", []), *_names(schema.get("properties"))):
        _check_exact("properties", name)


def _names(properties: object) -> Sequence[str]:
    return list(properties) if isinstance(properties, dict) else []


def _check_exact(key: str, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Refuse a value that an answer could not have exactly."""
    if isinstance(value, str):
        if _UNSPELLABLE.search(value):
            _refuse(key, "holds a control character")
    elif isinstance(value, list):
        for item in value:
            _check_exact(key, item)
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_exact(key, name)
            _check_exact(key, item)
    elif isinstance(value, int | float) and abs(value) >= LARGEST:
        _refuse(key, "holds a number that would be rounded; it must be below 2^53")


def _check_count_of_keys(schema: Mapping[str, Any]) -> None:
    """Refuse a least number of keys that keys which come twice could pretend.

    Keys that are declared come once, others may come again.
    """
    declared = set(_names(schema.get("properties"))) & set(schema.get("required", []))
    if schema.get("minProperties", 0) > len(declared) + 1:
        _refuse("minProperties", "can be at most one more than there are required properties")


def _with_format(schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("format")
    if name is None:
        return schema
    if not is_known_format(name):
        return {key: value for key, value in schema.items() if key != "format"}
    pattern = _NARROWER.get(name)
    if pattern is None:
        return schema
    if "pattern" in schema or "allOf" in schema:
        return {**schema, "allOf": [*schema.get("allOf", []), {"pattern": pattern}]}
    return {**schema, "pattern": pattern}


def _unescaped(reference: str) -> str:
    from urllib.parse import unquote

    return unquote(reference).replace("~1", "/").replace("~0", "~").removesuffix("/") or "#"


def _refuse(keyword: str, why: str) -> NoReturn:
    raise ConstraintError(f"{keyword} {why}")
