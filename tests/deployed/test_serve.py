"""`nightblend serve` as on a laptop: a server on SQLite, no pool, no worker; it ends with Ctrl-C."""

from __future__ import annotations

import signal
from datetime import timedelta

from tests.deployed.site_of_tests import Site, counted, counts, today
from tests.servers.prefect_server import Installation
from tests.support.paths import DEMO_MODEL

JOB = "laptop"
COUNT = 4


def test_a_laptop_serves_its_nights_until_ctrl_c(installation, tmp_path):
    database = f"sqlite+aiosqlite:///{tmp_path}/prefect.db"
    laptop = Installation(installation.scripts, installation.folder, database, tmp_path)
    day = today() - timedelta(days=1)
    settings = {
        "job": JOB,
        "source": f"{tmp_path}/logs/{{run_date:%Y/%m/%d}}/",
        "store": f"{tmp_path}/store",
        "model": str(DEMO_MODEL),
        "timezone": "Europe/Berlin",
        "kv-tokens": "4096",
    }
    options = [text for name, value in settings.items() for text in (f"--{name}", value)]
    with (
        laptop.server(),
        Site.connected(laptop, tmp_path) as site,
        laptop.started("serve", "nightblend", "serve", *options, "--ready-by", "07:00") as process,
    ):
        site.write_day(day, counts(COUNT))
        site.wait(lambda: site.api.get("/deployments/name/watch/watch").is_success)
        watch = site.deployment("watch/watch")["schedules"][0]["schedule"]
        assert (watch["cron"], watch["timezone"]) == ("0 7 * * *", "Europe/Berlin")
        run = site.ended(site.start("nightly/nightly")["id"])
        assert (run["state_name"], run["name"]) == ("Completed", f"{JOB}-{day}"), site.logs(run["id"])
        assert site.answers(JOB, day) == counted(COUNT)
        watched = site.ended(site.start("watch/watch")["id"])
        assert watched["state"]["message"] == f"{day} is published."

        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, site.tail()
        said = (tmp_path / "serve.log").read_text()
        assert "Traceback" not in said
        # What nobody serves any more must not pile up.
        assert site.deployment("nightly/nightly")["paused"] is True
