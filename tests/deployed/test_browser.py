"""What a person sees: the form that starts a run, and a finished run. The README's pictures come from here.

With NIGHTBLEND_SCREENSHOTS set to a folder the pictures are kept there.
"""

from __future__ import annotations

import os
import re
import shutil
from datetime import date
from html import unescape
from pathlib import Path

import pytest

from flows.on_demand import OnDemandParameters
from tests.deployed.site_of_tests import JOB, counts
from tests.servers import browser

DAY = date(2026, 11, 22)
OF_CANDIDATE = date(2026, 11, 20)
COUNT = 12

pytestmark = pytest.mark.skipif(browser.program() is None, reason="Chromium is not installed")


@pytest.fixture
def keep(tmp_path):
    """Show a page, check what it says, and keep its picture."""

    def shown(name: str, url: str, *expected: str) -> str:
        path = tmp_path / f"{name}.png"
        with browser.open_page() as page:
            page.open(url, *expected)
            page.screenshot(path)
            document = page.document()
        assert path.stat().st_size > 20_000, "an empty page"
        folder = os.environ.get("NIGHTBLEND_SCREENSHOTS")
        if folder:
            shutil.copy(path, Path(folder) / path.name)
        return document

    return shown


def test_the_form_names_and_explains_its_fields_in_their_order(site, keep):
    deployment = site.deployment("on-demand/on-demand")
    url = f"{site.installation.ui}/deployments/deployment/{deployment['id']}/run"
    fields = OnDemandParameters.model_fields.values()
    # The explanations are built one after the other: with the last one the form is there.
    (*_, last) = fields
    document = unescape(keep("run-form", url, "Run date", "Order policy", "Preset", last.description))
    labels = re.findall(r"<label[^>]*>(.*?)</label>", document, flags=re.S)
    shown = [re.sub(r"<[^>]*>", "", label).replace("(Optional)", "").strip() for label in labels]
    titles = [field.title for field in fields]
    assert [label for label in shown if label in titles] == titles
    # What is between backticks is shown as code.
    text = " ".join(re.sub(r"<[^>]*>", "", document).split())
    assert [field.description for field in fields if field.description.replace("`", "") not in text] == []


def test_a_finished_run_shows_its_steps_and_its_figures(site, keep):
    site.write_day(DAY, counts(COUNT))
    run = site.ended(site.start("on-demand/on-demand", run_date=DAY.isoformat(), publish=True)["id"])
    assert run["state_name"] == "Completed", site.logs(run["id"])
    ui = site.installation.ui
    keep("finished-run", f"{ui}/runs/flow-run/{run['id']}", f"{JOB}-{DAY}", "Completed", "6 Task runs")
    pages = {
        "night": (f"{COUNT} outputs", "prefix hits", "Planned and actual"),
        "report": ("In short", "What the figures mean"),
    }
    for name, said in pages.items():
        artifact = site.artifacts(run["id"])[f"{name}-{JOB}"]
        keep(name, f"{ui}/artifacts/artifact/{artifact['id']}", *said)


def test_a_run_with_a_candidate_shows_its_stage(site, keep):
    site.write_day(OF_CANDIDATE, counts(COUNT))
    asked = {"canary_steps": "50,100", "canary_option": ["policy=dfs"], "canary_nights": 1, "publish": True}
    # How fast a few requests are on a busy machine says nothing.
    asked |= {"run_date": OF_CANDIDATE.isoformat(), "canary_slower": 100}
    run = site.ended(site.start("on-demand/on-demand", **asked)["id"])
    assert run["state_name"] == "Completed", site.logs(run["id"])
    stage, text = "candidate: canary 50 %, next 100 %", "candidate policy=dfs: canary, 100 % from now on"
    assert run["tags"].count(stage) == 1
    assert run["state"]["message"].startswith(f"{COUNT} of {COUNT} requests answered, 0 errors; {text}")
    # Whose step it is, its task says.
    tasks = site.post("/task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}})
    assert {"candidate: infer", "infer", "publish"} <= {task["name"] for task in tasks}
    ui = site.installation.ui
    keep("candidate", f"{ui}/runs/flow-run/{run['id']}", f"{JOB}-{OF_CANDIDATE}", "Completed", stage)
    artifact = site.artifacts(run["id"])[f"night-{JOB}"]
    said = ("policy=dfs, canary, 100 % from now on", "promote by rules: good night 1 at 50 %")
    keep("candidate-night", f"{ui}/artifacts/artifact/{artifact['id']}", *said)
