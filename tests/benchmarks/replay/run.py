"""What a whole trace takes on a device, from a sample of its steps: the real kernels on the recorded steps.

Each chosen step is computed with the runner of the engine: random weights and tokens, block tables of the
true lengths with pages in random order. Pages that requests share in the run are apart here, as far as the
memory goes. The makespan is the sum over all strata of the mean of the measured steps times the number of
steps: it is *replayed*, and its sampling error is the usual one of stratified samples (Cochran, "Sampling
Techniques", 1977, 5.3).
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.cost.step import NOMINAL, ModelShape, step_cost
from engine.models.decoder import Decoder
from engine.plan.policies import make_plan
from engine.runtime import state
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.device.runner import DeviceRunner
from engine.runtime.sample.settings import Sampling
from engine.runtime.state.runner import LogprobWish
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.gpu.engine import LLAMA_8B, TINY, random_tokens, random_weights
from tests.benchmarks.replay.steps import LEAST_STEPS, Recording, record

if TYPE_CHECKING:
    from engine.models.config import ModelConfig
    from engine.runtime.device.overlap import Overlap
    from engine.runtime.state.runner import Runner
    from tests.benchmarks.replay.steps import Int32, Int64

_NO_WISH = LogprobWish(np.zeros(0, np.int64), 0)


class Replayer:
    """Computes recorded steps on a runner whose KV memory and sizes are those of the recording."""

    def __init__(self, runner: Runner, recording: Recording, seed: int = 0) -> None:
        about = recording.about
        self._runner, self._recording = runner, recording
        self._page, self._pages = int(about["page_size"]), int(about["kv_tokens"]) // int(about["page_size"])
        width = -(-int(about["longest"]) // self._page) + 1
        self._work = state.make_work(int(about["token_budget"]), int(about["max_sequences"]))
        self._slots = state.make_slots(int(about["max_sequences"]), width, 1)
        self._rng = np.random.default_rng(seed)
        runner.begin([Sampling(max_tokens=1)], self._slots)

    def load(self, index: int) -> state.Work:
        """Make step `index` of the recording: its rows, its contexts, and pages in random order."""
        kept = self._recording
        rows = kept.sequences[kept.start[index] : kept.start[index + 1]]
        work, slots, n = self._work, self._slots, len(rows)
        length, context, sampled = rows.T
        work.size[:] = 0
        work.first[:n] = np.cumsum(length) - length
        work.length[:n], work.context[:n], work.slot[:n] = length, context, np.arange(n)
        slots.counts[state.RUNNING], slots.running[:n] = n, np.arange(n)
        order, begin, row = self._rng.permutation(self._pages), 0, 0
        for i in range(n):
            count = -(-int(context[i]) // self._page)
            slots.n_pages[i] = count
            # More than there are only if requests share pages: then some are used twice.
            slots.pages[i, :count] = order[(begin + np.arange(count)) % self._pages]
            begin += count
            position = np.arange(context[i] - length[i], context[i])
            inside = slice(row, row + int(length[i]))
            work.positions[inside], work.offsets[inside] = position, position % self._page
            work.pages[inside] = slots.pages[i, position // self._page]
            row += int(length[i])
        work.tokens[:row] = self._rng.integers(0, self._runner.decoder.config.vocab_size, row)
        chosen = np.flatnonzero(sampled)
        work.sample_rows[: len(chosen)] = work.first[chosen] + work.length[chosen] - 1
        work.sample_slots[: len(chosen)] = chosen
        decoding = int(kept.decoding[index])
        prefill, before = length[decoding:].astype(np.int64), (context - length)[decoding:].astype(np.int64)
        work.size[state.W_TOKENS], work.size[state.W_SEQUENCES] = row, n
        work.size[state.W_SAMPLES] = len(chosen)
        work.size[state.W_KV_READ] = context.sum()
        work.size[state.W_KV_DECODE] = context[:decoding].sum()
        work.size[state.W_ATTENDED] = (prefill * before + prefill * (prefill + 1) // 2).sum()
        return work

    def seconds(self, index: int, repeats: int) -> float:
        """Return the time of a step, with the host as many steps ahead as in a run."""
        work = self.load(index)
        requests = np.zeros(int(work.size[state.W_SAMPLES]), np.int64)

        def run(times: int) -> None:
            flying = deque()
            for _ in range(times):
                flying.append(self._runner.launch(work, self._slots, requests, _NO_WISH))
                if len(flying) > self._runner.lag:
                    flying.popleft().wait()
            while flying:
                flying.popleft().wait()

        # The first one sends the block tables, which a run does bit by bit.
        run(1)
        begin = time.perf_counter()
        run(repeats)
        return (time.perf_counter() - begin) / repeats


def makespan(recording: Recording, seconds: np.ndarray) -> tuple[float, float]:
    """Return the estimated sum over all steps of the run, and the standard error of it, in seconds.

    `seconds` float64 [k] are those of the recorded steps.
    """
    total = variance = 0.0
    for h, population in enumerate(recording.population.tolist()):
        mine = seconds[recording.stratum == h]
        n = len(mine)
        if n == 0:
            continue
        total += population * float(mine.mean())
        if 1 < n < population:
            variance += population**2 * (1 - n / population) * float(mine.var(ddof=1)) / n
    return total, variance**0.5


def replay(runner: Runner, recording: Recording, repeats: int) -> dict[str, Any]:
    """Compute all recorded steps, the largest first, and return the figures of the cell."""
    replayer, seconds = Replayer(runner, recording), np.zeros(len(recording.steps))
    rows = np.add.reduceat(recording.sequences[:, 0], recording.start[:-1])
    for i in np.argsort(-rows, kind="stable").tolist():
        # Graphs that are captured as they are needed then fit into the memory of earlier ones.
        seconds[i] = replayer.seconds(i, repeats)
    total, error = makespan(recording, seconds)
    ratio = seconds / recording.modelled
    return {
        **recording.about,
        "label": "replayed",
        "replayed_steps": len(seconds),
        "seconds": total,
        "standard_error": error,
        "tokens_per_second": recording.about["tokens"] / total,
        "step_over_model_p5_p50_p95": np.quantile(ratio, (0.05, 0.5, 0.95)).tolist(),
    }


def decoder_for(config: ModelConfig, bench: Bench) -> Decoder:
    """Return a decoder with random weights."""
    return Decoder(config, random_weights(config, bench))


def runner_for(recording: Recording, decoder: Decoder, overlap: Overlap | None = None) -> DeviceRunner:
    """Return a runner with the recording's sizes, which captures the graphs that its steps need."""
    about = recording.about
    sizes = (about[name] for name in ("kv_tokens", "page_size", "token_budget", "max_sequences", "longest"))
    runner = DeviceRunner(decoder, *map(int, sizes), overlap=overlap)
    runner.capture(lazily=True)
    return runner


def tiny_night(bench: Bench, requests: int = 80) -> tuple[ModelConfig, ModelShape, Int32, Int64, Int32]:
    """Return a tiny model, its shape, and prompts and answer lengths for it."""
    config = replace(LLAMA_8B, **TINY, head_dim=16, windows=(None,))
    rng = np.random.default_rng(5)
    prompts = rng.integers(4, 60, requests).tolist()
    output = rng.integers(2, 40, requests).astype(np.int32)
    tokens, start = random_tokens(prompts, config.vocab_size)
    return config, ModelShape.of(config, bench.dtype.itemsize), tokens, start, output


def dry(steps: int = LEAST_STEPS, requests: int = 80) -> dict[str, Any]:
    """Record and replay a tiny run on the CPU with the reference operations; run it from end to end too."""
    bench = Bench(torch.device("cpu"), torch.float32, dry=True)
    config, shape, tokens, start, output = tiny_night(bench, requests)
    settings = EngineSettings(kv_tokens=640, page_size=16, token_budget=32, max_sequences=8)
    plan = make_plan("blend", tokens, start, output.astype(np.float64), shape, NOMINAL["cpu"], seed=1)
    cost = step_cost(shape, NOMINAL["cpu"])
    recording = record({"cell": "dry", "order": "blend"}, plan, tokens, start, output, settings, cost, steps)
    runner = runner_for(recording, decoder_for(config, bench))
    found = replay(runner, recording, repeats=1)
    sampling = [Sampling(max_tokens=int(n), ignore_eos=True) for n in output]
    engine = Engine(runner, None, settings, tokens, start, sampling, plan, cost)
    begin = time.perf_counter()
    for _ in engine.run():
        pass
    return {**found, "end_to_end_seconds": time.perf_counter() - begin}


def print_cell(found: dict[str, Any]) -> None:
    """Print the figures of one cell."""
    error = 100 * found["standard_error"] / found["seconds"]
    print(
        f"{found['cell']:40}{found['replayed_steps']:6} of {found['steps']} steps   "
        f"{found['seconds']:10.1f} s +- {error:.2f} % (replayed)   "
        f"{found['simulated_seconds']:10.1f} s (simulated)"
    )
