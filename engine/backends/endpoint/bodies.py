"""What is sent to a server, and what counts as an answer of it.

An answer counts only with status 200, a known reason for its end and at least one token: servers that are
being stopped were seen to answer 200 with an empty text, and proxies to answer 500 to a caller's mistake.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from engine.backends.endpoint.kinds import KINDS, OTHER
from engine.runtime.sample.settings import CHANGING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

    from engine.backends.endpoint.options import EndpointOptions
    from engine.job.format import Job
    from engine.runtime.sample.settings import Sampling

ENDED: Final = frozenset({"stop", "length"})
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_ .-]{0,59}")
_TOO_LONG: Final = frozenset({"exceed_context_size_error", "context_length_exceeded"})

Fate = Literal["refused", "unusable", "bad_request", "failed"]
"""What became of a request without an answer: the server has no room for it; the server as a whole cannot be
used (a key that it refuses, a model that it does not have); the request is at fault; or this time it
failed."""


@dataclass(frozen=True)
class Reply:
    """An answer. Tokens are the server's count; None is what it does not tell."""

    text: str
    token_ids: list[int] | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None


@dataclass(frozen=True)
class NoReply:
    """No answer, and why; `said` holds no text of the request."""

    fate: Fate
    said: str
    wait_s: float | None = None
    too_long: bool = False


def request_body(
    options: EndpointOptions, settings: Sampling, prompt: list[int] | dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return path and body of a request, with every sampling field set: defaults differ between servers.

    Parameters
    ----------
    prompt
        Token ids, or `messages` or `prompt` as the request gave them.
    """
    kind = KINDS[options.kind or OTHER]
    body: dict[str, Any] = {
        "model": options.model,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": settings.seed % kind.seeds,
        "n": 1,
        "stream": False,
    }
    if settings.stop:
        body["stop"] = list(settings.stop)
    if options.extended:
        body |= dict(kind.neutral) | {"top_k": settings.top_k}
        if "ignore_eos" in kind.honours:
            body["ignore_eos"] = settings.ignore_eos
        if "stop_token_ids" in kind.honours:
            body["stop_token_ids"] = list(settings.stop_token_ids)
        body |= {name: getattr(settings, name) for name in CHANGING if name in kind.honours}
        if settings.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in settings.logit_bias}
        if settings.include_stop_str_in_output:
            body["include_stop_str_in_output"] = True
    if isinstance(prompt, list):
        return "/completions", {**body, "prompt": prompt}
    return ("/chat/completions" if "messages" in prompt else "/completions"), {**body, **prompt}


def answer_item(job: Job, request: int, reply: Reply, times: tuple[float, float]) -> dict[str, Any]:
    """Return an answer as it is sent; see `engine.job.format`.

    Parameters
    ----------
    times
        Unix times of both ends.
    """
    return {
        "request": request,
        "request_id": job.request_ids[request],
        "choice": job.choices[request],
        "token_ids": reply.token_ids,
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "cached_tokens": reply.cached_tokens,
        "started_at": times[0],
        "finished_at": times[1],
        "logprobs": None,
    }


def json_of(response: httpx.Response) -> object:
    """Return what a response holds; None if that is no JSON."""
    try:
        return response.json()
    except ValueError:
        return None


def reply_in(response: httpx.Response) -> Reply | NoReply:
    """Return the answer in a response, or why there is none."""
    return read_reply(response.status_code, json_of(response), response.headers)


def read_reply(status: int, body: object, headers: Mapping[str, str]) -> Reply | NoReply:
    """Return the answer in the parts of a response, or why there is none.

    Parameters
    ----------
    body
        As JSON; None where it is none.
    """
    if status == 200:
        return _answer(body)
    said = f"status {status}{_named(body)}"
    if status in {429, 503}:
        return NoReply("refused", said, _retry_after(headers))
    if status in {401, 403, 404, 405, 407}:
        return NoReply("unusable", said)
    if status in {400, 413, 422}:
        error = _error(body)
        too_long = error.get("type") in _TOO_LONG or error.get("param") in {"input_tokens", "input_text"}
        return NoReply("bad_request", said, too_long=too_long or error.get("code") in _TOO_LONG)
    return NoReply("failed", said)


def _answer(body: object) -> Reply | NoReply:
    def no(why: str) -> NoReply:
        return NoReply("failed", f"status 200 {why}")

    try:
        choice, usage = body["choices"][0], body["usage"]  # type: ignore[index]
        reason, tokens, prompt = choice["finish_reason"], usage["completion_tokens"], usage["prompt_tokens"]
        message = choice.get("message")
        text = choice["text"] if message is None else message.get("content")
        details = usage.get("prompt_tokens_details") or {}
        cached, ids = details.get("cached_tokens"), choice.get("token_ids")
    except (AttributeError, IndexError, KeyError, TypeError):
        return no("without an answer in it")
    if reason not in ENDED:
        return no("with an answer that was broken off")
    if not _count(tokens) or tokens < 1 or not _count(prompt):
        return no("without a count of its tokens")
    if message is not None and text is None:
        # All of it was spent on what is not shown.
        text = ""
    if not isinstance(text, str):
        return no("without a text")
    known = isinstance(ids, list) and all(map(_count, ids))
    return Reply(text, ids if known else None, reason, prompt, tokens, cached if _count(cached) else None)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _error(body: object) -> dict[str, Any]:
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def _named(body: object) -> str:
    """Return what the server calls the error, if that is a name: a message could quote the prompt."""
    error = _error(body)
    names = [error.get(key) for key in ("type", "code", "param")]
    found = [name for name in names if isinstance(name, str) and _WORD.fullmatch(name)]
    return f" ({', '.join(dict.fromkeys(found))})" if found else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(seconds, 600.0) if seconds >= 0 else None
