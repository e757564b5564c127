"""What the replicas of a night do now, told with the run's signs of life: for `nightblend status`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tasks.runlog.liveness import REPLICAS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.infer.replica import Replica
    from tasks.infer.session import Intake
    from tasks.runlog.log import RunLog

PERIOD_S: Final = 2.0
SHARE: Final = 0.02
"""Most of the time of this process that counting may take: in a night of a million requests it is slow."""


class ReplicasNow:
    """Has the run log tell of each of several replicas what it does and how much it has left.

    A row has `replica`, `phase` (`done` of one that has a place and nothing left, else `waiting` without an
    engine, else as `tasks.infer.progress.InferProgress`) and `left`: answers that it is still to compute, of
    which equal requests share one.
    """

    def __init__(self, log: RunLog, intake: Intake) -> None:
        self._log, self._intake = log, intake
        self._due = 0.0

    def look(self, replicas: Sequence[Replica]) -> None:
        """Tell, if it is time; nothing is told of one replica alone."""
        begin = time.monotonic()
        if len(replicas) == 1 or begin < self._due:
            return
        open_keys = self._intake.work.open_keys()
        rows = []
        for replica in replicas:
            left = replica.count_left(open_keys)
            rows.append({"replica": replica.number, "phase": _phase(replica, left), "left": left})
        self._log.told = {REPLICAS: rows}
        now = time.monotonic()
        self._due = now + max(PERIOD_S, (now - begin) / SHARE)

    def end(self) -> None:
        """Tell nothing any more."""
        self._log.told = {}


def _phase(replica: Replica, left: int) -> str:
    if not left and not replica.waits:
        return "done"
    return "waiting" if replica.engine is None else replica.session.phase()[0]
