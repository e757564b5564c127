"""What a finished night tells others: the event that a downstream deployment can be triggered by."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

from prefect.events import emit_event

if TYPE_CHECKING:
    from prefect.events import Event

    from tasks.infer.progress import AtRisk

EVENT: Final = "nightblend.partition.published"
MOVED: Final = "nightblend.candidate."
"""Of a night by rules, with what was done: `good-night`, `idle-night`, `promote` or `fall-back`."""
AT_RISK: Final = "nightblend.promise.at-risk"
"""While a night goes on: the requests of a tenant are not expected by the time that was promised."""
_NAMESPACE: Final = UUID("5b1f6c0e-6f0a-4c5f-9d5e-2a8d2f3f7c61")
_TOLD: Final = (
    *("job", "run_date", "publication_id", "run_key", "status", "requests", "outputs", "errors"),
    *("quarantined", "folder", "output_file", "error_file", "catalog", "tables", "reused"),
)


def event_id(job: str, run_date: str, publication_id: str) -> UUID:
    """Return the id of the event of a publication: the same however often it is told."""
    return uuid5(_NAMESPACE, f"{job}/{run_date}/{publication_id}")


def tell_candidate(result: dict[str, Any]) -> Event | None:
    """Emit `nightblend.candidate.ACTION` of a night that rules have judged, with the reason.

    Returns
    -------
    Event or None
        None if there is no candidate, or events are off.
    """
    stage = result.get("canary")
    if stage is None:
        return None
    job, action = result["job"], stage["action"].replace(" ", "-")
    return emit_event(
        event=MOVED + action,
        resource={
            "prefect.resource.id": f"nightblend.candidate.{job}",
            "prefect.resource.name": f"{job}: {stage['candidate']}",
            "nightblend.job": job,
            "nightblend.run-date": result["run_date"],
        },
        payload=dict(stage),
        id=uuid5(_NAMESPACE, f"{job}/{stage['candidate']}/{stage['run_date']}/{action}"),
    )


def tell_at_risk(job: str, risk: AtRisk) -> Event | None:
    """Emit `nightblend.promise.at-risk`; None if events are off."""
    return emit_event(
        event=AT_RISK,
        resource={
            "prefect.resource.id": f"nightblend.promise.{job}.{risk.run_date}",
            "prefect.resource.name": f"{job} {risk.run_date}",
            "nightblend.job": job,
            "nightblend.run-date": risk.run_date,
        },
        payload={**asdict(risk), "text": risk.text()},
        id=uuid5(_NAMESPACE, f"{job}/{risk.run_date}/at-risk/{risk.tenant}/{risk.expected}"),
    )


def tell_published(result: dict[str, Any]) -> Event | None:
    """Emit `nightblend.partition.published`, also for a night that was published before.

    Parameters
    ----------
    result
        As `flows.run.sequence.run_night` returns it.

    Returns
    -------
    Event or None
        None if the night was not to be published, or events are off.
    """
    if not result["published"]:
        return None
    job, run_date, publication = result["job"], result["run_date"], result["publication_id"]
    return emit_event(
        event=EVENT,
        resource={
            "prefect.resource.id": f"nightblend.partition.{job}.{run_date}",
            "prefect.resource.name": f"{job} {run_date}",
            "nightblend.job": job,
            "nightblend.run-date": run_date,
        },
        payload={name: result[name] for name in _TOLD if name in result},
        id=event_id(job, run_date, publication),
    )
