"""What a run has to compute: its requests, who shares an answer with whom, and what is answered already."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from tasks.base.schema import IDENTIFYING_COLUMNS
from tasks.requests.embeddings import ENDPOINT as EMBEDDINGS
from tasks.requests.embeddings import input_lengths
from tasks.requests.images import has_images
from tasks.requests.prompts import without_turn
from tasks.requests.sampling import engine_sampling, shares_answer, stored_sampling
from tasks.requests.template_variables import BEGINS, KWARGS, variables_of
from tasks.runlog.parts import request_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from tasks.night.night import Night

COLUMNS = [
    *IDENTIFYING_COLUMNS,
    "input_tokens",
    "observed_output_tokens",
    "max_tokens",
    "sampling",
    "settings_json",
    "priority",
    "deadline",
]


@dataclass(slots=True)
class NightWork:
    """The requests of a run that can be answered, in the order of their tokens.

    Attributes
    ----------
    rows
        The requests table without prompts.
    tokens, offsets
        int32 [total], int64 [N + 1].
    key_of
        For each row the key of its computed answer: equal requests share one if they are greedy or
        explicitly seeded, every other request has its own.
    members
        Key -> the rows that get this answer; the first one is computed for all.
    answered
        request_ids that have a durable output or error, those included that were refused before they had
        tokens and are in no row.
    refused
        How many these are.
    """

    rows: list[dict[str, Any]]
    tokens: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    key_of: list[str]
    members: dict[str, list[int]]
    answered: set[str]
    refused: int = field(init=False)

    def __post_init__(self) -> None:
        self.refused = len(self.answered - {row["request_id"] for row in self.rows})

    @property
    def done(self) -> int:
        """How many of `rows` have a durable output or error."""
        return len(self.answered) - self.refused

    def open_keys(self) -> list[str]:
        """Return the keys with a member that has no durable answer, in input order."""
        return [
            key
            for key, rows in self.members.items()
            if any(self.rows[i]["request_id"] not in self.answered for i in rows)
        ]

    def prompts(self, rows: Sequence[int]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Return the prompts of `rows`, flat, with their offsets."""
        return self._cut([(int(self.offsets[i]), int(self.offsets[i + 1])) for i in rows])

    def sequence_prompts(
        self, asked: Sequence[tuple[int, int]]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Return the prompts of sequences, each (row, choice), flat, with their offsets.

        All choices of a request have its prompt; of one for embeddings each has an input of its own.
        """
        bounds: dict[int, list[int]] = {}
        for row, _ in asked:
            lengths = input_lengths(self.rows[row]) if row not in bounds else None
            if lengths is not None:
                bounds[row] = (self.offsets[row] + np.cumsum([0, *lengths])).tolist()
        spans = []
        for row, choice in asked:
            inner = bounds.get(row)
            whole = int(self.offsets[row]), int(self.offsets[row + 1])
            spans.append(whole if inner is None else (inner[choice], inner[choice + 1]))
        return self._cut(spans)

    def _cut(self, spans: Sequence[tuple[int, int]]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Return pieces of `tokens`, flat, with their offsets."""
        lengths = [end - begin for begin, end in spans]
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        tokens = np.empty(int(offsets[-1]), np.int32)
        for place, (begin, end) in enumerate(spans):
            tokens[offsets[place] : offsets[place + 1]] = self.tokens[begin:end]
        return tokens, offsets


def load_work(night: Night) -> NightWork:
    """Read the recorded requests of a run and what the log says is answered."""
    table, tokens, offsets = (night.fetch(part) for part in request_parts(night.log.state))
    # A run of an earlier release has not all of them.
    known = set(pq.read_schema(table).names)
    rows = pq.read_table(table, columns=[name for name in COLUMNS if name in known]).to_pylist()
    defaults = night.settings.defaults
    key_of: list[str] = []
    members: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        # Embeddings are what the model gives, whatever the sampling.
        shared = row["endpoint"] == EMBEDDINGS or shares_answer(stored_sampling(row), defaults)
        key = row["answer_key"] if shared else row["request_id"]
        key_of.append(key)
        members.setdefault(key, []).append(i)
    answered: set[str] = set()
    for kind in ("outputs", "errors"):
        answered.update(night.read_table(kind, ["request_id"]).column("request_id").to_pylist())
    return NightWork(rows, np.load(tokens, mmap_mode="r"), np.load(offsets), key_of, members, answered)


def prompts_as_given(night: Night, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the prompts of rows as text, for an engine that takes no token ids: `messages` or `prompt`."""
    found = _given_prompts(night, rows)
    return [found[row["request_id"]] for row in rows]


def chats_with_images(night: Night, rows: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """Return the prompts of rows as `prompts_as_given` does, but None for those that have no images."""
    found = _given_prompts(night, rows, has_images)
    return [found.get(row["request_id"]) for row in rows]


def _given_prompts(
    night: Night, rows: list[dict[str, Any]], wants: Callable[[str | None], bool] = lambda _: True
) -> dict[str, dict[str, Any]]:
    """Return by request_id the prompts of those rows whose `messages_json` is wanted."""
    wanted = {row["request_id"] for row in rows}
    found: dict[str, dict[str, Any]] = {}
    with pq.ParquetFile(night.fetch(request_parts(night.log.state)[0])) as file:
        for batch in file.iter_batches(columns=["request_id", "messages_json", "prompt", "settings_json"]):
            for row in batch.to_pylist():
                chat = row["messages_json"]
                if row["request_id"] not in wanted or not wants(chat):
                    continue
                found[row["request_id"]] = (
                    {"prompt": row["prompt"]}
                    if chat is None
                    else {"messages": without_turn(json.loads(chat))[0], **_to_template(row)}
                )
    return found


def _to_template(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a row says to the chat template, by the names of the servers that know it."""
    found = variables_of(row)
    begins = {BEGINS: found.pop(BEGINS)} if BEGINS in found else {}
    return {**begins, **({KWARGS: found} if found else {})}


def sampling_of(night: Night, row: dict[str, Any]) -> dict[str, Any]:
    """Return the effective sampling settings of a row, every field set."""
    return engine_sampling(row, night.settings.defaults, night.settings.run_seed)
