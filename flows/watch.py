"""The flow that notices silence: scheduled for the time of day by which a night has to be ready.

It looks into the date's log, so it does not matter why nothing was published. A night that failed has told of
itself; this one is for the night that nobody started, that hangs, or whose worker is gone. Prefect being down
is noticed by `nightblend status --ready-by` in a cron job elsewhere.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from prefect import flow
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import ConfigDict, Field

from flows.parameters.form import SLUG, Form
from tasks.base.run_date import resolve_run_date
from tasks.operations.dates import view_date
from tasks.operations.status import date_status
from tasks.store.open import open_store

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

OVERDUE: Final = "nightblend.partition.overdue"
TOLD: Final = ("status", "owner", "done", "total", "last_error", "next", "next_command")


class WatchParameters(Form):
    """Whose night has to be ready at the time this is scheduled for; other fields of a night may be given."""

    # The definitions of a site serve for all its deployments.
    model_config = ConfigDict(title="Watch", extra="ignore")
    COMMAND: ClassVar[str] = "status"

    job: str = Field(
        title="Job",
        description="Name of the nightly.",
        pattern=SLUG,
        max_length=63,
        examples=["support-triage"],
    )
    store: str = Field(
        title="Store",
        description="Where its results are kept.",
        min_length=1,
        examples=["s3://results/nightblend"],
    )
    timezone: str = Field(
        default="UTC", title="Timezone", description="Whose days are meant.", examples=["Europe/Berlin"]
    )
    lag_days: int = Field(
        default=1, title="Lag", description="Calendar days before today that are due.", ge=0, le=366
    )


def run_name() -> str:
    """Return `watch-{job}`, the name of the flow run."""
    given = flow_run.parameters["parameters"]
    return f"watch-{given.job if isinstance(given, WatchParameters) else given['job']}"


@flow(name="watch", flow_run_name=run_name, persist_result=False, validate_parameters=True)
def watch(parameters: WatchParameters) -> dict[str, Any]:
    """Look whether the date that is due is published; the state is `Overdue` if it is not.

    Parameters
    ----------
    parameters
        Whose date.

    Returns
    -------
    dict
        `job, run_date, published`.
    """
    return look(parameters, flow_run.scheduled_start_time or datetime.now(UTC))  # type: ignore[return-value]


def look(asked: WatchParameters, now: datetime) -> State[dict[str, Any]]:
    """Return the state to end in, and emit `nightblend.partition.overdue` if the date is not published."""
    day = resolve_run_date(
        None,
        source="{run_date}",
        has_event_time=False,
        now=now,
        timezone=asked.timezone,
        lag_days=asked.lag_days,
    ).run_date
    store = open_store(asked.store)
    current = view_date(store, asked.job, day).current
    found = {"job": asked.job, "run_date": day.isoformat()}
    if current is not None:
        published = found | {"published": current.publication_id}
        return Completed(message=f"{day} is published.", data=published)
    status = date_status(store, asked.job, day, store_name=asked.store)
    emit_event(
        event=OVERDUE,
        resource={
            "prefect.resource.id": f"nightblend.partition.{asked.job}.{day}",
            "prefect.resource.name": f"{asked.job} {day}",
            "nightblend.job": asked.job,
            "nightblend.run-date": day.isoformat(),
        },
        payload={name: status[name] for name in TOLD},
    )
    message = f"{asked.job} of {day} is not published: it is {status['status']}."
    if status["next_command"] is not None:
        message += f" Next: {status['next_command']}"
    return Failed(name="Overdue", message=message)
