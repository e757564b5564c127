"""How a tool's script makes the calls and leaves a record of what it sent; for the tools' environment."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.producers.calls import CALLS, EMBEDDER, MODEL, Call
from tests.producers.server import Api, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


@dataclass
class Run:
    """A script's run.

    Attributes
    ----------
    out
        Folder for its logs, one folder below it for each.
    api
        The server.
    sent
        What was sent, in order.
    """

    out: Path
    api: Api
    sent: list[dict[str, Any]] = field(default_factory=list)

    def each(self, make: Callable[[Call], object], calls: Iterable[Call] = CALLS, log: str = "") -> None:
        """Make calls one after the other, and record each with its times and the tokens of its answer.

        A call that the server refuses raises in the client, as it is to.
        """
        for call in calls:
            # Times that are kept in milliseconds tell one call from the next.
            time.sleep(0.003)
            before, started = len(self.api.answered), now()
            try:
                made = make(call)
                if call.streams and made is not None:
                    for _ in made:  # type: ignore[attr-defined]
                        pass
            except Exception:
                if not call.fails:
                    raise
            ended = now()
            assert len(self.api.answered) == before + 1, f"{call.name}: the server was not asked once"
            answer = self.api.answered[-1]
            self.record(
                call,
                log=log,
                started=started,
                ended=ended,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
            )

    def record(self, call: Call, log: str = "", **more: Any) -> None:
        """Record a call as sent."""
        self.sent.append({"call": call.name, "kind": call.kind, "log": log, "fails": call.fails, **more})

    def write(self, name: str, data: str | bytes) -> None:
        """Write a log, `FOLDER/FILE`."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    def write_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Write a log of JSON lines."""
        self.write(name, "".join(f"{json.dumps(record)}\n" for record in records))


def now() -> str:
    """Return the time in ISO 8601."""
    return datetime.now(UTC).isoformat()


@contextmanager
def running(*packages: str) -> Iterator[Run]:
    """Run a script: its argument is the folder; what was sent and the versions of packages stay in it."""
    out = Path(sys.argv[1])
    with serving() as api:
        run = Run(out, api)
        yield run
    for name, data in (("sent", run.sent), ("versions", {name: version(name) for name in packages})):
        (out / f"{name}.json").write_text(json.dumps(data, indent=1))


def body_of(call: Call) -> dict[str, Any]:
    """Return a call's body with its model, `extra_body` beside the other fields as a server sees it."""
    body = {"model": EMBEDDER if call.kind == "embedding" else MODEL, **call.body}
    more = body.pop("extra_body", {})
    return {**body, **more}


def by_openai(client: Any) -> Callable[[Call], object]:
    """Return what makes a call by a client of OpenAI's package."""

    def make(call: Call) -> object:
        model = EMBEDDER if call.kind == "embedding" else MODEL
        of = {"chat": client.chat.completions, "text": client.completions, "embedding": client.embeddings}
        return of[call.kind].create(model=model, **call.body)

    return make
