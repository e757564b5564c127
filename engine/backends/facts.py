"""What is known of an engine before it gets work: name, version, what it can do and what it takes.

It decides which requests are refused before planning, and how answers of the engine are told from those of
another one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from engine import ANSWER_VERSION
from engine.choices import NATIVE


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do; goes with its message `ready`.

    Attributes
    ----------
    exact_hits
        It tells of every answer how many prompt tokens came from its cache.
    paced
        It decides itself, step by step, which request comes next, by the plan.
    seeded
        A sampled answer is determined by its seed.
    logprobs, structured, images, lora
        It gives log probabilities; it constrains answers to a schema; it takes images; it has adapters.
    steps
        It tells of every step what was computed.
    embeddings
        It makes embeddings of prompts.
    gives
        It gives back about half of what it has not begun when it is asked (`engine.backends.contract`).
    """

    exact_hits: bool = False
    paced: bool = False
    seeded: bool = False
    logprobs: bool = False
    structured: bool = False
    images: bool = False
    lora: bool = False
    steps: bool = False
    embeddings: bool = False
    gives: bool = False


@dataclass(frozen=True)
class EngineFacts:
    """An engine as it was found.

    Attributes
    ----------
    name
        A key of `engine.choices.ENGINES`.
    version
        What its answers depend on, in words: for our own engine `ANSWER_VERSION`.
    capabilities
        What it can do.
    unsupported
        Sampling fields of a request that it cannot honour (names of
        `engine.runtime.sample.settings.Sampling`).
    prompts
        `ids`: it takes token ids. `text`: it gets messages or the prompt as the request gave them.
    apart
        Pairs of such fields of which it honours the second alone, and not beside the first.
    warning
        What is to be said of the engine wherever it is looked at; '' where there is nothing.
    options
        For `engine.job.format.JobSettings`: JSON, without any key.
    adapters
        Adapters of the model that it has been given: name -> identity, the digest of its files in it.
    """

    name: str
    version: str
    capabilities: Capabilities
    unsupported: tuple[str, ...] = ()
    prompts: Literal["ids", "text"] = "ids"
    apart: tuple[tuple[str, str], ...] = ()
    warning: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)

    @property
    def answer_version(self) -> int | list[str]:
        """What enters the keys of runs; of our own engine a number, as before there were others."""
        return ANSWER_VERSION if self.name == NATIVE else [self.name, self.version]

    def told(self) -> dict[str, Any]:
        """Return name, version and capabilities, for messages and records."""
        return {"engine": self.name, "version": self.version, "capabilities": asdict(self.capabilities)}


NATIVE_FACTS: Final = EngineFacts(
    NATIVE,
    str(ANSWER_VERSION),
    Capabilities(
        exact_hits=True,
        paced=True,
        seeded=True,
        logprobs=True,
        structured=True,
        steps=True,
        embeddings=True,
        gives=True,
    ),
)
"""Our own engine."""
