"""Nights at a real server that fails in every way on the way, and dies and comes back."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from tests.servers.faulty_http import FAULTS, FaultyProxy, faulty_proxy
from tests.support.demo_nights import answer, batch_line, night_request, opened, outputs_of, write_lines

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 48
TIMEOUT_S = 15.0


class RealServer(Protocol):
    """A server that can be killed, and started again where it was."""

    address: str
    """Without a path."""

    def kill(self) -> None: ...

    def start(self) -> None: ...


def lines() -> list[str]:
    """Return requests whose prompts are all different."""
    found = [batch_line(f"r{i}", f"Count from {i} to {i + 9}.", max_tokens=24) for i in range(COUNT)]
    found.append(batch_line("stop", "Count from 3 to 14.", max_tokens=24, stop=[" 7"]))
    return found


def fault_of(number: int) -> str | None:
    """Every third request fails, each time in another way."""
    return FAULTS[number // 3 % len(FAULTS)] if number % 3 == 1 else None


def faulty_night(root: Path, server: RealServer, *options: str) -> dict[str, str]:
    """Answer `lines` at a server behind a proxy with faults, which is killed on the way; check what happened.

    Returns
    -------
    dict
        custom_id -> text.
    """
    write_lines(root / "logs", "a.jsonl", lines())
    killed: list[threading.Thread] = []

    def kill_once(seen) -> None:
        if seen.answered >= COUNT // 4 and not killed:
            server.kill()
            killed.append(threading.Thread(target=server.start))
            killed[0].start()

    with faulty_proxy(server.address.removeprefix("http://"), fault_of, TIMEOUT_S + 5.0) as proxy:
        given = (f"url={proxy.url}", f"timeout_s={TIMEOUT_S}", "retries=20", *options)
        # Few at a time: it is killed in the midst of it.
        more = {"engine": "endpoint", "device": "endpoint", "engine_options": given, "max_in_flight": 6}
        with opened(night_request(root, **more, part_answers=1), root / "scratch") as night:
            results = answer(night, kill_once)
            found = outputs_of(night)
            assert night.read_table("errors").num_rows == 0
        killed[0].join()
        _check(proxy)
    assert results["engine_starts"] == 1
    return found


def _check(proxy: FaultyProxy) -> None:
    """Check that all faults were, and that nobody was answered twice."""
    assert set(proxy.injected) == set(FAULTS)
    # A look at the server asks for one token.
    asked = [str(body["prompt"]) for body in proxy.delivered if body["max_tokens"] > 1]
    assert sorted(Counter(asked).values()) == [1] * (COUNT + 1)
    assert proxy.count > COUNT + 1
