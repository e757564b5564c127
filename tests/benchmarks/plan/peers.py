"""Orders of other systems for offline batches, each as leaves of a prefix tree for the same scheduler.

They are walked from one end, at their own best budget and paced, as the other orders are; admission is ours,
which packs the memory by expected lengths and so is no worse than theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.plan.sampled import choose_sample
from tests.benchmarks.lib.sources import SYSTEM_TOKENS

if TYPE_CHECKING:
    import numpy.typing as npt

    from engine.plan.tree import PrefixTree
    from tests.benchmarks.lib.workloads import Workload

    Int32 = npt.NDArray[np.int32]
    Float64 = npt.NDArray[np.float64]

SAMPLE = 0.01
"""Part of the requests that longest first learns its lengths from."""


def batchllm(mix: Workload, tree: PrefixTree, estimate: Float64) -> Int32:
    """Return the order of BatchLLM, int32 [N].

    Zheng et al., BatchLLM, MLSys 2026 (arXiv 2412.03594): requests are grouped by the one prefix each that
    saves most tokens over all (a dynamic programme over the tree), groups are never torn, and those with the
    most answer tokens for each prompt token come first, so that their decoding runs beside the prompts of
    later ones. Its memory-centric token batching admits by memory instead of by a number of requests, which
    our admission does for every order.
    """
    del mix
    n = tree.sorted.shape[0]
    group = groups_of(tree)[tree.sorted]
    _, group = np.unique(group, return_inverse=True)
    # Tokens to compute: of a group's prefix once. Leaves of a group are neighbours.
    first = np.concatenate(([True], group[1:] != group[:-1]))
    prompts = tree.depth[:n] - np.where(first, 0, tree.common)
    decode = np.bincount(group, estimate[tree.sorted])
    ratio = decode / np.maximum(np.bincount(group, prompts), 1)
    return np.ascontiguousarray(tree.sorted[np.argsort(-ratio[group], kind="stable")])


def groups_of(tree: PrefixTree) -> npt.NDArray[np.int64]:
    """Return the node whose prefix each request shares with its group, int64 [N]; a leaf shares with nobody.

    A node saves its depth for each request below it but the first, if no node below it is a group's.
    """
    n, nodes = tree.sorted.shape[0], tree.parent.shape[0]
    count, below = np.zeros(nodes), np.zeros(nodes)
    count[:n] = 1.0
    own = np.ones(nodes, np.bool_)
    for node in range(nodes):
        saved = (count[node] - 1.0) * float(tree.depth[node])
        if node >= n:
            own[node] = saved > 0.0 and saved >= below[node]
        best = max(saved, below[node])
        above = tree.parent[node]
        if above >= 0:
            count[above] += count[node]
            below[above] += best
    found = np.arange(nodes)
    for node in range(nodes - 2, -1, -1):
        above = tree.parent[node]
        # The topmost node that is better than all below it.
        if own[found[above]] and found[above] >= n:
            found[node] = found[above]
    group = np.empty(n, np.int64)
    group[tree.sorted] = found[:n]
    return group


def longest_first(mix: Workload, tree: PrefixTree, estimate: Float64) -> Int32:
    """Return the order of vllm-ascend's scheduler for batch jobs, int32 [N].

    vllm-project/vllm-ascend, pull request 12240 (2026-07): the longest answers first, a job's length being
    the mean of a sample of its requests, which run before; requests of a job stay as they came.
    """
    del estimate
    n = mix.requests
    sampled = np.zeros(n, np.bool_)
    sampled[choose_sample(tree, SAMPLE)] = True
    job = mix.workload.astype(np.int64)
    total = np.bincount(job[sampled], mix.output[sampled], minlength=job.max() + 1)
    count = np.bincount(job[sampled], minlength=job.max() + 1)
    unknown = mix.output[sampled].mean()
    length = np.where(count > 0, total / np.maximum(count, 1), unknown)[job]
    return np.lexsort((np.arange(n), -length, ~sampled)).astype(np.int32)


def by_system_prompt(mix: Workload, tree: PrefixTree, estimate: Float64) -> Int32:
    """Return the order of llm-d's batch gateway, int32 [N].

    llm-d/llm-d-batch-gateway (2026): its processor sorts the requests of a batch by the hash of their system
    prompt; those of one stay as they came.
    """
    del tree, estimate
    head = mix.tokens[mix.start[:-1, None] + np.arange(SYSTEM_TOKENS)]
    _, first, system = np.unique(head, axis=0, return_index=True, return_inverse=True)
    # Any order of the prompts that does not follow their arrival is as good as that of a hash.
    place = np.random.default_rng(3).permutation(len(first))
    return np.argsort(place[system.ravel()], kind="stable").astype(np.int32)


PEERS = {
    "batchllm": batchllm,
    "longest_first": longest_first,
    "by_system_prompt": by_system_prompt,
}
"""Name -> the requests in its order, of a mix, its tree and the expected lengths."""
