"""What the tests of the deployed product do over the API, as the UI does."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import httpx
import psutil

from tasks.runlog.log import RunLog
from tasks.store.contract import plain_path
from tasks.store.open import open_store
from tests.deployed.processes import computing, halt_when, wait
from tests.support.demo_nights import batch_line, write_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date
    from pathlib import Path

    from tests.servers.prefect_server import Installation

ZONE = ZoneInfo("Europe/Berlin")
JOB = "support-triage"


@dataclass
class Site:
    """A deployed site.

    Attributes
    ----------
    installation
        The scripts, the server and its folder.
    root
        Folder with `logs` and `store`.
    catalog
        URI of the tables' catalog; '' is the default of a folder store.
    api
        Client of the server's API.
    inbox
        Notifications that people have got.
    halted
        Processes that a test has halted.
    """

    installation: Installation
    root: Path
    catalog: str
    api: httpx.Client
    inbox: list[dict[str, str]] = field(default_factory=list)
    halted: list[psutil.Process] = field(default_factory=list)

    @classmethod
    @contextmanager
    def connected(cls, installation: Installation, root: Path, catalog: str = "") -> Iterator[Site]:
        with httpx.Client(base_url=installation.api, timeout=60, trust_env=False) as api:
            site = cls(installation, root, catalog, api)
            try:
                yield site
            finally:
                # A test that failed has not let them go on: they would stay for ever.
                for process in site.halted:
                    with suppress(psutil.NoSuchProcess):
                        process.resume()

    def wait(self, found: Callable[[], Any]) -> Any:
        """Call until something is found; see `processes.wait`."""
        return wait(found, self.tail)

    def get(self, path: str) -> Any:
        return self._asked("GET", path).json()

    def post(self, path: str, **body: Any) -> Any:
        answer = self._asked("POST", path, json=body)
        return answer.json() if answer.content else None

    def _asked(self, method: str, path: str, **given: Any) -> httpx.Response:
        """Ask again while the server says that it is busy, as Prefect's own clients do."""
        for _ in range(10):
            answer = self.api.request(method, path, **given)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(1)
        answer.raise_for_status()
        return answer

    def deployment(self, name: str) -> dict[str, Any]:
        return self.get(f"/deployments/name/{name}")

    def start(self, name: str, **changed: Any) -> dict[str, Any]:
        """Start a run as the form of the UI does: the deployment's parameters, with some changed."""
        deployment = self.deployment(name)
        parameters = {"parameters": {**deployment["parameters"]["parameters"], **changed}}
        path = f"/deployments/{deployment['id']}/create_flow_run"
        return self.post(path, parameters=parameters, state={"type": "SCHEDULED"})

    def schedule_nightly(self, *, active: bool) -> None:
        """Turn the schedule of `nightly` on or off; runs that are due already stay."""
        nightly = self.deployment("nightly/nightly")
        path = f"/deployments/{nightly['id']}/schedules/{nightly['schedules'][0]['id']}"
        self.api.patch(path, json={"active": active}).raise_for_status()

    def run(self, run_id: str) -> dict[str, Any]:
        return self.get(f"/flow_runs/{run_id}")

    def ended(self, run_id: str) -> dict[str, Any]:
        """Wait for the end of a run and return it."""
        final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        return self.wait(lambda: _if(self.run(run_id), lambda run: run["state_type"] in final))

    def runs(self, name: str) -> list[dict[str, Any]]:
        """Return the runs of a deployment that have begun, oldest first."""
        filters = {"deployments": {"id": {"any_": [self.deployment(name)["id"]]}}}
        found = self.post("/flow_runs/filter", sort="START_TIME_ASC", **filters)
        return [run for run in found if run["start_time"] is not None]

    def reruns_of(self, run_id: str) -> list[dict[str, Any]]:
        """Return the runs that `recover` has started for a crashed one."""
        return self.post("/flow_runs/filter", flow_runs={"tags": {"all_": [f"rerun-of:{run_id}"]}})

    def crash(self, run_id: str) -> None:
        """Mark a run as crashed, as a worker does whose process was killed."""
        state = {"type": "CRASHED", "name": "Crashed", "message": "made to crash"}
        self.post(f"/flow_runs/{run_id}/set_state", state=state, force=True)

    def told(self, text: str) -> list[dict[str, str]]:
        """Return the notifications that people got with `text` in the body."""
        return [note for note in self.inbox if text in note["body"]]

    def artifacts(self, run_id: str) -> dict[str, dict[str, Any]]:
        found = self.post("/artifacts/filter", artifacts={"flow_run_id": {"any_": [run_id]}})
        return {artifact["key"]: artifact for artifact in found}

    def events(self, name: str) -> list[dict[str, Any]]:
        return self.post("/events/filter", filter={"event": {"name": [name]}}, limit=50)["events"]

    def logs(self, run_id: str) -> str:
        found = self.post("/logs/filter", logs={"flow_run_id": {"any_": [run_id]}}, sort="TIMESTAMP_ASC")
        return "\n".join(line["message"] for line in found)

    def write_day(self, day: date, lines: list[str]) -> None:
        write_lines(self.root / "logs" / day.strftime("%Y/%m/%d"), "day.jsonl", lines)

    def run_logs(self, job: str, day: date) -> list[RunLog]:
        """Return the run logs of a date, read to their end."""
        store = open_store(str(self.root / "store"))
        first = "/log/00000000.json"
        found = store.list(f"{job}/runs/run_date={day}/")
        logs = [RunLog(store, i.key.removesuffix(first)) for i in found if i.key.endswith(first)]
        for log in logs:
            log.refresh()
        return logs

    def halted_in_the_middle(self, job: str, day: date, parts: int = 2) -> tuple[RunLog, psutil.Process]:
        """Wait until a run of a date has so many durable parts of answers.

        Returns
        -------
        RunLog, psutil.Process
            Its log, and its engine, which is halted.
        """

        def found() -> tuple[RunLog, psutil.Process] | None:
            engines = ((log, computing(log)) for log in self.run_logs(job, day))
            return next(((log, engine) for log, engine in engines if engine is not None), None)

        log, engine = self.wait(found)
        self.halted.append(engine)
        halt_when(engine, lambda: len(log.refresh().parts_of("outputs")) >= parts, self.tail)
        return log, engine

    def answers(self, job: str, day: date) -> dict[str, str]:
        """Return custom_id -> text of the current publication of a date."""
        log = RunLog(open_store(str(self.root / "store")), f"{job}/dates/run_date={day}")
        published = log.refresh().publications[-1]
        path = plain_path(published.details["output_file"])
        rows = [json.loads(line) for line in open(path, encoding="utf-8")]  # noqa: PTH123, SIM115
        assert len({row["custom_id"] for row in rows}) == len(rows)
        return {
            row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"].strip()
            for row in rows
        }

    def tail(self) -> str:
        """Return the end of what server and worker wrote, for a failure's message."""
        logs = sorted(self.installation.logs.glob("*.log"))
        return "".join(f"\n{log.name}: ...{log.read_text(errors='replace')[-3000:]}" for log in logs)


def today() -> date:
    """Return the present date of the site."""
    return datetime.now(ZONE).date()


def counts(n: int, first: int = 1) -> list[str]:
    """Return requests that are answered in a moment."""
    return [
        batch_line(f"c{i}", f"Count from {i} to {i + 4}.", max_tokens=32) for i in range(first, first + n)
    ]


def long_counts(n: int) -> list[str]:
    """Return requests that take a while, so that a run has a middle."""
    body = {"max_tokens": 120, "ignore_eos": True}
    return [batch_line(f"r{i}", f"Count from {i} to {i + 90}", **body) for i in range(n)]


def counted(n: int, first: int = 1) -> dict[str, str]:
    """Return the right answers of `counts`."""
    return {f"c{i}": " ".join(str(k) for k in range(i, i + 5)) for i in range(first, first + n)}


def _if(value: Any, holds: Callable[[Any], bool]) -> Any:
    return value if holds(value) else None
