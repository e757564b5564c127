"""Answers in the form of OpenAI's `/v1/embeddings`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping


def embedding_body(row: Mapping[str, Any], model: str, encoding: str | None) -> dict[str, Any]:
    """Return the body of an answer: the vectors of all inputs in their order.

    Parameters
    ----------
    row
        A row of the table outputs, `tasks.publish.output_lines.OUTPUT_COLUMNS` at least.
    model
        Name of the model that answered.
    encoding
        `base64`: each vector is the base64 of its float32 numbers, little-endian; else a list of numbers.
    """
    tokens = row["usage"]["prompt_tokens"]
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _written(vector, encoding)}
            for index, vector in enumerate(row["embeddings"])
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _written(vector: list[float], encoding: str | None) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
    return vector
