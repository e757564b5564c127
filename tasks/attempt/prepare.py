"""Opens a night: from a request for a run to its identity, its held log, and its recorded inputs."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow.parquet as pq

from engine import ANSWER_VERSION
from engine.errors import EngineError
from engine.models.config import load_config
from tasks.attempt.ended import end_killed, record_failed
from tasks.base.errors import ConfigurationError, bounded
from tasks.base.identity import model_digest, reuse_key, run_key
from tasks.base.run_date import day_window, is_dated, resolve_run_date
from tasks.extract.extract import ExtractResult, ExtractSettings, extract
from tasks.extract.listing import listing_digest
from tasks.night.night import Night
from tasks.profile.tokenize import load_tokenizer, tokenize_requests
from tasks.requests.formats import AUTO
from tasks.runlog.log import RunLog, digest_ids, run_prefix
from tasks.store.contract import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from tasks.night.night import NightSettings
    from tasks.store.contract import Store

log = logging.getLogger(__name__)

ORIGIN: Final = "origin"
"""Step whose results say what a run was made from: `listing, objects, bytes, model, answer_version`."""


@dataclass(frozen=True, slots=True)
class NightRequest:
    """What a person or a schedule asks for.

    Attributes
    ----------
    job, source, store_uri, model
        The team's nightly; where its logs are; where everything is written; a model folder or hub id.
    run_date
        The date; None derives it from the source (`tasks.base.run_date`).
    rerun
        Open a fresh attempt: earlier parts of the run do not count.
    take_over
        Claim the run although its holder may be alive.
    model_filter
        Patterns of requested models; other requests count as filtered.
    log_format, columns
        Format of the logs and the columns of the generic one, see `ExtractSettings`.
    timezone
        Whose days are meant where a log says when its requests were made.
    options
        The options of `nightblend run` that ask for the same again; kept with the attempt for people.
    asked_by
        Id of the backfill that asks for it, kept with the attempt; '' for none.
    """

    job: str
    source: str
    store_uri: str
    model: str
    run_date: date | None
    settings: NightSettings
    rerun: bool = False
    take_over: bool = False
    model_filter: tuple[str, ...] = ()
    log_format: str = AUTO
    columns: tuple[tuple[str, str], ...] = ()
    timezone: str = "UTC"
    options: tuple[str, ...] = ()
    asked_by: str = ""


@dataclass(frozen=True, slots=True)
class PreparedInputs:
    """The identity of a run, and its parsed but not yet recorded input.

    `origin` is what it was made from: the results of step `ORIGIN`.
    """

    run_date: date
    run_key: str
    reuse_key: str
    store: Store
    model_dir: Path
    extracted: ExtractResult
    origin: dict[str, Any]


def prepare(request: NightRequest, scratch: Path, now: datetime | None = None) -> PreparedInputs:
    """Resolve the date, probe the store, find the model, and read the date's complete object list.

    Raises
    ------
    ConfigurationError
        Naming the setting, before any work on the engine.
    """
    resolved = resolve_run_date(
        request.run_date, source=request.source, has_event_time=False, now=now or datetime.now(UTC)
    )
    log.info("run date %s (%s)", resolved.run_date, resolved.reason)
    store = open_store(request.store_uri)
    store.probe()
    model_dir = find_model(request.model)
    load_tokenizer(str(model_dir))
    settings = request.settings
    extracted = extract(
        request.source,
        job=request.job,
        run_date=resolved.run_date,
        scratch=scratch / "extract",
        store=store,
        settings=ExtractSettings(
            defaults=settings.defaults,
            model_filter=request.model_filter,
            format=request.log_format,
            columns=dict(request.columns),
            # The path of a dated source decides; times out of the day are then only counted.
            window=day_window(resolved.run_date, request.timezone),
            window_filters=not is_dated(request.source),
            catalog=settings.catalog,
        ),
    )
    if extracted.shapes:
        total = extracted.account.requests
        raise ConfigurationError(
            "--source",
            f"{extracted.shapes} of {total} requests are lengths or block hashes without a text to answer",
            "Name logs with prompts; traces of lengths serve profile, plan and estimate",
        )
    model = model_digest(model_dir)
    identity = answers_identity(request, resolved.run_date, model)
    return PreparedInputs(
        run_date=resolved.run_date,
        run_key=run_key(inputs=extracted.input_digest, **identity),
        reuse_key=reuse_key(**identity),
        store=store,
        model_dir=model_dir,
        extracted=extracted,
        origin={
            "listing": listing_digest((o.source_uri, o.etag, o.size) for o in extracted.objects),
            "objects": len(extracted.objects),
            "bytes": sum(found.size for found in extracted.objects),
            "model": model,
            "answer_version": ANSWER_VERSION,
        },
    )


def answers_identity(request: NightRequest, run_date: date, model: str) -> dict[str, Any]:
    """Return what determines the answers but for the input: the arguments of `tasks.base.identity.reuse_key`.

    Parameters
    ----------
    model
        `tasks.base.identity.model_digest`.
    """
    settings = request.settings
    return {
        "job": request.job,
        "run_date": run_date,
        "model": model,
        "defaults": settings.defaults.as_dict(),
        "run_seed": settings.run_seed,
        "dtype": settings.precision,
    }


def find_model(model: str) -> Path:
    """Return the local folder of a model: `model` itself, or the download of a hub id.

    Raises
    ------
    ConfigurationError
        Naming `--model`, if there is none or the engine does not support it.
    """
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
        except Exception as error:
            reason = bounded(f"{type(error).__name__}: {error}".partition("\n")[0])
            raise ConfigurationError(
                "--model",
                f"{model} is no folder and cannot be had from the hub ({reason})",
                "Name a Hugging Face model folder or a hub id that can be reached",
            ) from error
    try:
        load_config(folder)
    except FileNotFoundError:
        raise ConfigurationError(
            "--model", f"{folder} holds no config.json", "Name a Hugging Face model folder or a hub id"
        ) from None
    except EngineError as error:
        message, _, remedy = str(error).removeprefix("--model: ").rpartition("; ")
        raise ConfigurationError("--model", message, remedy) from None
    return folder.resolve()


@contextmanager
def open_night(prepared: PreparedInputs, request: NightRequest, scratch: Path) -> Iterator[Night]:
    """Hold the run for the length of the block, with a new attempt open.

    If the run is finished already and no rerun is asked for, nothing is claimed or opened:
    ``night.log.state.finished`` says so.

    Raises
    ------
    RunIsLiveError
        If another live process holds the run.
    """
    settings = request.settings
    run_log = RunLog(
        prepared.store,
        run_prefix(request.job, prepared.run_date.isoformat(), prepared.run_key),
        lease_s=settings.lease_s,
        heartbeat_s=settings.heartbeat_s,
    )
    state = run_log.refresh()

    def night() -> Night:
        attempt = run_log.state.attempt
        if attempt is None:
            raise RuntimeError("the run has no attempt")
        return Night(
            job=request.job,
            run_date=prepared.run_date,
            run_key=prepared.run_key,
            store=prepared.store,
            log=run_log,
            attempt=attempt,
            model_dir=prepared.model_dir,
            scratch=scratch,
            settings=settings,
        )

    if state.finished and not request.rerun:
        yield night()
        return
    with run_log.hold(wait=True, take_over=request.take_over):
        end_killed(run_log)
        record_failed(run_log, request.job, prepared.run_date, prepared.run_key, settings.catalog)
        run_log.open_attempt(
            fresh=request.rerun,
            policy=settings.policy,
            device=settings.device,
            params={
                "reuse_key": prepared.reuse_key,
                "model": str(prepared.model_dir),
                "publish": settings.publish,
                "options": list(request.options),
                "asked_by": request.asked_by,
            },
        )
        record_origin(run_log, prepared)
        yield night()


def record_origin(run_log: RunLog, prepared: PreparedInputs) -> None:
    """Record what a held run was made from, unless its log says so already.

    Also where a finished run is used again: objects may have been written anew with the same requests.
    """
    known = run_log.state.steps.get(ORIGIN)
    if known is None or known.results != prepared.origin:
        run_log.finish_step(ORIGIN, prepared.origin)


def record_inputs(night: Night, prepared: PreparedInputs) -> dict[str, Any]:
    """Tokenise the requests and record them, the refused rows and the quarantine as parts of the run.

    Returns
    -------
    dict
        The results of step `extract`; those of before, if the log has the step already.
    """
    known = night.log.state.steps.get("extract")
    if known is not None:
        return known.results
    extracted = prepared.extracted
    tokenizer = load_tokenizer(str(prepared.model_dir), vocab_size=load_config(prepared.model_dir).vocab_size)
    result = tokenize_requests(
        extracted.files("requests"),
        tokenizer,
        context_length=load_config(prepared.model_dir).max_positions,
        out=night.scratch / "tokenized",
    )
    ids = pq.read_table(result.requests_file, columns=["request_id"]).column("request_id").to_pylist()
    requests = night.log.write_part(
        "requests", result.requests_file, ext="parquet", count=result.requests, ids_digest=digest_ids(ids)
    )
    tokens = night.log.write_part(
        "requests", result.tokens_file, ext="npy", count=result.requests, label="tokens"
    )
    offsets = night.log.write_part(
        "requests", result.offsets_file, ext="npy", count=result.requests, label="offsets"
    )
    refused = [(result.errors_file, result.errors)] if result.errors else []
    refused += [(path, pq.read_metadata(path).num_rows) for path in extracted.files("errors")]
    for path, count in refused:
        night.log.write_part("errors", path, ext="parquet", count=count)
    for path in extracted.files("quarantine"):
        count = pq.read_metadata(path).num_rows
        night.log.write_part("quarantine", path, ext="parquet", count=count)
    results = {
        "account": extracted.account.counts(),
        "objects": len(extracted.objects),
        "objects_parsed_before": sum(found.reused for found in extracted.objects),
        "object_errors": [asdict(error) for error in extracted.object_errors],
        "ignored": extracted.ignored,
        "formats": sorted({found.format for found in extracted.objects}),
        "late_objects": len(extracted.late),
        "outside_of_date": extracted.outside,
        "requests": result.requests,
        "refused": sum(count for _, count in refused),
        "tokens": result.tokens,
        "parts": [requests.name, tokens.name, offsets.name],
    }
    night.log.finish_step("extract", results)
    return results
