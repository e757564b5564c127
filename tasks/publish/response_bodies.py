"""Answers in the form of OpenAI's `/v1/responses`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tasks.publish.openai_logprobs import chat_logprobs

if TYPE_CHECKING:
    from collections.abc import Mapping


def response_body(row: Mapping[str, Any], model: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of an answer: its text as a message, its calls of functions as items beside it.

    Parameters
    ----------
    row
        A row of the table outputs, `tasks.publish.output_lines.OUTPUT_COLUMNS` at least.
    model
        Name of the model that answered.
    told
        What of the call its answer tells again, by its names there; the rest is null or what applies where
        nothing is said.
    """
    own, cut, usage = row["request_id"][:24], row["finish_reason"] == "length", row["usage"]
    created = int(row["finished_at"].timestamp())
    return {
        "id": f"resp_{own}",
        "object": "response",
        "created_at": created,
        "completed_at": None if cut else created,
        "status": "incomplete" if cut else "completed",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": told.get("instructions"),
        "max_output_tokens": told.get("max_output_tokens"),
        "model": model,
        "output": _items(row, own, "incomplete" if cut else "completed"),
        "parallel_tool_calls": told.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": told.get("reasoning"),
        "temperature": told.get("temperature"),
        "text": {"format": {"type": "text"}, **told.get("text", {})},
        "tool_choice": told.get("tool_choice", "auto"),
        "tools": told.get("tools", []),
        "top_logprobs": told.get("top_logprobs"),
        "top_p": told.get("top_p"),
        "truncation": "disabled",
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            # Nothing is kept for later calls that anybody would pay for.
            "input_tokens_details": {"cached_tokens": usage["cached_tokens"], "cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
        },
        "metadata": None,
    }


def _items(row: Mapping[str, Any], own: str, status: str) -> list[dict[str, Any]]:
    calls = (json.loads(row["tool_calls_json"])[0] if row["tool_calls_json"] else None) or []
    found = (row["choices"] or [{"logprobs": None}])[0]["logprobs"]
    items: list[dict[str, Any]] = []
    if row["text"] or not calls:
        told = None if found is None else chat_logprobs(found)
        part = {
            "type": "output_text",
            "text": row["text"],
            "annotations": [],
            "logprobs": [] if told is None else told["content"],
        }
        items.append(
            {"id": f"msg_{own}", "type": "message", "role": "assistant", "status": status, "content": [part]}
        )
    for number, call in enumerate(calls):
        items.append(
            {
                "id": f"fc_{own}_{number}",
                "type": "function_call",
                "call_id": call["id"],
                **call["function"],
                "status": "completed",
            }
        )
    return items
