"""Digests of a model's files are remembered as long as nothing about the files has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from engine.model_files import file_digest
from tasks.base import model_files as remembered
from tasks.base.identity import model_digest
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("a.safetensors", "config.json")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the files whose content was read; the cache is an empty one."""
    found: list[str] = []

    def counted(path: Path) -> str:
        found.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(remembered, "file_digest", counted)
    monkeypatch.setattr(remembered, "_known", {})
    # Long enough ago is what these files are made to be.
    monkeypatch.setattr(remembered, "SETTLED_NS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(f"content of {name}")
    time.sleep(0.02)
    return folder


def forget_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_known", {})


def test_unchanged_files_are_read_once(model: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = model_digest(model)
    assert sorted(read) == sorted(NAMES)
    assert model_digest(model) == first
    forget_process(monkeypatch)
    assert model_digest(model) == first
    assert len(read) == 2


def test_another_content_of_the_same_size_and_time_is_seen(
    model: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = model_digest(model)
    path = model / NAMES[0]
    before = path.stat()
    path.write_text(path.read_text().swapcase())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    forget_process(monkeypatch)
    del read[:]
    assert model_digest(model) != first
    assert read == [NAMES[0]]
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_file_that_was_just_written_is_not_remembered(
    model: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "SETTLED_NS", 60_000_000_000)
    model_digest(model)
    model_digest(model)
    assert len(read) == 4


@pytest.mark.parametrize("damage", ["{", "[]", '{"version": 1, "folder": "/other", "files": []}'])
def test_a_damaged_cache_is_made_anew(
    model: Path, read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    first = model_digest(model)
    (kept,) = (tmp_path / "cache").rglob("*.json")
    kept.write_text(damage)
    for expected in (4, 4):
        forget_process(monkeypatch)
        assert model_digest(model) == first
        assert len(read) == expected


def test_without_a_place_for_the_cache_a_process_reads_once(
    model: Path, read: list[str], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert model_digest(model) == model_digest(model)
    assert len(read) == 2


def test_many_processes_at_a_time_leave_a_whole_cache(model: Path, tmp_path: Path) -> None:
    for path in model.iterdir():
        # Long enough ago that they are remembered.
        os.utime(path, (1e9, 1e9))
    time.sleep(2.1)
    program = (
        "import sys, pathlib; from tasks.base import model_files as m\n"
        "for _ in range(50):\n"
        f"    m._known.clear(); found = m.model_files(pathlib.Path(sys.argv[1]), {NAMES!r})\n"
        "    m._write(pathlib.Path(sys.argv[1]), {file.name: file for file in found})\n"
        "print([file.sha256 for file in found])"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(model)], env=environment, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    said = {process.communicate(timeout=120)[0] for process in running}
    assert said == {f"{[file_digest(model / name) for name in NAMES]}\n".encode()}
    (kept,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert [file["name"] for file in json.loads(kept.read_text())["files"]] == list(NAMES)
