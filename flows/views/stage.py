"""Where the candidate of a night is, as the Prefect UI shows it: a tag of the flow run, and its state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run

from tasks.canary.stages import BACK, CANARY

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

PREFIX: Final = "candidate:"
"""What the tag begins with."""


def share_tag(percent: float) -> str:
    """Return the tag of a night whose candidate has a share that no rules move."""
    return stage_tag({"stage": CANARY, "percent": percent})


def stage_tag(stage: Mapping[str, Any]) -> str:
    """Return the tag of a night: `candidate: canary 5 %, next 25 %`, `candidate: fallen back`, ..."""
    if stage["stage"] == BACK:
        return f"{PREFIX} {BACK}"
    now, following = stage.get("share", stage["percent"]), stage["percent"]
    tag = f"{PREFIX} {stage['stage']} {now:g} %"
    return tag if now == following else f"{tag}, next {following:g} %"


def stage_text(stage: Mapping[str, Any]) -> str:
    """Return a stage as the state of a flow run tells it, with what was decided and why."""
    now = "" if stage["stage"] == BACK else f", {stage['percent']:g} % from now on"
    return f"candidate {stage['candidate']}: {stage['stage']}{now} ({stage['reason']})"


def show_stage(tag: str, log: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
    """Give the present flow run a tag, in the place of an earlier one of its kind; outside of one do nothing.

    What hinders that is logged: the night stands.
    """
    if flow_run.id is None:
        return
    try:
        with get_client(sync_client=True) as client:
            tags = client.read_flow_run(UUID(flow_run.id)).tags
            kept = [one for one in tags if not one.startswith(PREFIX)]
            client.update_flow_run(UUID(flow_run.id), tags=[*kept, tag])
    except (httpx.HTTPError, PrefectException) as error:
        log.warning("the candidate's stage is not among the run's tags: %s", type(error).__name__)
