"""The product as an operator deploys it: Prefect on PostgreSQL, a process worker, the installed wheel.

`make test-prefect` sets NIGHTBLEND_CATALOG to a database of a PostgreSQL server; anything else collects
nothing here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psycopg
import pytest
from demo_nights import MODEL
from prefect_server import Installation
from site_of_tests import Site
from wheel import ROOT, build_wheel, make_environment, write_decoys

if TYPE_CHECKING:
    from collections.abc import Iterator

if not os.environ.get("NIGHTBLEND_DEPLOYED"):
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test here the time of several runs, each of which starts Python, Prefect and an engine."""
    for item in items:
        if "tests/deployed" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The wheel in an environment of its own, and a server; run from a folder of decoys."""
    folder = tmp_path_factory.mktemp("deployed")
    scripts = make_environment(build_wheel(folder), folder / "environment")
    catalog = os.environ["NIGHTBLEND_CATALOG"].replace("+psycopg", "")
    with psycopg.connect(catalog, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS prefect")
        connection.execute("CREATE DATABASE prefect")
    database = catalog.rpartition("/")[0].replace("postgresql", "postgresql+asyncpg") + "/prefect"
    found = Installation(scripts, write_decoys(folder / "decoys"), database, folder)
    with found.server():
        yield found


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
    (root / "models" / "demo").symlink_to(MODEL)
    file = edited_file(root, installation.folder)
    said = installation.run("nightblend", "deploy", "--prefect-file", str(file))
    assert "limit gpu:nightblend: 1 at a time" in said
    worker = ("prefect", "worker", "start", "--pool", "nightblend")
    with installation.started("worker", *worker), Site.connected(installation, root) as found:
        # Every minute is for the test of the schedule alone.
        found.schedule_nightly(active=False)
        yield found


def edited_file(root: Path, directory: Path) -> Path:
    """Return `infra/prefect.yaml` with the block `definitions` changed, as its comment says."""
    text = (ROOT / "infra" / "prefect.yaml").read_text()
    changed = {
        "source": f'"{root}/logs/{{run_date:%Y/%m/%d}}/"',
        "store": f"&store {root}/store",
        "catalog": "&catalog " + os.environ["NIGHTBLEND_CATALOG"],
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
