"""Checks the lines of an output file by the types of the openai package; for the tools' environment.

Prints the error of each line that is not of its type.
"""

from __future__ import annotations

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


def main(path: str) -> None:
    """Check the file at `path`."""
    for text in Path(path).read_text().splitlines():
        line = json.loads(text)
        try:
            TYPES[line["response"]["body"]["object"]].model_validate(line["response"]["body"])
        except (ValidationError, KeyError) as error:
            sys.stdout.write(f"{line['custom_id']}: {error!r}\n")


if __name__ == "__main__":
    main(sys.argv[1])
