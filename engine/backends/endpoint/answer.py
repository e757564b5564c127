"""Servers answering a job: requests go out as the feed says, as many as the servers bear.

Whatever becomes of a request is one of three: an answer, a refusal of the request (an error row), or it is
sent again.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import httpx

from engine.backends.contract import Ended
from engine.backends.endpoint.bodies import NoReply, Reply, answer_item, reply_in, request_body
from engine.backends.endpoint.examine import CONNECT_S, facts_of
from engine.backends.endpoint.feed import Feed, prefix_groups
from engine.backends.endpoint.hours import Hours
from engine.backends.endpoint.kinds import KINDS, OTHER
from engine.backends.endpoint.options import MOST_IN_FLIGHT, EndpointOptions
from engine.backends.endpoint.queue import watch
from engine.backends.endpoint.server import Server
from engine.backends.images import with_images
from engine.backends.outbox import Outbox, refusal_item
from engine.errors import RetryableError
from engine.job.format import Job, read_job

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from engine.backends.contract import Send

KEEP_ALIVE_S: Final = 4.0
"""An idle connection is used again for so long; the servers known close theirs after 5 s."""
LOOK_S: Final = 0.1
"""Between two looks whether to stop."""
DRAIN_S: Final = 3.0
"""What is in flight when the night is asked to stop may still end in this time."""
MOST_WAITING: Final = 512
"""Nothing is sent while so many answers wait to be taken."""


def answer(folder: Path, send: Send, stop: threading.Event) -> Ended:
    """Have the servers answer the requests of a job; see `engine.backends.contract.Answer`."""
    begin = time.perf_counter()
    job = read_job(folder)
    options = EndpointOptions.of_job(job.settings.options)
    asking = _Asking(job, folder, options, send, stop)
    seconds = time.perf_counter() - begin
    nothing = {"kv_tokens": None, "device": None, "device_uuid": None}
    send({"type": "ready", **facts_of(options).told(), **nothing, "load_seconds": seconds})
    complete = asyncio.run(asking.run())
    return Ended(complete, asking.counters)


class _Asking:
    """One job at the servers.

    Attributes
    ----------
    counters
        Requests sent again, by what had become of them.
    """

    def __init__(
        self, job: Job, folder: Path, options: EndpointOptions, send: Send, stop: threading.Event
    ) -> None:
        self._job, self._folder, self._options, self._stop = job, folder, options, stop
        count = len(options.urls)
        self._most = options.max_in_flight or MOST_IN_FLIGHT * count
        self._servers = [Server(url, min(self._most, MOST_IN_FLIGHT)) for url in options.urls]
        self._feed = Feed(job, prefix_groups(job, count), count)
        self._attempts: dict[int, int] = {}
        self._hours = Hours.parse(options.hours, options.timezone) if options.hours else None
        self._outbox = Outbox(send)
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._progress = time.monotonic()
        self._next_server = 0
        self._over = False
        self.counters = dict.fromkeys(("sent", "refused", "failed", "lost"), 0)

    async def run(self) -> bool:
        """Return whether all requests are settled; False if it was asked to stop."""
        client = httpx.AsyncClient(
            headers=self._options.headers(),
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE_S
            ),
        )
        async with client:
            report = asyncio.create_task(self._report())
            report.add_done_callback(self._ended)
            kind = KINDS[self._options.kind or OTHER]
            watched = [
                asyncio.create_task(watch(client, server, kind, lambda: self._over))
                for server in self._servers
            ]
            for one in watched:
                one.add_done_callback(self._ended)
            try:
                while self._feed.unsettled and not self._stop.is_set():
                    if self._may_send():
                        self._fill(client)
                    for server in self._servers:
                        server.filled()
                    await self._change(LOOK_S)
                    self._check()
                end = time.monotonic() + DRAIN_S
                while self._tasks and self._feed.unsettled and time.monotonic() < end:
                    await self._change(LOOK_S)
            finally:
                for task in (*self._tasks, *watched):
                    task.cancel()
                await asyncio.gather(*self._tasks, *watched, return_exceptions=True)
                # Not cancelled: half a message would be the end of all. It sends what is answered, also where
                # the rest cannot be.
                self._over = True
                await report
        if self._failure is not None:
            raise self._failure
        return not self._feed.unsettled

    async def _change(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()

    async def _report(self) -> None:
        while not self._over:
            await asyncio.sleep(LOOK_S)
            await self._outbox.flush(len(self._tasks))
            self._changed.set()
        await self._outbox.flush(0)

    def _may_send(self) -> bool:
        """Tell whether these are hours in which the servers may be used; what is in flight then ends."""
        now = time.time()
        if self._hours is None or self._hours.are_now(now):
            self._outbox.waits_until = None
            return True
        self._outbox.waits_until = self._hours.begin_next(now)
        # Nobody is silent who is not asked.
        self._progress = time.monotonic()
        return False

    def _fill(self, client: httpx.AsyncClient) -> None:
        """Send requests, in turn to the servers, as long as there is room and anything to send."""
        now = time.monotonic()
        idle = 0
        while idle < len(self._servers):
            if len(self._tasks) >= self._most or self._outbox.waiting >= MOST_WAITING:
                return
            number = self._next_server
            self._next_server = (number + 1) % len(self._servers)
            server = self._servers[number]
            request = None
            if server.room(now) > 0:
                request = self._feed.take(number, server.in_flight, lambda i: not self._servers[i].away)
            if request is None:
                idle += 1
                continue
            idle = 0
            server.in_flight += 1
            task = asyncio.create_task(self._ask(client, server, request))
            self._tasks.add(task)
            self._outbox.note_running(len(self._tasks))
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or task.exception()
        self._changed.set()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        silent = time.monotonic() - self._progress
        if silent <= self._options.give_up_s:
            return
        if not self._tasks or all(server.away for server in self._servers):
            raise RetryableError(f"no server has answered anything for {silent:.0f} s")

    async def _ask(self, client: httpx.AsyncClient, server: Server, request: int) -> None:
        """Send a request once, and settle it or give it back."""
        self.counters["sent"] += 1
        job, sent, started = self._job, time.monotonic(), time.time()
        given = job.given_prompt(request)
        prompt: list[int] | dict[str, Any]
        if given is None:
            prompt = job.tokens[job.offsets[request] : job.offsets[request + 1]].tolist()
        else:
            # Read when it is sent: no more pictures are in memory than are in flight.
            prompt = with_images(given, self._folder)
        path, body = request_body(self._options, job.sampling[request], prompt)
        found: Reply | NoReply
        lost = unreachable = slow = False
        try:
            async with asyncio.timeout(self._options.timeout_s):
                response = await client.post(server.url + path, json=body)
            found = reply_in(response)
        except TimeoutError:
            found, slow = NoReply("failed", f"no answer in {self._options.timeout_s:g} s"), True
        except httpx.RequestError as error:
            unreachable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            found, lost = NoReply("failed", f"the connection was lost ({type(error).__name__})"), True
        now = time.monotonic()
        if isinstance(found, Reply):
            server.answered(now, found.prompt_tokens + found.completion_tokens)
            self._settle(request)
            item = answer_item(job, request, found, (started, time.time()))
            self._outbox.add_answer(item, found.prompt_tokens, found.cached_tokens, found.completion_tokens)
        elif found.fate == "bad_request":
            server.answered(now, 0.0)
            self._refuse(request, found, f"the server refused it: {found.said}", retryable=False)
        else:
            self._not_now(server, request, found, sent, lost=lost, unreachable=unreachable, slow=slow)
        server.in_flight -= 1

    def _not_now(
        self,
        server: Server,
        request: int,
        found: NoReply,
        sent: float,
        *,
        lost: bool,
        unreachable: bool,
        slow: bool,
    ) -> None:
        """Take in that a request was not answered this time: it is sent again, or given up."""
        now = time.monotonic()
        counts = True
        if found.fate == "refused":
            # One that is refused when there is nothing beside it may be too large for the server's queue.
            counts = server.in_flight == 1 and found.wait_s is None
            server.refused(now, sent, found.wait_s)
        elif lost or found.fate == "unusable":
            # One that has never arrived is not to blame; nor is it for a model or a key.
            counts = not unreachable and found.fate != "unusable"
            server.lost(now, sent, unreachable=unreachable or found.fate == "unusable")
        elif slow:
            server.slow(now, sent)
        self.counters["lost" if lost else "refused" if found.fate == "refused" else "failed"] += 1
        attempts = self._attempts[request] = self._attempts.get(request, 0) + counts
        if attempts > self._options.retries:
            said = f"no server has answered it in {attempts} attempts, the last time: {found.said}"
            self._refuse(request, found, said, retryable=True)
        else:
            self._feed.give_back(request)

    def _refuse(self, request: int, found: NoReply, message: str, *, retryable: bool) -> None:
        self._settle(request)
        self._outbox.add_refusal(
            refusal_item(
                self._job.request_ids[request],
                self._job.choices[request],
                message,
                retryable=retryable,
                code="context_length_exceeded" if found.too_long else "engine_error",
            )
        )

    def _settle(self, request: int) -> None:
        self._attempts.pop(request, None)
        self._feed.settle(request)
        self._progress = time.monotonic()
