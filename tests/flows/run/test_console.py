"""The installed console script, from a folder whose own `tasks.py` and `flows/` must not be imported."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.servers.wheel import build_wheel, install_in_folder, write_decoys
from tests.support.demo_nights import DAY, batch_line, write_lines
from tests.support.paths import DEMO_MODEL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    return install_in_folder(build_wheel(folder), folder / "site")


@pytest.fixture
def decoys(tmp_path) -> Path:
    return write_decoys(tmp_path / "decoys", "prefect.py", "numpy.py")


def _run(command: list[str], cwd: Path | None = None, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PREFECT"))}
    done = subprocess.run(  # noqa: PLW1510 - the assertion below shows its output
        command, cwd=cwd, capture_output=True, text=True, timeout=240, env=clean | environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_three_packages_only(installed):
    found = {path.name for path in installed.iterdir() if path.is_dir() and "dist-info" not in path.name}
    assert found == {"bin", "engine", "flows", "tasks"}
    assert (installed / "tasks" / "report" / "templates" / "style.css").exists()


def test_the_console_script_runs_a_night_beside_decoys(installed, decoys, tmp_path):
    script = str(installed / "bin" / "nightblend")
    # Its folder comes first on the path, so the wheel is used and not the checkout.
    site = {"PYTHONPATH": str(installed)}
    helped = _run([script, "run", "--help"], decoys, **site)
    assert "--run-date" in helped
    write_lines(tmp_path / "logs", "day.jsonl", [batch_line("a", "Count from 3 to 6.", max_tokens=16)])
    out = _run(
        [
            *(script, "run", "--job", "wheel", "--json", "--model", str(DEMO_MODEL)),
            *("--source", str(tmp_path / "logs"), "--store", str(tmp_path / "store")),
            *("--run-date", DAY.isoformat(), "--no-report"),
        ],
        decoys,
        **site,
    )
    result = json.loads(out.splitlines()[-1])
    answer = json.loads(Path(result["output_file"]).read_text())
    assert answer["response"]["body"]["choices"][0]["message"]["content"].strip() == "3 4 5 6"
