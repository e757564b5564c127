"""The parameters of a backfill: which dates, in what order, and how many at a time."""

from __future__ import annotations

from datetime import date  # noqa: TC003 - pydantic reads the annotation when the module runs
from typing import TYPE_CHECKING, Any, ClassVar, Final
from uuid import uuid4

from pydantic import ConfigDict, Field, field_validator

from flows.parameters.form import Form
from tasks.operations.selections import FAILED, MISSING, SELECTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ID_PATTERN: Final = r"^[A-Za-z0-9._-]+$"
LONGEST_DAYS: Final = 3660


def new_id() -> str:
    """Return the id of a new backfill."""
    return uuid4().hex[:8]


class BackfillParameters(Form):
    """What a backfill is asked to do; every field is an option of `nightblend backfill` of the same name."""

    model_config = ConfigDict(title="Backfill")
    COMMAND: ClassVar[str] = "backfill"
    OF_DEPLOYMENTS: ClassVar[frozenset[str]] = frozenset({"deployment", "parallel", "work_queue"})
    """Fields that mean something only where a deployment runs the dates."""
    EARLIER_NAMES: ClassVar[Mapping[str, str]] = {"price_per_gpu_hour": "gpu_hour_price"}
    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Which dates": ("first", "last", "select", "force", "newest_first", "backfill_id"),
        "What it would take": ("dry_run", "gpu_hour_price"),
        "Prefect": ("deployment", "parallel", "work_queue"),
    }

    deployment: str = Field(
        default="nightly/dates",
        title="Deployment",
        description="Runs the dates, as FLOW/DEPLOYMENT; job, source, store, model and all else are taken "
        "from it. Not the nightly's own one, if only one run of that goes at a time.",
        pattern=r"^[^/]+/[^/]+$",
        examples=["nightly/dates"],
    )
    first: date = Field(title="First date", description="First day to look at.", examples=["2026-11-01"])
    last: date = Field(
        title="Last date", description="Last day to look at, included.", examples=["2026-11-30"]
    )
    select: list[str] = Field(
        default_factory=lambda: [MISSING, FAILED],
        title="Which dates",
        description="; ".join(f"{name}: {what}" for name, what in SELECTIONS.items())
        + ". None: missing and failed ones.",
        json_schema_extra={"items": {"type": "string", "enum": list(SELECTIONS)}, "uniqueItems": True},
        examples=[[MISSING, FAILED]],
    )
    force: bool = Field(
        default=False,
        title="Finished ones too",
        description="Compute finished dates again, whatever they were made from.",
    )
    newest_first: bool = Field(
        default=False, title="Newest first", description="Begin with the last date instead of the first."
    )
    parallel: int = Field(
        default=1,
        title="Dates at a time",
        description="Flow runs that are under way at most; the pool's limit still decides who has a GPU.",
        ge=1,
        le=64,
        examples=[2],
    )
    dry_run: bool = Field(
        default=False,
        title="Dry run",
        description="Only show what would run, why, and what it would take.",
    )
    gpu_hour_price: float | None = Field(
        default=None,
        title="Price of a GPU hour",
        description="For the expected cost, in your currency; empty shows hours only.",
        ge=0,
        examples=[2.5],
    )
    work_queue: str | None = Field(
        default="backfill",
        title="Work queue",
        description="Queue of the nightly's pool for these runs; its own queue where there is no such queue.",
        min_length=1,
        examples=["backfill"],
    )
    backfill_id: str | None = Field(
        default=None,
        title="Backfill to go on with",
        description="Id of an earlier backfill, so that none of its finished dates is forced twice; empty "
        "begins a new one.",
        pattern=ID_PATTERN,
        max_length=64,
        examples=["november-1"],
    )

    @field_validator("last")
    @classmethod
    def _in_order(cls, value: date, info: Any) -> date:  # noqa: ANN401 - pydantic's own type
        first = info.data.get("first")
        if first is not None and value < first:
            raise ValueError(f"must not be before first ({first})")
        if first is not None and (value - first).days >= LONGEST_DAYS:
            raise ValueError(f"must be within {LONGEST_DAYS} days of first ({first})")
        return value

    @field_validator("select")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in SELECTIONS:
                raise ValueError(f"has {name!r}; it may hold {', '.join(SELECTIONS)}")
        return value or [MISSING, FAILED]
