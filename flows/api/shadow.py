"""A published date answered once more with something different, for nobody but who compares."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from flows.parameters.candidate import differences
from flows.parameters.to_request import side_request
from flows.run.sequence import answer_side
from tasks.base.errors import ConfigurationError
from tasks.canary.answers import compare_answers, load_scorer
from tasks.canary.rules import name_of
from tasks.canary.sides import SideResults, read_side
from tasks.night.request import REQUEST, Side
from tasks.runlog.log import RunLog
from tasks.runlog.places import date_prefix, publication_prefix
from tasks.runlog.state import current_publication
from tasks.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.parameters.nightly import NightlyParameters
    from flows.run.sequence import Steps


def shadow(
    parameters: NightlyParameters,
    options: Sequence[str],
    *,
    percent: float = 100.0,
    by: str = REQUEST,
    scorer: str | None = None,
    steps: Steps | None = None,
) -> dict[str, Any]:
    """Answer requests of a published date with other settings, and compare with what is published.

    Nothing is published; the answers stay in a run of their own, and a second call goes on with it.

    Parameters
    ----------
    parameters
        Of the night, its date given.
    options
        What is different, as FIELD=VALUE (`flows.parameters.candidate.FIELDS`).
    percent, by
        The share of the requests, see `tasks.night.request.Side`.
    scorer
        As for `tasks.canary.answers.load_scorer`.

    Returns
    -------
    dict
        `job, run_date, publication_id, shadow` (what is different), `run_dir`, `failure`, and what both sides
        did with these requests: `published` and `shadowed`, each `outputs, errors, mean_output_tokens,
        tokens_per_second` (of the published side that of its whole night) and `finish_reasons`; and as
        `tasks.canary.answers.compare_answers` returns it: `compared, exact, normalised, json_equal, score`.

    Raises
    ------
    ConfigurationError
        If nothing is published for the date, or a setting is wrong.
    """
    function, day = load_scorer(scorer), parameters.run_date
    if day is None:
        raise ConfigurationError("--run-date", "is missing", "Name a published date")
    store = open_store(parameters.store)
    current = current_publication(RunLog(store, date_prefix(parameters.job, day.isoformat())).refresh())
    if current is None:
        raise ConfigurationError("--run-date", f"nothing is published for {day}", "Run that night first")
    changed = differences(options, "option")
    if not changed:
        raise ConfigurationError("--option", "is missing", "Say what is different, as model=DIR")
    run = answer_side(side_request(parameters, changed, Side("shadow", by, percent)), steps)
    prefix = publication_prefix(parameters.job, day, current.publication_id)
    with TemporaryDirectory(prefix="nightblend-") as folder:
        theirs = read_side(store, parameters.job, day, run.run_key, Path(folder))
        asked = theirs.answers.keys() | theirs.errors
        tables = {}
        for kind in ("outputs", "errors"):
            path = Path(folder) / f"{kind}.parquet"
            store.get_file(f"{prefix}/{kind}.parquet", path)
            columns = ["request_id", *(("text", "usage", "finish_reason") if kind == "outputs" else ())]
            rows = pq.read_table(path, columns=columns).to_pylist()
            tables[kind] = [row for row in rows if row["request_id"] in asked]
    summary = json.loads(store.get(f"{prefix}/summary.json"))
    ours = SideResults.of(tables["outputs"], (row["request_id"] for row in tables["errors"]))
    return {
        "job": parameters.job,
        "run_date": day.isoformat(),
        "publication_id": current.publication_id,
        "shadow": name_of(changed),
        "run_key": run.run_key,
        "failure": run.failure,
        "published": _did(ours, summary["tokens_per_second"]),
        "shadowed": _did(theirs, theirs.tokens_per_second),
        **compare_answers(ours.answers, theirs.answers, function),
    }


def _did(side: SideResults, speed: float | None) -> dict[str, Any]:
    return {
        "outputs": len(side.answers),
        "errors": len(side.errors),
        "mean_output_tokens": side.output_tokens / len(side.lengths) if side.lengths else None,
        "tokens_per_second": speed,
        "finish_reasons": side.finish_reasons,
    }
