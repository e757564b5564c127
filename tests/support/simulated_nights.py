"""Random nights of a tiny model on a modelled device."""

from __future__ import annotations

import numpy as np

from engine.cost.step import NOMINAL, ModelShape, step_cost
from tests.support.models import flatten

SHAPE = ModelShape(1000, 100, 2, 16, 64, 4400)


COST = step_cost(SHAPE, NOMINAL["a100"])


def random_night(seed: int, count: int, longest: int, wrong: float):
    """Return tokens, start, output lengths and estimates; stems are shared, `wrong` scales the estimates."""
    rng = np.random.default_rng(seed)
    stems = [rng.integers(2, 5, int(rng.integers(1, 24))).tolist() for _ in range(3)]
    prompts = []
    for _ in range(count):
        stem = stems[int(rng.integers(3))]
        tail = rng.integers(2, 5, int(rng.integers(1, 8))).tolist()
        prompts.append(stem[: int(rng.integers(0, len(stem) + 1))] + tail)
        if rng.random() < 0.1:
            prompts[-1] = prompts[int(rng.integers(len(prompts)))]
    output = rng.integers(1, longest + 1, count).astype(np.int32)
    estimate = output * wrong * (1.0 if wrong == 1.0 else rng.uniform(0.5, 1.5, count))
    return *flatten(prompts), output, np.clip(estimate, 1.0, None)
