"""A back end that computes nothing: it answers a job at once, and dies where a test says so.

``python -m tests.support.scripted_backend FOLDER FD`` reads the job without the package `engine`, so it
starts within a moment. `use` puts it in the place of our own engine.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

SCRIPT = "NIGHTBLEND_TEST_SCRIPT"
ANSWER_STEPS = 2
DEVICE = {
    "name": "scripted",
    "source": "nominal",
    "flops": 1e12,
    "read_bytes": 1e11,
    "peak_flops": 1e12,
    "peak_bytes": 1e11,
    "overlaps": False,
}
FACTS = {
    "engine": "native",
    "version": "scripted",
    "capabilities": dict.fromkeys(("exact_hits", "paced", "seeded", "logprobs"), True)
    | dict.fromkeys(("structured", "images", "lora"), False),
}
STEP = {
    **dict.fromkeys(("tokens", "prefill_tokens", "decode_tokens", "sequences", "kv_tokens_read"), 1),
    **dict.fromkeys(
        ("available_pages", "hit_tokens", "recomputed_tokens", "evicted_pages", "preemptions"), 0
    ),
    **dict.fromkeys(("modelled_compute_seconds", "modelled_memory_seconds", "modelled_seconds"), 1e-3),
    **dict.fromkeys(("model_flops", "model_bytes", "kv_occupancy"), 1e-3),
}


def use(monkeypatch: Any, folder: Path, **script: Any) -> Path:
    """Have every engine of this process played by this back end; return the file of its script.

    Parameters
    ----------
    folder
        Where the script is kept, and how often it was started.
    script
        `dies`: request ids during whose first step it is killed, written later with `change`; `says`: it
        sends a `fatal` message instead; `lingers`: it does not end by itself then; `hidden`: it does not say
        what it computes; `deaf`: it is killed before it is ready; `step_s`: how long a step takes;
        `answer_steps`: how many an answer takes; `busy`: it says that another engine has the device;
        `early`: it says why it cannot begin; `clock`: times that it tells are those of a clock that is at
        `start` (Unix time) and goes on by `step_s` seconds with each step; `gives`: it can give requests
        back; `dies_asked`: it is killed when it is asked to.
    """
    from tasks.infer.backends import engine_process
    from tests.support.paths import ROOT

    path = folder / "script.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(script))

    def started(command: list[str], *, env: dict[str, str], **more: Any) -> subprocess.Popen[bytes]:
        played = [command[0], "-m", "tests.support.scripted_backend", *command[-2:]]
        return subprocess.Popen(played, env={**env, "PYTHONPATH": str(ROOT), SCRIPT: str(path)}, **more)

    shim = SimpleNamespace(
        Popen=started,
        PIPE=subprocess.PIPE,
        TimeoutExpired=subprocess.TimeoutExpired,
        DEVNULL=subprocess.DEVNULL,
    )
    monkeypatch.setattr(engine_process, "subprocess", shim)
    return path


def change(path: Path, **script: Any) -> None:
    """Change a script: of engines that are started later."""
    path.write_text(json.dumps(json.loads(path.read_text()) | script))


def main(folder: Path, descriptor: int) -> int:
    """Play a back end."""
    script = json.loads(Path(os.environ[SCRIPT]).read_text())
    asked = threading.Event()
    threading.Thread(target=_listen_to_parent, args=(asked,), daemon=True).start()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    if script.get("deaf"):
        _die()
    job = json.loads((folder / "job.json").read_text())
    lines = (folder / "requests.jsonl").read_text().splitlines()
    requests = [json.loads(line) for line in lines]
    with np.load(folder / "plan.npz") as plan:
        waiting = plan["order"].tolist()
    running_file = None if script.get("hidden") else _running_file(folder, job["max_sequences"])
    dies = set(script.get("dies", ()))
    running: dict[int, int] = {}
    with os.fdopen(descriptor, "wb") as pipe:
        said = script.get("busy") or script.get("early")
        if said:
            kind = {"retryable": False, "busy": True} if "busy" in script else {"retryable": True}
            _send(pipe, {"type": "fatal", "message": said, **kind})
            return 1
        _send(pipe, _ready(script))
        clock = script.get("clock")
        step, begin = 0, time.perf_counter()
        while (waiting or running) and not stopping.is_set():
            while waiting and len(running) < job["max_sequences"]:
                running[waiting.pop(0)] = 0
            if running_file is not None:
                running_file[:] = -1
                running_file[: len(running)] = list(running)
            time.sleep(script.get("step_s", 0.0))
            if dies & {requests[i]["request_id"] for i in running}:
                if script.get("says"):
                    return _give_up(pipe, script)
                _die()
            now = time.time() if clock is None else clock["start"] + step * clock["step_s"]
            # What sending took the last time is in it, as with a real engine.
            took, begin = time.perf_counter() - begin, time.perf_counter()
            figures = {"step": step, "started_at": now, "seconds": took, "running": len(running), **STEP}
            _send(pipe, {"type": "step", **figures})
            step += 1
            for i in running:
                running[i] += 1
            done = [i for i, steps in running.items() if steps >= script.get("answer_steps", ANSWER_STEPS)]
            if done:
                _send(pipe, {"type": "answers", "items": [_answer(i, requests[i], now) for i in done]})
            for i in done:
                del running[i]
            if asked.is_set():
                asked.clear()
                given, waiting = waiting[: len(waiting) // 2], waiting[len(waiting) // 2 :]
                _send(pipe, _given([requests[i] for i in given], script))
        _send(pipe, {"type": "stopped" if waiting or running else "done", "counters": {}})
    return 4 if waiting or running else 0


def _running_file(folder: Path, max_sequences: int) -> Any:
    path = folder / "running.npy"
    found = np.lib.format.open_memmap(path, mode="w+", dtype=np.int32, shape=(max_sequences,))
    found[:] = -1
    return found


def _ready(script: dict[str, Any]) -> dict[str, Any]:
    facts = FACTS | {"capabilities": FACTS["capabilities"] | {"gives": bool(script.get("gives"))}}
    figures = {"kv_tokens": 4096, "device": DEVICE, "load_seconds": 0.1, "device_uuid": None}
    return {"type": "ready", **facts, **figures}


def _given(requests: list[dict[str, Any]], script: dict[str, Any]) -> dict[str, Any]:
    if script.get("dies_asked"):
        _die()
    return {"type": "given", "items": [(one["request_id"], one["choice"]) for one in requests]}


def _give_up(pipe: Any, script: dict[str, Any]) -> int:
    _send(pipe, {"type": "fatal", "message": script["says"], "retryable": True})
    if script.get("lingers"):
        pipe.close()
        time.sleep(60)
    return 1


def _answer(i: int, request: dict[str, Any], now: float) -> dict[str, Any]:
    return {
        "request": i,
        "request_id": request["request_id"],
        "choice": request["choice"],
        "token_ids": [1, 2],
        "text": f"answer to {request['request_id'][:8]}",
        "finish_reason": "stop",
        "cached_tokens": 0,
        "started_at": now,
        "finished_at": now,
        "logprobs": None,
    }


def _send(pipe: Any, message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    pipe.write(struct.pack(">I", len(body)) + body)
    pipe.flush()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _listen_to_parent(asked: threading.Event) -> None:
    while os.read(0, 4096):
        asked.set()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
