"""Who is planned first: owners of requests that were promised a time, or a share of the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from engine.arrays import Float64, Int64


def entitled_seconds(owner: Int64, work: Float64, share: Float64) -> Float64:
    """Return when each owner would be done with its share of the device to itself, float64 [k], seconds.

    Infinite for owners without a share.

    Parameters
    ----------
    owner
        int64 [N]: whose each request is, an index below k; -1 for nobody's.
    work
        float64 [N], seconds of the whole device that each request takes.
    share
        float64 [k], parts of 1; 0: none.
    """
    owned = owner >= 0
    total = np.bincount(owner[owned], weights=work[owned], minlength=share.shape[0])
    with np.errstate(over="ignore"):
        return np.asarray(np.where(share > 0.0, total / np.where(share > 0.0, share, 1.0), np.inf))


def promised_ranks(owner: Int64, work: Float64, due: Float64, share: Float64) -> Int64:
    """Return the rank of each request, int64 [N]: what was promised comes first, the most urgent of it at 0.

    Owners come in the order of the earlier of two times: when they are due, and when they would be done with
    their share of the device to themselves. Owners of the same time have one rank, within which requests may
    be blended; requests of nobody come last. As long as all shares together are at most the whole, an owner
    with a share and the owners before it, if they have shares alone, have no more work than the device does
    until then: each is done in time (earliest deadline first; Liu and Layland, 1973).

    Parameters
    ----------
    owner, work, share
        See `entitled_seconds`.
    due
        float64 [k], seconds from now; infinite for owners without a time.
    """
    urgent = np.minimum(due, entitled_seconds(owner, work, share))
    times, rank = np.unique(urgent, return_inverse=True)
    rank = rank.reshape(-1).astype(np.int64)
    return np.asarray(np.where(owner >= 0, rank[owner] if rank.shape[0] else 0, times.shape[0]), np.int64)


def with_priority(rank: Int64, priority: Int64 | None) -> Int64:
    """Return one priority for both, int64 [N], higher is sooner: the rank decides, then `priority`."""
    if priority is None:
        return -rank
    keys = np.stack((rank, -priority), axis=1)
    return np.asarray(-np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1), np.int64)
