"""Answers as the engine sends them, choice by choice, become rows of the outputs table."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.base.errors import ErrorCode, RequestError
from tasks.infer.calls import CallReader
from tasks.plan.work import prompts_as_given, sampling_of
from tasks.requests.choices import Choices, sequences
from tasks.requests.embeddings import LENGTHS
from tasks.requests.template_variables import more_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.infer.part_writer import PartWriter
    from tasks.night.night import Night
    from tasks.plan.work import NightWork


class AnswerCollector:
    """Holds the choices of requests that lack others, and gives each whole answer to the writer of parts.

    Attributes
    ----------
    choices
        Those that are held: a plan of what remains leaves them out.
    taken, output_tokens
        How many choices were taken in, and their tokens.
    """

    def __init__(self, night: Night, work: NightWork, writer: PartWriter) -> None:
        self._night, self._work, self._writer = night, work, writer
        self._row_of = {row["request_id"]: i for i, row in enumerate(work.rows)}
        self.choices = Choices()
        self._calls = CallReader(night)
        self._prompts: dict[str, str] | None = None
        self._several: dict[str, dict[str, Any]] = {}
        self.taken = self.output_tokens = 0

    def take(self, item: dict[str, Any]) -> tuple[str, int] | None:
        """Take in a choice; after the last one return how the answer ended and how many requests got it."""
        i = self._row_of[item["request_id"]]
        row, key = self._work.rows[i], self._work.key_of[i]
        settings = self._several.get(key) or sampling_of(self._night, row)
        self.taken += 1
        self.output_tokens += _answer_tokens(item)
        items = self.choices.add(key, item, sequences(settings))
        if items is None:
            if LENGTHS in settings:
                # A request may have thousands of inputs.
                self._several[key] = settings
            return None
        if LENGTHS in settings:
            self._several.pop(key, None)
            answer = embeddings_of(items, row["input_tokens"], self._night)
            return answer["finish_reason"], self._writer.add_answer(key, answer)
        answer = answer_of(items, row["input_tokens"], settings, self._night)
        self._calls.put(answer, items, settings, key)
        if settings.get("echo"):
            _put_before(self._echoed()[row["request_id"]], answer)
        return answer["finish_reason"], self._writer.add_answer(key, answer)

    def _echoed(self) -> dict[str, str]:
        """Return the prompts of the requests whose answers begin with them, read once."""
        if self._prompts is None:
            rows = [row for row in self._work.rows if more_settings(row).get("echo")]
            given = prompts_as_given(self._night, rows)
            self._prompts = {row["request_id"]: one["prompt"] for row, one in zip(rows, given, strict=True)}
        return self._prompts

    def refuse(self, items: Sequence[dict[str, Any]]) -> None:
        """Take in choices that cannot be answered: nor can then their requests."""
        for item in items:
            key = self._work.key_of[self._row_of[item["request_id"]]]
            error = RequestError(ErrorCode(item["code"]), item["field"], item["message"], item["retryable"])
            self._writer.add_error(key, error)


def answer_of(
    items: Sequence[dict[str, Any]], prompt_tokens: int, settings: Mapping[str, Any], night: Night
) -> dict[str, Any]:
    """Turn the engine's answer items of a request into the columns of the outputs table.

    Parameters
    ----------
    items
        The choices that were computed, in order; a greedy one stands for all `n` of `settings`.
    settings
        As the engine ran it (`tasks.requests.sampling.engine_sampling`).
    """
    repeats = settings["n"] // len(items)
    choices = [
        {
            "text": item["text"],
            "token_ids": item["token_ids"],
            "finish_reason": item["finish_reason"],
            "logprobs": None if item["logprobs"] is None else [_token(*token) for token in item["logprobs"]],
        }
        for item in items
    ]
    choices = [dict(choice) for _ in range(repeats) for choice in choices]
    first = choices[0]
    cached = [item["cached_tokens"] for item in items]
    plain = len(choices) == 1 and first["logprobs"] is None
    return {
        **{name: first[name] for name in ("text", "token_ids", "finish_reason")},
        "choices": None if plain else choices,
        "tool_calls_json": None,
        "embeddings": None,
        "usage": {
            "prompt_tokens": items[0].get("prompt_tokens", prompt_tokens),
            "completion_tokens": sum(map(_answer_tokens, items)) * repeats,
            # The prompt counts once, so what one choice left in the cache for the next is no hit.
            "cached_tokens": None if None in cached else min(cached),
        },
        **_when_and_where(items, night),
    }


def embeddings_of(items: Sequence[dict[str, Any]], prompt_tokens: int, night: Night) -> dict[str, Any]:
    """Turn the engine's items of a request for embeddings, one for each input, into the same columns."""
    return {
        "text": "",
        "token_ids": None,
        "finish_reason": "stop",
        "choices": None,
        "tool_calls_json": None,
        "embeddings": [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in items],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": 0,
            # Each input is a prompt of its own.
            "cached_tokens": sum(item["cached_tokens"] for item in items),
        },
        **_when_and_where(items, night),
    }


def _when_and_where(items: Sequence[dict[str, Any]], night: Night) -> dict[str, Any]:
    return {
        "run_key": night.run_key,
        "attempt_id": night.attempt.id,
        "started_at": _utc(min(item["started_at"] for item in items)),
        "finished_at": _utc(max(item["finished_at"] for item in items)),
    }


def _put_before(prompt: str, answer: dict[str, Any]) -> None:
    """Put the prompt before the text of an answer and of its choices: `echo` of the completions API."""
    answer["text"] = prompt + answer["text"]
    if answer["choices"] is not None:
        answer["choices"] = [{**one, "text": prompt + one["text"]} for one in answer["choices"]]


def _answer_tokens(item: Mapping[str, Any]) -> int:
    """Return the tokens of a choice: an engine that gives no ids counts them itself."""
    counted = item.get("completion_tokens")
    return len(item["token_ids"]) if counted is None else int(counted)


def _token(
    token_id: int, data: str, logprob: float, top: Sequence[tuple[int, str, float]] = ()
) -> dict[str, Any]:
    entry: dict[str, Any] = {"token_id": token_id, "bytes": data.encode("latin-1"), "logprob": logprob}
    return {**entry, "top": [{k: v for k, v in _token(*other).items() if k != "top"} for other in top]}


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
