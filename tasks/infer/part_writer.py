"""What an attempt has computed on its way to durable parts: every request of a run exactly once.

Parts are closed here and stored by a thread (`uploads`): taking in what the engine sends waits for no store,
until more waits to be stored than memory allows.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.identity import digest_ids
from tasks.base.schema import IDENTIFYING_COLUMNS, SCHEMAS, error_row
from tasks.infer.uploads import HELD_BYTES, Uploads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.base.errors import RequestError
    from tasks.night.night import Night
    from tasks.plan.work import NightWork
    from tasks.runlog.records import Body

_STEP_COLUMNS: Final = tuple(SCHEMAS["steps"].names)


class PartWriter:
    """Gathers answers and step samples and writes them as parts, by age or by number of answers.

    End it with `close`, or with `abandon` if the run was lost to another process.

    Parameters
    ----------
    most_bytes
        Most bytes of closed parts that wait to be stored.
    """

    def __init__(self, night: Night, work: NightWork, most_bytes: int = HELD_BYTES) -> None:
        self._night = night
        self._work = work
        self._uploads = Uploads(most_bytes)
        self._rows: list[dict[str, Any]] = []
        self._errors: list[dict[str, Any]] = []
        self._steps: list[dict[str, Any]] = []
        self._device_samples: list[dict[str, Any]] = []
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
                identity = {name: row[name] for name in IDENTIFYING_COLUMNS}
                self._errors.append(error_row(identity, error))

    def add_step(self, message: dict[str, Any], replica: int = 0) -> None:
        """Take the measurements of one engine step of a replica."""
        self._steps.append(
            {
                **{name: message[name] for name in _STEP_COLUMNS if name in message},
                "started_at": datetime.fromtimestamp(message["started_at"], UTC),
                "free_pages": message["available_pages"],
                # The column's name is older than the engine's word for it.
                "retractions": message["preemptions"],
                "replica": replica,
            }
        )

    def add_device_sample(self, row: dict[str, Any]) -> None:
        """Take a row of the table `device_samples`."""
        self._device_samples.append(row)

    def add_plan(self, path: Path) -> None:
        """Take the file of a plan that an engine has made anew; it must stay where it is."""
        self._uploads.add(partial(self._store_plan, path))

    def add_record(self, body: Body) -> None:
        """Take a record for the run's log."""
        self._uploads.add(partial(self._append, body))

    def flush_if_due(self) -> bool:
        """Close the part in hand if it is old or large enough.

        Raises
        ------
        Exception
            What storing an earlier part has raised (`StoreUnavailableError`, `StaleWriterError`, ...).
        """
        self._uploads.check()
        settings = self._night.settings
        due = time.monotonic() - self._opened >= settings.part_seconds
        rows = len(self._rows) + len(self._errors)
        if (due and rows) or rows >= settings.part_answers:
            self._uploads.put(*self._in_hand())
            self._clear()
            return True
        return False

    def close(self) -> None:
        """Make everything durable; returns when it is.

        Raises
        ------
        Exception
            As `tasks.runlog.objects.RunObjects.write_part`.
        """
        self._uploads.close(self._in_hand())
        self._clear()

    def abandon(self) -> None:
        """Let go of what is not durable."""
        self._uploads.abandon()

    def _in_hand(self) -> tuple[Callable[[], None], int]:
        """Return what stores the rows in hand, and their bytes."""
        tables = {
            kind: pa.Table.from_pylist(rows, schema=SCHEMAS[kind])
            for kind, rows in self._rows_by_kind().items()
            if rows
        }
        return partial(self._store, tables), sum(table.nbytes for table in tables.values())

    def _rows_by_kind(self) -> dict[str, list[dict[str, Any]]]:
        return {
            "outputs": self._rows,
            "errors": self._errors,
            "steps": self._steps,
            "device_samples": self._device_samples,
        }

    def _clear(self) -> None:
        for rows in self._rows_by_kind().values():
            rows.clear()
        self._opened = time.monotonic()

    def _append(self, body: Body) -> None:
        self._night.log.append(body)

    def _store_plan(self, path: Path) -> None:
        self._night.log.write_part("plan", path, ext="npz", count=0, label="replan")

    def _store(self, tables: dict[str, pa.Table]) -> None:
        for kind, table in tables.items():
            ids = table.column("request_id").to_pylist() if kind in {"outputs", "errors"} else []
            path: Path = self._night.scratch / f"{kind}.parquet"
            pq.write_table(table, path, compression="zstd")
            self._night.log.write_part(
                kind, path, ext="parquet", count=table.num_rows, ids_digest=digest_ids(ids) if ids else ""
            )
            path.unlink()
