"""Joins the events of model calls to their spans, wherever in an object the two lie, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers import genai
from tasks.extract.readers.span_events import call_id, event_name, has_content, marked, with_events
from tasks.extract.readers.spans import attributes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tasks.extract.text.decode import Item
    from tasks.extract.text.lines import RawLine

MOST_HELD: Final = 20_000
"""Calls of which a part is held; the oldest is let go for a newer one."""


class _Call:
    """What has come of a call whose other part is awaited."""

    __slots__ = ("events", "span")

    def __init__(self) -> None:
        self.span: tuple[dict[str, Any], RawLine] | None = None
        self.events: list[tuple[dict[str, Any], RawLine]] = []

    def items(self) -> Iterator[Item]:
        """Yield the span with its events, and the events after it; without a span the events as they are."""
        if self.span is None:
            yield from self.events
            return
        span, line = self.span
        if self.events:
            span = with_events(span, [event for event, _ in self.events])
        yield span, line
        for event, line in self.events:
            yield marked(event), line


def joined(records: Iterable[Item]) -> Iterator[Item]:
    """Yield records, spans of model calls with the content of their events; each record comes once.

    An event before its span waits for it. A span without content waits for events to the end of the object.
    """
    held: dict[str, _Call] = {}
    for record, line in records:
        if not isinstance(record, dict):
            yield record, line
            continue
        name, key = event_name(record), call_id(record)
        if key is None or not (has_content(name) if name is not None else key in held or _waits(record)):
            yield record, line
            continue
        call = held.setdefault(key, _Call())
        if name is not None:
            call.events.append((record, line))
        elif call.span is None and call.events:
            call.span = (record, line)
            yield from held.pop(key).items()
        elif call.span is None:
            call.span = (record, line)
        else:
            yield record, line
        if len(held) > MOST_HELD:
            yield from held.pop(next(iter(held))).items()
    for call in held.values():
        yield from call.items()


def _waits(record: dict[str, Any]) -> bool:
    """Tell a span of a model call that has no content itself."""
    found = attributes(record)
    if not genai.recognises(found):
        return False
    return not any(name.startswith(("gen_ai.input.", "gen_ai.prompt", "ai.prompt")) for name in found) and (
        not record.get("events")
    )
