"""Sizes of a job for an engine by others: lengths of answers, and KV memory in whole blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.cost.devices import cpu_kv_tokens
from engine.errors import CapacityError

if TYPE_CHECKING:
    from engine.arrays import Int32, Int64
    from engine.cost.step import ModelShape
    from engine.job.format import Job


def most_tokens(job: Job, context: int) -> Int32:
    """Return the most tokens of each answer within a context of so many tokens, int32 [N].

    Raises
    ------
    CapacityError
        If a prompt leaves no room for an answer.
    """
    prompts = np.diff(job.offsets)
    limits = np.array([one.max_tokens for one in job.sampling], np.int64)
    found: Int32 = np.minimum(limits, context - prompts).astype(np.int32)
    if found.min(initial=1) < 1:
        raise CapacityError(f"prompt of {prompts.max()} tokens does not fit the model's context of {context}")
    return found


def kv_tokens(job: Job, lengths: Int64, block: int, shape: ModelShape, place: str) -> int | None:
    """Return the KV memory in whole blocks; None lets the engine take what the device has.

    Parameters
    ----------
    lengths
        int64 [N]: prompts with the longest answers.
    block
        Tokens of a block.
    place
        Where it computes, as `engine.cost.devices.find_device` names it.

    Raises
    ------
    CapacityError
        If what was asked for cannot hold some request by itself.
    """
    pages = -(-lengths // block)
    # One block more than the longest request, as our scheduler counts.
    needed, most = (int(pages.max(initial=1)) + 1) * block, (int(pages.sum()) + 1) * block
    asked = job.settings.kv_tokens
    if asked is None:
        return (
            None if place != "cpu" else cpu_kv_tokens(shape.kv_bytes_per_token, needed, most) // block * block
        )
    if asked < needed:
        raise CapacityError(
            f"--kv-tokens: {asked} is too small for the longest request, which may need {needed}; raise it, "
            "or lower max_tokens"
        )
    return asked // block * block
