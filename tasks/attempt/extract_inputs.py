"""Step extract: from what is asked for to the run's identity and its requests, nothing of it recorded yet."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.backends.facts import NATIVE_FACTS
from tasks.attempt.kept import find_candidate, find_earlier
from tasks.base.errors import ConfigurationError
from tasks.base.identity import model_digest, reuse_key, run_key
from tasks.base.run_date import day_window, is_dated, resolve_run_date
from tasks.extract.extract import ExtractSettings, extract
from tasks.extract.listing import listing_digest
from tasks.infer.backends.engines import check_defaults, find_engine
from tasks.infer.backends.ray_cluster import connect
from tasks.night.abilities import abilities_of
from tasks.night.fence import Reading, begin_reading
from tasks.night.model import find_model, model_name
from tasks.night.request import CANARY, RETRY_OF, SIDE
from tasks.profile.tokenizer import load_tokenizer
from tasks.requests.adapters import Adapters
from tasks.store.open import open_store

if TYPE_CHECKING:
    from datetime import date

    from engine.backends.facts import EngineFacts
    from tasks.attempt.kept import Earlier
    from tasks.extract.result import ExtractResult
    from tasks.night.request import NightRequest, Side
    from tasks.profile.tokenizer import PromptTokenizer
    from tasks.store.contract import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExtractedInputs:
    """What step extract finds: the identity of a run, and its parsed but not yet recorded input.

    `origin` is what it was made from: the results of step `ORIGIN`; `reading` is when that was, as the log of
    the date tells it; `earlier` is whose answers are kept, if any are; `side` says which requests are
    answered, if not all are.
    """

    run_date: date
    run_key: str
    reuse_key: str
    store: Store
    model_dir: Path
    engine: EngineFacts
    extracted: ExtractResult
    origin: dict[str, Any]
    reading: Reading
    earlier: Earlier | None = None
    side: Side | None = None


def extract_inputs(request: NightRequest, scratch: Path, now: datetime | None = None) -> ExtractedInputs:
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
    tokenizer = load_tokenizer(str(model_dir), run_date=resolved.run_date)
    settings = request.settings
    engine = find_engine(
        settings.engine,
        settings.engine_options,
        settings.max_in_flight,
        model_dir,
        tokenizer.encode,
        request.model,
        python=settings.engine_python,
        device=settings.device,
        hours=settings.hours,
        timezone=request.timezone,
    )
    check_defaults(engine, settings.defaults)
    if settings.ray is not None:
        connect(settings.ray)
    after = begin_reading(store, request.job, resolved.run_date)
    earlier = None
    if request.failed_only:
        earlier = find_earlier(store, request.job, resolved.run_date)
    elif request.candidate_run:
        earlier = find_candidate(store, request.job, resolved.run_date, request.candidate_run)
    extracted = extract(
        request.source,
        job=request.job,
        run_date=resolved.run_date,
        scratch=scratch / "extract",
        store=store,
        settings=ExtractSettings(
            # Answers are kept by the keys that they were made under.
            defaults=(earlier and earlier.key_defaults) or settings.defaults,
            model_filter=request.model_filter,
            format=request.log_format,
            columns=dict(request.columns),
            # The path of a dated source decides; times out of the day are then only counted.
            window=day_window(resolved.run_date, request.timezone),
            window_filters=not is_dated(request.source),
            catalog=settings.catalog,
            image_sources=request.image_sources,
            adapters=Adapters(engine.adapters, (model_name(model_dir), request.model, str(model_dir))),
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
    listing = listing_digest((o.source_uri, o.etag, o.size) for o in extracted.objects)
    retry_of = earlier.run_key if earlier is not None and request.failed_only else ""
    identity = answers_identity(request, resolved.run_date, model, tokenizer, engine, retry_of)
    return ExtractedInputs(
        run_date=resolved.run_date,
        run_key=run_key(inputs=extracted.input_digest, **identity),
        reuse_key=reuse_key(**identity),
        store=store,
        model_dir=model_dir,
        engine=engine,
        extracted=extracted,
        origin={
            "listing": listing,
            "objects": len(extracted.objects),
            "bytes": sum(found.size for found in extracted.objects),
            "model": model,
            "answer_version": engine.answer_version,
        },
        reading=Reading(after, listing),
        earlier=earlier,
        side=request.side,
    )


def answers_identity(
    request: NightRequest,
    run_date: date,
    model: str,
    tokenizer: PromptTokenizer,
    engine: EngineFacts = NATIVE_FACTS,
    retry_of: str = "",
) -> dict[str, Any]:
    """Return what determines the answers but for the input: the arguments of `tasks.base.identity.reuse_key`.

    Parameters
    ----------
    model
        `tasks.base.identity.model_digest`.
    tokenizer
        Of the model, loaded for `run_date`.
    engine
        What answers.
    retry_of
        Key of the run whose answers are kept; '' for none.
    """
    settings = request.settings
    rules = dict(tokenizer.rules() or {})
    if settings.engine == NATIVE_FACTS.name:
        rules |= abilities_of(Path(tokenizer.model), settings.pooling).rules()
    if retry_of:
        rules[RETRY_OF] = retry_of
    if request.candidate_run:
        rules[CANARY] = request.candidate_run
    if request.side is not None:
        rules[SIDE] = request.side.told()
    return {
        "job": request.job,
        "run_date": run_date,
        "model": model,
        "defaults": settings.defaults.as_dict(),
        "run_seed": settings.run_seed,
        "dtype": settings.precision,
        "rules": rules,
        "answer_version": engine.answer_version,
    }
