"""What an engine without steps sends: answers, refusals and the load, in messages of several."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from engine.backends.contract import Send

LOAD_S: Final = 1.0
_TOKENS: Final = ("prompt_tokens", "hit_tokens", "output_tokens")


class Outbox:
    """Gathers messages; sending one waits until the parent has taken it, so a thread does that.

    Attributes
    ----------
    waits_until
        Unix time before which nothing is computed, if that is so; goes with the load.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.waits_until: float | None = None
        self._answers: list[dict[str, Any]] = []
        self._refusals: list[dict[str, Any]] = []
        self._tokens: dict[str, int | None] = dict.fromkeys(_TOKENS, 0)
        self._loaded = time.monotonic()
        self._most = 0

    @property
    def waiting(self) -> int:
        """Answers and refusals that are not sent."""
        return len(self._answers) + len(self._refusals)

    def note_running(self, running: int) -> None:
        """Take note of how many requests the engine has: the most of a second is told."""
        self._most = max(self._most, running)

    def add_answer(self, item: dict[str, Any], prompt: int, cached: int | None, output: int) -> None:
        """Take an answer.

        Parameters
        ----------
        item
            As it is sent, see `engine.job.format`.
        prompt, cached, output
            Tokens of its prompt, those of them that came from the cache (None: not told), and of the answer.
        """
        self._answers.append(item)
        for name, tokens in zip(_TOKENS, (prompt, cached, output), strict=True):
            before = self._tokens[name]
            self._tokens[name] = None if before is None or tokens is None else before + tokens

    def add_refusal(self, item: dict[str, Any]) -> None:
        """Take a request that gets no answer, as it is sent."""
        self._refusals.append(item)

    async def flush(self, running: int) -> None:
        """Send what there is, and the load if it is due or nothing runs any more; one call at a time."""
        answers, self._answers = self._answers, []
        refusals, self._refusals = self._refusals, []
        messages = messages_of(answers, refusals)
        now = time.monotonic()
        if now - self._loaded >= LOAD_S or (answers and running == 0):
            load: dict[str, Any] = {"type": "load", "running": self._most, **self._tokens}
            if self.waits_until is not None:
                load["waits_until"] = self.waits_until
            messages.append(load)
            self._tokens, self._loaded, self._most = dict.fromkeys(_TOKENS, 0), now, running
        for message in messages:
            await asyncio.to_thread(self._send, message)


def messages_of(answers: list[dict[str, Any]], refusals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages that tell of requests that have ended."""
    found: list[dict[str, Any]] = []
    if answers:
        found.append({"type": "answers", "items": answers})
    if refusals:
        found.append({"type": "refused", "items": refusals})
    return found


def refusal_item(
    request_id: str,
    choice: int,
    message: str,
    *,
    retryable: bool,
    code: str = "engine_error",
    field: str | None = None,
) -> dict[str, Any]:
    """Return a request that gets no answer as it is sent; see `engine.job.format`."""
    return {
        "request_id": request_id,
        "choice": choice,
        "code": code,
        "field": field,
        "message": message,
        "retryable": retryable,
    }
