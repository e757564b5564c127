"""Host time per step at 2,000 tokens and 1,000 sequences, on the CPU.

    python -m tests.benchmarks.engine.host_time            # prints and writes results/host_time.json
    python -m tests.benchmarks.engine.host_time --quick    # 100 steps, writes nothing
    python -m tests.benchmarks.engine.host_time --stops    # the rows about stop strings again

Everything that the host does for a step runs: scheduling, filling and sending the step's buffers, block-table
changes, sampling calls, taking in the result of the step before. The forward pass is left out: on a GPU it
is one call that replays a graph. On the CPU sampling is computed and not only launched, over few logits; one
row has the same draws, each replaced by a constant, which is nearer to what a launch costs. In another row
eight requests at a time share half of their prompts, and the pages worth reading once are looked for. The
last three rows have 512 sequences, texts of answers and made-up draws: without stop strings, with two each,
and with two for which the last tokens are decoded after every one, as it was once.
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
from typing import TYPE_CHECKING, Any, Final
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
from engine.runtime.sample.stops import StopChecker
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.gpu.engine import LLAMA_8B, TINY, random_weights
from tests.benchmarks.lib import places
from tests.support.tokenizers import byte_level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from engine.cost.metrics import StepSample

RESULT = places.RESULTS / "host_time.json"
TOKENS, SEQUENCES, LENGTH, GOAL_MS = 2000, 1000, 256, 2.0
WITH_STOPS: Final = 512
STOPS: Final = ("\n\n", "</answer>")


@contextmanager
def draws_left_out() -> Iterator[None]:
    """Every draw gives token 1 at once: what is left of it is what the host does beside the launch."""

    def draw(logits, *settings, restricted, masks=None) -> torch.Tensor:
        del settings, restricted, masks
        return torch.ones(logits.shape[0], dtype=torch.int64)

    with patch.object(kernels, "draw", draw):
        yield


@contextmanager
def made_up_draws() -> Iterator[None]:
    """Every draw gives any token, at next to no cost."""
    rng = torch.Generator().manual_seed(1)

    def draw(logits, *settings, restricted, masks=None) -> torch.Tensor:
        del settings, restricted, masks
        return torch.randint(logits.shape[1], (logits.shape[0],), generator=rng)

    with patch.object(kernels, "draw", draw):
        yield


@contextmanager
def every_token_decoded() -> Iterator[None]:
    """Made-up draws, and no token tells that it can end no stop string."""
    with made_up_draws(), patch.object(StopChecker, "_ends", lambda *_: True):
        yield


def steps(
    count: int,
    temperature: float,
    *,
    sharing: bool = False,
    sequences: int = SEQUENCES,
    stop: tuple[str, ...] = (),
    texts: bool = False,
) -> list[StepSample]:
    """Run until `count` steps were full; prompts are as long as answers, so half of the tokens decode.

    With `sharing` half of a prompt is that of seven others too, and pages that are worth it are read once.
    With `texts` answers become texts.
    """
    most = TOKENS * sequences // SEQUENCES
    bench = Bench(torch.device("cpu"), torch.float32, dry=True)
    config = replace(LLAMA_8B, **TINY, head_dim=16, windows=(None,))
    decoder = Decoder(config, random_weights(config, bench))
    # Arrivals of finished requests' places per step are the prompts' share of a step over their length.
    requests = sequences + (most - sequences) * (count + 4 * LENGTH) // LENGTH
    rng = np.random.default_rng(0)
    start = np.arange(requests + 1, dtype=np.int64) * LENGTH
    tokens = rng.integers(0, config.vocab_size, start[-1]).astype(np.int32)
    if sharing:
        halves = tokens.reshape(requests, LENGTH)[:, : LENGTH // 2]
        halves[:] = halves[np.arange(requests) // 8 * 8]
    # The first ones end one after the other, so that the run is steady at once.
    answers = np.full(requests, LENGTH)
    answers[:sequences] = rng.integers(2, LENGTH, sequences)
    sampling = [
        Sampling(max_tokens=int(n), temperature=temperature, seed=i, ignore_eos=True, stop=stop)
        for i, n in enumerate(answers)
    ]
    kv_tokens = sequences * (2 * LENGTH + 32)
    settings = EngineSettings(kv_tokens, 16, most, sequences)
    shape = ModelShape.of(config, 4)
    cascade = step_cost(shape, replace(NOMINAL["h100"], shared_read=0.1)) if sharing else None
    runner = DeviceRunner(decoder, kv_tokens, 16, most, sequences, 2 * LENGTH, cascade=cascade)
    tokenizer = byte_level() if texts else None
    runner._graphs = lambda _: None
    plan = make_plan("fcfs", tokens, start, answers.astype(np.float64), shape, NOMINAL["h100"], seed=1)
    engine = Engine(runner, tokenizer, settings, tokens, start, sampling, plan)
    full: list[StepSample] = []
    while engine.unfinished and len(full) < count:
        _, step = engine.step()
        if step.tokens >= 0.95 * most and step.sequences >= 0.95 * sequences:
            full.append(step)
    if len(full) < count:
        raise RuntimeError(f"only {len(full)} of {count} steps were full")
    return full


_FEW: Final[dict[str, Any]] = {"sequences": WITH_STOPS, "texts": True}
ROWS: Final[tuple[tuple[str, float, Callable[[], AbstractContextManager[None]], dict[str, Any]], ...]] = (
    ("greedy", 0.0, nullcontext, {}),
    ("drawn", 0.8, nullcontext, {}),
    ("drawn, draws left out", 0.8, draws_left_out, {}),
    ("greedy, shared pages", 0.0, nullcontext, {"sharing": True}),
    ("512, no stop strings", 0.8, made_up_draws, _FEW),
    ("512, stop strings", 0.8, made_up_draws, {**_FEW, "stop": STOPS}),
    ("512, all decoded", 0.8, every_token_decoded, {**_FEW, "stop": STOPS}),
)
"""What is measured: temperature, what is left out, and arguments of `steps`."""


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="100 steps: a trial, not a result")
    parser.add_argument("--stops", action="store_true", help="only the rows about stop strings")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for name, temperature, without, others in ROWS:
        if options.stops and "sequences" not in others:
            continue
        # The first tenth warms caches up.
        count = 100 if options.quick or without is every_token_decoded else 1000
        with without():
            measured = steps(count + count // 10, temperature, **others)[count // 10 :]
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
    if options.quick:
        return
    about = {
        "label": "measured on the host, without the forward pass; sampling computed but where it says so",
        "device": f"{places.processor()}, {os.cpu_count()} threads",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "load_at_end": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "goal_ms": GOAL_MS,
    }
    if options.stops:
        # Another day and machine than the other rows may have.
        for row in found.values():
            row |= {"device": about["device"], "date": about["date"], "load_at_end": about["load_at_end"]}
        found = {**json.loads(RESULT.read_text()), **found}
        about = {}
    RESULT.write_text(json.dumps({**about, **found}, indent=2) + "\n")
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
