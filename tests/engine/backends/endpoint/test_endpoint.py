"""What asks servers: whatever they do, every request is settled exactly once, with its own answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engine.backends.contract import STOPPED
from engine.backends.endpoint.answer import answer
from engine.backends.endpoint.bodies import request_body
from engine.backends.endpoint.examine import examine, facts_of
from engine.backends.endpoint.options import EndpointOptions, parse_options
from engine.cost.step import NOMINAL, ModelShape
from engine.errors import RetryableError
from engine.job.format import JobSettings, read_messages, write_job
from engine.plan.policies import make_plan
from engine.runtime.sample.settings import Sampling
from tests.servers.openai_api import FAULTS, MODEL, OpenAIServer, expected, openai_server
from tests.support.models import flatten
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHAPE = ModelShape(1000, 300, 2, 16, 64, 5200)
SAMPLE = [1, 2, 3]


def prompts(count: int) -> list[list[int]]:
    """Prompts of which every five begin alike, each another one."""
    return [[10 + i // 5] * 24 + [100 + i] * (1 + i % 3) for i in range(count)]


def sampled(i: int) -> Sampling:
    return Sampling(max_tokens=1 + i % 9, temperature=0.5 * (i % 2), seed=2**63 + i)


def written(folder: Path, wanted: list[list[int]], servers: list[OpenAIServer], *options: str, **more: Any):
    """A job folder, and the facts of its engine."""
    given = [*(f"url={server.url}" for server in servers), f"model={MODEL}", *options]
    facts = examine(
        parse_options(given, more.pop("max_in_flight", None), more.pop("hours", None)), [], SAMPLE
    )
    tokens, start = flatten(wanted)
    plan = make_plan("blend", tokens, start, np.arange(len(wanted)) % 40 + 1.0, SHAPE, NOMINAL["cpu"])
    requests = [(f"r{i}", 0, sampled(i)) for i in range(len(wanted))]
    settings = JobSettings("/nowhere", engine="endpoint", options=facts.options, device="endpoint")
    write_job(folder, settings, tokens, start, requests, plan, **more)
    for server in servers:
        server.seen.bodies.clear()
        server.seen.answered.clear()
    return facts


def started(folder: Path):
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "engine.backends.endpoint", str(folder), str(writing)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(writing,), cwd=ROOT)
    os.close(writing)
    return process, read_messages(os.fdopen(reading, "rb"))


def outcome(folder: Path, hear: Callable[[list[dict[str, Any]]], None] = lambda _: None):
    """What became of a job that is answered in this process, and its messages; `hear` is told of each."""
    found: list[dict[str, Any]] = []

    def send(message: dict[str, Any]) -> None:
        found.append(json.loads(json.dumps(message)))
        hear(found)

    return answer(folder, send, threading.Event()), found


def items(messages: list[dict[str, Any]], kind: str = "answers") -> dict[str, dict[str, Any]]:
    found = [item for message in messages if message["type"] == kind for item in message["items"]]
    named = {item["request_id"]: item for item in found}
    assert len(named) == len(found), "settled twice"
    return named


def check_answers(
    messages: list[dict[str, Any]], wanted: list[list[int]], but: frozenset[int] = frozenset()
) -> None:
    found = items(messages)
    assert set(found) == {f"r{i}" for i in range(len(wanted)) if i not in but}
    for i, prompt in enumerate(wanted):
        if i not in but:
            asked = sampled(i)
            seed = asked.seed % 2**63
            text, reason = expected(
                prompt, max_tokens=asked.max_tokens, temperature=asked.temperature, seed=seed
            )
            assert (found[f"r{i}"]["text"], found[f"r{i}"]["finish_reason"]) == (text, reason)
            assert found[f"r{i}"]["prompt_tokens"] == len(prompt)
            assert found[f"r{i}"]["completion_tokens"] == text.count(" ") + 1


def test_all_is_answered_and_every_field_sent(tmp_path) -> None:
    wanted = prompts(60)
    with openai_server(seconds=0.01) as server:
        facts = written(tmp_path, wanted, [server])
        ended, messages = outcome(tmp_path)
        assert ended.complete
        check_answers(messages, wanted)
        assert len(server.seen.bodies) == 60
        body = server.seen.bodies[0]
    ready = messages[0]
    assert (ready["engine"], ready["version"]) == ("endpoint", f"vllm 0.32.0 {MODEL}")
    assert (ready["kv_tokens"], ready["device"], ready["device_uuid"]) == (None, None, None)
    assert ready["capabilities"]["seeded"]
    assert not ready["capabilities"]["exact_hits"]
    assert facts.unsupported == ("logprobs", "constraint", "tools")
    for name in (
        *("model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "ignore_eos"),
        *("stop_token_ids", "frequency_penalty", "presence_penalty", "repetition_penalty"),
    ):
        assert name in body
    answers = items(messages)
    assert all(item["cached_tokens"] is None for item in answers.values())
    assert all(len(item["token_ids"]) == item["completion_tokens"] for item in answers.values())
    loads = [message for message in messages if message["type"] == "load"]
    assert sum(load["output_tokens"] for load in loads) == sum(
        a["completion_tokens"] for a in answers.values()
    )
    assert all(load["hit_tokens"] is None for load in loads if load["output_tokens"])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_no_request_and_no_answer(tmp_path, fault: str) -> None:
    """A third of all requests fails in that way, twice in a row."""
    wanted = prompts(45)
    failed: dict[str, int] = {}
    lock = threading.Lock()

    def now_and_then(_: int, body: dict[str, Any]) -> str | None:
        name = str(body["prompt"])
        with lock:
            failed[name] = failed.get(name, 0) + 1
            return fault if failed[name] <= 2 and sum(body["prompt"]) % 3 == 0 else None

    with openai_server() as server:
        written(tmp_path, wanted, [server], "timeout_s=0.5" if fault == "late" else "retries=2")
        server.fault = now_and_then
        ended, messages = outcome(tmp_path)
    assert ended.complete
    check_answers(messages, wanted)
    assert ended.counters["sent"] > 45


def test_a_request_that_no_server_answers_is_told_and_stops_nothing(tmp_path) -> None:
    wanted = prompts(20)
    wanted[4] = [7, 7, 7]

    def poison(_: int, body: dict[str, Any]) -> str | None:
        return "500" if body["prompt"] == wanted[9] else None

    with openai_server(fault=poison) as server:
        written(tmp_path, wanted, [server], "retries=1")
        ended, messages = outcome(tmp_path)
        times = sum(body["prompt"] == wanted[9] for body in server.seen.bodies)
    assert (ended.complete, times) == (True, 2)
    check_answers(messages, wanted, but=frozenset({4, 9}))
    refused = items(messages, "refused")
    assert set(refused) == {"r4", "r9"}
    assert refused["r4"]["message"] == "the server refused it: status 400 (BadRequestError)"
    assert (refused["r4"]["retryable"], refused["r9"]["retryable"]) == (False, True)
    assert "status 500" in refused["r9"]["message"]
    assert "secret" not in str(refused)


def test_a_server_that_dies_and_comes_back_loses_nothing(tmp_path) -> None:
    wanted = prompts(150)
    with openai_server(seconds=0.02) as server:
        written(tmp_path, wanted, [server])
        deaths = [20, 60]

        def kill(found: list[dict[str, Any]]) -> None:
            if deaths and len(items(found)) >= deaths[0]:
                deaths.pop(0)
                server.die()
                threading.Timer(0.3, server.start).start()

        ended, messages = outcome(tmp_path, kill)
    assert (ended.complete, deaths) == (True, [])
    check_answers(messages, wanted)
    assert ended.counters["lost"] > 0


def test_of_two_servers_one_may_be_gone_for_good(tmp_path) -> None:
    wanted = prompts(120)
    with openai_server(seconds=0.01) as one, openai_server(seconds=0.01) as other:
        written(tmp_path, wanted, [one, other])
        other.die()
        ended, messages = outcome(tmp_path)
        assert ended.complete
        assert not other.seen.answered
    check_answers(messages, wanted)


def test_requests_of_one_prefix_go_to_one_server(tmp_path) -> None:
    wanted = prompts(200)
    with openai_server(seconds=0.01) as one, openai_server(seconds=0.01) as other:
        written(tmp_path, wanted, [one, other])
        ended, messages = outcome(tmp_path)
        assert ended.complete
        homes = [{prompt[0] for prompt in server.seen.answered} for server in (one, other)]
        shares = [len(server.seen.answered) for server in (one, other)]
    check_answers(messages, wanted)
    assert min(shares) >= 60
    # The last ones are shared out, so that no server is idle.
    assert len(homes[0] & homes[1]) <= 8


def test_the_share_of_the_fleet_is_kept(tmp_path) -> None:
    wanted = prompts(80)
    with openai_server(seconds=0.01) as one, openai_server(seconds=0.01) as other:
        written(tmp_path, wanted, [one, other], max_in_flight=3)
        ended, messages = outcome(tmp_path)
        assert ended.complete
        assert one.seen.most + other.seen.most <= 4
    check_answers(messages, wanted)
    assert max(m["running"] for m in messages if m["type"] == "load") == 3


def test_a_server_with_a_short_queue_is_given_what_it_bears(tmp_path) -> None:
    wanted = prompts(150)
    with openai_server(seconds=0.02, room=5) as server:
        written(tmp_path, wanted, [server])
        ended, messages = outcome(tmp_path)
    assert ended.complete
    check_answers(messages, wanted)
    # Refusals are few once the limit is found.
    assert ended.counters["refused"] < 75


def test_sigterm_keeps_what_is_answered_and_the_rest_can_be_resumed(tmp_path) -> None:
    wanted = prompts(100)
    with openai_server(seconds=0.1) as server:
        written(tmp_path, wanted, [server], max_in_flight=4)
        process, messages = started(tmp_path)
        found = []
        for message in messages:
            found.append(message)
            if message["type"] == "answers" and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        assert process.wait(10) == STOPPED
        assert found[-1]["type"] == "stopped"
        assert 0 < len(items(found)) < 100
        # What it had answered by then has all come through.
        assert {tuple(prompt) for prompt in server.seen.answered} == {
            tuple(wanted[item["request"]]) for item in items(found).values()
        }


def test_without_any_server_it_ends_in_time_and_can_be_resumed(tmp_path) -> None:
    with openai_server() as server:
        written(tmp_path, prompts(5), [server], "give_up_s=0.5")
    begin = time.monotonic()
    with pytest.raises(RetryableError, match="no server has answered anything for"):
        outcome(tmp_path)
    assert time.monotonic() - begin < 15


def test_a_key_comes_from_the_environment_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with openai_server(key="sk-secret") as server:
        written(tmp_path, prompts(3), [server], "key_env=MY_KEY")
        assert outcome(tmp_path)[0].complete
        assert server.seen.headers["authorization"] == "Bearer sk-secret"
    for path in tmp_path.iterdir():
        assert b"sk-secret" not in path.read_bytes(), path


def test_a_server_without_token_ids_gets_the_request_s_own_text(tmp_path) -> None:
    texts = [{"prompt": "Once upon"}, {"messages": [{"role": "user", "content": "Hi"}]}]
    with openai_server(owned_by="me", ids=False) as server:
        facts = written(tmp_path, prompts(2), [server], prompts=texts)
        assert facts.prompts == "text"
        assert facts.version == f"openai-compatible {MODEL} as text"
        assert set(facts.unsupported) == {
            *("top_k", "seed", "stop_token_ids", "ignore_eos", "logprobs", "logit_bias", "min_p"),
            *("presence_penalty", "frequency_penalty", "repetition_penalty", "min_tokens"),
            *("include_stop_str_in_output", "chat_template_kwargs", "constraint", "tools"),
        }
        ended, messages = outcome(tmp_path)
    assert ended.complete
    found = items(messages)
    assert found["r0"]["text"] == expected("Once upon", max_tokens=1)[0]
    asked = sampled(1)
    seed = asked.seed % 2**63
    assert found["r1"]["text"] == expected(texts[1]["messages"], max_tokens=2, temperature=0.5, seed=seed)[0]
    assert found["r0"]["token_ids"] is None


def test_what_counts_cached_tokens_exactly_tells_them(tmp_path) -> None:
    wanted = prompts(4)
    with openai_server(owned_by="llamacpp", version="b7000") as server:
        facts = written(tmp_path, wanted, [server])
        ended, messages = outcome(tmp_path)
        assert max(body["seed"] for body in server.seen.bodies) < 2**32 - 1
    assert ended.complete
    assert (facts.version, facts.capabilities.exact_hits) == (f"llama.cpp b7000 {MODEL}", True)
    assert [item["cached_tokens"] for _, item in sorted(items(messages).items())] == [
        len(prompt) - 1 for prompt in wanted
    ]


def test_settings_that_change_logits_are_sent_where_they_are_honoured() -> None:
    changed = {"presence_penalty": 0.5, "frequency_penalty": 0.25, "repetition_penalty": 1.5, "min_p": 0.1}
    settings = Sampling(
        8, **changed, min_tokens=2, logit_bias=((5, 1.0), (7, -2.0)), include_stop_str_in_output=True
    )
    chat = {"messages": [], "chat_template_kwargs": {"enable_thinking": False}}
    _, body = request_body(EndpointOptions(("http://x",), kind="vllm", extended=True), settings, chat)
    assert {name: body[name] for name in changed} == changed
    assert (body["min_tokens"], body["logit_bias"]) == (2, {"5": 1.0, "7": -2.0})
    assert body["include_stop_str_in_output"]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    _, plain = request_body(EndpointOptions(("http://x",), kind="vllm", extended=True), Sampling(8), [1])
    assert (plain["repetition_penalty"], plain["min_tokens"], plain["presence_penalty"]) == (1.0, 0, 0.0)
    assert "logit_bias" not in plain
    for kind, unsupported in (("vllm", {"logprobs"}), ("openai-compatible", {*changed, "logit_bias"})):
        assert unsupported <= set(facts_of(EndpointOptions(("http://x",), kind=kind)).unsupported)
