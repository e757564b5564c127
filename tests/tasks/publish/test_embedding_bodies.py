"""Lines for `/v1/embeddings`, in that API's own form."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from tasks.publish.output_lines import dump_line, error_line, output_line
from tests.support.answered_rows import answered

VECTORS = [[0.6, -0.8], [1.0, 0.0]]
USAGE = {"prompt_tokens": 7, "completion_tokens": 0, "cached_tokens": 2}


def body_of(**kept: object) -> dict:
    row = answered(
        endpoint="embeddings",
        text="",
        embeddings=VECTORS,
        usage=USAGE,
        passthrough_json=json.dumps({"body": kept}) if kept else None,
    )
    line = json.loads(dump_line(output_line(row, "served")))
    assert "body" not in line["nightblend"]
    assert line["response"]["status_code"] == 200
    return line["response"]["body"]


def test_all_vectors_come_back_in_their_order() -> None:
    assert body_of() == body_of(encoding_format="float")
    assert body_of(encoding_format="float") == {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": VECTORS[i]} for i in range(2)],
        "model": "served",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_base64_is_of_float32_as_openai_s_clients_read_it() -> None:
    found = [one["embedding"] for one in body_of(encoding_format="base64")["data"]]
    assert [np.frombuffer(base64.b64decode(one), np.float32).tolist() for one in found] == [
        pytest.approx(vector) for vector in VECTORS
    ]
    assert body_of(metadata={"team": "a"}, encoding_format="base64")["metadata"] == {"team": "a"}


def test_an_error_tells_what_was_sent() -> None:
    row = answered(
        endpoint="embeddings",
        passthrough_json=json.dumps({"body": {"encoding_format": "base64"}}),
        code="invalid_parameter",
        field="dimensions",
        message="too many",
        retryable=False,
    )
    assert error_line(row)["error"]["param"] == "dimensions"
