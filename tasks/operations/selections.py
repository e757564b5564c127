"""Which dates a backfill looks for, by name.

Nothing is imported here, so that a form or a command line that only offers the choices starts at once.
"""

from __future__ import annotations

from typing import Final

MISSING: Final = "missing"
FAILED: Final = "failed"
STALE: Final = "stale"
SELECTIONS: Final = {
    MISSING: "dates that no run has tried to publish",
    FAILED: "dates whose last run failed, was stopped or was killed",
    STALE: "published dates whose objects (not: rows of a table), model or answers' version are others now",
}
"""Selection -> the dates that it takes (`tasks.operations.backfill.plan_dates`)."""
