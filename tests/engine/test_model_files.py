"""An engine answers by the weights that its run is named by, or not at all."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from engine import model_files
from engine.backends import process
from engine.backends.contract import DONE, FAILED, Ended
from engine.errors import EngineError
from engine.job.format import FORMAT_VERSION, read_messages
from engine.model_files import ModelCheck, ModelFile, Stamp, file_digest, write_model_files

if TYPE_CHECKING:
    from pathlib import Path

    from engine.backends.contract import Answer, Send


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"as the run began")
    return path


@pytest.fixture
def job(tmp_path: Path, weights: Path) -> Path:
    folder = tmp_path / "job"
    write_model_files(
        folder, weights.parent, [ModelFile(weights.name, Stamp.of(weights), file_digest(weights))]
    )
    (folder / "job.json").write_text(json.dumps({"format_version": FORMAT_VERSION, "model": "/m"}))
    return folder


def replaced(path: Path, content: bytes = b"as the run ended") -> None:
    """Another content of the same size, at the same time, as a copy that keeps times makes it."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def run(job: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[dict[str, Any]]]:
    # Neither signals nor standard input of the test's own process are the engine's.
    monkeypatch.setattr(process.signal, "signal", lambda *_: None)
    monkeypatch.setattr(process, "_listen_to_parent", lambda _asked: None)
    pipe = io.BytesIO()
    code = process.run(answer, job, pipe)
    pipe.seek(0)
    return code, list(read_messages(pipe))


def test_untouched_files_are_not_read(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: Path) -> str:
        raise AssertionError("it was read")

    monkeypatch.setattr(model_files, "file_digest", never)
    ModelCheck(job)()


def test_a_file_that_was_only_touched_is_read_once(
    job: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights.touch()
    check = ModelCheck(job)
    check()
    monkeypatch.setattr(model_files, "file_digest", lambda _: "another")
    check()


def test_another_content_and_no_file_are_errors(job: Path, weights: Path) -> None:
    check = ModelCheck(job)
    replaced(weights)
    with pytest.raises(EngineError, match=r"--model: .*model\.safetensors has another content .*; put the"):
        check()
    weights.unlink()
    with pytest.raises(EngineError, match="cannot be read any more"):
        check()


def test_a_job_that_names_no_files_is_not_checked(tmp_path: Path) -> None:
    ModelCheck(tmp_path)()


@pytest.mark.parametrize("when", ["before", "while loading", "never"])
def test_every_back_end_is_checked_before_it_loads_and_after(
    job: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    loaded = []

    def answer(_: Path, send: Send, __: object) -> Ended:
        if when == "while loading":
            replaced(weights)
        loaded.append(weights.read_bytes())
        send({"type": "ready"})
        send({"type": "answers", "items": []})
        return Ended(complete=True, counters={})

    if when == "before":
        replaced(weights)
    code, messages = run(job, answer, monkeypatch)
    if when == "never":
        assert (code, [message["type"] for message in messages]) == (DONE, ["ready", "answers", "done"])
        return
    (fatal,) = messages
    assert (code, fatal["type"], fatal["retryable"]) == (FAILED, "fatal", False)
    assert "has another content than when the run began" in fatal["message"]
    assert len(loaded) == (when == "while loading")
