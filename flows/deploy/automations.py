"""Automations of the Prefect server: what happens by itself when a run dies, and who hears of trouble.

A state is told as an event of its own name (`prefect.flow-run.CompletedWithErrors`), so every name that a
run may end with is listed where the end of a run is awaited.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, DoNothing, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from flows.deploy.plugin import HEARTBEAT_S
from flows.recover import EXHAUSTED
from flows.views.events import AT_RISK, MOVED
from flows.views.events import EVENT as PUBLISHED
from flows.watch import OVERDUE
from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.actions import ActionTypes

SILENT_S: Final = 120
"""A running flow run without a sign of life for this long has crashed."""
LATE_MINUTES: Final = 30
"""A night that nobody has started for so long is told."""
SILENCE_HOURS: Final = 27
"""Between two publications of a job: a day, an hour of a clock change, and two of slack."""
TAG: Final = "nightblend"
RERUN_TAG: Final = "rerun-if-crashed"
RECOVER: Final = "recover/recover"

_HEARTBEAT: Final = "prefect.flow-run.heartbeat"
_ENDS: Final = (
    "Completed",
    "CompletedWithErrors",
    "Failed",
    "Stopped",
    "ComputeFailed",
    "Overdue",
    "Crashed",
    "Cancelled",
)
_WAITS: Final = ("AwaitingRetry", "Paused", "Suspended", "Cancelling", "Scheduled", "Pending")


def zombies() -> AutomationCore:
    """Return the automation that marks a run as crashed when its process went silent."""
    events = {f"prefect.flow-run.{name}" for name in (*_ENDS, *_WAITS)}
    trigger = EventTrigger(
        after={_HEARTBEAT},
        expect={_HEARTBEAT, *events},
        match=_resources({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=_tagged(TAG),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=SILENT_S),
    )
    message = f"No sign of life for {SILENT_S} s: its process has gone."
    action = ChangeFlowRunState(name=None, state=StateType.CRASHED, message=message, force=False)
    return AutomationCore(
        name="nightblend: silent runs have crashed",
        description=f"A run gives a sign of life every {HEARTBEAT_S} s.",
        trigger=trigger,
        actions=[action],
    )


def rerun_crashed(recover_id: UUID) -> AutomationCore:
    """Return the automation that has a crashed run started again by flow `recover`."""
    start = RunDeployment(
        source="selected",
        deployment_id=recover_id,
        # Said to be a template: a bare one is rendered as JSON, and an id has no form in that.
        parameters={"flow_run_id": {"__prefect_kind": "jinja", "template": "{{ flow_run.id }}"}},
        job_variables=None,
    )
    return AutomationCore(
        name="nightblend: crashed runs are started again",
        description="For the same date, at most twice; what was answered before is kept.",
        trigger=_on("prefect.flow-run.Crashed", RERUN_TAG),
        actions=[start],
    )


def needs_a_look(notify: UUID | None) -> AutomationCore:
    """Return the automation that tells people of runs that failed or had more bad rows than allowed."""
    events = ("prefect.flow-run.Failed", "prefect.flow-run.CompletedWithErrors")
    body = "{{ flow_run.name }} ended as {{ flow_run.state.name }}: {{ flow_run.state.message }}"
    return AutomationCore(
        name="nightblend: a night needs a look",
        description="It failed, or more rows were bad than allowed.",
        trigger=_on(events, TAG),
        actions=[_notification(notify, "Nightblend: {{ flow_run.name }}", body)],
    )


def reruns_exhausted(notify: UUID | None) -> AutomationCore:
    """Return the automation that tells people that a crashed run is not started again any more."""
    trigger = EventTrigger(expect={EXHAUSTED}, posture=Posture.Reactive, threshold=1)
    name = "{{ event.resource.name }}"
    body = f"{name} crashed again after {{{{ event.payload.reruns }}}} reruns and waits for a person."
    return AutomationCore(
        name="nightblend: reruns are exhausted",
        description="A run crashed each time it was started.",
        trigger=trigger,
        actions=[_notification(notify, f"Nightblend: {name}", body)],
    )


def late(notify: UUID | None) -> AutomationCore:
    """Return the automation that tells people of a scheduled night that nobody has started."""
    begun = {f"prefect.flow-run.{name}" for name in ("Pending", "Running", "Cancelling", *_ENDS)}
    trigger = EventTrigger(
        after={"prefect.flow-run.Late"},
        expect=begun,
        match=_resources({"prefect.resource.id": "prefect.flow-run.*"}),
        # Dates of a backfill wait for their turn; only what a schedule has made must begin in time.
        match_related=[_tagged(TAG), _tagged("auto-scheduled")],
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(minutes=LATE_MINUTES),
    )
    body = f"{{{{ flow_run.name }}}} was due {LATE_MINUTES} minutes ago and no worker has taken it."
    return AutomationCore(
        name="nightblend: a night is late",
        description="It was scheduled and nobody has started it.",
        trigger=trigger,
        actions=[_notification(notify, "Nightblend: {{ flow_run.name }} is late", body)],
    )


def overdue(notify: UUID | None) -> AutomationCore:
    """Return the automation that tells people of a date that flow `watch` found unpublished."""
    trigger = EventTrigger(expect={OVERDUE}, posture=Posture.Reactive, threshold=1)
    name = "{{ event.resource.name }}"
    body = f"{name} is not published: {{{{ event.payload.status }}}}. {{{{ event.payload.next_command }}}}"
    return AutomationCore(
        name="nightblend: a date is overdue",
        description="It is not published by the time that it is to be ready.",
        trigger=trigger,
        actions=[_notification(notify, f"Nightblend: {name} is overdue", body)],
    )


def silence(notify: UUID | None) -> AutomationCore:
    """Return the automation that notices that no date of a job is published any more.

    It begins to wait with the first publication of a job, and needs no worker.
    """
    trigger = EventTrigger(
        after={PUBLISHED},
        expect={PUBLISHED},
        match=_resources({"prefect.resource.id": "nightblend.partition.*"}),
        for_each={"nightblend.job"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(hours=SILENCE_HOURS),
    )
    body = f"No date was published for {SILENCE_HOURS} hours. See `nightblend status`."
    return AutomationCore(
        name="nightblend: nothing was published",
        description=f"No date of a job for {SILENCE_HOURS} hours.",
        trigger=trigger,
        actions=[_notification(notify, "Nightblend: nothing is published any more", body)],
    )


def taken_back(notify: UUID | None) -> AutomationCore:
    """Return the automation that tells people of a candidate that rules have taken back."""
    trigger = EventTrigger(expect={f"{MOVED}fall-back"}, posture=Posture.Reactive, threshold=1)
    name = "{{ event.resource.name }}"
    body = f"{name} was taken back after {{{{ event.payload.run_date }}}}: {{{{ event.payload.reason }}}}."
    return AutomationCore(
        name="nightblend: a candidate was taken back",
        description="It has broken a limit; the date is published without its answers.",
        trigger=trigger,
        actions=[_notification(notify, f"Nightblend: {name} was taken back", body)],
    )


def promise_at_risk(notify: UUID | None) -> AutomationCore:
    """Return the automation that tells people of a promise to a tenant that a night will not keep."""
    trigger = EventTrigger(expect={AT_RISK}, posture=Posture.Reactive, threshold=1)
    name = "{{ event.resource.name }}"
    return AutomationCore(
        name="nightblend: a promise is at risk",
        description="By its progress a night will answer a tenant's requests later than was promised.",
        trigger=trigger,
        actions=[
            _notification(
                notify, f"Nightblend: {name}, a promise is at risk", f"{name}: {{{{ event.payload.text }}}}."
            )
        ],
    )


def install(client: SyncPrefectClient, notify: str | None = None) -> Iterator[str]:
    """Create the automations or bring them up to date, and say so, a line each.

    Parameters
    ----------
    notify
        A notification block as `TYPE/NAME`, such as `slack-webhook/ops`. None leaves the alarms visible in
        Prefect alone.

    Raises
    ------
    ConfigurationError
        If there is no such block, or the deployment of `recover` is missing.
    """
    block = None if notify is None else _block_id(client, notify)
    try:
        recover = client.read_deployment_by_name(RECOVER)
    except ObjectNotFound:
        raise ConfigurationError(
            "--prefect-file", f"there is no deployment {RECOVER}", "Deploy it, see infra/prefect.yaml"
        ) from None
    told = (needs_a_look, reruns_exhausted, late, overdue, silence, taken_back, promise_at_risk)
    for automation in (zombies(), rerun_crashed(recover.id), *(alarm(block) for alarm in told)):
        known = client.read_automations_by_name(automation.name)
        if known:
            client.update_automation(known[0].id, automation)
        else:
            client.create_automation(automation)
        yield f"automation '{automation.name}'"


def _on(events: str | tuple[str, ...], tag: str) -> EventTrigger:
    return EventTrigger(
        expect={events} if isinstance(events, str) else set(events),
        match=_resources({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=_tagged(tag),
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )


def _tagged(tag: str) -> ResourceSpecification:
    return _resources({"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"})


def _resources(labels: dict[str, Any]) -> ResourceSpecification:
    return ResourceSpecification(labels)


def _notification(block: UUID | None, subject: str, body: str) -> ActionTypes:
    if block is None:
        return DoNothing()
    return SendNotification(block_document_id=block, subject=subject, body=body)


def _block_id(client: SyncPrefectClient, notify: str) -> UUID:
    kind, _, name = notify.partition("/")
    try:
        return client.read_block_document_by_name(name, kind).id
    except ObjectNotFound:
        raise ConfigurationError(
            "--notify",
            f"there is no block {notify}",
            "Create it in Prefect first",
        ) from None
