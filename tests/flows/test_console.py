"""The installed console script, from a folder whose own `tasks.py` and `flows/` must not be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from demo_nights import DAY, MODEL, batch_line, write_lines

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    # A build leaves its folders beside the sources: it works on a copy of what git tracks or will track.
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    kept = ("engine/", "flows/", "tasks/", "pyproject.toml", "README.md", "LICENSE")
    for name in listed.stdout.decode().split("\0"):
        if name.startswith(kept) and (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheels = folder / "wheels"
    offline = ["--no-deps", "--no-index"]
    _run([*pip, "wheel", *offline, "--no-build-isolation", "-w", str(wheels), str(source)])
    (wheel,) = wheels.glob("nightblend-*.whl")
    _run([*pip, "install", *offline, "--target", str(folder / "site"), str(wheel)])
    return folder / "site"


@pytest.fixture
def decoys(tmp_path) -> Path:
    folder = tmp_path / "decoys"
    for name in ("tasks.py", "engine.py", "flows/__init__.py", "prefect.py", "numpy.py"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise SystemExit('a decoy was imported')\n")
    return folder


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


def test_the_console_script_runs_a_night_beside_decoys(installed, decoys, tmp_path):
    script = str(installed / "bin" / "nightblend")
    # Its folder comes first on the path, so the wheel is used and not the checkout.
    site = {"PYTHONPATH": str(installed)}
    helped = _run([script, "run", "--help"], decoys, **site)
    assert "--run-date" in helped
    write_lines(tmp_path / "logs", "day.jsonl", [batch_line("a", "Count from 3 to 6.", max_tokens=16)])
    out = _run(
        [
            *(script, "run", "--job", "wheel", "--json", "--model", str(MODEL)),
            *("--source", str(tmp_path / "logs"), "--store", str(tmp_path / "store")),
            *("--run-date", DAY.isoformat()),
        ],
        decoys,
        **site,
    )
    result = json.loads(out.splitlines()[-1])
    answer = json.loads(Path(result["output_file"]).read_text())
    assert answer["response"]["body"]["choices"][0]["message"]["content"].strip() == "3 4 5 6"
