"""How many cores a process may use, by its cgroups' quotas of both versions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tasks.base.worker_processes import start_worker, usable_cores

if TYPE_CHECKING:
    from pathlib import Path


def groups(folder: Path, files: dict[str, str], own: str) -> tuple[Path, Path]:
    for name, text in files.items():
        (folder / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "groups" / name).write_text(text)
    (folder / "own").write_text(own)
    return folder / "groups", folder / "own"


@pytest.mark.parametrize(
    ("files", "own", "cores"),
    [
        ({}, "0::/\n", 8),
        ({"cpu.max": "max 100000\n"}, "0::/\n", 8),
        ({"cpu.max": "200000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "250000 100000\n"}, "0::/\n", 3),
        ({"cpu.max": "20000 100000\n"}, "0::/\n", 1),
        # A container that sees its own group at the root, though the kernel names it from outside.
        ({"cpu.max": "400000 100000\n"}, "0::/kubepods/pod1/c\n", 4),
        ({"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, "0::/a/b\n", 3),
        ({"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "500000 100000\n"}, "0::/a/b\n", 3),
        (
            {"cpu/x/cpu.cfs_quota_us": "600000", "cpu/x/cpu.cfs_period_us": "100000"},
            "4:memory:/x\n3:cpu,cpuacct:/x\n",
            6,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/\n", 8),
        ({"cpu.max": "nonsense\n"}, "", 8),
    ],
)
def test_a_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], own: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores(*groups(tmp_path, files, own)) == cores


def test_no_more_than_it_is_bound_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cores(*groups(tmp_path, {"cpu.max": "400000 100000\n"}, "0::/\n")) == 1
    assert usable_cores(tmp_path / "none", tmp_path / "none") == 1


def test_a_worker_is_of_this_project_wherever_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the same name where the run was started is not imported, and nothing need be installed."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    process, link = start_worker("tasks.profile.token_worker")
    link.close()
    assert process.wait(60) == 0
