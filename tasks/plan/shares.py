"""The requests of a job divided among replicas, so that all of them can blend as the whole could."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from engine.cost.devices import model_shape
from engine.job.format import PLAN_FILE, read_plan_file
from engine.models.config import load_config
from engine.plan.moves import divide
from engine.plan.tree import build_tree

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tasks.night.night import Night
    from tasks.plan.work import NightWork


def divide_job(
    night: Night, work: NightWork, folder: Path, keys: Iterable[str], parts: int
) -> list[list[str]]:
    """Divide some requests of a job alike in compute and memory work, subtrees of prefixes kept together.

    Parameters
    ----------
    folder
        Of the job, as `tasks.plan.plan.write_plan` wrote it; its plan has the expected lengths.
    keys
        Of requests in that job. All sequences of a request go to one part.

    Returns
    -------
    list
        For each part its keys; some are empty where there are fewer requests than parts.
    """
    row_of = {row["request_id"]: i for i, row in enumerate(work.rows)}
    with (folder / "requests.jsonl").open() as file:
        owner = [work.key_of[row_of[json.loads(line)["request_id"]]] for line in file]
    wanted = set(keys)
    tokens = np.asarray(np.load(folder / "tokens.npy", mmap_mode="r"))
    tree = build_tree(tokens, np.load(folder / "offsets.npy"))
    asked = np.array([i for i, key in enumerate(owner) if key in wanted], np.int32)
    settings = night.settings
    shape = model_shape(load_config(night.model_dir), settings.dtype, settings.kv_dtype)
    estimate = read_plan_file(folder / PLAN_FILE).estimate
    place: dict[str, int] = {}
    for number, part in enumerate(divide(tree, asked, estimate, shape, settings.planned_on, parts)):
        for i in part.tolist():
            place.setdefault(owner[i], number)
    found: list[list[str]] = [[] for _ in range(parts)]
    for key, number in place.items():
        found[number].append(key)
    return found
