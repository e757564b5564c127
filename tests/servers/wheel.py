"""The wheel of this checkout, and an environment that has it beside the dependencies of the present one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

from engine.jit_cache import folders
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

_PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
_OFFLINE = ["--no-deps", "--no-index"]


def build_wheel(folder: Path) -> Path:
    """Build the wheel of what git tracks, or will track, in `folder`."""
    source = folder / "source"
    source.mkdir()
    # A build leaves its folders beside the sources: it works on a copy.
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
    wheels = folder / "wheels"
    _run([*_PIP, "wheel", *_OFFLINE, "--no-build-isolation", "-w", str(wheels), str(source)])
    (wheel,) = wheels.glob("nightblend-*.whl")
    return wheel


def install_in_folder(wheel: Path, folder: Path) -> Path:
    """Install a wheel into a folder for `PYTHONPATH`, scripts in `bin`."""
    _run([*_PIP, "install", *_OFFLINE, "--target", str(folder), str(wheel)])
    take_compiled_along(folder / "engine")
    return folder


def make_environment(wheel: Path, folder: Path) -> Path:
    """Make a virtual environment with the wheel, and return its folder of scripts.

    The packages that the wheel needs are those of the present environment, without what is installed there
    by a link to a checkout; `prefect` has its script there, too.
    """
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    python = folder / "bin" / "python"
    _run([*_PIP, "--python", str(python), "install", *_OFFLINE, str(wheel)])
    take_compiled_along(next((folder / "lib").glob("python*/site-packages/engine")))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # Last: pip would take the checkout for the wheel. Links inside of a folder that is added so do not count.
    outer = folder / "lib" / version / "site-packages" / "outer.pth"
    outer.write_text(sysconfig.get_path("purelib") + "\n")
    script = folder / "bin" / "prefect"
    script.write_text(f"#!{python}\nimport sys\nfrom prefect.cli import app\nsys.exit(app())\n")
    script.chmod(0o755)
    return folder / "bin"


def take_compiled_along(installed: Path) -> None:
    """Give an installed engine the compiled functions of the same sources in this checkout: minutes less."""
    for kept in folders():
        if kept.exists():
            shutil.copytree(kept, installed / "__pycache__" / kept.name, dirs_exist_ok=True)


def write_decoys(folder: Path, *more: str) -> Path:
    """Write files that end whatever imports them by mistake."""
    for name in ("tasks.py", "engine.py", "flows/__init__.py", *more):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise SystemExit('a decoy was imported')\n")
    return folder


def _run(command: list[str]) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=clean)
    assert done.returncode == 0, done.stdout + done.stderr
