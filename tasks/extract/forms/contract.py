"""What every form makes of a body, and what forms share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tasks.requests.sampling import Endpoint

NOTHING: Final[tuple[object, ...]] = (None, "", [], {})
"""Values that ask for nothing, whatever the field."""


@dataclass(frozen=True, slots=True)
class Formed:
    """A body, understood.

    Attributes
    ----------
    body
        As of an OpenAI call to `endpoint`.
    rest
        Its fields without effect on the answer.
    """

    body: dict[str, Any]
    endpoint: Endpoint = "chat"
    rest: dict[str, Any] = field(default_factory=dict)


def set_aside(body: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Take the fields `names` out of a body; return those that ask for something."""
    found = {name: body.pop(name) for name in names if name in body}
    return {name: value for name, value in found.items() if value not in NOTHING}


def renamed(body: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a body by OpenAI's names; one that has both keeps its own, to be refused by it."""
    return {
        names[name] if name in names and names[name] not in body else name: value
        for name, value in body.items()
    }


def with_system(system: object, messages: list[Any]) -> list[Any]:
    """Return messages with a system message before them, if there is one."""
    return messages if system in NOTHING else [{"role": "system", "content": system}, *messages]


def image_part(url: object, **more: object) -> dict[str, Any]:
    """Return an image as a part of OpenAI's chats has it."""
    return {"type": "image_url", "image_url": {"url": url, **more}}


def image_in_base64(media_type: object, data: object) -> dict[str, Any]:
    """Return an image whose bytes a body has itself as such a part."""
    # What is no text is refused as the data URL that it makes.
    return image_part(f"data:{media_type};base64,{data}")


def only_nothing(value: object) -> bool:
    """Tell whether a value asks for nothing: itself, or each field of an object."""
    return value in NOTHING or (
        isinstance(value, dict) and all(only_nothing(item) for item in value.values())
    )
