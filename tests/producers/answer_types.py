"""Checks the lines of an output file by the types of the openai package; for the tools' environment.

Prints the error of each line that is not of its type.
"""

from __future__ import annotations

import array
import base64
import json
import sys
from pathlib import Path
from typing import Any, Final

from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import ValidationError

TYPES: Final[dict[str, Any]] = {
    "chat.completion": ChatCompletion,
    "text_completion": Completion,
    "list": CreateEmbeddingResponse,
    "response": Response,
}
"""Field `object` of a body -> its type."""


def decode_vectors(body: dict[str, Any]) -> None:
    """Turn vectors in base64 into numbers, as the package's client does before it makes its types."""
    for one in body["data"]:
        if isinstance(one["embedding"], str):
            one["embedding"] = array.array("f", base64.b64decode(one["embedding"])).tolist()


def main(path: str) -> None:
    """Check the file at `path`."""
    for text in Path(path).read_text().splitlines():
        line = json.loads(text)
        try:
            body = line["response"]["body"]
            if body["object"] == "list":
                decode_vectors(body)
            TYPES[body["object"]].model_validate(body)
        except (ValidationError, KeyError) as error:
            sys.stdout.write(f"{line['custom_id']}: {error!r}\n")


if __name__ == "__main__":
    main(sys.argv[1])
