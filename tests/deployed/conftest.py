"""The product as an operator deploys it: Prefect on PostgreSQL, a process worker, the installed wheel.

`make test-prefect` sets NIGHTBLEND_CATALOG to a database of a PostgreSQL server; anything else collects
nothing here. Most of the time is waiting, so it runs the tests in several processes. Each has a site of its
own, with all that belongs to it: server, databases, worker, folders.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.deployed.site_of_tests import Site
from tests.servers.prefect_server import Installation
from tests.servers.wheel import ROOT, build_wheel, make_environment, write_decoys
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

if not os.environ.get("NIGHTBLEND_DEPLOYED"):
    collect_ignore_glob = ["test_*.py"]

QUICK = {"test_browser", "test_deployments", "test_exhausted"}
"""Files of tests that take less than half a minute each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test here the time of several runs, and put the quick ones last.

    Each run starts Python, Prefect and an engine. With quick ones last, all sites end at about the same time.
    """
    for item in items:
        if "tests/deployed" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(1800))
    items.sort(key=lambda item: item.path.stem in QUICK)


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The wheel in an environment of its own, and a server; run from a folder of decoys."""
    folder = tmp_path_factory.mktemp("deployed")
    scripts = make_environment(build_wheel(folder), folder / "environment")
    database = new_database("prefect").replace("+psycopg", "+asyncpg")
    found = Installation(scripts, write_decoys(folder / "decoys"), database, folder)
    with found.server():
        yield found


def new_database(name: str) -> str:
    """Create a database of this process alone on the server of the catalog; return its URI."""
    server = os.environ["NIGHTBLEND_CATALOG"]
    name = f"{name}_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="session")
def deployed_as_written(installation: Installation) -> str:
    """What Prefect says when `infra/prefect.yaml` is deployed as it is in the repository."""
    installation.run("nightblend", "deploy")
    file = ROOT / "infra" / "prefect.yaml"
    return installation.run("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file))


@pytest.fixture(scope="session")
def site(installation: Installation, deployed_as_written: str) -> Iterator[Site]:
    """A site: pool, deployments of an edited file, automations, and a worker."""
    # The deployments have the same names: those of the site must come last.
    assert deployed_as_written
    # Its paths are seen in the pictures: they are to say nothing of where the tests run.
    with TemporaryDirectory(prefix="nightblend-site-") as folder:
        yield from deployed_site(installation, Path(folder))


def deployed_site(installation: Installation, root: Path) -> Iterator[Site]:
    """Deploy a site with its files below `root`; see `site`."""
    (root / "models").mkdir()
    (root / "models" / "demo").symlink_to(DEMO_MODEL)
    catalog = new_database("catalog")
    file = edited_file(root, installation.folder, catalog)
    with inbox() as (url, notes):
        make_notification_block(installation, url)
        deploy = ("nightblend", "deploy", "--prefect-file", str(file), "--notify", "custom-webhook/ops")
        assert "limit gpu:nightblend: 1 at a time" in installation.run(*deploy)
        worker = ("prefect", "worker", "start", "--pool", "nightblend")
        with installation.started("worker", *worker), Site.connected(installation, root, catalog) as found:
            found.inbox = notes
            # Every minute is for the test of the schedule alone.
            found.schedule_nightly(active=False)
            yield found


def make_notification_block(installation: Installation, url: str) -> None:
    """Create the block `custom-webhook/ops`, as a person does in the UI."""
    code = (
        "from prefect.blocks.notifications import CustomWebhookNotificationBlock as Block\n"
        "note = {'subject': '{{subject}}', 'body': '{{body}}'}\n"
        f"Block(name='ops', url='{url}', json_data=note).save('ops')\n"
    )
    installation.run("python", "-P", "-c", code)


@contextmanager
def inbox() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Serve an address that takes notifications; yield it and what has come."""
    notes: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            notes.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/notes", notes
    finally:
        server.shutdown()
        server.server_close()


def edited_file(root: Path, directory: Path, catalog: str) -> Path:
    """Return `infra/prefect.yaml` with the block `definitions` changed, as its comment says."""
    text = (ROOT / "infra" / "prefect.yaml").read_text()
    changed = {
        "source": f'"{root}/logs/{{run_date:%Y/%m/%d}}/"',
        "store": f"&store {root}/store",
        "catalog": f"&catalog {catalog}",
        "model": f"{root}/models/demo",
        "cron": '&cron "* * * * *"',
        "directory": f"&directory {directory}",
    }
    for name, value in changed.items():
        text, count = re.subn(rf"^( +{name}: ).*$", lambda m, v=value: m[1] + v, text, count=1, flags=re.M)
        assert count == 1, name
    # Small parts and few requests at a time: there is a middle to stop a run in.
    small = {"part_answers": 5, "max_sequences": 4, "kv_tokens": 4096, "lease_s": 20, "heartbeat_s": 1}
    more = "".join(f"\n    {name}: {value}" for name, value in small.items())
    text = re.sub(r"^    timezone: .*$", lambda m: m[0] + more, text, count=1, flags=re.M)
    path = root / "prefect.yaml"
    path.write_text(text)
    return path
