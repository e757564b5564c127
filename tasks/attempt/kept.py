"""Answers that a night keeps and does not compute: of its date's current publication, or of a candidate.

A night that answers only what failed keeps the first; one of which a candidate has answered a share keeps
the others. A request is kept if it has the name and the answer key of before, which is made under the
sampling defaults of before. So a request that has changed since is answered anew, and changed settings hold
for what is answered now alone.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tasks.base.errors import ConfigurationError
from tasks.base.schema import IDENTIFYING_COLUMNS, SCHEMAS
from tasks.night.request import CANARY, KEPT, RETRY_OF
from tasks.requests.sampling import SamplingDefaults
from tasks.runlog.log import RunLog
from tasks.runlog.parts import GroupedWriter, batches
from tasks.runlog.places import date_prefix, publication_prefix, run_prefix
from tasks.runlog.state import current_publication

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from tasks.night.night import Night
    from tasks.runlog.records import Part
    from tasks.store.contract import Store

log = logging.getLogger(__name__)

_SAME: Final = ["request_id", "answer_key"]


@dataclass(frozen=True, slots=True)
class Earlier:
    """Whose answers are kept.

    Attributes
    ----------
    run_key, publication_id
        The run that made them, and what it published; '' for a candidate, which publishes nothing.
    outputs
        Keys of its tables of answers.
    before
        Runs whose answers it keeps itself, the first one first.
    key_defaults
        Sampling defaults that its answer keys are made under; None where an earlier release did not say.
    models
        Key of a run -> name of the model that answered in it.
    kind
        `RETRY_OF`, or `CANARY` for a candidate.
    """

    run_key: str
    publication_id: str
    outputs: tuple[str, ...]
    before: tuple[str, ...]
    key_defaults: SamplingDefaults | None
    models: dict[str, str]
    kind: str = RETRY_OF

    def told(self) -> dict[str, Any]:
        """Return what an attempt and a publication say of it."""
        return {
            self.kind: [*self.before, self.run_key],
            "models": self.models,
            "key_defaults": self.key_defaults.as_dict() if self.key_defaults else None,
        }


def find_earlier(store: Store, job: str, run_date: date) -> Earlier:
    """Find the current publication of a date, something of which has failed.

    Raises
    ------
    ConfigurationError
        If nothing is published for the date, or all of it has its answer.
    """
    current = current_publication(RunLog(store, date_prefix(job, run_date.isoformat())).refresh())
    if current is None:
        raise ConfigurationError(
            "--failed-only", f"nothing is published for {run_date}", "Run that night without it first"
        )
    if not current.details.get("errors"):
        raise ConfigurationError(
            "--failed-only", f"no request of {run_date} has failed", "There is nothing to answer again"
        )
    prefix = publication_prefix(job, run_date, current.publication_id)
    summary = json.loads(store.get(f"{prefix}/summary.json"))
    known = current.details.get("key_defaults")
    return Earlier(
        current.run_key,
        current.publication_id,
        (f"{prefix}/outputs.parquet",),
        tuple(current.details.get(RETRY_OF) or ()),
        SamplingDefaults(**known) if known else None,
        {**(current.details.get("models") or {}), current.run_key: summary["model"]},
    )


def find_candidate(store: Store, job: str, run_date: date, run_key: str) -> Earlier:
    """Find what the candidate of a night has answered, as far as it has."""
    run_log = RunLog(store, run_prefix(job, run_date.isoformat(), run_key))
    state = run_log.refresh()
    model = state.attempt.params.get("model_name", "") if state.attempt is not None else ""
    outputs = tuple(run_log.key(part.name) for part in state.parts_of("outputs"))
    return Earlier(run_key, "", outputs, (), None, {run_key: model}, CANARY)


@dataclass(slots=True)
class Kept:
    """The requests of a night, taken apart.

    Attributes
    ----------
    left
        Files of the requests that are to be answered.
    files
        Files of answers that are kept, rows of the table outputs.
    answers
        How many.
    """

    left: list[Path]
    files: list[Path] = field(default_factory=list)
    answers: int = 0

    def write(self, night: Night) -> list[Part]:
        """Write the answers that are kept as parts of the run, to be named by the step that made them."""
        return [
            night.log.write_part("outputs", path, ext="parquet", count=self.answers, label=KEPT)
            for path in self.files
        ]


def keep_answers(night: Night, earlier: Earlier, asked: list[Path]) -> Kept:
    """Take the answers of `earlier` for the requests of the files `asked`."""
    folder = night.scratch / KEPT
    folder.mkdir(parents=True, exist_ok=True)
    before = [folder / f"outputs-{place:06d}.parquet" for place in range(len(earlier.outputs))]
    for key, file in zip(earlier.outputs, before, strict=True):
        night.store.get_file(key, file)
    columns = list(IDENTIFYING_COLUMNS)
    requests = [pl.read_parquet(path, columns=columns) for path in asked]
    known = pl.concat(requests) if requests else pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
    answered: list[str] = []
    path, schema = folder / "kept.parquet", SCHEMAS["outputs"]
    with GroupedWriter(path, schema) as writer:
        for rows in (rows for file in before for rows in batches(file, schema)):
            # Who asked is told as the source tells it now: a line may have moved.
            answers = pl.DataFrame(pl.from_arrow(rows.drop([c for c in columns if c not in _SAME])))
            if earlier.kind == CANARY:
                # What that run keeps itself is of others.
                answers = answers.filter(pl.col("run_key") == earlier.run_key)
            found = answers.join(known, on=_SAME, how="inner", maintain_order="left")
            if found.height:
                writer.write(found.select(schema.names).to_arrow().cast(schema))
                answered += found["request_id"].to_list()
    kept = pa.array(answered, pa.string())
    left = [_without(one, kept, folder / f"left-{place:06d}.parquet") for place, one in enumerate(asked)]
    log.info("%d answers of run %s are kept", len(answered), earlier.run_key)
    return Kept(left, [path] if answered else [], len(answered))


def _without(path: Path, kept: pa.Array, out: Path) -> Path:
    schema = SCHEMAS["requests"]
    with GroupedWriter(out, schema) as writer:
        for rows in batches(path, schema):
            writer.write(rows.filter(pc.invert(pc.is_in(rows.column("request_id"), value_set=kept))))
    return out
