"""Prompts to token ids: chat template, then the tokenizer's own threads over batches of rows.

A chat prompt is rendered with `add_generation_prompt=True` and encoded without further special tokens (the
template writes them); a completions prompt is encoded with the special tokens the tokenizer adds by default.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.errors import ConfigurationError, ErrorCode, RequestError, bounded
from tasks.base.schema import SCHEMAS, error_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

BATCH_ROWS: Final = 1024
_PROBE: Final = "qzjxkvprobe"
_INT32_MAX: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class PromptTokenizer:
    """A model's tokenizer with its chat template.

    Attributes
    ----------
    tokenizer
        The `transformers` tokenizer.
    vocab_size
        Token ids of a prompt are below this.
    roles
        Optional roles (`system`, `developer`) whose text the template shows to the model.
    template_problem
        Why chat requests cannot be rendered at all; None if they can.
    """

    tokenizer: Any
    vocab_size: int
    roles: frozenset[str] = field(default_factory=frozenset)
    template_problem: str | None = None

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Render a chat into the text the model continues.

        Raises
        ------
        RequestError
            `template_error`, if there is no template or it refuses or drops a message.
        """
        if self.template_problem is not None:
            raise _template_error("messages", self.template_problem)
        for index, message in enumerate(messages):
            if message["role"] in {"system", "developer"} - self.roles:
                where = f"messages[{index}].role"
                raise _template_error(where, f"the chat template does not show {message['role']} messages")
        return _render(self.tokenizer, messages)

    def encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Encode texts in parallel, with the tokenizer's default special tokens if `special`."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            encoded = self.tokenizer(list(texts), add_special_tokens=special, verbose=False)
            return [list(ids) for ids in encoded["input_ids"]]
        return [found.ids for found in backend.encode_batch_fast(list(texts), add_special_tokens=special)]


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


def load_tokenizer(model: str, *, vocab_size: int | None = None) -> PromptTokenizer:
    """Load the tokenizer of a model.

    Parameters
    ----------
    model : str
        A local folder or a hub id.
    vocab_size : int or None
        Rows of the model's embedding; None takes the tokenizer's own number of tokens.

    Raises
    ------
    ConfigurationError
        Naming `--model`, if there is no tokenizer.
    """
    from transformers import AutoTokenizer

    if Path(model).is_dir() and not _has_tokenizer(Path(model)):
        raise ConfigurationError(
            "--model",
            f"{model} holds no tokenizer (tokenizer.json or tokenizer.model)",
            "Copy the tokenizer files of the model into that folder",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = bounded(str(error).partition("\n")[0])
        raise ConfigurationError(
            "--model",
            f"no tokenizer could be loaded from {model} ({reason})",
            "Name a Hugging Face model folder or a hub id that can be reached",
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Saved settings would cut or fill prompts without a word.
        backend.no_truncation()
        backend.no_padding()
    size = len(tokenizer) if vocab_size is None else vocab_size
    if not getattr(tokenizer, "chat_template", None):
        return PromptTokenizer(tokenizer, size, template_problem="the tokenizer has no chat template")
    roles = frozenset(role for role in ("system", "developer") if _shows(tokenizer, role))
    return PromptTokenizer(tokenizer, size, roles)


def tokenize_requests(
    files: Iterable[Path],
    tokenizer: PromptTokenizer,
    *,
    context_length: int,
    out: Path,
    batch_rows: int = BATCH_ROWS,
    refuse: Callable[[Mapping[str, Any]], RequestError | None] = lambda _: None,
) -> TokenizeResult:
    """Tokenise the rows of requests files, in order.

    Parameters
    ----------
    files : iterable of Path
        Parquet files of the table requests.
    tokenizer : PromptTokenizer
        From `load_tokenizer`.
    context_length : int
        Most tokens of prompt and answer together; a prompt must leave room for one token.
    out : Path
        Folder for the results; it is created.
    batch_rows : int
        Rows held in memory at once.
    refuse : callable
        Tells why the engine of the night cannot answer a row; None: it can.

    Returns
    -------
    TokenizeResult
        Rows in + rows refused = rows read.
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
        for path in files:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=batch_rows):
                    good, ids, bad = _tokenize_batch(batch.to_pylist(), tokenizer, context_length, refuse)
                    requests.write_table(pa.Table.from_pylist(good, schema=SCHEMAS["requests"]))
                    if bad:
                        errors.write_table(pa.Table.from_pylist(bad, schema=SCHEMAS["errors"]))
                    lengths = np.fromiter((len(row) for row in ids), np.int64, len(ids))
                    for row in ids:
                        tokens.append(np.asarray(row, np.int32))
                    offsets.append(total + np.cumsum(lengths))
                    total += int(lengths.sum())
                    rows_out += len(good)
                    errors_out += len(bad)
    return TokenizeResult(requests_file, errors_file, tokens_file, offsets_file, rows_out, errors_out, total)


def _tokenize_batch(
    rows: list[dict[str, Any]],
    tokenizer: PromptTokenizer,
    context_length: int,
    refuse: Callable[[Mapping[str, Any]], RequestError | None],
) -> tuple[list[dict[str, Any]], list[list[int]], list[dict[str, Any]]]:
    found: dict[int, list[int] | RequestError] = {}
    texts: dict[bool, dict[int, str]] = {True: {}, False: {}}
    for index, row in enumerate(rows):
        try:
            if row["messages_json"] is not None:
                texts[False][index] = tokenizer.render(json.loads(row["messages_json"]))
            elif row["prompt"] is not None:
                texts[True][index] = row["prompt"]
            else:
                found[index] = _checked_ids(row["token_ids"], tokenizer.vocab_size)
        except RequestError as error:
            found[index] = error
    for special, wanted in texts.items():
        if wanted:
            encoded = tokenizer.encode(list(wanted.values()), special=special)
            found.update(zip(wanted, encoded, strict=True))
    good, kept, bad = [], [], []
    for index, row in enumerate(rows):
        ids = found[index]
        if not isinstance(ids, RequestError):
            refusal = refuse(row) or _refuse_length(row, ids, context_length)
            if refusal is None:
                good.append({**row, "input_tokens": len(ids)})
                kept.append(ids)
                continue
            row, ids = {**row, "input_tokens": len(ids)}, refusal  # noqa: PLW2901 - now a refused row
        bad.append(error_row(row, ids))
    return good, kept, bad


def _refuse_length(row: Mapping[str, Any], ids: Sequence[int], context_length: int) -> RequestError | None:
    name = "messages" if row["messages_json"] is not None else "prompt"
    if not ids:
        return RequestError(ErrorCode.EMPTY_PROMPT, name, "the prompt has no tokens")
    if len(ids) + 1 > context_length:
        message = f"{len(ids)} prompt tokens + 1 do not fit the context length of {context_length}"
        return RequestError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, name, message)
    return None


def _checked_ids(ids: list[int] | None, vocab_size: int) -> list[int]:
    if ids is None:
        message = "only hashes of this prompt are known, so it cannot be answered"
        raise RequestError(ErrorCode.NOT_REPLAYABLE, None, message)
    if any(not 0 <= token < vocab_size for token in ids):
        message = f"token ids must be from 0 to {vocab_size - 1}"
        raise RequestError(ErrorCode.INVALID_TOKEN, "prompt", message)
    return ids


def _has_tokenizer(folder: Path) -> bool:
    names = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "spiece.model", "vocab.txt", "vocab.json")
    return any((folder / name).is_file() for name in names)


def _shows(tokenizer: Any, role: str) -> bool:  # noqa: ANN401 - transformers' own type is not exact
    # Some templates drop a role they do not know; an instruction must not vanish without a word.
    messages = [{"role": role, "content": _PROBE}, {"role": "user", "content": "a"}]
    try:
        return _PROBE in _render(tokenizer, messages)
    except RequestError:
        return False


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:  # noqa: ANN401 - as above
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # noqa: BLE001 - a template is a program of the model's author
        reason = bounded(str(error).partition("\n")[0])
        raise _template_error("messages", f"the chat template refuses these messages: {reason}") from None
    return text


def _template_error(field_name: str, message: str) -> RequestError:
    return RequestError(ErrorCode.TEMPLATE_ERROR, field_name, message)


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
