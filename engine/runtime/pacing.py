"""Pacing: how many tokens a step computes.

A step takes as long as the slower of its compute and its memory work (`engine.cost.pair_seconds`). Over a
night both are used fully if every step has them in the proportion in which they remain:

    compute(step) = rho * memory(step),   rho = remaining compute / (remaining KV and weight reads)

Memory work of a step is given by the requests that decode, so this equation sets its prefill tokens. With
rho < 1 prefill then hides behind the reading of the KV cache to the very end; with rho > 1 every step is as
long as its compute work and the reading hides behind it. Where device and model leave nothing to overlap, the
same budget costs nothing: the work done is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.cost import StepCost, decode_seconds, step_compute_seconds, step_memory_seconds
from engine.jit import njit_in_place
from engine.plan.scan import COMPUTE, LEFT_MEMORY, RIGHT, RIGHT_MEMORY, SIDES_MOVED, Scan
from engine.runtime.forecast import known_tokens, refresh
from engine.runtime.state import RUNNING, STEP, Requests, Slots

if TYPE_CHECKING:
    from engine.runtime.pages import PagePool

GRAIN = 128
"""Prefill tokens are multiples of this: step shapes recur, and GEMM tiles are full."""
GOLDEN = 0.6180339887498949
"""Of its multiples the fractions are spread evenly (a low-discrepancy sequence)."""
OCCUPANCY = 0.85
"""Part of the KV memory that is expected to be in use on average, to estimate the remaining steps."""


class Outlook(NamedTuple):
    """What runs and what remains.

    Attributes
    ----------
    decoding, kv_tokens
        Sequences that decode in the next step, and the KV tokens they read.
    missing
        Prompt tokens of running sequences that are not computed yet.
    compute, left_memory, right_memory
        Modelled seconds of everything that is not finished, waiting requests included; memory by side.
    """

    decoding: int
    kv_tokens: float
    missing: float
    compute: float
    left_memory: float
    right_memory: float


@njit_in_place
def survey(requests: Requests, slots: Slots, scan: Scan, cost: StepCost) -> Outlook:
    """Return the outlook before the next step; cost O(running)."""
    decoding, kv_tokens, missing, generate = 0, 0.0, 0.0, 0.0
    left, right = scan.waiting[LEFT_MEMORY], scan.waiting[RIGHT_MEMORY]
    for i in range(slots.counts[RUNNING]):
        slot = slots.running[i]
        request = slots.request[slot]
        known = known_tokens(requests, request)
        # The expected end is kept up to date by `refresh`, and by `settle` when the prompt is computed.
        remaining = max(1.0, slots.due[slot] - slots.counts[STEP])
        reads = decode_seconds(cost, float(known), remaining)
        if slots.side[slot] == RIGHT:
            right += reads
        else:
            left += reads
        generate += remaining
        if slots.fresh[slot]:
            missing += known - slots.computed[slot]
        else:
            decoding += 1
            kv_tokens += known
    compute = scan.waiting[COMPUTE] + step_compute_seconds(cost, missing + generate, generate, 0.0)
    return Outlook(decoding, kv_tokens, missing, compute, left, right)


@njit_in_place
def step_budget(cost: StepCost, outlook: Outlook, kv_capacity: int, token_budget: int, number: int) -> int:
    """Return how many tokens the next step should compute, decoding sequences included.

    Prefill tokens are in multiples of `GRAIN`, at least one. Where memory is the bottleneck they are rounded
    up: they hide behind it, and the sooner they are computed the fuller it is. Where compute is, they are
    rounded so that they are right on average over the steps: always up would take in a tenth too many of some
    hundred, and leave memory work for the end.

    Parameters
    ----------
    kv_capacity
        KV memory in tokens.
    token_budget
        Most tokens of a step.
    number
        Of the step.
    """
    memory = outlook.left_memory + outlook.right_memory
    steps = memory * cost.read_bytes / cost.kv_bytes_per_token / (OCCUPANCY * kv_capacity)
    memory += steps * cost.weight_bytes / cost.read_bytes
    if memory <= 0.0:
        return token_budget
    step = step_memory_seconds(cost, float(outlook.decoding), outlook.kv_tokens)
    seconds = outlook.compute / memory * step
    tokens = (seconds * cost.flops - outlook.decoding * cost.flops_per_sample) / cost.flops_per_token
    grains = max(tokens - outlook.decoding, 1.0) / GRAIN
    if outlook.compute > memory:
        grains = max(np.floor(grains + (GOLDEN * (number + 1)) % 1.0), 1.0)
    return int(min(float(token_budget), outlook.decoding + np.ceil(grains) * GRAIN))


@njit_in_place
def prepare(
    pool: PagePool,
    requests: Requests,
    slots: Slots,
    scan: Scan,
    cost: StepCost,
    token_budget: int,
    paced: bool,
) -> tuple[Outlook, int]:
    """Return the outlook for the next step and how many tokens it computes: `token_budget` unless paced."""
    size = pool.tokens.shape[1]
    if refresh(requests, slots, float(slots.counts[STEP] + 1), size, token_budget):
        scan.cursor[SIDES_MOVED] = 1
    outlook = survey(requests, slots, scan, cost)
    if not paced:
        return outlook, token_budget
    return outlook, step_budget(cost, outlook, pool.free.shape[0] * size, token_budget, slots.counts[STEP])
