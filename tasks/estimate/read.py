"""From logs to `Requests`: any format that has lengths, with prompts or block hashes where there are some.

Prompts are counted by the model's tokenizer where its folder has one, else by pieces of words; lengths
without a prompt become prompts that share nothing, block hashes become prompts that share what the hashes
share. Each input of a request for embeddings is a request of its own here, which ends with its prompt.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import polars as pl

from engine.plan.lengths import estimate_lengths
from tasks.base.errors import ConfigurationError
from tasks.base.identity import canonical_json
from tasks.base.run_date import day_window, is_dated, resolve_run_date
from tasks.estimate.requests import Requests
from tasks.extract.extract import ExtractSettings, extract
from tasks.extract.table_source import is_table
from tasks.profile.tokenize import tokenize_requests
from tasks.profile.tokenizer import load_tokenizer
from tasks.requests.embeddings import ENDPOINT as EMBEDDINGS
from tasks.requests.embeddings import inputs_of
from tasks.requests.sampling import SamplingDefaults, shares_answer, stored_sampling

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from tasks.estimate.machine import Model
    from tasks.extract.result import ExtractResult

    Int32 = npt.NDArray[np.int32]
    Int64 = npt.NDArray[np.int64]

JOB: Final = "estimate"
LOGGED: Final = "logged"
PARTLY: Final = "partly logged"
PAST: Final = "those of earlier runs"
ASSUMED: Final = "assumed"
"""Where the lengths of answers come from."""
FIRST_ID: Final = 1_000
IDS: Final = 127_000
_PIECES: Final = re.compile(r"[^\W\d_]{1,6}|\d{1,3}|[^\w\s]|\n")
_SEED: Final = 20_260_101


@dataclass(frozen=True)
class Source:
    """Which logs, and how they are read.

    Attributes
    ----------
    uri
        A file, a folder or a prefix, with the date in it or not; or a table or query
        (`tasks.extract.table_source`).
    run_date
        Of a source with a date in it; None takes yesterday.
    output_tokens
        Mean answer length to assume where the logs have none at all.
    max_tokens
        Longest answer where a request sets none; None: no limit but the model's context.
    past_lengths
        Workload -> int64 [n], tokens: answers of earlier runs, drawn from where the logs have none.
    """

    uri: str
    run_date: date | None = None
    timezone: str = "UTC"
    log_format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    output_tokens: int | None = None
    max_tokens: int | None = None
    past_lengths: Mapping[str, Int64] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where it is, without a query's text, which may hold what nobody else should read."""
        return self.uri.partition("?")[0] if is_table(self.uri) else self.uri

    @property
    def name(self) -> str:
        """What a person calls it: the last part of its place."""
        return PurePosixPath(self.place.rstrip("/")).name or self.place


def read_requests(source: Source, model: Model, scratch: Path) -> Requests:
    """Read all requests of a source in order of arrival.

    Raises
    ------
    ConfigurationError
        If there is none, none fits the model's context, or no answer length is known or given.
    """
    extracted, run_date = _extract(source, scratch)
    files = extracted.files("requests")
    rows = pl.concat([pl.read_parquet(path) for path in files]) if files else pl.DataFrame()
    if rows.is_empty():
        raise ConfigurationError(
            "--source",
            f"{source.place} has no request that can be answered ({_counts(extracted)})",
            "Name logs of requests, or their format by --format",
        )
    rows, tokens, start, counted, refused = _prompts(rows, model, scratch)
    prompt = np.diff(start)
    fits = (prompt + 1 <= model.context) & (prompt > 0)
    if not fits.any():
        raise ConfigurationError(
            "--source",
            f"none of {len(fits)} requests fits the context of {model.context} tokens of {model.name}",
            "Name a model with a longer context",
        )
    rows = rows.with_columns(pl.Series("at", np.arange(rows.height))).filter(pl.Series(fits))
    order = _arrival(rows)
    rows = rows[order]
    output, known = _answers(rows, prompt[rows["at"].to_numpy()], source, model)
    names, workload = _workloads(rows)
    about = {
        "source": source.place,
        "run_date": run_date.isoformat() if is_dated(source.uri) else None,
        "formats": sorted({found.format for found in extracted.objects}),
        "account": extracted.account.counts(),
        "too_long": int((~fits).sum()) + refused,
        "counted_by": counted,
        "lengths": {"logged": int(known.sum()), "assumed": int((~known).sum())},
        "length_source": _length_source(known, source),
    }
    whole = Requests(
        source.name,
        tokens,
        start,
        np.zeros(len(prompt), np.int32),
        np.zeros(len(prompt), np.int64),
        names,
        np.arange(len(prompt)),
        about,
    ).take(rows["at"].to_numpy().astype(np.int64))
    return Requests(
        whole.name, whole.tokens, whole.start, output, workload, names, _repeats(rows, source), about
    )


def _extract(source: Source, scratch: Path) -> tuple[ExtractResult, date]:
    run_date = source.run_date or datetime.now(UTC).date()
    if is_dated(source.uri):
        run_date = resolve_run_date(
            source.run_date,
            source=source.uri,
            has_event_time=False,
            now=datetime.now(UTC),
            timezone=source.timezone,
        ).run_date
    window = day_window(run_date, source.timezone) if source.run_date and not is_dated(source.uri) else None
    settings = ExtractSettings(
        defaults=SamplingDefaults(max_tokens=source.max_tokens or SamplingDefaults().max_tokens),
        format=source.log_format,
        columns=source.columns,
        window=window,
    )
    return extract(
        source.uri, job=JOB, run_date=run_date, scratch=scratch / "extract", settings=settings
    ), run_date


def _counts(extracted: ExtractResult) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in extracted.account.counts().items() if count)
    return counts or "it is empty"


def _arrival(rows: pl.DataFrame) -> Int64:
    """Return the order of arrival: by time if every request has one, else as the logs have them."""
    keys = ["source_uri", "source_line"]
    if not rows["event_time"].null_count():
        keys.insert(0, "event_time")
    return rows.select(pl.arg_sort_by(keys, maintain_order=True)).to_series().to_numpy().astype(np.int64)


def _workloads(rows: pl.DataFrame) -> tuple[tuple[str, ...], Int64]:
    """Return the names of the workloads and int64 [N], the index of each; unnamed ones go by their file."""
    name = rows["workload"]
    if name.n_unique() == 1 and rows["source_uri"].n_unique() > 1:
        files = {uri: PurePosixPath(uri).name.partition(".")[0] for uri in rows["source_uri"].unique()}
        if len(set(files.values())) <= 20:
            name = rows["source_uri"].replace_strict(files)
    names, index = np.unique(name.to_numpy().astype(str), return_inverse=True)
    return tuple(names.tolist()), index.astype(np.int64)


def _answers(
    rows: pl.DataFrame, prompt: Int64, source: Source, model: Model
) -> tuple[Int32, npt.NDArray[np.bool_]]:
    """Return int32 [N], tokens: answers as logged, missing ones by their workload; and which are logged.

    A request for embeddings is known to end with its prompt: to a simulation it has an answer of one token,
    which is the last row of the prompt's last step.
    """
    embeds = (rows["endpoint"] == EMBEDDINGS).to_numpy()
    if embeds.all():
        return np.ones(len(embeds), np.int32), embeds
    logged = rows["observed_output_tokens"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    known = ~np.isnan(logged)
    limit = rows["max_tokens"].cast(pl.Int64).fill_null(source.max_tokens or model.context).to_numpy()
    limit = np.maximum(np.minimum(limit, model.context - prompt), 1)
    if source.past_lengths and not known.all():
        output = np.minimum(_drawn(rows["workload"], source), limit)
        output[known] = np.minimum(logged[known], limit[known])
    elif known.any():
        group = rows["workload"].rank("dense").to_numpy().astype(np.int64)
        output, _ = estimate_lengths(logged, limit, group)
    elif source.output_tokens is not None:
        output = np.minimum(np.full(len(known), float(source.output_tokens)), limit)
    else:
        raise ConfigurationError(
            "--output-tokens",
            f"none of {len(known)} requests has the length of a logged answer",
            "Name logs that hold answers or their lengths, or give the mean answer length to assume",
        )
    return np.where(embeds, 1, np.maximum(np.rint(output), 1)).astype(np.int32), known | embeds


def _drawn(workload: pl.Series, source: Source) -> npt.NDArray[np.float64]:
    """Return float64 [N], tokens: answers of the same workload in earlier runs, drawn at random."""
    rng = np.random.default_rng(_SEED)
    everything = np.concatenate(list(source.past_lengths.values()))
    found = np.empty(len(workload))
    for name in workload.unique():
        mine = (workload == name).to_numpy()
        found[mine] = rng.choice(source.past_lengths.get(name, everything), int(mine.sum()))
    return found


def _length_source(known: npt.NDArray[np.bool_], source: Source) -> str:
    if known.all():
        return LOGGED
    if source.past_lengths:
        return PAST
    return PARTLY if known.any() else ASSUMED


def _repeats(rows: pl.DataFrame, source: Source) -> Int64:
    """Return int64 [N]: the first request with the same answer; only greedy or seeded ones share answers."""
    defaults = SamplingDefaults(max_tokens=source.max_tokens or SamplingDefaults().max_tokens)
    content = rows["prefix_block_hashes"].is_null().to_list()
    settings = rows.select("sampling", "max_tokens").to_dicts()
    first: dict[str, int] = {}
    found = np.arange(rows.height)
    for i, key in enumerate(rows["answer_key"].to_list()):
        # Equal lengths are no equal prompts.
        if content[i] and shares_answer(stored_sampling(settings[i]), defaults):
            found[i] = first.setdefault(key, i)
    return found


def _prompts(rows: pl.DataFrame, model: Model, scratch: Path) -> tuple[pl.DataFrame, Int32, Int64, str, int]:
    """Return the rows with their prompts, flat, how they were counted, and how many were refused."""
    shapes = rows.filter(pl.col("prefix_block_hashes").is_not_null())
    texts = _one_input_each(rows.filter(pl.col("prefix_block_hashes").is_null()))
    parts: list[Int32] = []
    lengths: list[Int64] = []
    kept = []
    counted, refused = [], 0
    if texts.height:
        found, tokens, start, how = _texts(texts, model, scratch)
        refused = texts.height - found.height
        kept.append(found)
        parts.append(tokens)
        lengths.append(np.diff(start))
        counted.append(how)
    if shapes.height:
        made = [_shape_ids(row, i) for i, row in enumerate(shapes.iter_rows(named=True))]
        kept.append(shapes)
        parts += made
        lengths.append(np.array([part.size for part in made], np.int64))
        counted.append("the log's own counts")
    start = np.concatenate(([0], np.cumsum(np.concatenate(lengths)))).astype(np.int64)
    return pl.concat(kept), np.concatenate(parts), start, " and ".join(counted), refused


def _one_input_each(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with one for each input of a request for embeddings, whose answers differ by input."""
    embeds = rows["endpoint"] == EMBEDDINGS
    if not embeds.any():
        return rows
    several = [
        {**row, "prompt": canonical_json([one]), "answer_key": f"{row['answer_key']}#{place}"}
        for row in rows.filter(embeds).to_dicts()
        for place, one in enumerate(inputs_of(row))
    ]
    return pl.concat([rows.filter(~embeds), pl.DataFrame(several, schema=rows.schema)])


def _texts(texts: pl.DataFrame, model: Model, scratch: Path) -> tuple[pl.DataFrame, Int32, Int64, str]:
    folder = model.folder
    if folder is not None and any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        path = scratch / "texts.parquet"
        texts.write_parquet(path)
        tokenizer = load_tokenizer(str(folder), run_date=texts["run_date"][0])
        done = tokenize_requests([path], tokenizer, context_length=model.context, out=scratch / "tokenized")
        return (
            pl.read_parquet(done.requests_file),
            np.load(done.tokens_file),
            np.load(done.offsets_file),
            f"the tokenizer of {model.name}",
        )
    ids = [_piece_ids(row) for row in texts.iter_rows(named=True)]
    start = np.concatenate(([0], np.cumsum([part.size for part in ids]))).astype(np.int64)
    return texts, np.concatenate(ids), start, "pieces of words (there is no tokenizer)"


def _piece_ids(row: Mapping[str, Any]) -> Int32:
    """Return ids of a prompt's pieces: equal beginnings give equal ids."""
    if row["token_ids"] is not None:
        return np.array(row["token_ids"], np.int32)
    text = row["prompt"]
    if row["endpoint"] == EMBEDDINGS:
        text = inputs_of(row)[0]
        if not isinstance(text, str):
            return np.array(text, np.int32)
    if text is None:
        turns = orjson.loads(row["messages_json"])
        text = "\n".join(f"{turn['role']}\n{_shown(turn['content'])}" for turn in turns)
    ids = [FIRST_ID + zlib.crc32(piece.encode()) % IDS for piece in _PIECES.findall(text)]
    return np.array(ids or [FIRST_ID], np.int32)


def _shown(content: object) -> object:
    """Return a content as text; an image is its digest, so that equal beginnings stay equal."""
    if not isinstance(content, list):
        return content
    return " ".join(part["text"] if part["type"] == "text" else part["sha256"] for part in content)


def _shape_ids(row: Mapping[str, Any], number: int) -> Int32:
    """Return made-up ids of a prompt of known length: a hashed block gives its own, the rest is unique."""
    length, hashes, size = row["input_tokens"], row["prefix_block_hashes"], row["block_size"]
    known = _block_ids(np.array(hashes, np.uint64), size)[:length] if hashes else np.zeros(0, np.int32)
    rng = np.random.default_rng((_SEED, number))
    own = rng.integers(FIRST_ID, FIRST_ID + IDS, length - known.size, dtype=np.int32)
    return np.concatenate((known, own))


def _block_ids(hashes: npt.NDArray[np.uint64], size: int) -> Int32:
    """Return ids drawn from block and place (the finaliser of SplitMix64), int32 [blocks * size]."""
    place = np.arange(size, dtype=np.uint64)
    key = (hashes[:, None] * np.uint64(size) + place).astype(np.uint64)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    key ^= key >> np.uint64(31)
    ids: Int32 = (FIRST_ID + key % np.uint64(IDS)).astype(np.int32).ravel()
    return ids
