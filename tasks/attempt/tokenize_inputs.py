"""Records the input of a run: tokenised requests, refused rows, quarantine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from engine.models.config import load_config
from tasks.profile.tokenize import load_tokenizer, tokenize_requests
from tasks.runlog.log import digest_ids

if TYPE_CHECKING:
    from tasks.attempt.extract_inputs import PreparedInputs
    from tasks.night.night import Night


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
