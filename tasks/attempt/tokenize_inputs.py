"""Step tokenize: requests become tokens, and what was extracted becomes parts of the run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import pyarrow.parquet as pq

from engine.models.config import load_config
from tasks.attempt.kept import Kept, keep_answers
from tasks.attempt.share import only_share
from tasks.base.bad_rows import count_bad_rows
from tasks.base.identity import digest_ids
from tasks.infer.backends.engines import refusal_of
from tasks.night.abilities import abilities_of, unfit_for
from tasks.night.images import copy_images
from tasks.night.model import check_for_engine, check_model
from tasks.profile.tokenize import tokenize_requests
from tasks.profile.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.attempt.extract_inputs import ExtractedInputs
    from tasks.extract.result import ExtractResult
    from tasks.night.night import Night
    from tasks.runlog.records import Part

IMAGES: Final = "images"
"""Kind of the part, and table of what was extracted."""


def tokenize_inputs(night: Night, inputs: ExtractedInputs) -> dict[str, Any]:
    """Tokenise the requests, and record them and the refused rows as parts of the run.

    Step extract is recorded first: it is over before the run is held, since its input names the run.

    Returns
    -------
    dict
        The results of step `tokenize` (`requests` and `refused` make up those of step `extract`; `tokens`;
        `parts`, the names of table, tokens and offsets; `images`, that of the images, if there are any;
        `refused_rows`, the codes of the refused; `kept` of a
        run that answers only what failed before: how many answers it keeps, and of which runs); those of
        before, if the log has the step already.

    Raises
    ------
    ConfigurationError
        If the files of the model have changed since the run was named by them, or the engine does not run it.
    """
    if "extract" not in night.log.state.steps:
        _record_extracted(night, inputs.extracted)
    known = night.log.state.steps.get("tokenize")
    if known is not None:
        return known.results
    config = load_config(night.model_dir)
    check_for_engine(night, config)
    asked, unreadable = inputs.extracted.files("requests"), inputs.extracted.files("errors")
    if inputs.side is not None:
        # Lines that ask for nothing that can be answered are the night's own.
        asked, unreadable = only_share(night.job, inputs.side, asked, night.scratch / "share"), []
    kept = Kept(asked) if inputs.earlier is None else keep_answers(night, inputs.earlier, asked)
    result = tokenize_requests(
        kept.left,
        load_tokenizer(str(night.model_dir), vocab_size=config.vocab_size, run_date=night.run_date),
        context_length=config.max_positions,
        out=night.scratch / "tokenized",
        refuse=refusal_of(night.engine, night.settings.defaults),
        unfit=unfit_for(
            abilities_of(night.model_dir, night.settings.pooling), night.engine, night.settings.device
        ),
    )
    # The tokenizer is one of them: tokens of another one must not be recorded under this run's name.
    check_model(night)
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
    refused += [(path, pq.read_metadata(path).num_rows) for path in unreadable]
    images = _images_part(night, result.requests_file, inputs.extracted.files(IMAGES))
    errors = [night.log.write_part("errors", path, ext="parquet", count=count) for path, count in refused]
    results = {
        "requests": result.requests,
        "refused": sum(count for _, count in refused),
        "tokens": result.tokens,
        "parts": [requests.name, tokens.name, offsets.name],
        "refused_rows": count_bad_rows(errors=[path for path, _ in refused]),
    }
    made = {"requests": [requests, tokens, offsets], "errors": errors}
    if images is not None:
        made[IMAGES] = [images]
        results[IMAGES] = images.name
    if inputs.earlier is not None:
        made["outputs"] = kept.write(night)
        results["kept"] = {"answers": kept.answers, **inputs.earlier.told()}
    night.log.finish_step("tokenize", results, parts=made)
    return results


def _images_part(night: Night, requests: Path, files: list[Path]) -> Part | None:
    """Record the images of the requests that are answered; None if they have none."""
    if not files:
        return None
    out = night.scratch / "tokenized" / "images.parquet"
    count = copy_images(requests, files, out)
    return night.log.write_part(IMAGES, out, ext="parquet", count=count) if count else None


def _record_extracted(night: Night, extracted: ExtractResult) -> None:
    quarantine = [
        night.log.write_part("quarantine", path, ext="parquet", count=pq.read_metadata(path).num_rows)
        for path in extracted.files("quarantine")
    ]
    results = {
        "account": extracted.account.counts(),
        "objects": len(extracted.objects),
        "objects_parsed_before": sum(found.reused for found in extracted.objects),
        "object_errors": [asdict(error) for error in extracted.object_errors],
        "ignored": extracted.ignored,
        "formats": sorted({found.format for found in extracted.objects}),
        "late_objects": len(extracted.late),
        "outside_of_date": extracted.outside,
        "filtered_by": extracted.filtered_by,
        "quarantined_rows": count_bad_rows(quarantine=extracted.files("quarantine")),
    }
    night.log.finish_step("extract", results, parts={"quarantine": quarantine})
