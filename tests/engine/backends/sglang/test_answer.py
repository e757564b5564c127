"""The child of SGLang, with an engine in place of its own: what it is fed, what becomes of each request."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from engine.backends.foreign.order import AHEAD
from engine.backends.sglang import answer as module
from engine.backends.sglang.answer import answer, order_of
from engine.cost.step import NOMINAL, ModelShape
from engine.errors import RetryableError
from engine.job.format import JobSettings, write_job
from engine.models.config import load_config
from engine.plan.policies import make_plan
from engine.runtime.sample.settings import Sampling
from engine.runtime.settings import EngineSettings
from tests.support.models import flatten
from tests.support.paths import DEMO_MODEL

SHAPE = ModelShape.of(load_config(DEMO_MODEL))
COUNT, WIDTH = 120, 4


class Engine:
    """An engine that answers with the first token of the prompt, and does `special` for some requests."""

    def __init__(self, special=None) -> None:
        self.loop = asyncio.new_event_loop()
        self.tokenizer_manager = SimpleNamespace(tokenizer=None)
        self.special = special or {}
        self.asked: list[int] = []
        self.most = self.now = 0
        self.shut = False

    async def async_generate(self, **fields) -> dict:
        request = int(fields["rid"])
        self.asked.append(request)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        reason = "length"
        if request in self.special:
            reason = await self.special[request]()
        ids = [fields["input_ids"][0]]
        told = {"finish_reason": {"type": reason}, "cached_tokens": 3, "num_retractions": 1}
        if fields.get("return_logprob"):
            told["output_token_logprobs"] = [(-0.5, ids[0], None)]
        return {"text": "t", "output_ids": ids, "meta_info": told}

    def shutdown(self) -> None:
        self.shut = True


@pytest.fixture(name="answered")
def _answered(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs the child on a job and returns its end and its messages."""
    rng = np.random.default_rng(3)
    prompts = [rng.integers(4, 97, 9).tolist() for _ in range(COUNT)]
    tokens, offsets = flatten(prompts)
    plan = make_plan("fcfs", tokens, offsets, np.full(COUNT, 4.0), SHAPE, NOMINAL["a100"], seed=5)
    # Every seventh wants log probabilities.
    named = [(f"r{i}", 0, Sampling(4, logprobs=None if i % 7 else 0)) for i in range(COUNT)]
    options = {"scheduling": "auto", "pacing": True, "arguments": {}, "version": "sglang 1"}
    settings = JobSettings(
        model=str(DEMO_MODEL),
        engine="sglang",
        options=options,
        dtype="float32",
        device="cpu",
        max_sequences=WIDTH,
    )
    write_job(tmp_path, settings, tokens, offsets, named, plan)
    monkeypatch.setattr(module, "TokenText", lambda _: lambda token: str(token).encode())
    before = signal.getsignal(signal.SIGQUIT)

    def run(engine: Engine, stop: threading.Event | None = None):
        sizes = EngineSettings(4096, 16, 64, WIDTH, pacing=True)
        limits = np.full(COUNT, 4, np.int32)
        loaded = SimpleNamespace(
            engine=engine, max_new=limits, settings=sizes, shape=SHAPE, model_stops=(2,), vocab_size=97
        )
        monkeypatch.setattr(module, "load", lambda *_: loaded)
        messages: list[dict] = []
        try:
            return answer(tmp_path, messages.append, stop or threading.Event()), messages
        except RetryableError as error:
            return error, messages

    yield run
    signal.signal(signal.SIGQUIT, before)


def ids_of(messages: list[dict], kind: str) -> list[str]:
    return [
        item["request_id"] for message in messages if message["type"] == kind for item in message["items"]
    ]


def test_every_request_is_answered_once_in_order_and_those_with_log_probabilities_last(answered) -> None:
    engine = Engine()
    ended, messages = answered(engine)
    assert ended.complete
    assert ended.counters == {"finished": COUNT, "preemptions": COUNT, "hit_tokens": 3 * COUNT}
    assert sorted(ids_of(messages, "answers")) == sorted(f"r{i}" for i in range(COUNT))
    last = [i for i in range(COUNT) if i % 7 == 0]
    assert engine.asked == [i for i in range(COUNT) if i % 7] + last
    # It holds more than it computes, and not all.
    assert WIDTH < engine.most <= WIDTH + AHEAD
    assert engine.shut
    assert messages[0]["type"] == "ready"
    assert (messages[0]["engine"], messages[0]["version"]) == ("sglang", "sglang 1")
    loads = [message for message in messages if message["type"] == "load"]
    assert sum(message["output_tokens"] for message in loads) == COUNT
    assert sum(message["prompt_tokens"] for message in loads) == 9 * COUNT
    assert max(message["running"] for message in loads) <= WIDTH


def test_an_abort_and_a_refusal_are_error_rows_and_no_answers(answered) -> None:
    async def aborted() -> str:
        return "abort"

    async def refused() -> str:
        raise ValueError("a prompt may be in this text")

    ended, messages = answered(Engine({5: aborted, 6: refused}))
    assert ended.complete
    rows = {
        item["request_id"]: item
        for message in messages
        if message["type"] == "refused"
        for item in message["items"]
    }
    assert (rows["r5"]["message"], rows["r5"]["retryable"]) == ("SGLang ended it with abort", True)
    assert (rows["r6"]["message"], rows["r6"]["retryable"]) == ("SGLang refused it", False)
    assert len(ids_of(messages, "answers")) == COUNT - 2


def test_what_is_answered_is_sent_where_it_is_asked_to_stop(answered) -> None:
    stop = threading.Event()

    async def stopping() -> str:
        stop.set()
        await asyncio.sleep(60)
        return "stop"

    ended, messages = answered(Engine({30: stopping}), stop)
    assert not ended.complete
    sent = ids_of(messages, "answers")
    assert len(set(sent)) == len(sent) == ended.counters["finished"] > 0
    assert "r30" not in sent


def test_a_scheduler_that_fails_ends_it_after_what_was_answered(answered) -> None:
    async def failing() -> str:
        # As SGLang's scheduler tells its parent.
        os.kill(os.getpid(), signal.SIGQUIT)
        await asyncio.sleep(60)
        return "stop"

    error, messages = answered(Engine({30: failing}))
    assert str(error) == "SGLang's scheduler has failed"
    assert len(ids_of(messages, "answers")) > 0
    assert "r30" not in ids_of(messages, "answers")


def test_an_unknown_failure_ends_it(answered) -> None:
    async def broken() -> str:
        raise KeyError("x")

    with pytest.raises(KeyError):
        answered(Engine({30: broken}))


def test_the_order_is_kept_within_both_segments() -> None:
    sampling = [Sampling(1, logprobs=0 if i % 2 else None) for i in range(6)]
    assert order_of([5, 4, 1, 0, 3, 2], sampling) == [4, 0, 2, 5, 1, 3]
