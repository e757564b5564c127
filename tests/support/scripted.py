"""A runner that computes nothing and answers from a script: the real engine without a model."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from engine.runtime.state import W_SAMPLES
from engine.runtime.state.runner import StepResult

STOP, OTHER = 1, 2


@dataclass(frozen=True)
class _Known:
    result: StepResult
    nano_batches: int = 1

    def wait(self) -> StepResult:
        return self.result


class ScriptedRunner:
    """Ends the answer to request i after ``output[i]`` tokens with STOP, a stop token of the model."""

    def __init__(self, output, start, kv_tokens: int, page_size: int, lag: int = 0) -> None:
        self.kv_tokens, self.page_size, self.lag = kv_tokens, page_size, lag
        config = SimpleNamespace(stop_token_ids=(STOP,), max_positions=1 << 30, vocab_size=STOP + 1)
        self.decoder = SimpleNamespace(config=config)
        # The position at which the last token of each answer is drawn.
        self._last = np.asarray(start)[1:] + np.asarray(output) - 1 - np.asarray(start)[:-1]
        self.steps: list[np.ndarray] = []

    def begin(self, sampling, slots, prompts=None) -> None:
        pass

    def launch(self, work, _slots, requests, _wish, _masks=None) -> _Known:
        self.steps.append(work.size.copy())
        rows = work.sample_rows[: work.size[W_SAMPLES]]
        drawn = work.positions[rows] + 1
        tokens = np.where(drawn >= self._last[requests], STOP, OTHER).astype(np.int64)
        return _Known(StepResult(tokens, None))
