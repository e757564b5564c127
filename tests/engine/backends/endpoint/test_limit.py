"""The limit of a server against simulated servers, in their own time: it comes near the best fixed limit."""

from __future__ import annotations

import heapq
import itertools
import random
from typing import TYPE_CHECKING, NamedTuple

import pytest

from engine.backends.endpoint.limit import FIRST, Limit
from engine.backends.endpoint.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 256
FIXED = (1, 3, 8, 16, 24, 32, 40, 56, 96, 128, 256)


class Simulated(NamedTuple):
    """A server.

    Attributes
    ----------
    rate
        Work that it does in a second with so many requests.
    room
        Most that it holds; others are refused.
    spread
        Of the work of a request, from 1 - spread to 1 + spread.
    """

    rate: Callable[[int], float]
    room: int = 10**9
    spread: float = 0.0


def busy(seats: int) -> Callable[[int], float]:
    """As fast as it has requests, up to its seats; others wait."""
    return lambda held: float(min(held, seats))


def soft(seats: int) -> Callable[[int], float]:
    """Each further request brings less, as on a real device."""
    return lambda held: seats * held / (held + seats / 4)


def thrashing(seats: int) -> Callable[[int], float]:
    """More than it can hold at once makes it do work twice."""
    return lambda held: float(held) if held <= seats else max(seats / 8, seats - 0.5 * (held - seats))


SERVERS = {
    "seats": Simulated(busy(24)),
    "many seats": Simulated(busy(200)),
    "one seat": Simulated(busy(1)),
    "soft": Simulated(soft(64)),
    "thrashing": Simulated(thrashing(40)),
    "no queue": Simulated(busy(30), room=30),
    "no queue at all": Simulated(busy(3), room=3),
    "short queue": Simulated(soft(32), room=100, spread=0.5),
    "uneven": Simulated(busy(50), spread=0.8),
    "uneven, no queue": Simulated(busy(100), room=100, spread=0.8),
}


def throughput(server: Simulated, limit: Limit | None, fixed: int = 0) -> float:
    """Work per second, all requests in flight sharing what the server does equally."""
    draw = random.Random(7)
    now = done = 0.0
    held: list[tuple[float, int]] = []
    sent_at: dict[int, float] = {}
    served = 0.0
    number = answered = 0
    wait = 0.0
    # What is fixed needs no time to be found.
    while answered < (5_000 if limit is None else 20_000):
        room = (limit.value if limit is not None else fixed) - len(held)
        while room > 0 and now >= wait:
            if len(held) >= server.room:
                if limit is None:
                    break
                limit.refused(now, now, len(held) + 1)
                # As a client does: it does not send the next one at once.
                wait = now + 0.05
                break
            work = 1.0 + draw.uniform(-server.spread, server.spread)
            heapq.heappush(held, (served + work, number))
            sent_at[number] = work
            number += 1
            room -= 1
        each = server.rate(len(held)) / len(held)
        ends, first = held[0]
        now += (ends - served) / each
        served = ends
        heapq.heappop(held)
        work = sent_at.pop(first)
        done += work
        answered += 1
        if limit is not None:
            limit.answered(now, work, len(held) + 1)
    return done / now


@pytest.mark.parametrize("name", SERVERS)
def test_it_finds_nine_tenths_of_the_best_fixed_limit(name: str) -> None:
    server = SERVERS[name]
    best = max(throughput(server, None, fixed) for fixed in FIXED)
    found = throughput(server, Limit(MOST))
    assert found >= 0.9 * best, (found, best)


def test_a_server_that_only_queues_is_not_given_everything() -> None:
    limit = Limit(MOST)
    throughput(Simulated(busy(16)), limit)
    assert 16 <= limit.value <= 64


def test_of_many_refusals_at_once_the_first_counts() -> None:
    limit = Limit(MOST, first=100)
    for _ in range(50):
        limit.refused(1.0, 0.5, 100)
    assert 70 <= limit.value <= 99
    limit.refused(2.0, 1.5, 60)
    assert limit.value < 60


def test_it_is_between_one_and_the_most() -> None:
    limit = Limit(5)
    assert limit.value == 5
    for second in range(100):
        limit.refused(second + 1.0, second + 0.5, limit.value)
    assert limit.value == 1
    found = throughput(Simulated(busy(100)), Limit(5))
    assert found == pytest.approx(5.0, rel=0.2)


def test_requests_that_end_together_leave_no_room_unused() -> None:
    """All 16 that a server holds end at once; then the next 16 are sent."""
    server = Server("u", MOST)
    found = []
    for second in range(1, 9):
        server.in_flight = server.limit.value
        server.filled()
        found.append(server.in_flight)
        for _ in range(server.in_flight):
            server.answered(float(second), 1.0)
            server.in_flight -= 1
    assert found[0] == 16
    assert max(found) > 16
    # Where there is no more to be sent, the limit stays what it is.
    server = Server("u", MOST)
    for second in range(1, 60):
        server.in_flight = 8
        server.filled()
        for _ in range(8):
            server.answered(float(second), 1.0)
            server.in_flight -= 1
    assert server.limit.value == 16


def test_a_server_that_is_away_gets_one_request_at_a_time() -> None:
    server = Server("u", MOST)
    server.limit = Limit(MOST, first=50)
    server.in_flight = 50
    for _ in range(50):
        server.lost(10.0, 9.0, unreachable=False)
        server.in_flight -= 1
    assert server.away
    assert server.room(10.0) == 0
    # The fifty went down together: it is tried again soon, and less often with each trial.
    assert server.room(10.5) == 1
    pauses = []
    now = 11.0
    for _ in range(12):
        server.lost(now, now - 0.01, unreachable=True)
        begin = now
        while server.room(now) == 0:
            now += 0.05
        pauses.append(now - begin)
    assert all(later >= earlier - 0.06 for earlier, later in itertools.pairwise(pauses))
    assert pauses[0] < 0.3
    assert 29.9 <= pauses[-1] <= 30.1
    server.answered(now, 1.0)
    assert not server.away
    assert server.room(now) >= 1


def test_one_lost_connection_changes_nothing() -> None:
    server = Server("u", MOST)
    server.lost(1.0, 0.5, unreachable=False)
    assert (server.away, server.room(1.0)) == (False, server.limit.value)


def test_what_a_server_says_of_waiting_is_kept() -> None:
    server = Server("u", MOST)
    server.refused(1.0, 0.5, 20.0)
    assert server.room(20.0) == 0
    assert server.room(21.0) > 0


def test_answers_that_end_together_do_not_hide_what_a_server_bears() -> None:
    limit, now = Limit(512), 0.0
    # It computes all that it is sent, in waves: places are filled when all of a wave have ended.
    for _ in range(40):
        now += 1.0
        wave = limit.value
        for ended in range(wave):
            limit.answered(now + 1e-4 * ended / wave, 10.0, wave - ended)
    assert limit.value == 512


def test_a_round_in_which_mostly_less_was_in_flight_says_nothing() -> None:
    limit, now = Limit(512), 0.0
    for _ in range(2000):
        now += 0.1
        limit.answered(now, 10.0, limit.value - 1)
    assert limit.value == FIRST
