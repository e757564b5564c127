"""The process of a back end, whatever answers in it: how it ends, and what its parent hears of that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from engine.backends.contract import ASK_TO_GIVE, DONE, FAILED, STOPPED, USAGE
from engine.backends.process import device_lock
from engine.errors import EngineError
from engine.job.format import FORMAT_VERSION, read_messages
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = ("torch", "triton", "transformers", "safetensors", "tokenizers")
READY = 'send({"type": "ready"})'
PROGRAM = """
import sys, threading
{before}
asked = {asked}
from engine.backends.contract import Ended
from engine.backends.process import leave, main
from engine.errors import EngineError

def answer(folder, send, stop):
    {body}

{end}(main(answer, sys.argv[1:], asked=asked))
"""


def start(
    folder: Path,
    body: str,
    *,
    before: str = "",
    device: str = "cpu",
    version: int = FORMAT_VERSION,
    end: str = "sys.exit",
    asked: str = "threading.Event()",
):
    """A process that answers by `body`, and its messages."""
    (folder / "job.json").write_text(json.dumps({"format_version": version, "model": "m", "device": device}))
    reading, writing = os.pipe()
    code = PROGRAM.format(before=before, body=body, end=end, asked=asked)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(writing)],
        stdin=subprocess.PIPE,
        pass_fds=(writing,),
        cwd=ROOT,
    )
    os.close(writing)
    return process, read_messages(os.fdopen(reading, "rb"))


def outcome(folder: Path, body: str, **more):
    process, messages = start(folder, body, **more)
    found = list(messages)
    return process.wait(30), found


def test_the_last_message_and_the_exit_code_say_how_it_ended(tmp_path: Path) -> None:
    code, messages = outcome(tmp_path, f'{READY}; return Ended(True, {{"steps": 3}})')
    assert (code, messages) == (DONE, [{"type": "ready"}, {"type": "done", "counters": {"steps": 3}}])
    code, messages = outcome(tmp_path, "return Ended(False, {})")
    assert (code, messages) == (STOPPED, [{"type": "stopped", "counters": {}}])


def test_an_error_of_the_engine_is_told_and_final(tmp_path: Path) -> None:
    code, messages = outcome(tmp_path, 'raise EngineError("--model: no")')
    assert (code, messages) == (FAILED, [{"type": "fatal", "message": "--model: no", "retryable": False}])


def test_of_any_other_error_the_text_is_kept_back(tmp_path: Path) -> None:
    code, messages = outcome(tmp_path, 'raise ValueError("a secret prompt")')
    assert (code, len(messages)) == (FAILED, 1)
    assert messages[0]["message"].startswith("ValueError at <string>:")
    assert messages[0]["retryable"]


def test_a_job_of_another_version_is_refused_before_it_is_answered(tmp_path: Path) -> None:
    code, messages = outcome(tmp_path, f"{READY}; return Ended(True, {{}})", version=0)
    assert (code, [m["type"] for m in messages]) == (FAILED, ["fatal"])
    assert "format version 0, this engine reads" in messages[0]["message"]


def test_sigterm_asks_the_answering_function_to_stop(tmp_path: Path) -> None:
    process, messages = start(tmp_path, f"{READY}; return Ended(not stop.wait(30), {{}})")
    assert next(messages) == {"type": "ready"}
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == STOPPED
    assert list(messages) == [{"type": "stopped", "counters": {}}]


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    process, messages = start(tmp_path, f"{READY}; return Ended(not stop.wait(60), {{}})")
    assert next(messages) == {"type": "ready"}
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == FAILED
    assert list(messages) == []


def test_questions_come_over_standard_input_and_its_end_still_ends_it(tmp_path: Path) -> None:
    body = (
        f"{READY}\n"
        "    while asked.wait(60):\n"
        "        asked.clear()\n"
        '        send({"type": "given", "items": []})'
    )
    process, messages = start(tmp_path, body)
    assert next(messages) == {"type": "ready"}
    assert process.stdin is not None
    for _ in range(3):
        process.stdin.write(ASK_TO_GIVE)
        process.stdin.flush()
        assert next(messages) == {"type": "given", "items": []}
    process.stdin.close()
    assert process.wait(30) == FAILED
    assert list(messages) == []


def test_an_engine_that_gives_nothing_is_not_disturbed_by_a_question(tmp_path: Path) -> None:
    process, messages = start(tmp_path, f"{READY}; return Ended(not stop.wait(60), {{}})", asked="None")
    assert next(messages) == {"type": "ready"}
    assert process.stdin is not None
    process.stdin.write(ASK_TO_GIVE)
    process.stdin.flush()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == STOPPED
    assert list(messages) == [{"type": "stopped", "counters": {}}]


@pytest.mark.parametrize("arguments", [[], ["folder"], ["folder", "one"], ["folder", "1", "2"]])
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    code = PROGRAM.format(before="", body="return Ended(True, {})", end="sys.exit", asked="None")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (USAGE, "usage: python -m MODULE FOLDER FD\n")


def test_a_device_is_for_one_process(tmp_path: Path) -> None:
    device = f"cuda:{os.getpid()}"
    body = f"{READY}; return Ended(True, {{}})"
    with device_lock(device):
        with (
            pytest.raises(EngineError, match=f"device {device} is used by another engine"),
            device_lock(device),
        ):
            pass
        code, messages = outcome(tmp_path, body, device=device)
        assert (code, [m["type"] for m in messages]) == (FAILED, ["fatal"])
        assert outcome(tmp_path, body, device="cpu")[0] == DONE
    assert outcome(tmp_path, body, device=device)[0] == DONE


def test_it_needs_neither_torch_nor_the_model_packages(tmp_path: Path) -> None:
    """A back end whose engine is elsewhere runs with numpy and numba alone."""
    before = "\n".join(f"sys.modules[{name!r}] = None" for name in HEAVY)
    body = "from engine.job.format import read_job; return Ended(True, {})"
    assert outcome(tmp_path, body, before=before)[0] == DONE


def test_the_contract_is_of_the_standard_library_alone() -> None:
    blocked = "\n".join(f"sys.modules[{name!r}] = None" for name in (*HEAVY, "numpy", "numba"))
    code = f"import sys\n{blocked}\nimport engine.backends.contract"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_it_leaves_at_once_whatever_others_do_at_the_end(tmp_path: Path) -> None:
    """A thread that goes on and a function at the end would keep an interpreter."""
    before = (
        "import atexit, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "atexit.register(time.sleep, 60)"
    )
    process, messages = start(tmp_path, "return Ended(False, {})", before=before, end="leave")
    assert [message["type"] for message in messages] == ["stopped"]
    assert process.wait(30) == STOPPED
