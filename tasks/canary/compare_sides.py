"""Step `compare` of a night of which a candidate has answered a share: both sides, as rows of a table."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.schema import SCHEMAS
from tasks.canary.answers import compare_answers, load_scorer
from tasks.canary.sides import SideRun, read_side
from tasks.night.model import model_name
from tasks.runlog.parts import request_parts

if TYPE_CHECKING:
    from tasks.canary.sides import SideResults
    from tasks.night.night import Night
    from tasks.night.request import Canary

STEP = "compare"
BASELINE, CANDIDATE = "baseline", "candidate"


def compare_sides(
    night: Night, canary: Canary, candidate: SideRun, reference: SideRun | None
) -> list[dict[str, Any]]:
    """Record what both sides of a night did, once all of its requests have an answer or an error.

    Parameters
    ----------
    reference
        The night's own settings on some of the candidate's requests; without it no answers are compared.

    Returns
    -------
    list of dict
        Rows of table `comparisons`: baseline, candidate; also the results of step `compare`.
    """
    known = night.log.state.steps.get(STEP)
    if known is not None:
        return list(known.results["rows"])
    folder = night.scratch / "sides"
    folder.mkdir(parents=True, exist_ok=True)
    store, job, day = night.store, night.job, night.run_date
    ours = read_side(store, job, day, night.run_key, folder)
    theirs = read_side(store, job, day, candidate.run_key, folder)
    # Lines that no setting can answer say nothing of either side.
    asked = pq.read_table(night.fetch(request_parts(night.log.state)[0]), columns=["request_id"])
    hopeless = ours.errors - set(asked.column("request_id").to_pylist())
    ours, theirs = (replace(one, errors=one.errors - hopeless) for one in (ours, theirs))
    compared: dict[str, Any] = dict.fromkeys(("compared", "exact", "normalised", "json_equal", "score"))
    if reference is not None:
        others = read_side(store, job, day, reference.run_key, folder)
        compared = compare_answers(others.answers, theirs.answers, load_scorer(canary.scorer))
    own = SideRun(night.run_key, night.settings, model_name(night.model_dir), night.engine.version)
    nothing: dict[str, Any] = dict.fromkeys(compared)
    rows = [
        _row(night, canary, BASELINE, own, ours, nothing),
        _row(night, canary, CANDIDATE, candidate, theirs, compared),
    ]
    path = night.scratch / "comparisons.parquet"
    dated = [{**row, "run_date": day} for row in rows]
    pq.write_table(pa.Table.from_pylist(dated, schema=SCHEMAS["comparisons"]), path)
    part = night.log.write_part("comparisons", path, ext="parquet", count=len(rows))
    night.log.finish_step(STEP, {"rows": rows}, parts={"comparisons": [part]})
    return rows


def _row(
    night: Night, canary: Canary, name: str, run: SideRun, did: SideResults, compared: dict[str, Any]
) -> dict[str, Any]:
    side = canary.candidate.side
    if side is None:
        raise RuntimeError("the candidate has no share")
    return {
        "job": night.job,
        "run_date": night.run_date.isoformat(),
        "run_key": night.run_key,
        "side": name,
        "side_run_key": run.run_key,
        "share_by": side.by,
        "share_percent": side.percent,
        "policy": run.settings.policy,
        "engine": run.settings.engine,
        "engine_version": run.engine_version,
        "model": run.model,
        "precision": run.settings.precision,
        "requests": len(did.answers) + len(did.errors),
        "outputs": len(did.answers),
        "errors": len(did.errors),
        "failure": run.failure,
        "input_tokens": did.input_tokens,
        "output_tokens": did.output_tokens,
        "engine_seconds": did.infer.get("engine_seconds"),
        "tokens_per_second": did.tokens_per_second,
        "mean_output_tokens": fmean(did.lengths) if did.lengths else None,
        "spread_output_tokens": pstdev(did.lengths) if did.lengths else None,
        "finish_reasons": json.dumps(did.finish_reasons),
        **compared,
    }
