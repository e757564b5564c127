"""Prefix trees of prompts known only by hashes of their blocks, or only by their lengths."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.plan.tree import build_tree, build_tree_from_blocks, distinct_tokens, hit_rate_optimum
from tests.support.models import flatten
from tests.support.paths import trace

PROMPTS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=17), min_size=1, max_size=12)


def hashes_of(prompt: list[int], size: int) -> list[int]:
    """One hash per block, of everything up to its end; a partial block has one of its own."""
    ends = range(size, len(prompt) + size, size)
    return [int.from_bytes(b"\1" + bytes(prompt[:end])) % (2**64 - 59) for end in ends]


@settings(deadline=None)
@given(PROMPTS, st.sampled_from([1, 3, 4]))
def test_blocks_share_whole_blocks(prompts, size: int) -> None:
    hashes = [hashes_of(prompt, size) for prompt in prompts]
    start = np.cumsum([0, *map(len, hashes)])
    blocks = np.array([h for request in hashes for h in request], np.uint64)
    lengths = np.array([len(prompt) for prompt in prompts])
    tree = build_tree_from_blocks(blocks, start, lengths, size)
    assert sorted(tree.sorted.tolist()) == list(range(len(prompts)))
    assert tree.depth[: len(prompts)].tolist() == lengths[tree.sorted].tolist()
    # What the tree computes is every distinct block once; a partial block is a block of its own.
    distinct = {h: size for request in hashes for h in request}
    for request, prompt in zip(hashes, prompts, strict=True):
        distinct[request[-1]] = (len(prompt) - 1) % size + 1
    assert distinct_tokens(tree) == sum(distinct.values())
    if size == 1:
        assert hit_rate_optimum(tree) == hit_rate_optimum(build_tree(*flatten(prompts)))


def test_a_partial_block_is_cut_to_the_shorter_prompt() -> None:
    blocks = np.array([9, 8, 9, 8, 9, 8, 7], np.uint64)
    tree = build_tree_from_blocks(blocks, np.array([0, 2, 4, 7]), np.array([20, 13, 25]), 10)
    assert tree.sorted.tolist() == [1, 0, 2]
    assert tree.common.tolist() == [0, 13, 20]
    assert distinct_tokens(tree) == 25


def test_tokens_behind_the_last_hash_are_not_shared() -> None:
    tree = build_tree_from_blocks(np.array([5, 5, 6], np.uint64), np.array([0, 1, 3]), np.array([95, 30]), 10)
    assert tree.common.tolist() == [0, 10]


def test_lengths_alone_share_nothing() -> None:
    lengths = np.array([7, 3, 7, 7])
    tree = build_tree_from_blocks(np.zeros(0, np.uint64), np.zeros(5, np.int64), lengths, 512)
    assert tree.parent.tolist() == [4, 4, 4, 4, -1]
    assert distinct_tokens(tree) == 24
    assert tree.depth[:4].tolist() == lengths[tree.sorted].tolist()


def test_nothing_and_nonsense() -> None:
    none = np.zeros(0, np.uint64)
    assert len(build_tree_from_blocks(none, np.zeros(1, np.int64), np.zeros(0), 16).sorted) == 0
    with pytest.raises(ValueError, match="1 lists of blocks and 2 lengths"):
        build_tree_from_blocks(none, np.zeros(2, np.int64), np.ones(2), 16)
    with pytest.raises(ValueError, match="more blocks of 16 tokens"):
        build_tree_from_blocks(np.arange(2), np.array([0, 2]), np.array([16]), 16)


def test_the_mooncake_trace() -> None:
    path = trace("mooncake_conversation_trace.jsonl")
    rows = [json.loads(line) for line in path.open()]
    hashes = [row["hash_ids"] for row in rows]
    blocks = np.concatenate([np.array(h, np.uint64) for h in hashes])
    lengths = np.array([row["input_length"] for row in rows])
    tree = build_tree_from_blocks(blocks, np.cumsum([0, *map(len, hashes)]), lengths, 512)
    assert (len(blocks), len(set(blocks.tolist()))) == (288_500, 182_790)
    # Every distinct hash is computed once, the last one of a prompt for its part only.
    full = sum(512 for _ in {h for request in hashes for h in request[:-1]})
    assert full < distinct_tokens(tree) < 182_790 * 512
    seen: dict[int, int] = {}
    for request, length in zip(hashes, lengths.tolist(), strict=True):
        for i, h in enumerate(request):
            seen[h] = max(seen.get(h, 0), min(512, length - 512 * i))
    assert distinct_tokens(tree) == sum(seen.values())
    assert hit_rate_optimum(tree) == pytest.approx(1 - sum(seen.values()) / lengths.sum(), abs=0.001)
