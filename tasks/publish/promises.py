"""Step `promises` of a night: what was promised to tenants, and whether it was kept, as rows of a table."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.schema import SCHEMAS
from tasks.night.promises import due_times, row_of
from tasks.runlog.parts import request_parts

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.night.night import Night
    from tasks.night.promises import Promise

STEP: Final = "promises"
_TIMES: Final = ("ready_by", "last_answer_at", "at_risk_at", "expected_at")


def judge_promises(night: Night) -> list[dict[str, Any]]:
    """Record whether promises were kept, once all requests of a night have an answer or an error.

    A promise is about when answers are there, whichever side or run has computed them, not about when the
    date is published. What no setting could answer (a request without tokens) breaks none.

    Returns
    -------
    list of dict
        Rows of table `promises`, times as text; also the results of step `promises`. Nothing is recorded
        where nothing was promised.
    """
    known = night.log.state.steps.get(STEP)
    if known is not None:
        return list(known.results["rows"])
    promises = night.settings.promises
    if not promises:
        return []
    answered, failed = _answered(night), _failed(night)
    dues = due_times(promises, night.log.state)
    rows = [_row(night, promise, due, answered, failed) for promise, due in zip(promises, dues, strict=True)]
    timed = [
        {
            **row,
            "run_date": night.run_date,
            **{name: row[name] and datetime.fromisoformat(row[name]) for name in _TIMES},
        }
        for row in rows
    ]
    path = night.scratch / "promises.parquet"
    pq.write_table(pa.Table.from_pylist(timed, schema=SCHEMAS["promises"]), path)
    part = night.log.write_part("promises", path, ext="parquet", count=len(rows))
    night.log.finish_step(STEP, {"rows": rows}, parts={"promises": [part]})
    return rows


def _answered(night: Night) -> pl.DataFrame:
    """Return tenant, end and tokens of every answer."""
    usage = pl.col("usage").struct
    columns = (
        pl.col("tenant"),
        pl.col("finished_at"),
        (usage.field("prompt_tokens") + usage.field("completion_tokens")).cast(pl.Int64).alias("tokens"),
    )
    files = _files(night, "outputs")
    if not files:
        return pl.DataFrame(
            schema={"tenant": pl.String, "finished_at": pl.Datetime("us", "UTC"), "tokens": pl.Int64}
        )
    return pl.scan_parquet(files).select(*columns).collect(engine="streaming")


def _failed(night: Night) -> pl.DataFrame:
    """Return the tenant of every request without an answer, and whether it had tokens to be answered by."""
    files = _files(night, "errors")
    if not files:
        return pl.DataFrame(schema={"tenant": pl.String, "could": pl.Boolean})
    asked = pl.scan_parquet(night.fetch(request_parts(night.log.state)[0])).select("request_id").collect()
    could = pl.col("request_id").is_in(asked["request_id"].implode()).alias("could")
    return pl.scan_parquet(files).select("tenant", could).collect(engine="streaming")


def _files(night: Night, kind: str) -> list[Path]:
    return [night.fetch(part) for part in night.parts(kind) if part.name.endswith(".parquet")]


def _last(answers: pl.DataFrame) -> datetime | None:
    """Return when the last of some answers was there; None without any."""
    found = answers["finished_at"].max()
    return found if isinstance(found, datetime) else None


def _row(
    night: Night, promise: Promise, due: datetime | None, answered: pl.DataFrame, failed: pl.DataFrame
) -> dict[str, Any]:
    mine = answered.filter(pl.col("tenant") == promise.tenant)
    lost = failed.filter(pl.col("tenant") == promise.tenant)
    last = _last(mine)
    late = mine.filter(pl.col("finished_at") > due) if due is not None else mine.clear()
    could = mine.height + int(lost["could"].sum())
    tokens = answered.filter(pl.col("finished_at") <= last)["tokens"].sum() if mine.height else 0
    risk = night.log.state.at_risk.get(promise.tenant)
    in_time = mine.height - late.height
    return {
        "job": night.job,
        "run_date": night.run_date.isoformat(),
        "run_key": night.run_key,
        **row_of(promise, due),
        "requests": could,
        "answered": mine.height,
        "refused": lost.height - int(lost["could"].sum()),
        "in_time": in_time,
        "late": late.height,
        "late_by_s": (last - due).total_seconds() if late.height and last and due else None,
        "kept": in_time / could if could else 1.0,
        "last_answer_at": last and last.isoformat(),
        "share_received": int(mine["tokens"].sum()) / tokens if tokens else None,
        "at_risk_at": risk.seen if risk is not None else None,
        "expected_at": risk.expected if risk is not None else None,
    }
