"""What a chat body says of tools: which there are, and whether the answer calls any.

Kept are the settings `tools` (the definitions as JSON, in the order in which they were sent, since a chat
template shows them so), `tool_choice` where a call is required, and `parallel_tool_calls` where it is false.
With `tool_choice: "none"` nothing of them is kept: the model is not told of tools that it must not call. How
a model is told of them and writes its calls is its chat template's affair (`tasks.tools`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn

from engine.grammar.constraint import constraint
from engine.grammar.errors import ConstraintError
from tasks.base.errors import ErrorCode, RequestError, bounded

if TYPE_CHECKING:
    from collections.abc import Mapping

TOOLS: Final = "tools"
CHOICE: Final = "tool_choice"
PARALLEL: Final = "parallel_tool_calls"
FORM: Final = "tool_form"
"""Of a request that has tools: how the run's model writes calls (`tasks.tools.forms`), known once its prompt
has tokens."""
SETTINGS: Final = frozenset({TOOLS, CHOICE, PARALLEL, FORM})
"""Settings that prompts, constraints and answers are made of around the engine."""
REQUIRED: Final = "required"
NO_PARAMETERS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}
"""What a function without parameters takes."""
_FUNCTION: Final = frozenset({"name", "description", "parameters", "strict"})
_MOST_NAME: Final = 256


def tool_settings(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a chat body's tools; nothing where no tool may be called.

    Returns
    -------
    dict
        `tools`, a text; `tool_choice`, ``"required"`` or ``{"name": NAME}``; `parallel_tool_calls`, False.
        The last two are absent where they ask for nothing.

    Raises
    ------
    RequestError
        `invalid_parameter` or `unsupported_parameter`, naming the field; the latter also where the arguments
        of a call that has to be enforced cannot be.
    """
    tools, choice, parallel = (body.get(name) for name in (TOOLS, CHOICE, PARALLEL))
    names = _names(tools)
    chosen = _choice(choice, names)
    if not names or choice == "none":
        return {}
    if parallel is not None and not isinstance(parallel, bool):
        _invalid(PARALLEL, "must be true or false")
    if body.get("response_format") is not None and body["response_format"] not in ({"type": "text"}, {}):
        _unsupported("response_format", "a constraint of the answer beside tools is not supported")
    found: dict[str, Any] = {TOOLS: json.dumps(tools, ensure_ascii=False, separators=(",", ":"))}
    if chosen is not None:
        found[CHOICE] = chosen
    if parallel is False:
        found[PARALLEL] = False
    for index, tool in enumerate(tools if isinstance(tools, list) else []):
        if is_enforced(tool, chosen):
            _check_schema(tool["function"], f"{TOOLS}[{index}].function.parameters")
    return found


def is_enforced(tool: Mapping[str, Any], choice: object) -> bool:
    """Tell whether the arguments of calls to a tool must be as its definition has them."""
    if isinstance(choice, dict):
        return bool(tool["function"]["name"] == choice["name"])
    return choice == REQUIRED or tool["function"].get("strict") is True


def _names(tools: object) -> list[str]:
    if tools is None or tools == []:
        return []
    if not isinstance(tools, list):
        _unsupported(TOOLS, "only a list of functions is supported, as a request to OpenAI has it")
    names: list[str] = []
    for index, tool in enumerate(tools):
        where = f"{TOOLS}[{index}]"
        if not isinstance(tool, dict):
            _unsupported(TOOLS, "only definitions of functions are supported")
        if tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
            _unsupported(TOOLS, "only functions are supported, as a request to OpenAI has them")
        for name in sorted(tool.keys() - {"type", "function"}):
            if tool[name] is not None:
                _unsupported(f"{where}.{bounded(name, 64)}", "this field of a tool is not known")
        names.append(_function(tool["function"], f"{where}.function"))
        if names[-1] in names[:-1]:
            _invalid(f"{where}.function.name", "another tool has this name")
    return names


def _function(function: Mapping[str, Any], where: str) -> str:
    for key in sorted(function.keys() - _FUNCTION):
        if function[key] is not None:
            _unsupported(f"{where}.{bounded(key, 64)}", "this field of a function is not known")
    name: object = function.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= _MOST_NAME:
        _invalid(f"{where}.name", f"must be a text of 1 to {_MOST_NAME} characters")
    if not isinstance(function.get("description", ""), str | None):
        _invalid(f"{where}.description", "must be a text")
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        _invalid(f"{where}.parameters", "must be a JSON schema of an object")
    if not isinstance(function.get("strict"), bool | None):
        _invalid(f"{where}.strict", "must be true or false")
    return name


def _choice(choice: object, names: list[str]) -> str | dict[str, str] | None:
    """Return what has to be called: ``"required"``, a function by its name, None for nothing."""
    if choice in (None, "auto", "none"):
        return None
    if not names:
        _invalid(CHOICE, "there are no tools to choose from")
    if choice == REQUIRED:
        return REQUIRED
    if not isinstance(choice, dict) or choice.get("type") != "function":
        _unsupported(CHOICE, "must be none, auto, required or a function")
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if name not in names:
        _invalid(f"{CHOICE}.function.name", "no tool has this name")
    return {"name": str(name)}


def parameters_of(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a function's arguments, which always are an object."""
    given = function.get("parameters")
    if not given:
        return dict(NO_PARAMETERS)
    return given if "type" in given or "$ref" in given else {"type": "object", **given}


def _check_schema(function: Mapping[str, Any], where: str) -> None:
    schema = parameters_of(function)
    if schema.get("type", "object") != "object":
        _invalid(where, "must be a JSON schema of an object")
    try:
        constraint("json", schema)
    except ConstraintError as error:
        _unsupported(where, str(error))


def _invalid(field: str, message: str) -> NoReturn:
    raise RequestError(ErrorCode.INVALID_PARAMETER, field, message)


def _unsupported(field: str, message: str) -> NoReturn:
    raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, field, message)
