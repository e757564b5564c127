"""A run that crashes each time: it is started again twice, then a person is notified."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.deployed.site_of_tests import JOB, today


@pytest.fixture
def paused_queue(site):
    """Nobody takes runs of the dates' queue, so that they can be made to crash."""
    queue = f"/work_queues/{site.deployment('nightly/dates')['work_queue_id']}"
    site.api.patch(queue, json={"is_paused": True}).raise_for_status()
    yield
    site.api.patch(queue, json={"is_paused": False}).raise_for_status()


@pytest.mark.usefixtures("paused_queue")
def test_after_two_reruns_a_person_is_told(site):
    day = today() - timedelta(days=90)
    run = first = site.start("nightly/dates", run_date=day.isoformat())
    for number in (1, 2):
        site.crash(run["id"])
        reruns = site.wait(lambda n=number: _if_many(site.reruns_of(first["id"]), n))
        (run,) = [found for found in reruns if found["state_type"] == "SCHEDULED"]
        assert run["parameters"]["parameters"]["run_date"] == day.isoformat()
    site.crash(run["id"])
    told = site.wait(lambda: site.told("waits for a person"))
    assert told == [
        {
            "subject": f"Nightblend: {run['name']}",
            "body": f"{run['name']} crashed again after 2 reruns and waits for a person.",
        }
    ]
    assert len(site.reruns_of(first["id"])) == 2
    assert site.run_logs(JOB, day) == []


def _if_many(found: list, count: int) -> list:
    return found if len(found) >= count else []
