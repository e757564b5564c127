"""SGLang answering a job: it schedules in processes of its own, and is fed in our order.

Each answer is sent as it comes, so whatever ends this process loses none that has arrived.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from engine.backends.contract import Ended
from engine.backends.foreign.order import Window, is_paced, needs_our_steps, simulated_order
from engine.backends.foreign.reading import AnswerReader
from engine.backends.outbox import Outbox, refusal_item
from engine.backends.sglang.examine import facts_of
from engine.backends.sglang.items import answer_item, request_fields
from engine.backends.sglang.load import load
from engine.backends.sglang.options import SglangOptions
from engine.cost.devices import device_uuid, find_device, nominal_profile
from engine.cost.step import measure_cpu, step_cost
from engine.errors import RetryableError
from engine.job.format import read_job
from engine.job.running import RunningFile
from engine.runtime.sample.token_text import TokenText

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.backends.contract import Send
    from engine.backends.sglang.load import Loaded
    from engine.job.format import Job
    from engine.runtime.sample.settings import Sampling

LOOK_S: Final = 0.1
"""Between two looks whether to stop, and whether SGLang is still there."""
LAST_WORDS_S: Final = 8.0
"""So long what has been answered may take to be sent, where SGLang has failed."""


def answer(folder: Path, send: Send, stop: threading.Event) -> Ended:
    """Answer the requests of a job; see `engine.backends.contract.Answer`.

    In the main thread SGLang would take the signals for itself, so it does not get that one.
    """
    died, silent = threading.Event(), threading.Event()
    # What SGLang's scheduler sends to its parent when it fails.
    signal.signal(signal.SIGQUIT, lambda *_: died.set())
    found: list[Ended | BaseException] = []

    def run() -> None:
        try:
            found.append(_answer(folder, send, stop, silent))
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK_S)
        if died.is_set():
            # What has arrived is sent before that is told, and nothing beside it.
            stop.set()
            silent.wait(LAST_WORDS_S)
            raise RetryableError("SGLang's scheduler has failed")
    (ended,) = found
    if isinstance(ended, BaseException):
        raise ended
    return ended


def order_of(policy_order: Sequence[int], sampling: Sequence[Sampling]) -> list[int]:
    """Return an order in which requests that want log probabilities come last.

    A step with one of them is never mixed.
    """
    return sorted(policy_order, key=lambda request: sampling[request].logprobs is not None)


def _answer(folder: Path, send: Send, stop: threading.Event, silent: threading.Event) -> Ended:
    """Answer a job in this thread; `silent` is set when nothing more is sent."""
    job = read_job(folder)
    begin = time.perf_counter()
    options = SglangOptions.of_job(job.settings.options)
    # First of all: so an engine that dies while it loads is known to have computed nothing.
    running = RunningFile(folder, job.settings.max_sequences)
    place = find_device(job.settings.device)
    loaded = load(job, options, place)
    planned = job.profile or nominal_profile(place)
    device = job.profile or (measure_cpu() if place == "cpu" else planned)
    how = options.scheduling
    if how == "auto":
        how = "simulated" if needs_our_steps(job) else "plan"
    order = job.plan.order.tolist()
    if how == "simulated":
        cost = step_cost(loaded.shape, planned)
        order = simulated_order(job, loaded.max_new, loaded.settings, cost, paced=is_paced(job, options))
    asking = _Asking(job, loaded, order_of(order, job.sampling), send, stop)
    ready = {
        "kv_tokens": loaded.settings.kv_tokens,
        "device": asdict(device),
        "load_seconds": time.perf_counter() - begin,
    }
    send({"type": "ready", **facts_of(options).told(), **ready, "device_uuid": device_uuid(place)})
    # The loop that SGLang's own tasks run in.
    try:
        complete = loaded.engine.loop.run_until_complete(asking.run(running))
    finally:
        silent.set()
    loaded.engine.shutdown()
    return Ended(complete, asking.counters)


class _Asking:
    """One job in SGLang.

    Attributes
    ----------
    counters
        Of the whole job.
    """

    def __init__(
        self, job: Job, loaded: Loaded, order: Sequence[int], send: Send, stop: threading.Event
    ) -> None:
        self._job, self._loaded, self._stop = job, loaded, stop
        self._most = loaded.settings.max_sequences
        self._window = Window(order, self._most)
        tokenizer = loaded.engine.tokenizer_manager.tokenizer
        self._text_of = TokenText(tokenizer)
        self._reader = AnswerReader(job.sampling, tokenizer, loaded.vocab_size, loaded.model_stops)
        self._outbox = Outbox(send)
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self.unfinished = len(job.request_ids)
        self.counters = dict.fromkeys(("finished", "preemptions", "hit_tokens"), 0)

    async def run(self, running: RunningFile) -> bool:
        """Return whether all requests are settled; False if it was asked to stop."""
        try:
            while self.unfinished and not self._stop.is_set():
                for request in self._window.new():
                    task = asyncio.create_task(self._ask(request))
                    self._tasks.add(task)
                    task.add_done_callback(self._ended)
                running.write(self._window.running())
                await self._change()
                await self._flush()
                if self._failure is not None:
                    raise self._failure
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            # Also where the rest cannot be computed.
            await self._flush()
        return not self.unfinished

    async def _change(self) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()

    async def _flush(self) -> None:
        count = min(len(self._tasks), self._most)
        self._outbox.note_running(count)
        await self._outbox.flush(count)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or task.exception()
        self._changed.set()

    async def _ask(self, request: int) -> None:
        """Have a request computed, and settle it."""
        fields = request_fields(self._job, request, self._loaded.model_stops, str(request))
        started = time.time()
        found: dict[str, Any] | str
        retryable = True
        try:
            output = await self._loaded.engine.async_generate(**fields)
        except ValueError:
            # What it says may hold text of the request.
            found, retryable = "SGLang refused it", False
        else:
            self.counters["preemptions"] += output["meta_info"].get("num_retractions") or 0
            times = started, time.time()
            found = answer_item(self._job, request, output, times, self._text_of, self._reader)
        self.unfinished -= 1
        self._window.ended([request])
        if isinstance(found, str):
            name, choice = self._job.request_ids[request], self._job.choices[request]
            self._outbox.add_refusal(refusal_item(name, choice, found, retryable=retryable))
            return
        cached = found["cached_tokens"]
        self.counters["finished"] += 1
        self.counters["hit_tokens"] += cached or 0
        prompt = int(self._job.offsets[request + 1] - self._job.offsets[request])
        self._outbox.add_answer(found, prompt, cached, len(found["token_ids"]))
