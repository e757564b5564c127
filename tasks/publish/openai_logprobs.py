"""Log probabilities of an answer's tokens in the forms of OpenAI's chat and completions endpoints.

Both have one entry per token of the answer, a stop token included. They are natural logarithms of what the
model gives the token, before temperature, top_k and top_p.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def chat_logprobs(tokens: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return `{"content": [...], "refusal": None}` with `token, logprob, bytes, top_logprobs` per token.

    `tokens` is the column `logprobs` of a choice (`tasks.base.schema.LOGPROBS`). A token that is only a part
    of a character has a replacement character in `token`; `bytes` is exact.
    """
    content = [
        {**_entry(token), "top_logprobs": [_entry(other) for other in token["top"]]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    r"""Return `tokens, token_logprobs, top_logprobs, text_offset`, as completions have it.

    A token that is only a part of a character is written `bytes:\xe2\x82`. `top_logprobs` is None if no
    alternatives were asked for, else it has the chosen token as well. `text_offset` counts characters from
    the start of the answer.
    """
    offsets, before = [], b""
    for token in tokens:
        offsets.append(len(before.decode(errors="ignore")))
        before += token["bytes"]
    top = [{_name(other["bytes"]): other["logprob"] for other in (*token["top"], token)} for token in tokens]
    return {
        "tokens": [_name(token["bytes"]) for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": top if any(token["top"] for token in tokens) else None,
        "text_offset": offsets,
    }


def _entry(token: Mapping[str, Any]) -> dict[str, Any]:
    data = token["bytes"]
    return {"token": data.decode(errors="replace"), "logprob": token["logprob"], "bytes": list(data)}


def _name(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
