"""One run of some requests through one engine in one order: how long it took, and what came back."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from engine.choices import ENDPOINT
from engine.errors import EngineError
from tasks.infer.backends.engine_process import engine_process
from tasks.plan.plan import write_plan

if TYPE_CHECKING:
    from tasks.night.night import Night
    from tasks.plan.work import NightWork


@dataclass
class Measured:
    """What one run showed.

    Attributes
    ----------
    seconds, load_seconds
        From the model being ready to the last answer; from the start of the engine to there, and its end.
    prompt_tokens, output_tokens
        Of the answers.
    hit_tokens, preemptions, steps, mixed_steps
        Prompt tokens from the cache, requests put back, steps, and those of them that computed prompts and
        answers side by side; None where the engine does not tell.
    peak_bytes
        Most memory that the engine's process held; None of an engine elsewhere.
    answers
        (request_id, choice) -> token ids, or the text where the engine gives none.
    lengths
        (request_id, choice) -> tokens of the answer.
    samples
        The engine's steps, as its messages have them; none where it does not tell any.
    """

    seconds: float = 0.0
    load_seconds: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    hit_tokens: int | None = 0
    preemptions: int | None = None
    steps: int | None = None
    mixed_steps: int | None = None
    peak_bytes: int | None = None
    answers: dict[tuple[str, int], tuple[list[int] | None, str]] = field(default_factory=dict)
    lengths: dict[tuple[str, int], int] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Prompt and answer tokens."""
        return self.prompt_tokens + self.output_tokens

    def take(self, message: dict[str, Any], lengths: dict[str, int]) -> None:
        """Take in a message of the engine; `lengths` are prompt tokens by request_id."""
        if message["type"] == "answers":
            for item in message["items"]:
                self._take_answer(item, lengths)
        elif message["type"] == "step":
            self.steps = (self.steps or 0) + 1
            mixed = message["prefill_tokens"] > 0 and message["decode_tokens"] > 0
            self.mixed_steps = (self.mixed_steps or 0) + mixed
            self.preemptions = (self.preemptions or 0) + message["preemptions"]
            self.samples.append(message)
        elif message["type"] == "fatal":
            raise EngineError(message["message"])

    def _take_answer(self, item: dict[str, Any], lengths: dict[str, int]) -> None:
        told = item.get("completion_tokens")
        length = len(item["token_ids"]) if told is None else told
        self.output_tokens += length
        self.lengths[item["request_id"], item["choice"]] = length
        self.prompt_tokens += item.get("prompt_tokens") or lengths[item["request_id"]]
        cached = item["cached_tokens"]
        known = self.hit_tokens is not None and cached is not None
        self.hit_tokens = self.hit_tokens + cached if known and self.hit_tokens is not None else None
        self.answers[item["request_id"], item["choice"]] = item["token_ids"], item["text"]


def measure(night: Night, work: NightWork, folder: Path) -> Measured:
    """Answer the requests of `work` with the engine and in the order that `night` has.

    Raises
    ------
    EngineError
        If the engine ends before it has answered, with what it said.
    """
    write_plan(night, work, folder)
    lengths = {row["request_id"]: row["input_tokens"] for row in work.rows}
    found, begin, done = Measured(), monotonic(), False
    with engine_process(folder) as engine:
        for message in engine.messages:
            if message["type"] == "ready":
                found.load_seconds, begin = monotonic() - begin, monotonic()
            found.take(message, lengths)
            if message["type"] == "done":
                done = True
            elif night.engine.name != ENDPOINT:
                found.peak_bytes = max(found.peak_bytes or 0, _held_bytes(engine.process.pid)) or None
        found.seconds = monotonic() - begin
        begin = monotonic()
    found.load_seconds += monotonic() - begin
    if not done:
        raise EngineError(f"engine {night.engine.name} ended without a word; see {engine.log_file}")
    return found


def _held_bytes(pid: int) -> int:
    """Return the most memory that a process has held so far, in bytes; 0 where the system does not tell."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
