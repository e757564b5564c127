"""Rows of the table requests to token ids, or to the reason why a row has none.

A chat prompt is rendered with `add_generation_prompt=True` and encoded without further special tokens (the
template writes them); a completions prompt, and each text of a request for embeddings, is encoded with the
special tokens the tokenizer adds by default, such as the end token of Qwen3-Embedding. The inputs of a
request for embeddings lie one after the other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tasks.base.errors import ErrorCode, RequestError
from tasks.profile.image_tokens import stand_for_images
from tasks.requests.embeddings import ENDPOINT as EMBEDDINGS
from tasks.requests.embeddings import inputs_of
from tasks.requests.images import images_of
from tasks.requests.template_variables import more_settings, variables_of
from tasks.requests.tools import TOOLS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from tasks.profile.tokenizer import PromptTokenizer

COLUMNS: Final = ("endpoint", "messages_json", "prompt", "token_ids", "settings_json")
"""What of a row its tokens depend on."""


@dataclass(frozen=True, slots=True)
class RowTokens:
    """Tokens of some rows. Row i has `ids[ends[i]:ends[i + 1]]`, none if it is among `refused`.

    Attributes
    ----------
    ids, ends
        int32 [tokens] and int64 [rows + 1].
    refused
        By the place of a row: why it has no tokens.
    lengths
        By the place of a row for embeddings: the tokens of each of its inputs.
    """

    ids: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int64]
    refused: dict[int, RequestError]
    lengths: dict[int, list[int]] = field(default_factory=dict)

    def of(self, row: int) -> npt.NDArray[np.int32]:
        """Return the tokens of a row."""
        return self.ids[self.ends[row] : self.ends[row + 1]]


@dataclass(slots=True)
class Rendered:
    """Rows before they are encoded.

    Attributes
    ----------
    rows
        How many there are.
    texts
        By the place of a row, told apart by whether it gets the tokenizer's special tokens.
    given
        Rows that are token ids already.
    images
        Of rows that have some: these, and of how many tokens each is.
    refused
        Why a row cannot be encoded.
    inputs
        Of rows for embeddings.
    """

    rows: int
    texts: dict[bool, dict[int, str]] = field(default_factory=lambda: {True: {}, False: {}})
    given: dict[int, list[int]] = field(default_factory=dict)
    images: dict[int, tuple[list[dict[str, Any]], list[int]]] = field(default_factory=dict)
    refused: dict[int, RequestError] = field(default_factory=dict)
    inputs: dict[int, list[str | list[int]]] = field(default_factory=dict)


def render_rows(rows: Sequence[Mapping[str, Any]], tokenizer: PromptTokenizer) -> Rendered:
    """Return rows as what is to be encoded of them; they need no more than `COLUMNS`."""
    made = Rendered(len(rows))
    for index, row in enumerate(rows):
        try:
            if row["endpoint"] == EMBEDDINGS and row["prompt"] is not None:
                made.inputs[index] = inputs_of(row)
            elif row["messages_json"] is not None:
                messages = json.loads(row["messages_json"])
                images = list(images_of(messages))
                if images and tokenizer.images is None:
                    raise _no_eyes(images[0][0])
                text = tokenizer.template.render(messages, variables_of(row), more_settings(row).get(TOOLS))
                if images and tokenizer.images is not None:
                    shown = [image for _, image in images]
                    text, counts = tokenizer.images.expand(text, shown)
                    made.images[index] = shown, counts
                made.texts[False][index] = text
            elif row["prompt"] is not None:
                made.texts[True][index] = row["prompt"]
            else:
                made.given[index] = _given_ids(row["token_ids"])
        except RequestError as error:
            made.refused[index] = error
    return made


def encode_rows(rendered: Rendered, tokenizer: PromptTokenizer) -> RowTokens:
    """Return the tokens of rendered rows."""
    found: list[list[int]] = [[]] * rendered.rows
    for index, ids in rendered.given.items():
        found[index] = ids
    for special, texts in rendered.texts.items():
        if texts:
            encoded = tokenizer.encode(list(texts.values()), special=special)
            for index, ids in zip(texts, encoded, strict=True):
                found[index] = ids
    lengths = {}
    texts_of_inputs = [one for inputs in rendered.inputs.values() for one in inputs if isinstance(one, str)]
    if texts_of_inputs:
        again = iter(tokenizer.encode(texts_of_inputs, special=True))
    for index, inputs in rendered.inputs.items():
        parts = [next(again) if isinstance(one, str) else one for one in inputs]
        lengths[index] = [len(ids) for ids in parts]
        found[index] = [token for ids in parts for token in ids]
    refused = dict(rendered.refused)
    for index, (images, counts) in rendered.images.items():
        tokens = np.array(found[index], np.int32)
        try:
            found[index] = stand_for_images(tokens, tokenizer.soft_token, images, counts).tolist()
        except RequestError as error:
            found[index], refused[index] = [], error
    ends = np.zeros(rendered.rows + 1, np.int64)
    np.cumsum([len(ids) for ids in found], out=ends[1:])
    flat = np.empty(ends[-1], np.int32)
    for begin, ids in zip(ends, found, strict=False):
        flat[begin : begin + len(ids)] = ids
    return RowTokens(flat, ends, refused, lengths)


def _no_eyes(where: str) -> RequestError:
    message = "the model takes no images, or is of no family whose image tokens are known"
    return RequestError(ErrorCode.UNSUPPORTED_PARAMETER, where, message)


def _given_ids(ids: list[int] | None) -> list[int]:
    if ids is None:
        message = "only hashes of this prompt are known, so it cannot be answered"
        raise RequestError(ErrorCode.NOT_REPLAYABLE, None, message)
    return ids
