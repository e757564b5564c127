"""The choices of a request (`n`): what the engine is asked for, and the answer made of what it sends.

A request with `n` choices is `n` sequences over the same prompt, which the prefix cache computes once; a
greedy one is a single sequence, repeated. The first choice is the answer that the request would get with
n = 1. The choices of a request for embeddings are its inputs, one after the other. An answer becomes a row
when its last choice is there. Choices of an unfinished answer live in this process only: after a kill they
are computed again, and since their seeds are the same, in float32 they are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.base.identity import digest
from tasks.requests.embeddings import LENGTHS

if TYPE_CHECKING:
    from collections.abc import Mapping


def sequences(settings: Mapping[str, Any]) -> int:
    """Return how many sequences the engine computes for these settings (of `engine_sampling`)."""
    if LENGTHS in settings:
        return len(settings[LENGTHS])
    return 1 if settings["temperature"] == 0 else int(settings["n"])


def choice_seed(seed: int, index: int) -> int:
    """Return the seed of choice `index`, a uint64: that of the request for 0, else a hash of both."""
    return seed if index == 0 else int(digest("choice", seed, index)[:16], 16)


class Choices:
    """Holds the choices that have come in for answers that lack others."""

    def __init__(self) -> None:
        self._found: dict[str, dict[int, dict[str, Any]]] = {}

    def missing(self, key: str, count: int) -> list[int]:
        """Return the indices that the answer `key` of `count` sequences lacks."""
        return [i for i in range(count) if i not in self._found.get(key, {})]

    def add(self, key: str, item: dict[str, Any], count: int) -> list[dict[str, Any]] | None:
        """Take in a choice; return all `count` in order if it was the last one, else None.

        One that is there already (an engine that died had sent it) is left as it is.
        """
        found = self._found.setdefault(key, {})
        found.setdefault(item["choice"], item)
        if len(found) < count:
            return None
        del self._found[key]
        return [found[i] for i in range(count)]
