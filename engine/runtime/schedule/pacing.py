"""Pacing: how many tokens a step computes.

A step takes as long as the slower of its compute and its memory work (`engine.cost.step.pair_seconds`). Over
a night both are used fully if every step has them in the proportion in which they remain:

    compute(step) = rho * memory(step),   rho = remaining compute / (remaining KV and weight reads)

Memory work of a step is given by the requests that decode, so this equation sets its prefill tokens. With
rho < 1 prefill then hides behind the reading of the KV cache to the very end; with rho > 1 every step is as
long as its compute work and the reading hides behind it. Where device and model leave nothing to overlap, the
same budget costs nothing: the work done is the same. Compute counts attention: the prompts at the left are
long, and a step of their tokens takes a tenth more than one of short prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.cost.step import StepCost, decode_seconds, step_compute_seconds, step_memory_seconds
from engine.jit import entry, njit_in_place
from engine.jit_types import struct
from engine.plan.scan import (
    COMPUTE,
    LEFT,
    LEFT_MEMORY,
    NOBODY,
    RIGHT,
    RIGHT_MEMORY,
    SIDES_MOVED,
    Scan,
    propose,
)
from engine.runtime.schedule.buckets import FINE_STEP, GRAIN, GRAIN_LIMIT
from engine.runtime.schedule.forecast import known_tokens, refresh
from engine.runtime.state import RUNNING, STEP, Requests, Slots

if TYPE_CHECKING:
    from engine.runtime.kv.pages import PagePool

AHEAD = 0.3
"""Where memory binds, this part of the compute that would be idle is used for prefill ahead of its turn: what
it admits fills the memory, and the weights are read in fewer steps. In simulations 0.15 to 0.5 are alike."""
GOLDEN = 0.6180339887498949
"""Of its multiples the fractions are spread evenly (a low-discrepancy sequence)."""
OCCUPANCY = 0.85
"""Part of the KV memory that is expected to be in use on average, to estimate the remaining steps."""


@struct()
class Outlook(NamedTuple):
    """What runs and what remains.

    Attributes
    ----------
    decoding, kv_tokens
        Sequences that decode in the next step, and the KV tokens they read.
    missing, attended
        Prompt tokens of running sequences that are not computed yet, and the keys that they see together.
    next_attended
        Keys that a token of the next request of the left side sees, on average.
    rho
        Compute over memory seconds of everything that is not finished, waiting requests included; infinite if
        nothing is read.
    left_memory, right_memory
        Modelled seconds of the KV reads of all that by side.
    """

    decoding: int
    kv_tokens: float
    missing: float
    attended: float
    next_attended: float
    rho: float
    left_memory: float
    right_memory: float


@njit_in_place
def survey(pool: PagePool, requests: Requests, slots: Slots, scan: Scan, cost: StepCost) -> Outlook:
    """Return the outlook before the next step; cost O(running)."""
    decoding, kv_tokens, missing, attended, generate = 0, 0.0, 0.0, 0.0, 0.0
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
        if slots.prefilling[slot]:
            computed = slots.computed[slot]
            missing += known - computed
            attended += 0.5 * (known - computed) * (known + computed + 1)
        else:
            decoding += 1
            kv_tokens += known
    compute = scan.waiting[COMPUTE] + step_compute_seconds(cost, missing + generate, generate, attended)
    following = propose(scan, LEFT, 0)
    next_attended = 0.5 * known_tokens(requests, following) if following != NOBODY else 0.0
    rho = remaining_ratio(cost, compute, left + right, pool.free.shape[0] * pool.tokens.shape[1])
    return Outlook(decoding, kv_tokens, missing, attended, next_attended, rho, left, right)


@njit_in_place
def remaining_ratio(cost: StepCost, compute: float, memory: float, kv_capacity: int) -> float:
    """Return compute over memory seconds, weights read in every step included; infinite if memory is 0.

    Parameters
    ----------
    compute, memory
        Seconds of all remaining compute work and KV reads.
    kv_capacity
        KV memory in tokens: the fuller, the fewer steps.
    """
    steps = memory * cost.read_bytes / cost.kv_bytes_per_token / (OCCUPANCY * kv_capacity)
    memory += steps * cost.weight_bytes / cost.read_bytes
    return compute / memory if memory > 0.0 else np.inf


@njit_in_place
def _prefill_tokens(cost: StepCost, outlook: Outlook, seconds: float) -> float:
    """Return the prefill tokens with which the next step's compute work takes `seconds`, at least 0.

    At F, as the remaining work is counted. Prompts that are begun go before the next one.
    """
    flops = seconds * cost.flops - outlook.decoding * (cost.flops_per_token + cost.flops_per_sample)
    begun = outlook.missing * cost.flops_per_token + outlook.attended * cost.flops_per_attended
    if flops <= begun:
        return max(0.0, outlook.missing * flops / begun) if begun > 0.0 else 0.0
    each = cost.flops_per_token + outlook.next_attended * cost.flops_per_attended
    return outlook.missing + (flops - begun) / each


@njit_in_place
def step_budget(cost: StepCost, outlook: Outlook, token_budget: int, number: int) -> int:
    """Return how many tokens the next step should compute, decoding sequences included.

    They fill one of the sizes that steps are padded to (`engine.runtime.schedule.buckets`), except for the
    few of more than 4,096, with at least one token of prefill. Where memory is the bottleneck they are
    rounded up: prefill hides behind it. Where compute is, they are rounded so that they are right on average
    over the steps: always up would take in too many, and leave memory work for the end.

    Parameters
    ----------
    token_budget
        Most tokens of a step.
    number
        Of the step.
    """
    rho = outlook.rho
    if rho == np.inf:
        return token_budget
    if rho < 1.0:
        rho += AHEAD * (1.0 - rho)
    seconds = rho * step_memory_seconds(cost, float(outlook.decoding), outlook.kv_tokens)
    tokens = outlook.decoding + max(_prefill_tokens(cost, outlook, seconds), 1.0)
    grain = GRAIN if tokens <= GRAIN_LIMIT else FINE_STEP
    grains = tokens / grain
    if rho > 1.0:
        grains = max(np.floor(grains + (GOLDEN * (number + 1)) % 1.0), (outlook.decoding + 1) / grain)
    return int(min(float(token_budget), np.ceil(grains) * grain))


@entry(in_place=True)
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
    if refresh(requests, slots, float(slots.counts[STEP] + 1), pool.tokens.shape[1], token_budget):
        scan.cursor[SIDES_MOVED] = 1
    outlook = survey(pool, requests, slots, scan, cost)
    if not paced:
        return outlook, token_budget
    return outlook, step_budget(cost, outlook, token_budget, slots.counts[STEP])
