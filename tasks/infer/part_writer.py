"""What an attempt has computed on its way to durable parts: every request of a run exactly once."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.identity import digest_ids
from tasks.base.schema import IDENTIFYING_COLUMNS, SCHEMAS, error_row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.base.errors import RequestError
    from tasks.night.night import Night
    from tasks.plan.work import NightWork

_STEP_COLUMNS: Final = tuple(SCHEMAS["steps"].names)


class PartWriter:
    """Gathers answers and step samples and writes them as parts, by age or by number of answers."""

    def __init__(self, night: Night, work: NightWork) -> None:
        self._night = night
        self._work = work
        self._rows: list[dict[str, Any]] = []
        self._steps: list[dict[str, Any]] = []
        self._device_samples: list[dict[str, Any]] = []
        self._errors: list[dict[str, Any]] = []
        self._opened = time.monotonic()

    def add_answer(self, key: str, answer: dict[str, Any]) -> int:
        """Take an answer for every request that shares `key` and has none; return how many that are.

        `answer` has the columns of the outputs table that do not identify the request.
        """
        added = 0
        for i in self._work.members[key]:
            row = self._work.rows[i]
            if row["request_id"] in self._work.answered:
                continue
            self._work.answered.add(row["request_id"])
            self._rows.append({**{name: row[name] for name in IDENTIFYING_COLUMNS}, **answer})
            added += 1
        return added

    def add_error(self, key: str, error: RequestError) -> None:
        """Take an error for every request that shares `key` and has no answer."""
        for i in self._work.members[key]:
            row = self._work.rows[i]
            if row["request_id"] not in self._work.answered:
                self._work.answered.add(row["request_id"])
                self._errors.append(error_row(row, error))

    def add_step(self, message: dict[str, Any]) -> None:
        """Take the measurements of one engine step."""
        self._steps.append(
            {
                **{name: message[name] for name in _STEP_COLUMNS if name in message},
                "started_at": datetime.fromtimestamp(message["started_at"], UTC),
                "free_pages": message["available_pages"],
                # The column's name is older than the engine's word for it.
                "retractions": message["preemptions"],
            }
        )

    def add_device_sample(self, row: dict[str, Any]) -> None:
        """Take a row of the table `device_samples`."""
        self._device_samples.append(row)

    def flush_if_due(self) -> bool:
        """Close the part in hand if it is old or large enough."""
        settings = self._night.settings
        due = time.monotonic() - self._opened >= settings.part_seconds
        rows = len(self._rows) + len(self._errors)
        if (due and rows) or rows >= settings.part_answers:
            self.flush()
            return True
        return False

    def flush(self) -> None:
        """Write what is in hand as durable parts."""
        for kind, rows in (
            ("outputs", self._rows),
            ("errors", self._errors),
            ("steps", self._steps),
            ("device_samples", self._device_samples),
        ):
            if rows:
                ids = [row["request_id"] for row in rows] if kind in {"outputs", "errors"} else []
                self._write(kind, rows, ids)
                rows.clear()
        self._opened = time.monotonic()

    def _write(self, kind: str, rows: Sequence[dict[str, Any]], ids: list[str]) -> None:
        path: Path = self._night.scratch / f"{kind}.parquet"
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMAS[kind]), path, compression="zstd")
        self._night.log.write_part(
            kind, path, ext="parquet", count=len(rows), ids_digest=digest_ids(ids) if ids else ""
        )
        path.unlink()
