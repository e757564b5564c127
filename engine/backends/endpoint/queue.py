"""How many requests wait at a server, where it tells: what waits there is in the way of others.

Servers of some kinds tell Prometheus how long their queue is. A night sends no more to one than it computes,
and a few that are next: so what others send to the same server has a chance, and requests stay in our order
until they are needed.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.backends.endpoint.kinds import Kind
    from engine.backends.endpoint.server import Server

LOOK_S: Final = 1.0
"""Between two looks at a server."""
ANSWER_S: Final = 5.0
_VALUE: Final = r"^{}(?:\{{[^}}\n]*\}})? +([0-9.eE+]+)"


def waiting_in(text: str, name: str) -> int | None:
    """Return how many requests wait, by the metric of that name, summed over its labels; None without it."""
    found = re.findall(_VALUE.format(re.escape(name)), text, re.MULTILINE)
    return round(sum(map(float, found))) if found else None


async def watch(client: httpx.AsyncClient, server: Server, kind: Kind, over: Callable[[], bool]) -> None:
    """Tell a server, again and again, how long its queue is; end where it does not say, or at the end.

    Parameters
    ----------
    over
        Tells whether it is no longer wanted.
    """
    address = f"{server.url.removesuffix('/v1')}/metrics"
    while kind.waiting and not over():
        try:
            response = await client.get(address, timeout=ANSWER_S)
        except httpx.RequestError:
            # Whether it is there is found out by requests.
            server.queued(None)
        else:
            waiting = waiting_in(response.text, kind.waiting) if response.status_code == 200 else None
            server.queued(waiting)
            if waiting is None and response.status_code < 500:
                return
        await asyncio.sleep(LOOK_S)
