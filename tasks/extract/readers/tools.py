"""Definitions of tools, wherever a log keeps them: they change the answer, so a request must show them.

A definition that a log keeps beside the body is refused by the name `tools`: such logs do not tell all that
was asked of them (`tool_choice`), nor in one form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers.contract import parsed_json

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES: Final = (
    "tools",
    "functions",
    "toolConfig",
    "toolDefinitions",
    "tool_definitions",
    "available_tools",
    "gen_ai.tool.definitions",
    "gen_ai.request.tools",
    "gen_ai.request.available_tools",
    "ai.prompt.tools",
    "mlflow.chat.tools",
    "llm.tools",
    "llm.request.functions",
)
"""Names of fields and attributes: of APIs, of Langfuse, of the GenAI conventions, of the AI SDK, of MLflow,
of OpenInference and of OpenLLMetry."""
_NUMBERED: Final = ("llm.tools.", "llm.request.functions.")
"""Beginnings of attributes that spread definitions over several."""
LOOKED_AT: Final = (*NAMES, *(f"{name}*" for name in _NUMBERED))
"""All names that decide whether a place has definitions, as `tasks.extract.readers.contract.Outline` has
them."""
LOGGED: Final = "logged"
_NAMES: Final = frozenset(NAMES)
_MOST: Final = 512
_LONGEST: Final = 4096
"""Names of so many places are remembered, if they are not longer together: records of a log share them."""
_known: dict[tuple[str, ...], bool] = {}


def tool_definitions(*places: Mapping[str, Any]) -> object:
    """Return the first definitions of tools in any of the places; None if there are none."""
    for place in places:
        if not may_define(place):
            continue
        for name in NAMES:
            found = place.get(name)
            found = parsed_json(found) if isinstance(found, str) else found
            if _defines(found):
                return found
        numbered = {name: value for name, value in place.items() if name.startswith(_NUMBERED)}
        if numbered:
            return [numbered]
    return None


def may_define(place: Mapping[str, Any]) -> bool:
    """Tell whether a place has any of the names that definitions have; they may hold none."""
    if not place:
        return False
    names = tuple(place)
    known = _known.get(names)
    if known is None:
        joined = "\n".join(names)
        known = not _NAMES.isdisjoint(names) or any(begin in joined for begin in _NUMBERED)
        if len(joined) <= _LONGEST:
            if len(_known) >= _MOST:
                _known.clear()
            _known[names] = known
    return known


def with_tools(body: dict[str, Any], *places: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body that shows the tools that its log defines elsewhere."""
    if body.get("tools") or body.get("functions"):
        return body
    found = tool_definitions(*places)
    return body if found is None else {**body, "tools": {LOGGED: found}}


def _defines(value: object) -> bool:
    """Tell definitions from names of tools, such as a user's notes have."""
    if isinstance(value, list):
        return any(_defines(item) or (isinstance(item, str) and item.lstrip()[:1] == "{") for item in value)
    return isinstance(value, dict) and bool(value)
