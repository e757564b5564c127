"""What the Prefect UI shows while a night runs: a progress bar, and a line in the log now and then."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.runtime import flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.views.events import tell_at_risk
from flows.views.progress_text import DOING, LONG_S, Answering, duration, share_of, so_far

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

    from prefect.client.orchestration import SyncPrefectClient

    from tasks.base.progress import Amount
    from tasks.infer.progress import AtRisk, InferProgress

CALM_S: Final = 10.0
"""Seconds between two updates."""
BRIEF_S: Final = 5.0
"""How long an update may take."""


class FlowReporter:
    """Tells the flow run's log and its progress artifact how a night goes on.

    An API that fails leaves the bar behind, never the night: each update is tried once, and the log says once
    that the API is away. `beginning` is what the bar says at first.
    """

    def __init__(
        self,
        log: logging.Logger | logging.LoggerAdapter[logging.Logger],
        job: str,
        beginning: str = "the engine is starting",
    ) -> None:
        self._log, self._job, self._beginning = log, job, beginning
        self._flow_run = UUID(flow_run.id) if flow_run.id else None
        self._bar: UUID | None = None
        self._away = False
        self._begun = self._told = 0.0
        self._answering = Answering()
        self._risks: set[AtRisk] = set()

    def begin(self, step: str) -> None:
        """Put up the bar when step `infer` begins."""
        self._begun = time.monotonic()
        # The first look at a long step comes when it has become one.
        self._told = self._begun - CALM_S + LONG_S
        if step == "infer":
            self._told = self._begun
            self._show(0.0, self._beginning)

    def goes_on(self, step: str, seconds: float, amount: Amount | None) -> None:
        """Show that a step takes long, not more often than every `CALM_S`."""
        if seconds < LONG_S:
            return
        share, text = 0.0, so_far(DOING.get(step, step), seconds, amount)
        if step != "infer":
            share = share_of(amount) if amount is not None else 0.0
        elif not self._answering.is_heard_of:
            text = so_far(self._beginning, seconds)
        else:
            text = self._answering.waiting_text() or ""
        if text and self._due():
            self._log.info(text)
            self._show(share, text)

    def end(self, step: str, results: object) -> None:
        """Complete the bar when step `infer` is done."""
        if step == "infer" and isinstance(results, dict):
            self._show(1.0, f"{results['output_tokens']:,} output tokens in {duration(results['seconds'])}")

    def answered(self, progress: InferProgress) -> None:
        """Show how far step `infer` is, not more often than every `CALM_S`."""
        self._tell_risks(progress)
        text = self._answering.take(progress)
        if text is None or not self._due():
            return
        self._log.info(text)
        self._show(progress.answered / progress.requests if progress.requests else 1.0, text)

    def _tell_risks(self, progress: InferProgress) -> None:
        """Tell once of each promise that is at risk: in the log, and as an event."""
        for risk in progress.at_risk:
            if risk not in self._risks:
                self._risks.add(risk)
                self._log.warning(risk.text())
                tell_at_risk(self._job, risk)

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._told < CALM_S:
            return False
        self._told = now
        return True

    def _show(self, share: float, text: str) -> None:
        data = 100 * min(1.0, max(0.0, share))
        try:
            with _brief_client() as client:
                if self._bar is None:
                    made = ArtifactCreate(
                        type="progress",
                        key=f"progress-{self._job}",
                        description=text,
                        data=data,
                        flow_run_id=self._flow_run,
                    )
                    self._bar = client.create_artifact(made).id
                else:
                    client.update_artifact(self._bar, ArtifactUpdate(description=text, data=data))
        except Exception as error:  # noqa: BLE001 - whatever ails the API, the night goes on
            if not self._away:
                self._log.warning(
                    "Prefect's API does not answer (%s): the night goes on, its progress is shown once the "
                    "API is back",
                    type(error).__name__,
                )
            self._away = True
            return
        if self._away:
            self._log.info("Prefect's API answers again")
        self._away = False


@contextmanager
def _brief_client() -> Iterator[SyncPrefectClient]:
    """Call the API once and not for long: progress that comes too late is worth nothing."""
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(httpx_settings={"timeout": BRIEF_S}, sync_client=True) as client,
    ):
        yield client
