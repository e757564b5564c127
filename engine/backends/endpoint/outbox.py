"""What goes to the parent: answers, refusals and the load, in messages of several."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from engine.backends.contract import Send
    from engine.backends.endpoint.bodies import NoReply, Reply
    from engine.job.format import Job

LOAD_S: Final = 1.0
_TOKENS: Final = ("prompt_tokens", "hit_tokens", "output_tokens")


class Outbox:
    """Gathers messages; sending one waits until the parent has taken it, so a thread does that."""

    def __init__(self, send: Send) -> None:
        self._send = send
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
        """Take note of how many requests are in flight: the most of a second is told."""
        self._most = max(self._most, running)

    def add_answer(self, job: Job, request: int, reply: Reply, started: float, finished: float) -> None:
        """Take an answer; `started` and `finished` are Unix times."""
        self._answers.append(
            {
                "request": request,
                "request_id": job.request_ids[request],
                "choice": job.choices[request],
                "token_ids": reply.token_ids,
                "text": reply.text,
                "finish_reason": reply.finish_reason,
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
                "cached_tokens": reply.cached_tokens,
                "started_at": started,
                "finished_at": finished,
                "logprobs": None,
            }
        )
        counted = (reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens)
        for name, tokens in zip(_TOKENS, counted, strict=True):
            before = self._tokens[name]
            self._tokens[name] = None if before is None or tokens is None else before + tokens

    def add_refusal(self, job: Job, request: int, found: NoReply, message: str, *, retryable: bool) -> None:
        """Take a request that gets no answer."""
        self._refusals.append(
            {
                "request_id": job.request_ids[request],
                "choice": job.choices[request],
                "code": "context_length_exceeded" if found.too_long else "engine_error",
                "field": None,
                "message": message,
                "retryable": retryable,
            }
        )

    async def flush(self, running: int) -> None:
        """Send what there is, and the load if it is due or nothing runs any more; one call at a time."""
        answers, self._answers = self._answers, []
        refusals, self._refusals = self._refusals, []
        messages: list[dict[str, Any]] = []
        if answers:
            messages.append({"type": "answers", "items": answers})
        if refusals:
            messages.append({"type": "refused", "items": refusals})
        now = time.monotonic()
        if now - self._loaded >= LOAD_S or (answers and running == 0):
            messages.append({"type": "load", "running": self._most, **self._tokens})
            self._tokens, self._loaded, self._most = dict.fromkeys(_TOKENS, 0), now, running
        for message in messages:
            await asyncio.to_thread(self._send, message)
