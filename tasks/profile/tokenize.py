"""Tables of requests to files of token ids: rows that cannot be answered become error rows on the way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.base.errors import ErrorCode, RequestError, bounded
from tasks.base.identity import canonical_json
from tasks.base.progress import tell
from tasks.base.schema import SCHEMAS, error_row
from tasks.profile.image_tokens import FIRST_ID
from tasks.profile.token_pool import tokens_of_groups
from tasks.requests.embeddings import INPUT, LENGTHS
from tasks.requests.images import has_images
from tasks.requests.template_variables import more_settings
from tasks.requests.tool_messages import texts_of
from tasks.requests.tools import FORM, TOOLS
from tasks.tools.enforce import calls_of
from tasks.tools.forms import FORMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    import numpy.typing as npt

    from tasks.profile.row_tokens import RowTokens
    from tasks.profile.tokenizer import PromptTokenizer

GROUP_ROWS: Final = 1024
GROUP_BYTES: Final = 4 << 20
"""Text of a group of rows; a single row may have more."""
_TEXTS: Final = ("messages_json", "prompt")


@dataclass(frozen=True, slots=True)
class TokenizeResult:
    """Where the tokens are. Row i of `requests_file` has `tokens[offsets[i]:offsets[i + 1]]`.

    Attributes
    ----------
    requests_file
        Parquet, table requests with `input_tokens` filled; in the order of the input.
    errors_file
        Parquet, table errors: rows that cannot be run. May have no rows.
    tokens_file, offsets_file
        `.npy`: int32 [tokens] and int64 [requests + 1].
    requests, errors, tokens
        Counts.
    """

    requests_file: Path
    errors_file: Path
    tokens_file: Path
    offsets_file: Path
    requests: int
    errors: int
    tokens: int


def tokenize_requests(
    files: Iterable[Path],
    tokenizer: PromptTokenizer,
    *,
    context_length: int,
    out: Path,
    group_rows: int = GROUP_ROWS,
    processes: int | None = None,
    refuse: Callable[[Mapping[str, Any]], RequestError | None] = lambda _: None,
    unfit: Callable[[Mapping[str, Any]], RequestError | None] = lambda _: None,
) -> TokenizeResult:
    """Tokenise the rows of requests files, in order.

    Parameters
    ----------
    files : iterable of Path
        Parquet files of the table requests.
    tokenizer : PromptTokenizer
        From `tasks.profile.tokenizer.load_tokenizer`.
    context_length : int
        Most tokens of prompt and answer together; a prompt must leave room for one token.
    out : Path
        Folder for the results; it is created.
    group_rows : int
        Most rows that are encoded at once.
    processes : int or None
        That tokenise, this one among them; the result is the same for any number. None takes one per core
        where there is much text, else this one.
    refuse : callable
        Tells why the engine of the night cannot answer a row; None: it can.
    unfit : callable
        Tells why nothing of a row's endpoint is answered, whatever its prompt is; None: it is.

    Returns
    -------
    TokenizeResult
        Rows in + rows refused = rows read.

    Raises
    ------
    WorkerError
        If one of the processes ends early.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = ("requests.parquet", "errors.parquet", "tokens.npy", "offsets.npy")
    requests_file, errors_file, tokens_file, offsets_file = (out / name for name in names)
    rows_out = errors_out = total = 0
    with (
        pq.ParquetWriter(requests_file, SCHEMAS["requests"], compression="zstd") as requests,
        pq.ParquetWriter(errors_file, SCHEMAS["errors"], compression="zstd") as errors,
        _NpyWriter(tokens_file, np.dtype(np.int32)) as tokens,
        _NpyWriter(offsets_file, np.dtype(np.int64)) as offsets,
    ):
        offsets.append(np.zeros(1, np.int64))
        files = list(files)
        rows = sum(pq.read_metadata(path).num_rows for path in files)
        done = tokens_of_groups(_groups(files, group_rows), tokenizer, _text_bytes(files), processes)
        for group, found in done:
            good, ids, bad = _sorted_out(group.to_pylist(), found, tokenizer, context_length, refuse, unfit)
            requests.write_table(pa.Table.from_pylist(good, schema=SCHEMAS["requests"]))
            if bad:
                errors.write_table(pa.Table.from_pylist(bad, schema=SCHEMAS["errors"]))
            lengths = np.fromiter((len(row) for row in ids), np.int64, len(ids))
            for row in ids:
                tokens.append(row)
            offsets.append(total + np.cumsum(lengths))
            total += int(lengths.sum())
            rows_out += len(good)
            errors_out += len(bad)
            tell(rows_out + errors_out, rows, "requests")
    return TokenizeResult(
        requests_file,
        errors_file,
        tokens_file,
        offsets_file,
        requests=rows_out,
        errors=errors_out,
        tokens=total,
    )


def _text_bytes(files: Iterable[Path]) -> int:
    """Return how much text of prompts there is, as it lies in the files before compression."""
    total = 0
    for path in files:
        found = pq.read_metadata(path)
        for group in map(found.row_group, range(found.num_row_groups)):
            columns = map(group.column, range(group.num_columns))
            total += sum(c.total_uncompressed_size for c in columns if c.path_in_schema in _TEXTS)
    return total


def _groups(files: Iterable[Path], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield rows of the files in order, in groups of at most so many, and of bounded text."""
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=rows):
                # Where each row's text ends, counted from the batch's beginning.
                ends = np.zeros(len(batch), np.int64)
                for name in _TEXTS:
                    lengths = pc.binary_length(batch.column(name)).fill_null(0)
                    ends += np.cumsum(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)
                begin = 0
                while begin < len(batch):
                    before = ends[begin - 1] if begin else 0
                    end = max(begin + 1, int(np.searchsorted(ends, before + GROUP_BYTES, "right")))
                    yield batch.slice(begin, end - begin)
                    begin = end


def _sorted_out(
    rows: Sequence[Mapping[str, Any]],
    found: RowTokens,
    tokenizer: PromptTokenizer,
    context_length: int,
    refuse: Callable[[Mapping[str, Any]], RequestError | None],
    unfit: Callable[[Mapping[str, Any]], RequestError | None],
) -> tuple[list[dict[str, Any]], list[npt.NDArray[np.int32]], list[dict[str, Any]]]:
    """Return the rows that can be answered, their tokens, and the rows of the table errors."""
    good, kept, bad = [], [], []
    for index, row in enumerate(rows):
        without = unfit(row) or found.refused.get(index)
        if without is not None:
            # An engine that takes no images says so before its model does.
            error = refuse(row) if has_images(row["messages_json"]) else None
            bad.append(error_row(row, error or without))
            continue
        ids = found.of(index)
        counted = {**row, "input_tokens": len(ids)}
        try:
            if index in found.lengths:
                _check_inputs(ids, found.lengths[index], tokenizer, context_length)
                made = {**more_settings(row), LENGTHS: found.lengths[index]}
                refusal, counted["settings_json"] = refuse(row), canonical_json(made)
            else:
                _check_prompt(row, ids, tokenizer, context_length)
                _check_settings(row, tokenizer)
                refusal = refuse(row)
                counted |= _with_calls(row, tokenizer)
        except RequestError as error:
            refusal = error
        if refusal is not None:
            bad.append(error_row(counted, refusal))
        else:
            good.append(counted)
            kept.append(ids)
    return good, kept, bad


def _check_prompt(
    row: Mapping[str, Any], ids: npt.NDArray[np.int32], tokenizer: PromptTokenizer, context_length: int
) -> None:
    name = "messages" if row["messages_json"] is not None else "prompt"
    if not len(ids):
        raise RequestError(ErrorCode.EMPTY_PROMPT, name, "the prompt has no tokens")
    # What stands for images is none of the model's.
    texts = ids[ids < FIRST_ID] if has_images(row["messages_json"]) else ids
    wrong = tokenizer.beyond(texts)
    if wrong is not None:
        message = f"{_source(row, wrong, tokenizer)}; the model has ids from 0 to {tokenizer.vocab_size - 1}"
        raise RequestError(ErrorCode.INVALID_TOKEN, name, message)
    if len(ids) + 1 > context_length:
        message = f"{len(ids)} prompt tokens + 1 do not fit the context length of {context_length}"
        raise RequestError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, name, message)


def _check_inputs(
    ids: npt.NDArray[np.int32],
    lengths: Sequence[int],
    tokenizer: PromptTokenizer,
    context_length: int,
) -> None:
    """Check each input of a request for embeddings; it may fill the context, since nothing comes after it."""
    begin = 0
    for index, length in enumerate(lengths):
        name = INPUT if len(lengths) == 1 else f"{INPUT}[{index}]"
        own = ids[begin : begin + length]
        begin += length
        if not length:
            raise RequestError(ErrorCode.EMPTY_PROMPT, name, "the input has no tokens")
        wrong = tokenizer.beyond(own)
        if wrong is not None:
            message = f"it has the token id {wrong}; the model has ids from 0 to {tokenizer.vocab_size - 1}"
            raise RequestError(ErrorCode.INVALID_TOKEN, name, message)
        if length > context_length:
            message = f"{length} tokens do not fit the context length of {context_length}"
            raise RequestError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, name, message)


def _check_settings(row: Mapping[str, Any], tokenizer: PromptTokenizer) -> None:
    """Check what of the settings depends on the model's vocabulary, or on the form of the prompt."""
    settings = more_settings(row)
    if settings.get("logit_bias"):
        most = max(token for token, _ in json.loads(settings["logit_bias"]))
        if most >= tokenizer.vocab_size:
            message = f"the model has no token {most}: its ids are from 0 to {tokenizer.vocab_size - 1}"
            raise RequestError(ErrorCode.INVALID_PARAMETER, "logit_bias", message)
    if settings.get("echo") and row["token_ids"] is not None:
        message = "a prompt that is given as token ids is not given back"
        raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, "echo", message)


def _with_calls(row: Mapping[str, Any], tokenizer: PromptTokenizer) -> dict[str, Any]:
    """Return the settings of a row with tools as the model's form of calls makes them; nothing without."""
    settings = more_settings(row)
    if TOOLS not in settings:
        return {}
    form = tokenizer.template.tool_form
    if form is None:
        known = ", ".join(FORMS)
        message = f"this model's chat template writes calls of tools in none of the forms known: {known}"
        raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, TOOLS, message)
    added = {str(one): token for token, one in tokenizer.tokenizer.added_tokens_decoder.items()}
    calls = calls_of(settings, form, added)
    made = {**settings, FORM: form.name} | ({} if calls is None else {"constraint": calls})
    return {"settings_json": canonical_json(made)}


def _source(row: Mapping[str, Any], token: int, tokenizer: PromptTokenizer) -> str:
    """Say where a token of a row's prompt comes from."""
    if row["token_ids"] is not None:
        return f"it holds the token id {token}"
    # An added token is a word of the tokenizer's; any other may be a piece of the prompt, which is not told.
    name = {i: str(added) for added, i in tokenizer.tokenizer.get_added_vocab().items()}.get(token)
    if name is None:
        return f"the text has the token id {token}"
    told = f"{bounded(name, 64)} (token id {token})"
    texts = [row["prompt"] or ""]
    if row["messages_json"] is not None:
        texts = [*texts_of(json.loads(row["messages_json"])), more_settings(row).get(TOOLS, "")]
    if any(name in text for text in texts):
        return f"the text holds {told}"
    return f"the chat template or the tokenizer adds {told}"


class _NpyWriter:
    """A one-dimensional `.npy` file of a length that is known only at the end."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._file: BinaryIO = path.open("wb")
        self._dtype = dtype
        self._length = 0
        self._start = self._header()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                if self._header() != self._start:
                    raise RuntimeError("the header of a .npy file grew")

    def append(self, values: np.ndarray[Any, Any]) -> None:
        self._file.write(np.ascontiguousarray(values, self._dtype).tobytes())
        self._length += len(values)

    def _header(self) -> int:
        # numpy pads the header so that the length along the first axis can grow in place.
        described = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, described)
        return self._file.tell()
