"""What a body asks its whole answer to be: a JSON schema, a pattern, one of some texts, a grammar.

Asked for by OpenAI's `response_format`, or vLLM's `structured_outputs` and the `guided_*` fields before it.
All of them come to one constraint of `engine.grammar.constraint`, checked: one that cannot be enforced
exactly is refused by its keyword.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn

from engine.grammar.constraint import constraint
from engine.grammar.errors import ConstraintError
from tasks.base.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.grammar.constraint import Kind

GUIDED: Final[Mapping[str, Kind]] = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
"""Fields of vLLM's, and what each of them holds."""
FIELDS: Final = frozenset({"response_format", "structured_outputs", *GUIDED})
"""Fields of a body that constrain its answer."""

_ANY_OBJECT: Final = {"type": "object"}
_PLAIN: Final[tuple[dict[str, str], ...]] = ({"type": "text"}, {})
_OUTPUT_KINDS: Final[Mapping[str, Kind]] = {
    "json": "json",
    "regex": "regex",
    "choice": "choice",
    "grammar": "grammar",
}
# Whether another library or looser white space may be taken: neither changes what is allowed here.
_OUTPUT_NEUTRAL: Final = frozenset({"disable_fallback", "disable_any_whitespace"})


def constraint_of(body: Mapping[str, Any]) -> str | None:
    """Return the constraint that a body asks for, as a text; None: it asks for none.

    Raises
    ------
    RequestError
        `unsupported_parameter`, if it cannot be enforced exactly; `invalid_parameter`, if it means nothing.
        The field is that of the body.
    """
    asked = [(name, *found) for name in sorted(FIELDS) if (found := _asked(name, body.get(name))) is not None]
    if len(asked) > 1:
        _invalid(asked[1][0], f"{asked[0][0]} constrains the answer already")
    if not asked:
        return None
    name, kind, value = asked[0]
    try:
        return constraint(kind, value)
    except ConstraintError as error:
        raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, name, str(error)) from None


def _asked(name: str, value: Any) -> tuple[Kind, Any] | None:  # noqa: ANN401 - any JSON value
    """Return the kind of constraint and its value; None if the field asks for none."""
    if value is None:
        return None
    if name in GUIDED:
        return GUIDED[name], _parsed(name, value) if name == "guided_json" else value
    return _response_format(value) if name == "response_format" else _structured_outputs(value)


def _response_format(form: object) -> tuple[Kind, Any] | None:
    name = "response_format"
    if form in _PLAIN:
        return None
    if isinstance(form, str):
        # Logs tell the kind alone at times.
        _unsupported(name, "tells the form of the answer and no schema")
    if not isinstance(form, dict):
        _invalid(name, "must be an object with a type")
    kind = form.get("type")
    if kind == "json_object":
        _only(name, form, {"type", "schema"})
        schema = form.get("schema")
        return "json", _ANY_OBJECT if schema is None else schema
    if kind == "json_schema":
        _only(name, form, {"type", "json_schema"})
        given = form.get("json_schema")
        if not isinstance(given, dict) or given.get("schema") is None:
            _invalid(name, "a json_schema needs an object with a schema")
        _only(name, given, {"name", "description", "schema", "strict"})
        return "json", given["schema"]
    if kind == "text":
        _only(name, form, {"type"})
    return _unsupported(name, "its type must be text, json_object or json_schema")


def _structured_outputs(value: object) -> tuple[Kind, Any] | None:
    name = "structured_outputs"
    if not isinstance(value, dict):
        _invalid(name, "must be an object")
    given = {key: inner for key, inner in value.items() if inner is not None and key not in _OUTPUT_NEUTRAL}
    if given.get("disable_additional_properties") is False:
        del given["disable_additional_properties"]
    if given.get("json_object") is False:
        del given["json_object"]
    if not given:
        return None
    _only(name, given, {*_OUTPUT_KINDS, "json_object"})
    if len(given) > 1:
        _invalid(name, f"{' and '.join(sorted(given))} exclude each other")
    ((key, inner),) = given.items()
    if key == "json_object":
        if inner is not True:
            _invalid(name, "json_object must be true or false")
        return "json", _ANY_OBJECT
    return _OUTPUT_KINDS[key], _parsed(name, inner) if key == "json" else inner


def _parsed(name: str, schema: object) -> object:
    """Return a schema that may be written as a text."""
    if not isinstance(schema, str):
        return schema
    try:
        return json.loads(schema)
    except ValueError:
        _invalid(name, "the schema is a text that is no JSON")


def _only(name: str, given: Mapping[str, Any], known: set[str]) -> None:
    for key in sorted(given):
        if key not in known and given[key] is not None:
            _unsupported(name, f"{key} is not supported")


def _invalid(field: str, message: str) -> NoReturn:
    raise RequestError(ErrorCode.INVALID_PARAMETER, field, message)


def _unsupported(field: str, message: str) -> NoReturn:
    raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, field, message)
