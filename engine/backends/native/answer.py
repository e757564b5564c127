"""The engine process: reads a job folder, answers its requests, writes messages to a pipe.

It has no storage credentials and knows no store. It ends when its parent does (its standard input closes),
and on SIGTERM after the step in hand, with every finished answer sent.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from engine.cost.devices import (
    check_kv_dtype,
    device_uuid,
    find_device,
    find_dtype,
    lock_file,
    model_shape,
    nominal_profile,
    torch_dtype,
)
from engine.cost.metrics import step_metrics
from engine.cost.step import measure_cpu, step_cost
from engine.errors import EngineError
from engine.job.format import Job, read_job, write_message, write_plan_file
from engine.models.config import ModelConfig, load_config
from engine.models.decoder import Decoder
from engine.models.weights import load_weights
from engine.runtime.core import Completion, Engine, EngineSettings
from engine.runtime.sample.token_text import TokenText
from engine.runtime.schedule.revision import Reviser
from engine.runtime.setup import RunnerSizes, make_runner

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedTokenizerBase

    from engine.runtime.state import Int32


def run(folder: Path, pipe: IO[bytes]) -> int:
    """Run the job in `folder`; return the exit code (0 done, 4 stopped, 1 failed)."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        job = read_job(folder)
        with device_lock(job.settings.device):
            return _answer(folder, job, pipe, stop)
    except EngineError as error:
        write_message(pipe, {"type": "fatal", "message": str(error), "retryable": False})
    except Exception as error:  # noqa: BLE001 - the boundary of the process: the parent must hear of it
        # The text of an unknown error could quote a prompt; its type and place cannot.
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
        message = f"{type(error).__name__} at {where}"
        write_message(pipe, {"type": "fatal", "message": message, "retryable": True})
    return 1


def _end_with_parent() -> None:
    """Wait for the end of standard input, which the parent keeps open as long as it lives."""
    while os.read(0, 4096):
        pass
    os._exit(1)


class device_lock:  # noqa: N801 - used like a function
    """Keeps two engines off one accelerator; the CPU is shared by all."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._file: IO[str] | None = None

    def __enter__(self) -> None:
        if self._device == "cpu":
            return
        path = lock_file(self._device)
        self._file = path.open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineError(f"device {self._device} is used by another engine ({path})") from None

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _answer(folder: Path, job: Job, pipe: IO[bytes], stop: threading.Event) -> int:
    begin = time.perf_counter()
    settings = job.settings
    place = find_device(settings.device)
    config = load_config(Path(settings.model))
    dtype, kv_dtype = find_dtype(settings.dtype, place), check_kv_dtype(settings.kv_dtype, place)
    shape = model_shape(config, dtype, kv_dtype)
    planned = job.profile or nominal_profile(settings.device)
    device = job.profile or (measure_cpu() if place == "cpu" else planned)
    decoder = Decoder(config, load_weights(Path(settings.model), config, torch_dtype(dtype), place))
    runner = make_runner(
        decoder,
        runner_sizes(job, config),
        shape.kv_bytes_per_token,
        fp8_kv=kv_dtype == "fp8",
        # Only a profile in which it was measured says that shared pages are worth reading once.
        cascade=step_cost(shape, device) if device.shared_read < 1.0 else None,
    )
    tokenizer = _tokenizer(Path(settings.model))
    token_text = TokenText(tokenizer)
    reviser = None
    if job.replanning is not None:
        reviser = Reviser(job.replanning, job.plan, shape, planned)
    engine = Engine(
        runner,
        tokenizer,
        EngineSettings(
            kv_tokens=runner.kv_tokens,
            page_size=settings.page_size,
            token_budget=max(settings.token_budget, settings.max_sequences),
            max_sequences=settings.max_sequences,
        ),
        job.tokens,
        job.offsets,
        job.sampling,
        job.plan,
        # Of the profile that the plan was made with: its seconds are in these terms.
        step_cost(shape, planned),
        reviser,
    )
    seconds = time.perf_counter() - begin
    ready = {"kv_tokens": runner.kv_tokens, "device": asdict(device), "load_seconds": seconds}
    write_message(pipe, {"type": "ready", **ready, "device_uuid": device_uuid(place)})
    # Of the profile of the device at hand, unlike the plan's: what its work should have taken here.
    cost, pages = step_cost(shape, device), runner.kv_tokens // settings.page_size

    def send(finished: list[Completion]) -> None:
        if finished:
            items = [answer_item(job, completion, token_text) for completion in finished]
            write_message(pipe, {"type": "answers", "items": items})

    replans = 0
    while engine.unfinished and not stop.is_set():
        finished, sample = engine.step()
        figures = step_metrics(sample, shape, cost, pages)
        write_message(pipe, {"type": "step", **asdict(sample), **figures})
        send(finished)
        if reviser is not None and reviser.replans > replans:
            replans = reviser.replans
            name = f"plan-{replans}.npz"
            write_plan_file(folder / name, reviser.plan)
            write_message(pipe, {"type": "plan", "file": name})
    send(engine.drain())
    complete = not engine.unfinished
    write_message(pipe, {"type": "done" if complete else "stopped", "counters": engine.counters()})
    return 0 if complete else 4


def runner_sizes(job: Job, config: ModelConfig) -> RunnerSizes:
    """Return what the job's runner is made for."""
    settings = job.settings
    prompts = job.offsets[1:] - job.offsets[:-1]
    lengths = [
        min(int(p) + s.max_tokens, config.max_positions) for p, s in zip(prompts, job.sampling, strict=True)
    ]
    size = settings.page_size
    pages = [-(-length // size) for length in lengths]
    return RunnerSizes(
        kv_tokens=settings.kv_tokens,
        page_size=size,
        token_budget=max(settings.token_budget, settings.max_sequences),
        max_sequences=settings.max_sequences,
        longest=max(lengths, default=1),
        least=(max(pages, default=0) + 1) * size,
        most=(sum(pages) + 1) * size,
    )


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def answer_item(job: Job, completion: Completion, token_text: TokenText) -> dict[str, Any]:
    """Return a finished sequence as it is sent.

    `logprobs` is None or one ``[token id, bytes, log probability, alternatives]`` per token, the alternatives
    without a fourth entry; bytes are written as the Latin-1 text that has them.
    """
    return {
        "request": completion.request,
        "request_id": job.request_ids[completion.request],
        "choice": job.choices[completion.request],
        "token_ids": completion.token_ids.tolist(),
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "cached_tokens": completion.cached_tokens,
        "started_at": completion.started_at,
        "finished_at": completion.finished_at,
        "logprobs": None if completion.logprobs is None else _logprobs(completion, token_text),
    }


def _logprobs(completion: Completion, token_text: TokenText) -> list[list[Any]]:
    def entries(ids: Int32, values: npt.NDArray[np.float32]) -> list[list[Any]]:
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        return [[token, token_text(token).decode("latin-1"), value] for token, value in pairs]

    found = completion.logprobs
    if found is None:
        return []
    chosen = entries(completion.token_ids, found.chosen)
    others = (entries(ids, top) for ids, top in zip(found.top_ids, found.top, strict=True))
    return [[*token, top] for token, top in zip(chosen, others, strict=True)]


def main(arguments: list[str]) -> int:
    """Run ``python -m engine FOLDER FD``: FD is the pipe's file descriptor, inherited from the parent."""
    if len(arguments) != 2 or not arguments[1].isdigit():
        sys.stderr.write("usage: python -m engine FOLDER FD\n")
        return 2
    with os.fdopen(int(arguments[1]), "wb") as pipe:
        return run(Path(arguments[0]), pipe)
