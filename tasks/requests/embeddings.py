"""Requests for embeddings (`/v1/embeddings`): what they ask for, and the sequences that they become.

A request has one input or many; each is a sequence of its own to the engine, and all vectors come back in
one line, in the order of the inputs. In the table `requests` the inputs are the column `prompt`, as a JSON
list of texts, or of lists of token ids. Of the settings only `dimensions` changes the answer; in which
encoding it is written (`encoding_format`) is known from the fields that pass through.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from tasks.base.errors import ErrorCode, RequestError
from tasks.base.identity import canonical_json
from tasks.requests.template_variables import more_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

ENDPOINT: Final = "embeddings"
"""Column `endpoint` of such requests."""
INPUT: Final = "input"
DIMENSIONS: Final = "dimensions"
ENCODING: Final = "encoding_format"
LENGTHS: Final = "input_lengths"
"""Of a request that has tokens: how many each of its inputs has."""
ENCODINGS: Final = ("float", "base64")
MOST_INPUTS: Final = 2048
"""As OpenAI has it."""
NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "add_special_tokens": (True,),
    "additional_data": ("",),
    "embed_dtype": ("float32",),
    "endianness": ("native", "little"),
    "extra_body": ({},),
    "extra_headers": ({},),
    "extra_query": ({},),
    "mm_processor_kwargs": ({},),
    "normalize": (),
    "priority": (0,),
    "truncate_prompt_tokens": (),
    "use_activation": (),
}
"""Fields that other servers know, with the values (null aside) at which they change nothing."""
_INT32_MAX: Final = 2**31 - 1


def embedding_settings(body: Mapping[str, Any], without_effect: frozenset[str]) -> dict[str, Any]:
    """Return `{"dimensions": n}` of a body beside its input; nothing where it asks for all of them.

    Parameters
    ----------
    without_effect
        Fields that pass through, whatever their value.

    Raises
    ------
    RequestError
        `invalid_parameter` or `unsupported_parameter`, naming the first such field in alphabetical order.
    """
    known = without_effect | {"model", INPUT, DIMENSIONS, ENCODING}
    for name in sorted(body):
        value = body[name]
        off = (one for one in NEUTRAL.get(name, ()) if isinstance(one, bool) == isinstance(value, bool))
        if name in known or value is None or value in tuple(off):
            continue
        message = "this field is not known for embeddings, so it cannot be shown to leave them unchanged"
        if name in NEUTRAL:
            message = "this setting would change the embedding and is not supported"
        raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, name, message)
    encoding = body.get(ENCODING)
    if encoding is not None and encoding not in ENCODINGS:
        _invalid(ENCODING, f"must be one of {', '.join(ENCODINGS)}")
    dimensions = body.get(DIMENSIONS)
    if dimensions is None:
        return {}
    number = isinstance(dimensions, int | float) and not isinstance(dimensions, bool)
    if not number or not 1 <= dimensions <= _INT32_MAX or dimensions != int(dimensions):
        _invalid(DIMENSIONS, f"must be an integer from 1 to {_INT32_MAX}")
    return {DIMENSIONS: int(dimensions)}


def embedding_content(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"prompt": JSON}` of a body: the list of its inputs.

    Raises
    ------
    RequestError
        Naming `input`, or one of its inputs.
    """
    given = body.get(INPUT)
    if given is None:
        raise RequestError(ErrorCode.MISSING_PARAMETER, INPUT, "the body has no input")
    several = isinstance(given, list) and bool(given) and isinstance(given[0], str | list)
    inputs = given if several else [given]
    if len(inputs) > MOST_INPUTS:
        _invalid(INPUT, f"has {len(inputs)} inputs, at most {MOST_INPUTS} are allowed")
    for index, one in enumerate(inputs):
        where = f"{INPUT}[{index}]" if several else INPUT
        if one in ("", []):
            raise RequestError(ErrorCode.EMPTY_PROMPT, where, "the input is empty")
        if isinstance(one, str):
            continue
        if not isinstance(one, list) or not all(map(_is_token, one)):
            _invalid(where, "must be a text or a list of token ids")
    return {"prompt": canonical_json(inputs)}


def inputs_of(row: Mapping[str, Any]) -> list[str | list[int]]:
    """Return the inputs of a row of the table requests."""
    found: list[str | list[int]] = json.loads(row["prompt"])
    return found


def input_lengths(row: Mapping[str, Any]) -> list[int] | None:
    """Return the tokens of each input of a row that has tokens; None of a row that is no such request."""
    return more_settings(row).get(LENGTHS)


def split_inputs(
    settings: Sequence[str | None], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the row of each sequence, int64 [n], and where their prompts begin, and the last ends, [n + 1].

    A request for embeddings has a sequence for each of its inputs, any other has one.

    Parameters
    ----------
    settings
        Column `settings_json` of N rows that have tokens.
    offsets
        int64 [N + 1]: where the tokens of each row begin, and the last ends.
    """
    count, cuts, begin = np.ones(len(settings), np.int64), [offsets[:1]], 0
    for row, text in enumerate(settings):
        if text is None or LENGTHS not in text:
            continue
        lengths = json.loads(text).get(LENGTHS)
        if lengths is not None:
            count[row] = len(lengths)
            cuts += [offsets[begin + 1 : row + 1], offsets[row] + np.cumsum(np.array(lengths, np.int64))]
            begin = row + 1
    cuts.append(offsets[begin + 1 :])
    return np.repeat(np.arange(len(settings)), count), np.concatenate(cuts)


def _is_token(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= _INT32_MAX


def _invalid(field: str, message: str) -> NoReturn:
    raise RequestError(ErrorCode.INVALID_PARAMETER, field, message)
