"""The dual scan: which waiting request is admitted next, decided while the engine runs.

Every policy stands behind the same two calls, `propose` and `accept`. A one-sided policy (fcfs, random,
dfs) walks its order from the left. `blend` walks it from both ends, compute-heavy requests at the left and
memory-heavy ones at the right, and keeps the memory of the two sides in the proportion whose mixed density
is that of the whole remaining work (Zhao et al., BlendServe, ASPLOS 2026).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.jit import njit

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

LEFT, RIGHT, RETRY = 0, 1, 2
NOBODY = -1
# Indices into `Scan.cursor`.
AT_LEFT, AT_RIGHT, TWO_SIDED, N_RETRY = 0, 1, 2, 3


class Scan(NamedTuple):
    """State of the scan over N requests.

    Attributes
    ----------
    order
        int32 [N]: request indices, compute-heavy to memory-heavy for `blend`.
    compute, memory
        float64 [N]: modelled seconds of each request after prefix sharing.
    cursor
        int64 [4]: next position at the left, at the right, whether both ends are used, retries waiting.
    retry
        int32 [N]: retracted requests, which go before any new one.
    remaining
        float64 [2]: compute and memory seconds of all requests that are not finished.
    """

    order: Int32
    compute: Float64
    memory: Float64
    cursor: Int64
    retry: Int32
    remaining: Float64


def make_scan(order: Int32, compute: Float64, memory: Float64, *, two_sided: bool) -> Scan:
    """Return a scan at its start; `compute` and `memory` are indexed by request, not by position."""
    n = order.shape[0]
    return Scan(
        order=np.ascontiguousarray(order, np.int32),
        compute=np.ascontiguousarray(compute, np.float64),
        memory=np.ascontiguousarray(memory, np.float64),
        cursor=np.array([0, n - 1, int(two_sided), 0], np.int64),
        retry=np.zeros(max(n, 1), np.int32),
        remaining=np.array([compute.sum(), memory.sum()], np.float64),
    )


@njit
def left_share(target: float, left: float, right: float) -> float:
    """Return the share of KV memory that the left scanner should hold, in [0, 1].

    Solves ``M_l + M_r = M`` and ``left M_l + right M_r = target M`` for ``M_l / M`` and clamps it: outside
    [right, left] the target cannot be mixed from the two densities and one side gets everything.
    """
    if left <= right:
        # The ends have the same density (or estimates crossed them): any split mixes to it.
        return 0.5 if left == right else (1.0 if target >= left else 0.0)
    return min(1.0, max(0.0, (target - right) / (left - right)))


@njit
def waiting(scan: Scan) -> int:
    """Return how many requests are not admitted."""
    return int(scan.cursor[AT_RIGHT] - scan.cursor[AT_LEFT] + 1 + scan.cursor[N_RETRY])


@njit
def density(scan: Scan, request: int) -> float:
    """Return compute over memory seconds of one request."""
    return float(scan.compute[request] / max(scan.memory[request], 1e-12))


@njit
def preferred_side(scan: Scan, load_left: float, load_right: float) -> int:
    """Return the side that is short of its share.

    Parameters
    ----------
    load_left, load_right
        The ledger of side balance: ``p + d / 2`` tokens of each running request, by the side that admitted
        it. It is the average KV that a request reads per step, so a long answer that has only just begun
        already counts in full.
    """
    if scan.cursor[TWO_SIDED] == 0 or scan.cursor[AT_LEFT] >= scan.cursor[AT_RIGHT]:
        return LEFT
    target = scan.remaining[0] / max(scan.remaining[1], 1e-12)
    share = left_share(
        target,
        density(scan, int(scan.order[scan.cursor[AT_LEFT]])),
        density(scan, int(scan.order[scan.cursor[AT_RIGHT]])),
    )
    # With nothing running both sides are level; the larger share begins.
    if load_left + load_right <= 0.0:
        return LEFT if share >= 0.5 else RIGHT
    return LEFT if load_left * (1.0 - share) <= load_right * share and share > 0.0 else RIGHT


@njit
def propose(scan: Scan, side: int) -> int:
    """Return the request that `side` (LEFT, RIGHT, or RETRY) would admit next, or NOBODY."""
    if side == RETRY:
        return int(scan.retry[scan.cursor[N_RETRY] - 1]) if scan.cursor[N_RETRY] > 0 else NOBODY
    if scan.cursor[AT_LEFT] > scan.cursor[AT_RIGHT] or (side == RIGHT and scan.cursor[TWO_SIDED] == 0):
        return NOBODY
    return int(scan.order[scan.cursor[AT_LEFT] if side == LEFT else scan.cursor[AT_RIGHT]])


@njit
def accept(scan: Scan, side: int) -> None:
    """Take the request that `propose` returned for `side`."""
    if side == RETRY:
        scan.cursor[N_RETRY] -= 1
    elif side == LEFT:
        scan.cursor[AT_LEFT] += 1
    else:
        scan.cursor[AT_RIGHT] -= 1


@njit
def give_back(scan: Scan, request: int, remaining_of: Float64) -> None:
    """Queue a retracted request; the one with the most tokens left (`remaining_of` [N]) is retried first."""
    place = scan.cursor[N_RETRY]
    while place > 0 and remaining_of[scan.retry[place - 1]] > remaining_of[request]:
        scan.retry[place] = scan.retry[place - 1]
        place -= 1
    scan.retry[place] = request
    scan.cursor[N_RETRY] += 1


@njit
def finish(scan: Scan, request: int) -> None:
    """Take a finished request out of the remaining work, which sets the target density."""
    scan.remaining[0] = max(0.0, scan.remaining[0] - scan.compute[request])
    scan.remaining[1] = max(0.0, scan.remaining[1] - scan.memory[request])
