"""Where the benchmark's requests come from: lengths of real traces, MMLU's text, and made-up video lengths.

A source is an endless seeded sequence of requests, of which a mix takes the first so many. Token ids are
random where there is no text; MMLU's come from its words, so that what is shared is what its prompts share.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from tasks.profile.image_tokens import FAMILIES
from tests.benchmarks.lib.places import ROOT

if TYPE_CHECKING:
    import numpy.typing as npt

    Int32 = npt.NDArray[np.int32]
    Int64 = npt.NDArray[np.int64]

FIRST_ID, LAST_ID = 1_000, 128_000
SYSTEM_TOKENS = 12
"""Tokens of each source's own system prompt."""
LONGEST_REQUEST = 32_768
"""Longer conversations of ShareGPT (a few tens of 58,787, up to 241,402 tokens) are left out."""
VIDEO_TOKENS_PER_FRAME = 256
VIDEO_MEAN_FRAMES = 64
MMLU_ANSWER_TOKENS = 2
PICTURE_SIZES = ((640, 480), (800, 600), (1024, 1024), (1280, 720), (1920, 1080), (3024, 4032))
"""Width and height: of data sets, of what models make, of screens, of a phone."""
QWEN_2_5_VL = {"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 12_845_056}
"""Settings of its image processor, as published."""
QUESTIONS = 3
"""About each picture."""
BLOCK_TOKENS = 512
_PIECES = re.compile(r"[A-Za-z]{1,6}|\d{1,3}|[^\sA-Za-z\d]|\n")


def traces() -> Path:
    """Return the folder of the real traces: ``$NIGHTBLEND_TRACES``, or the one beside the repository."""
    default = ROOT.parent / "shared" / "traces"
    return Path(os.environ.get("NIGHTBLEND_TRACES", default))


@dataclass(frozen=True)
class Source:
    """The first N requests of a source.

    Attributes
    ----------
    name
        Name of the workload.
    prompt, output
        int64 [N]: tokens of the prompt (system prompt included) and of the answer.
    shared
        int64 [N]: prompt tokens that an earlier request of this sequence begins with, at most all but one.
    text
        Token ids that a prompt begins with, after the system prompt; none where all are random.
    """

    name: str
    prompt: Int64
    output: Int64
    shared: Int64
    text: list[Int32] | None = None


def _repeat(rows: Int64, count: int, rng: np.random.Generator) -> Int64:
    """Return `count` rows: the whole trace in a random order, as often as it takes."""
    rounds = [rng.permutation(rows.shape[0]) for _ in range(-(-count // rows.shape[0]))]
    return rows[np.concatenate(rounds)[:count]]


def _behind_system_prompt(count: int) -> Int64:
    shared = np.full(count, SYSTEM_TOKENS, np.int64)
    shared[:1] = 0
    return shared


@cache
def _lengths(file: str) -> Int64:
    table = pl.read_csv(traces() / file).select("ContextTokens", "GeneratedTokens")
    rows = np.maximum(table.to_numpy().astype(np.int64), 1)
    return rows[rows.sum(axis=1) <= LONGEST_REQUEST]


def length_source(name: str, file: str, count: int, seed: int) -> Source:
    """Return requests with the prompt and answer lengths of a trace, all token ids random."""
    rows = _repeat(_lengths(file), count, np.random.default_rng(seed))
    prompt = rows[:, 0] + SYSTEM_TOKENS
    return Source(name, prompt, rows[:, 1].copy(), _behind_system_prompt(count))


def video_source(count: int, seed: int) -> Source:
    """Return video generations: captions of 60 to 200 tokens, answers of 256 tokens per frame.

    Frames are log-normal (sigma 0.45), cut to a quarter and three times the mean, whose mean is brought to 64
    (16,384 tokens): clips of a collection last a few seconds, few of them long.
    """
    rng = np.random.default_rng(seed)
    # Normalised over a fixed long draw, so that the distribution does not depend on `count`.
    draw = np.exp(0.45 * np.random.default_rng(0).standard_normal(100_000))
    frames = np.exp(0.45 * rng.standard_normal(count)) / np.clip(draw / draw.mean(), 0.25, 3.0).mean()
    frames = np.rint(np.clip(frames / draw.mean(), 0.25, 3.0) * VIDEO_MEAN_FRAMES).astype(np.int64)
    prompt = rng.integers(60, 201, count) + SYSTEM_TOKENS
    return Source("video", prompt, frames * VIDEO_TOKENS_PER_FRAME, _behind_system_prompt(count))


def picture_source(count: int, seed: int) -> Source:
    """Return questions about pictures: `QUESTIONS` of 20 to 80 tokens about each, in a random order.

    A picture has one of `PICTURE_SIZES` and the tokens that Qwen2.5-VL's processor makes of it; those about
    the same one begin with it. Answers are of 5 to 200 tokens.
    """
    rng = np.random.default_rng(seed)
    rule = FAMILIES["qwen2_5_vl"]({}, {}, QWEN_2_5_VL)
    if rule is None:
        raise RuntimeError("there is no rule for the images of Qwen2.5-VL")
    lengths = [rule.text(*size).count(rule.soft) for size in PICTURE_SIZES]
    size = rng.integers(0, len(lengths), -(-count // QUESTIONS))
    picture = rng.permutation(np.repeat(np.arange(size.size), QUESTIONS))[:count]
    ids = FIRST_ID + rng.permutation(LAST_ID - FIRST_ID)[: size.size]
    text = [np.full(lengths[size[one]], ids[one], np.int32) for one in picture]
    tokens = np.array([len(one) for one in text], np.int64)
    shared = _behind_system_prompt(count)
    again = np.ones(count, np.bool_)
    again[np.unique(picture, return_index=True)[1]] = False
    shared[again] += tokens[again]
    prompt = SYSTEM_TOKENS + tokens + rng.integers(20, 81, count)
    return Source("pictures", prompt, rng.integers(5, 201, count), shared, text)


def word_ids(text: str) -> Int32:
    """Return token ids of a text without a tokenizer: a checksum of each short word, digit group and sign."""
    span = LAST_ID - FIRST_ID
    ids = [FIRST_ID + zlib.crc32(piece.encode()) % span for piece in _PIECES.findall(text)]
    return np.array(ids, np.int32)


def _question(row: dict[str, object], solved: str) -> str:
    choices = "".join(f"\n{'ABCD'[i]}. {row[f'choice{i}']}" for i in range(4))
    return f"{row['question']}{choices}\nAnswer:{solved}"


@cache
def _mmlu() -> tuple[list[Int32], list[Int32], Int64]:
    """Return the five solved examples of each subject, all questions, and the subject of each question."""
    table = pl.read_parquet(traces() / "mmlu.parquet").sort("subject", maintain_order=True)
    solved: dict[str, list[str]] = defaultdict(list)
    for row in table.filter(pl.col("split") == "dev").to_dicts():
        solved[row["subject"]].append(_question(row, f" {'ABCD'[row['answer']]}\n\n"))
    subjects = sorted(solved)
    head = "The following are multiple choice questions (with answers) about"
    prefixes = [word_ids(f"{head} {s.replace('_', ' ')}.\n\n{''.join(solved[s])}") for s in subjects]
    rows = table.filter(pl.col("split") == "test").to_dicts()
    member = np.array([subjects.index(row["subject"]) for row in rows], np.int64)
    return prefixes, [word_ids(_question(row, "")) for row in rows], member


def mmlu_source(count: int, seed: int) -> Source:
    """Return 5-shot MMLU prompts in a random order.

    After the first 14,042, whose text is real, come new questions behind the same solved examples: random
    token ids of the lengths of the real ones.
    """
    rng = np.random.default_rng(seed)
    prefixes, questions, member = _mmlu()
    order = _repeat(np.arange(len(questions)), count, rng)
    real = min(count, len(questions))
    text = [np.concatenate((prefixes[member[i]], questions[i])) for i in order[:real]]
    text += [prefixes[member[i]] for i in order[real:]]
    length = np.array([prefixes[member[i]].size + questions[i].size for i in order], np.int64)
    shared = np.zeros(count, np.int64)
    shared[:real] = earlier_prefixes(text[:real])
    shared[real:] = [t.size for t in text[real:]]
    prompt = length + SYSTEM_TOKENS
    shared = np.minimum(shared + _behind_system_prompt(count), prompt - 1)
    return Source("mmlu", prompt, np.full(count, MMLU_ANSWER_TOKENS, np.int64), shared, text)


def earlier_prefixes(prompts: list[Int32]) -> Int64:
    """Return int64 [N]: the longest prefix that each prompt shares with any prompt before it.

    The prompts are taken out of their sorted order last one first: at that moment the neighbours are the
    nearest of those before it, and what two neighbours share is the minimum over what lay between them.
    """
    n = len(prompts)
    keys = [p.astype(">i4").tobytes() for p in prompts]
    order = sorted(range(n), key=keys.__getitem__)
    place = np.argsort(order)
    common = np.zeros(n + 1, np.int64)
    for i in range(1, n):
        a, b = prompts[order[i - 1]], prompts[order[i]]
        size = min(a.size, b.size)
        differ = np.flatnonzero(a[:size] != b[:size])
        common[i] = differ[0] if differ.size else size
    before, after = np.arange(-1, n), np.arange(1, n + 2)
    shared = np.zeros(n, np.int64)
    # common[i] is what the prompt at place i shares with the nearest one left of it that is still there.
    for i in range(n - 1, -1, -1):
        p = place[i]
        left, right = before[p], after[p]
        shared[i] = max(common[p], common[right])
        common[right] = min(common[p], common[right])
        before[right], after[left] = left, right
    return shared


@cache
def _conversations() -> list[dict[str, object]]:
    with (traces() / "mooncake_conversation_trace.jsonl").open() as file:
        return [json.loads(line) for line in file]


def mooncake_source(count: int) -> Source:
    """Return the first requests of the Mooncake conversation trace, at most 12,031.

    Equal ids of leading 512-token blocks mean equal tokens, here random ones drawn from the id.
    """
    rows = _conversations()[:count]
    seen: set[int] = set()
    text, shared = [], []
    for row in rows:
        blocks: list[int] = row["hash_ids"]  # type: ignore[assignment]
        known = next((i for i, b in enumerate(blocks) if b not in seen), len(blocks))
        seen.update(blocks)
        length = int(row["input_length"])  # type: ignore[call-overload]
        shared.append(min(known * BLOCK_TOKENS, length - 1))
        text.append(block_ids(blocks)[:length])
    prompt = np.array([t.size for t in text], np.int64) + SYSTEM_TOKENS
    output = np.array([row["output_length"] for row in rows], np.int64)
    shared_tokens = np.array(shared, np.int64) + _behind_system_prompt(len(rows))
    return Source("mooncake", prompt, output, shared_tokens, text)


def block_ids(blocks: list[int]) -> Int32:
    """Return the token ids of Mooncake blocks, one after the other: a mixed hash of block and place."""
    key = np.array(blocks, np.uint64)[:, None] * np.uint64(BLOCK_TOKENS) + np.arange(
        BLOCK_TOKENS, dtype=np.uint64
    )
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    key ^= key >> np.uint64(31)
    return (FIRST_ID + key % np.uint64(LAST_ID - FIRST_ID)).astype(np.int32).ravel()


def documents_source(count: int, seed: int, document_tokens: int = 20_000, questions: int = 5) -> Source:
    """Return questions about long documents: `questions` for each document of `document_tokens` tokens.

    Questions are 20 to 99 tokens, answers 50 to 399.
    """
    rng = np.random.default_rng(seed)
    documents = -(-count // questions)
    text = [rng.integers(FIRST_ID, LAST_ID, document_tokens, dtype=np.int32) for _ in range(documents)]
    member = rng.permutation(np.repeat(np.arange(documents), questions))[:count]
    shared = _behind_system_prompt(count)
    _, first = np.unique(member, return_index=True)
    again = np.ones(count, bool)
    again[first] = False
    shared[again] += document_tokens
    prompt = SYSTEM_TOKENS + document_tokens + rng.integers(20, 100, count)
    return Source("documents", prompt, rng.integers(50, 400, count), shared, [text[i] for i in member])
