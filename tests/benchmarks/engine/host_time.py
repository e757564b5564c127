"""Host time per step at 2,000 tokens and 1,000 sequences, on the CPU.

    python -m tests.benchmarks.engine.host_time            # prints and writes results/host_time.json
    python -m tests.benchmarks.engine.host_time --quick    # 100 steps, writes nothing

Everything that the host does for a step runs: scheduling, filling and sending the step's buffers, block-table
changes, sampling calls, taking in the result of the step before. The forward pass is left out: on a GPU it
is one call that replays a graph. On the CPU sampling is computed and not only launched, over few logits; one
row has the same draws, each replaced by a constant, which is nearer to what a launch costs. In the last row
eight requests at a time share half of their prompts, and the pages worth reading once are looked for.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import statistics
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
import torch

from engine import kernels
from engine.cost.step import NOMINAL, ModelShape, step_cost
from engine.models.decoder import Decoder
from engine.plan.policies import make_plan
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.device.runner import DeviceRunner
from engine.runtime.sample.settings import Sampling
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.gpu.engine import LLAMA_8B, TINY, random_weights
from tests.benchmarks.lib import places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.cost.metrics import StepSample

RESULT = places.RESULTS / "host_time.json"
TOKENS, SEQUENCES, LENGTH, GOAL_MS = 2000, 1000, 256, 2.0


@contextmanager
def draws_left_out() -> Iterator[None]:
    """Every draw gives token 1 at once: what is left of it is what the host does beside the launch."""

    def draw(logits, *settings, restricted) -> torch.Tensor:
        del settings, restricted
        return torch.ones(logits.shape[0], dtype=torch.int64)

    with patch.object(kernels, "draw", draw):
        yield


def steps(count: int, temperature: float, *, sharing: bool = False) -> list[StepSample]:
    """Run until `count` steps were full; prompts are as long as answers, so half of the tokens decode.

    With `sharing` half of a prompt is that of seven others too, and pages that are worth it are read once.
    """
    bench = Bench(torch.device("cpu"), torch.float32, dry=True)
    config = replace(LLAMA_8B, **TINY, head_dim=16, windows=(None,))
    decoder = Decoder(config, random_weights(config, bench))
    # Arrivals of finished requests' places per step are the prompts' share of a step over their length.
    requests = SEQUENCES + (TOKENS - SEQUENCES) * (count + 4 * LENGTH) // LENGTH
    rng = np.random.default_rng(0)
    start = np.arange(requests + 1, dtype=np.int64) * LENGTH
    tokens = rng.integers(0, config.vocab_size, start[-1]).astype(np.int32)
    if sharing:
        halves = tokens.reshape(requests, LENGTH)[:, : LENGTH // 2]
        halves[:] = halves[np.arange(requests) // 8 * 8]
    # The first ones end one after the other, so that the run is steady at once.
    answers = np.full(requests, LENGTH)
    answers[:SEQUENCES] = rng.integers(2, LENGTH, SEQUENCES)
    sampling = [
        Sampling(max_tokens=int(n), temperature=temperature, seed=i, ignore_eos=True)
        for i, n in enumerate(answers)
    ]
    kv_tokens = SEQUENCES * (2 * LENGTH + 32)
    settings = EngineSettings(kv_tokens, 16, TOKENS, SEQUENCES)
    shape = ModelShape.of(config, 4)
    cascade = step_cost(shape, replace(NOMINAL["h100"], shared_read=0.1)) if sharing else None
    runner = DeviceRunner(decoder, kv_tokens, 16, TOKENS, SEQUENCES, 2 * LENGTH, cascade=cascade)
    runner._graphs = lambda _: None
    plan = make_plan("fcfs", tokens, start, answers.astype(np.float64), shape, NOMINAL["h100"], seed=1)
    engine = Engine(runner, None, settings, tokens, start, sampling, plan)
    full: list[StepSample] = []
    while engine.unfinished and len(full) < count:
        _, step = engine.step()
        if step.tokens >= 0.95 * TOKENS and step.sequences >= 0.95 * SEQUENCES:
            full.append(step)
    if len(full) < count:
        raise RuntimeError(f"only {len(full)} of {count} steps were full")
    return full


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="100 steps: a trial, not a result")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    for name, temperature, without, sharing in (
        ("greedy", 0.0, nullcontext, False),
        ("drawn", 0.8, nullcontext, False),
        ("drawn, draws left out", 0.8, draws_left_out, False),
        ("greedy, shared pages", 0.0, nullcontext, True),
    ):
        # The first tenth warms caches up.
        count = 100 if quick else 1000
        with without():
            measured = steps(count + count // 10, temperature, sharing=sharing)[count // 10 :]
        times = [1e3 * step.seconds for step in measured]
        found[name] = {
            "steps": count,
            "tokens_per_step": statistics.mean(step.tokens for step in measured),
            "sequences_per_step": statistics.mean(step.sequences for step in measured),
            "ms_p50": statistics.median(times),
            "ms_mean": statistics.mean(times),
            "ms_p95": float(np.quantile(times, 0.95)),
        }
        row = found[name]
        print(
            f"{name:22}{row['tokens_per_step']:7.0f} tokens {row['sequences_per_step']:6.0f} sequences",
            end="",
        )
        print(f"   p50 {row['ms_p50']:.2f} ms, mean {row['ms_mean']:.2f}, p95 {row['ms_p95']:.2f}", end="")
        print(f"   goal {GOAL_MS} ms")
    if quick:
        return
    about = {
        "label": "measured on the host, without the forward pass; sampling computed but where it says so",
        "device": f"{places.processor()}, {os.cpu_count()} threads",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "load_at_end": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "goal_ms": GOAL_MS,
    }
    RESULT.write_text(json.dumps({**about, **found}, indent=2) + "\n")
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
