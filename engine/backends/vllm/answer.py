"""vLLM answering a job in this process: before every step we decide, then it computes.

Each finished answer is sent at the end of its step, so whatever ends this process loses none.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from engine.backends.contract import Ended
from engine.backends.foreign.answers import REASONS
from engine.backends.foreign.order import is_paced, needs_our_steps, simulated_order
from engine.backends.foreign.reading import AnswerReader
from engine.backends.outbox import messages_of, refusal_item
from engine.backends.vllm.examine import facts_of
from engine.backends.vllm.feed import OurFeed, PlainFeed
from engine.backends.vllm.items import answer_item, sampling_fields
from engine.backends.vllm.load import load
from engine.backends.vllm.options import VllmOptions
from engine.cost.devices import device_uuid, find_device, nominal_profile
from engine.cost.metrics import StepSample, step_metrics
from engine.cost.step import measure_cpu, step_cost
from engine.job.format import Job, read_job, write_plan_file
from engine.job.running import RunningFile
from engine.runtime.sample.token_text import TokenText
from engine.runtime.schedule.revision import Reviser

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from engine.backends.contract import Send
    from engine.backends.vllm.feed import Feed
    from engine.backends.vllm.load import Loaded


def answer(folder: Path, send: Send, stop: threading.Event) -> Ended:
    """Answer the requests of a job; see `engine.backends.contract.Answer`."""
    job = read_job(folder)
    begin = time.perf_counter()
    options = VllmOptions.of_job(job.settings.options)
    # First of all: so an engine that dies while it loads is known to have computed nothing.
    running = RunningFile(folder, job.settings.max_sequences)
    place = find_device(job.settings.device)
    loaded = load(job, options, place)
    planned = job.profile or nominal_profile(place)
    device = job.profile or (measure_cpu() if place == "cpu" else planned)
    reviser = None
    if job.replanning is not None:
        reviser = Reviser(job.replanning, job.plan, loaded.shape, planned)
    paced, how = is_paced(job, options), options.scheduling
    if how == "auto":
        how = "ours" if needs_our_steps(job) else "plan"
    if how == "ours" and not loaded.hooked:
        how = "simulated"
    cost = step_cost(loaded.shape, planned)
    feed: Feed
    if how == "ours":
        feed = OurFeed(job, loaded, cost, reviser, paced=paced)
    elif how == "simulated":
        order = simulated_order(job, loaded.max_new, loaded.settings, cost, paced=paced)
        feed = PlainFeed(loaded, order)
    else:
        feed = PlainFeed(loaded, job.plan.order.tolist())
    session = _Session(job, options, loaded, feed, send)
    ready = {
        "kv_tokens": loaded.kv_tokens,
        "device": asdict(device),
        "load_seconds": time.perf_counter() - begin,
    }
    send({"type": "ready", **facts_of(options).told(), **ready, "device_uuid": device_uuid(place)})
    # Of the profile of the device at hand, unlike the plan's: what its work should have taken here.
    here, replans = step_cost(loaded.shape, device), 0
    while session.unfinished and not stop.is_set():
        sample = session.step(running)
        if sample is not None:
            figures = step_metrics(sample, loaded.shape, here, loaded.kv_tokens // loaded.block_size)
            send({"type": "step", **asdict(sample), **figures})
        if how == "ours" and reviser is not None and reviser.replans > replans:
            replans = reviser.replans
            write_plan_file(folder / f"plan-{replans}.npz", reviser.plan)
            send({"type": "plan", "file": f"plan-{replans}.npz"})
    return Ended(not session.unfinished, session.counters | {"replans": replans})


class _Session:
    """One job in vLLM.

    Attributes
    ----------
    counters
        Of the whole job; figures that vLLM did not give are left out.
    """

    def __init__(self, job: Job, options: VllmOptions, loaded: Loaded, feed: Feed, send: Send) -> None:
        self._job, self._loaded, self._feed, self._send = job, loaded, feed, send
        self._seeded = not options.on_cpu
        tokenizer = loaded.engine.get_tokenizer()
        self._text_of, self._end = TokenText(tokenizer), tokenizer.eos_token_id
        self._reader = AnswerReader(job.sampling, tokenizer, loaded.vocab_size, loaded.model_stops)
        self._began: dict[int, float] = {}
        self.unfinished = len(job.request_ids)
        names = ("prefill_tokens", "decode_tokens", "hit_tokens", "recomputed_tokens", "evicted_pages")
        self.counters = dict.fromkeys(("steps", "finished", "preemptions", "peak_running", *names), 0)

    def step(self, running: RunningFile) -> StepSample | None:
        """Let vLLM compute one step, and send what it has finished; return its figures if it tells them."""
        engine, scheduler = self._loaded.engine, self._loaded.scheduler
        started_at, begin = time.time(), time.perf_counter()
        refused = [request for request in self._feed.before_step() if not self._add(request)]
        running.write(self._feed.running())
        outputs = engine.step()
        now = time.time()
        finished = [(int(one.request_id), one) for one in outputs if one.finished]
        figures = scheduler.figures if self._loaded.hooked else None
        for request in figures.first if figures is not None else ():
            self._began.setdefault(request, started_at)
        items = [self._item(request, output, now) for request, output in finished]
        items += [self._refusal(request, "vLLM refused it", retryable=False) for request in refused]
        ended = [(i, one.outputs[0].finish_reason == "stop") for i, one in finished]
        self._feed.after_step(ended + [(request, True) for request in refused], figures)
        self._tell(items)
        if figures is None:
            return None
        self.counters["steps"] += 1
        values = asdict(figures)
        for name in ("put_back", "first"):
            del values[name]
        for name in self.counters.keys() & values.keys():
            self.counters[name] += values[name]
        self.counters["peak_running"] = max(self.counters["peak_running"], figures.running)
        seconds = time.perf_counter() - begin
        return StepSample(
            step=self.counters["steps"], started_at=started_at, seconds=seconds, nano_batches=1, **values
        )

    def _add(self, request: int) -> bool:
        """Give a request to vLLM; return whether it takes it."""
        job = self._job
        fields = sampling_fields(
            job.sampling[request], self._loaded.model_stops, seeded=self._seeded, end=self._end
        )
        tokens = job.tokens[job.offsets[request] : job.offsets[request + 1]].tolist()
        try:
            self._loaded.add(str(request), tokens, fields, job.sampling[request].adapter)
        except ValueError:
            # What it says may hold text of the request.
            return False
        return True

    def _item(self, request: int, output: Any, now: float) -> dict[str, Any]:  # noqa: ANN401 - vLLM's
        """Return an answer as it is sent, or the refusal that takes its place."""
        found, times = output.outputs[0], (self._began.pop(request, now), now)
        if found.finish_reason not in REASONS:
            return self._refusal(request, f"vLLM ended it with {found.finish_reason}", retryable=True)
        answered = self._reader.read(request, found.token_ids, found.text, found.finish_reason)
        if isinstance(answered, str):
            return self._refusal(request, answered, retryable=True)
        cached = output.num_cached_tokens
        return answer_item(self._job, request, found, cached, times, self._text_of, answered)

    def _refusal(self, request: int, why: str, *, retryable: bool) -> dict[str, Any]:
        names = self._job.request_ids[request], self._job.choices[request]
        return refusal_item(*names, why, retryable=retryable)

    def _tell(self, items: list[dict[str, Any]]) -> None:
        self.unfinished -= len(items)
        answers = [item for item in items if "token_ids" in item]
        refusals = [item for item in items if "token_ids" not in item]
        self.counters["finished"] += len(answers)
        for message in messages_of(answers, refusals):
            self._send(message)
