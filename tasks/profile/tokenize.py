"""Prompts to token ids: chat template, then the tokenizer's own threads over batches of rows.

While the tokenizer's threads, one for each core, are at a batch, the chats of the next one are rendered.

A chat prompt is rendered with `add_generation_prompt=True` and encoded without further special tokens (the
template writes them); a completions prompt is encoded with the special tokens the tokenizer adds by default.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import decoders

from tasks.base.errors import ConfigurationError, ErrorCode, RequestError, bounded
from tasks.base.identity import canonical_json
from tasks.base.progress import tell
from tasks.base.schema import SCHEMAS, error_row
from tasks.profile.chat_template import ChatTemplate
from tasks.requests.template_variables import more_settings, variables_of
from tasks.requests.tool_messages import texts_of
from tasks.requests.tools import FORM, TOOLS
from tasks.tools.enforce import calls_of
from tasks.tools.forms import FORMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from datetime import date
    from types import TracebackType

BATCH_ROWS: Final = 1024
_Found: TypeAlias = "dict[int, list[int] | RequestError]"
"""By the place of a row in its batch: its tokens, or why it has none."""


@dataclass(frozen=True, slots=True)
class PromptTokenizer:
    """A model's tokenizer with its chat template.

    Attributes
    ----------
    tokenizer
        The `transformers` tokenizer.
    vocab_size
        Token ids of a prompt are below this.
    template
        Renders chats.
    """

    tokenizer: Any
    vocab_size: int
    template: ChatTemplate

    def encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Encode texts in parallel, with the tokenizer's default special tokens if `special`."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            encoded = self.tokenizer(list(texts), add_special_tokens=special, verbose=False)
            return [list(ids) for ids in encoded["input_ids"]]
        return [found.ids for found in backend.encode_batch_fast(list(texts), add_special_tokens=special)]

    def rules(self) -> dict[str, str]:
        """Return what answers depend on beside the model's files, as it enters the keys of a run.

        There is nothing of the kind for most models.
        """
        found = {}
        if self.template.clock is not None:
            found["template_clock"] = self.template.clock
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or not isinstance(backend.decoder, decoders.ByteLevel):
            # Their answers lost a first space once, and whole characters before a cut one.
            found["answer_text"] = "after the prompt"
        return found

    def beyond(self, ids: Sequence[int]) -> int | None:
        """Return the first token id that the model has no embedding for, None if it has them all.

        A tokenizer may know more tokens than its model, such as some that were added later.
        """
        if not ids or (max(ids) < self.vocab_size and min(ids) >= 0):
            return None
        return next(token for token in ids if not 0 <= token < self.vocab_size)


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


def load_tokenizer(
    model: str, *, vocab_size: int | None = None, run_date: date | None = None
) -> PromptTokenizer:
    """Load the tokenizer of a model.

    Parameters
    ----------
    model : str
        A local folder or a hub id.
    vocab_size : int or None
        Rows of the model's embedding; None takes all ids of the tokenizer.
    run_date : date or None
        What a clock in the chat template shows, see `ChatTemplate`.

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
    size = max(tokenizer.get_vocab().values(), default=-1) + 1 if vocab_size is None else vocab_size
    return PromptTokenizer(tokenizer, size, ChatTemplate(tokenizer, run_date))


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
        Rows that are encoded at once; three times as many are held in memory at most.
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
        files = list(files)
        rows = sum(pq.read_metadata(path).num_rows for path in files)
        for batch, found in _encoded(_batches(files, batch_rows), tokenizer):
            good, ids, bad = _sorted_out(batch, found, tokenizer, context_length, refuse)
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


def _batches(files: Iterable[Path], size: int) -> Iterator[list[dict[str, Any]]]:
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=size):
                yield batch.to_pylist()


def _encoded(
    batches: Iterable[list[dict[str, Any]]], tokenizer: PromptTokenizer
) -> Iterator[tuple[list[dict[str, Any]], _Found]]:
    """Yield batches in order with the tokens of each row, or why it has none.

    While one is encoded, the next one is read and rendered; whoever takes them may hold the one before.
    """
    with ThreadPoolExecutor(1, "tokenize") as pool:
        before: tuple[list[dict[str, Any]], Future[_Found]] | None = None
        for rows in batches:
            rendered = _rendered(rows, tokenizer)
            # Only one batch is at the tokenizer, whose threads use every core.
            found = pool.submit(_tokens_of, *rendered, tokenizer)
            if before is not None:
                yield before[0], before[1].result()
            before = rows, found
        if before is not None:
            yield before[0], before[1].result()


def _rendered(
    rows: Sequence[Mapping[str, Any]], tokenizer: PromptTokenizer
) -> tuple[_Found, dict[bool, dict[int, str]]]:
    """Return what is known of rows without the tokenizer, and the texts of the others.

    The texts are told apart by whether they get the tokenizer's special tokens.
    """
    found: _Found = {}
    texts: dict[bool, dict[int, str]] = {True: {}, False: {}}
    for index, row in enumerate(rows):
        try:
            if row["messages_json"] is not None:
                texts[False][index] = tokenizer.template.render(
                    json.loads(row["messages_json"]), variables_of(row), more_settings(row).get(TOOLS)
                )
            elif row["prompt"] is not None:
                texts[True][index] = row["prompt"]
            else:
                found[index] = _given_ids(row["token_ids"])
        except RequestError as error:
            found[index] = error
    return found, texts


def _tokens_of(found: _Found, texts: dict[bool, dict[int, str]], tokenizer: PromptTokenizer) -> _Found:
    for special, wanted in texts.items():
        if wanted:
            encoded = tokenizer.encode(list(wanted.values()), special=special)
            found.update(zip(wanted, encoded, strict=True))
    return found


def _sorted_out(
    rows: Sequence[Mapping[str, Any]],
    found: _Found,
    tokenizer: PromptTokenizer,
    context_length: int,
    refuse: Callable[[Mapping[str, Any]], RequestError | None],
) -> tuple[list[dict[str, Any]], list[list[int]], list[dict[str, Any]]]:
    """Return the rows that can be answered, their tokens, and the rows of the table errors."""
    good, kept, bad = [], [], []
    for index, row in enumerate(rows):
        ids = found[index]
        if isinstance(ids, RequestError):
            bad.append(error_row(row, ids))
            continue
        counted = {**row, "input_tokens": len(ids)}
        try:
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
    row: Mapping[str, Any], ids: Sequence[int], tokenizer: PromptTokenizer, context_length: int
) -> None:
    name = "messages" if row["messages_json"] is not None else "prompt"
    if not ids:
        raise RequestError(ErrorCode.EMPTY_PROMPT, name, "the prompt has no tokens")
    wrong = tokenizer.beyond(ids)
    if wrong is not None:
        message = f"{_source(row, wrong, tokenizer)}; the model has ids from 0 to {tokenizer.vocab_size - 1}"
        raise RequestError(ErrorCode.INVALID_TOKEN, name, message)
    if len(ids) + 1 > context_length:
        message = f"{len(ids)} prompt tokens + 1 do not fit the context length of {context_length}"
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


def _given_ids(ids: list[int] | None) -> list[int]:
    if ids is None:
        message = "only hashes of this prompt are known, so it cannot be answered"
        raise RequestError(ErrorCode.NOT_REPLAYABLE, None, message)
    return ids


def _has_tokenizer(folder: Path) -> bool:
    names = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "spiece.model", "vocab.txt", "vocab.json")
    return any((folder / name).is_file() for name in names)


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
