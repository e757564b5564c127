"""Answers that need not be computed: of equal requests in this run, and of other runs of the same date.

Answers of another run count only where everything that determines them but the input is equal (the reuse
key): by answer key if the request is greedy or explicitly seeded, else by the request's own id.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from tasks.runlog.log import RunLog
from tasks.runlog.parts import fetch
from tasks.runlog.places import logs_below
from tasks.runlog.records import LogFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from tasks.infer.part_writer import PartWriter
    from tasks.night.night import Night
    from tasks.plan.work import NightWork

log = logging.getLogger(__name__)

_KEYS = ("request_id", "answer_key")
_ANSWER = (
    "text",
    "token_ids",
    "choices",
    "tool_calls_json",
    "embeddings",
    "finish_reason",
    "usage",
    "run_key",
    "attempt_id",
    "started_at",
    "finished_at",
)


def reuse_answers(night: Night, work: NightWork, writer: PartWriter) -> int:
    """Give every open request whose answer exists that answer; return how many got one."""
    wanted = set(work.open_keys())
    found = 0
    sources = [night.log]
    if not night.attempt.fresh:
        sources += list(_other_runs(night))
    for run_log in sources:
        if not wanted:
            break
        for row in _outputs(night, run_log, wanted):
            # A request that shares its answer is found by answer_key, any other by its request_id; an id
            # can stand for another body than in the earlier run.
            for key in (row["answer_key"], row["request_id"]):
                if key in wanted and work.rows[work.members[key][0]]["answer_key"] == row["answer_key"]:
                    # Parts of an older version have no column of choices.
                    answer = {name: row.get(name) for name in _ANSWER}
                    found += writer.add_answer(key, answer)
                    wanted.discard(key)
    if found:
        log.info("%d answers reused", found)
    return found


def _other_runs(night: Night) -> Iterator[RunLog]:
    """Yield the logs of the date's other runs that would give the same answers."""
    folder = night.log.prefix.rpartition("/")[0]
    mine = night.attempt.params.get("reuse_key")
    for prefix in list(logs_below(night.store, folder)):
        if prefix == night.log.prefix:
            continue
        run_log = RunLog(night.store, prefix)
        try:
            state = run_log.refresh()
        except LogFormatError as error:
            log.warning("answers of another run are not used: %s", error)
            continue
        if mine and state.attempt is not None and state.attempt.params.get("reuse_key") == mine:
            yield run_log


def _outputs(night: Night, run_log: RunLog, wanted: AbstractSet[str]) -> Iterator[dict[str, Any]]:
    """Yield the answers of a run whose answer key or request id is wanted.

    The other columns are read of them alone: the two keys are a small part of an answer.
    """
    for part in run_log.state.parts_of("outputs"):
        try:
            path = fetch(run_log, part, night.scratch / "reuse")
        except LogFormatError as error:
            if run_log is night.log:
                raise
            log.warning("answers of another run are not used: %s", error)
            continue
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                keys = file.read_row_group(group, columns=list(_KEYS)).to_pydict()
                found = [
                    place
                    for place, row in enumerate(zip(*keys.values(), strict=True))
                    if not wanted.isdisjoint(row)
                ]
                if found:
                    rows = file.read_row_group(group, columns=[*_KEYS, *_ANSWER])
                    yield from rows.take(found).to_pylist()
