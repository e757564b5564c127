"""A server's queue is watched through its metrics, where it has any, and kept short."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import pytest

from engine.backends.endpoint import queue
from engine.backends.endpoint.answer import answer
from engine.backends.endpoint.kinds import KINDS
from engine.backends.endpoint.queue import waiting_in, watch
from engine.backends.endpoint.server import Server
from tests.engine.backends.endpoint.test_endpoint import items, prompts, written
from tests.servers.openai_api import openai_server

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """
# HELP vllm:num_requests_waiting Number of requests waiting.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 7.0
vllm:num_requests_waiting{engine="1",model_name="m"} 5.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 90.0
llamacpp:requests_deferred 4
"""


def test_a_queue_is_read_over_all_labels_and_by_its_whole_name() -> None:
    assert waiting_in(TEXT, "vllm:num_requests_waiting") == 12
    assert waiting_in(TEXT, "llamacpp:requests_deferred") == 4
    assert waiting_in(TEXT, "vllm:num_requests_running") is None


@pytest.mark.parametrize(
    ("in_flight", "waiting", "most"),
    [
        # All of its own: as many as it computes, and an eighth of them, at least two, to follow.
        (100, 84, 18),
        (100, 20, 90),
        # A queue of what comes next is as it should be: there is no burst until the next look.
        (100, 11, 111),
        (100, 1, 112),
        # It may compute more than it has.
        (100, 0, 200),
        (300, 0, 400),
        (3, 0, 6),
        # Nothing is known.
        (0, 0, None),
        (100, None, None),
        # Others have filled it: a few of ours stand in line.
        (10, 500, 2),
    ],
)
def test_a_server_gets_what_it_computes_and_what_comes_next(
    in_flight: int, waiting: int | None, most: int | None
) -> None:
    server = Server("http://a/v1", 512)
    server.limit._limit = 400.0
    server.in_flight = in_flight
    server.queued(waiting)
    assert server.room(0.0) == (400 if most is None else most) - in_flight
    server.queued(None)
    assert server.room(0.0) == 400 - in_flight


def test_it_is_not_asked_again_where_there_are_no_metrics() -> None:
    async def run(url: str, over) -> None:
        async with httpx.AsyncClient() as client:
            await asyncio.wait_for(watch(client, Server(url, 8), KINDS["vllm"], over), 5)

    with openai_server() as server:
        asyncio.run(run(server.url, lambda: False))
    # A server that is away is asked until the end.
    asked = iter([False, True])
    asyncio.run(run("http://127.0.0.1:9/v1", lambda: next(asked)))
    asyncio.run(run("http://a/v1", lambda: True))


@pytest.mark.parametrize("owned_by", ["vllm", "llamacpp"])
def test_a_night_keeps_the_queue_of_a_server_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owned_by: str
) -> None:
    monkeypatch.setattr(queue, "LOOK_S", 0.05)
    wanted = prompts(120)
    found = {}
    for told in (True, False):
        folder = tmp_path / str(told)
        folder.mkdir()
        with openai_server(seconds=0.1, seats=4, owned_by=owned_by) as server:
            written(folder, wanted, [server])
            if not told:
                # A server like any other: it takes everything and lets it wait.
                for name in ("vllm", "llama.cpp"):
                    monkeypatch.setitem(KINDS, name, replace(KINDS[name], waiting=""))
            server.seen.most = 0
            messages: list[dict] = []
            ended = answer(folder, messages.append, threading.Event())
            found[told] = server.seen.most, server.seen.idle
            assert ended.complete
            assert len(items(messages)) == len(wanted)
            assert (server.seen.looks > 3) is told
    # 16 are what it begins with.
    assert found[True][0] <= 20 < found[False][0]
    # Little is lost by that: a seat that becomes free mostly has somebody waiting for it.
    assert found[True][1] < found[False][1] + 0.3 * len(wanted)
