"""Parts of the GPU benchmark: the whole engine on random weights."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.cost.fit import fit, step_errors
from engine.cost.step import NOMINAL, DeviceProfile, ModelShape
from engine.models.config import ModelConfig, RopeConfig
from engine.models.decoder import Decoder
from engine.models.weights import LayerWeights, ModelWeights
from engine.plan.policies import make_plan
from engine.runtime.calibrate import mixed_lengths, timed_steps
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.sample.settings import Sampling
from engine.runtime.setup import RunnerSizes, make_runner
from tests.benchmarks.gpu.bench import Bench, Row

if TYPE_CHECKING:
    from engine.cost.metrics import StepSample

LLAMA_8B = ModelConfig(
    architecture="LlamaForCausalLM",
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    rms_eps=1e-5,
    rope=RopeConfig(500000.0),
    max_positions=131072,
    tie_embeddings=False,
    qk_norm=False,
    qkv_bias=False,
    out_bias=False,
    windows=(None,) * 32,
    stop_token_ids=(),
)
QWEN_06B = replace(
    LLAMA_8B,
    architecture="Qwen3ForCausalLM",
    vocab_size=151936,
    hidden_size=1024,
    intermediate_size=3072,
    layers=28,
    heads=16,
    qk_norm=True,
    tie_embeddings=True,
    rope=RopeConfig(1000000.0),
    windows=(None,) * 28,
    max_positions=40960,
)
TINY = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "layers": 1, "heads": 4, "kv_heads": 2}
LONGEST = 5120
MODELS = {"Llama-3.1-8B shape": LLAMA_8B, "Qwen3-0.6B shape": QWEN_06B}


def random_weights(config: ModelConfig, bench: Bench) -> ModelWeights:
    """Normal weights with a standard deviation of 0.02, and norms of 1."""

    def matrix(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=bench.dtype, device=bench.device).normal_(std=0.02)

    def ones(n: int) -> torch.Tensor:
        return torch.ones(n, dtype=bench.dtype, device=bench.device)

    hidden, query = config.hidden_size, config.heads * config.head_dim
    embed = matrix(config.vocab_size, hidden)
    layers = [
        LayerWeights(
            input_norm=ones(hidden),
            qkv=matrix(query + 2 * config.kv_heads * config.head_dim, hidden),
            qkv_bias=None,
            q_norm=ones(config.head_dim) if config.qk_norm else None,
            k_norm=ones(config.head_dim) if config.qk_norm else None,
            out=matrix(hidden, query),
            out_bias=None,
            post_norm=ones(hidden),
            gate_up=matrix(2 * config.intermediate_size, hidden),
            down=matrix(hidden, config.intermediate_size),
            kv_scales=torch.ones((2, config.kv_heads), device=bench.device),
        )
        for _ in range(config.layers)
    ]
    head = embed if config.tie_embeddings else matrix(config.vocab_size, hidden)
    return ModelWeights(embed, tuple(layers), ones(hidden), head)


class Waiting:
    """Passes everything on to a runner and counts the time in which the host waits for results."""

    def __init__(self, runner) -> None:
        self._runner, self.waited = runner, 0.0

    def __getattr__(self, name: str):
        return getattr(self._runner, name)

    def launch(self, *arguments):
        """Launch as the runner does."""
        return _Launched(self, self._runner.launch(*arguments))


@dataclass(frozen=True)
class _Launched:
    counter: Waiting
    launched: Any

    @property
    def nano_batches(self) -> int:
        """Parts that the step was cut into."""
        return self.launched.nano_batches

    def wait(self):
        begin = time.perf_counter()
        result = self.launched.wait()
        self.counter.waited += time.perf_counter() - begin
        return result


@dataclass(frozen=True)
class Run:
    """One engine run: its steps with their seconds on the device, the host's own, the wall time, answers."""

    steps: list[StepSample]
    host: list[float]
    seconds: float
    tokens: int
    answers: dict[int, list[int]]


def random_tokens(prompts: list[int], vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random tokens of prompts of these lengths, flat, the same whenever there are as many; starts."""
    rng = np.random.default_rng(len(prompts))
    start = np.concatenate([[0], np.cumsum(prompts)]).astype(np.int64)
    return rng.integers(0, vocab_size, start[-1]).astype(np.int32), start


def mixed_requests(bench: Bench) -> tuple[list[int], list[int]]:
    """Return the lengths of prompts and answers of the mixed workload."""
    return mixed_lengths(bench.size(640, 6), bench.size(LONGEST, 64))


class EngineBench:
    """One model with one runner, for several runs."""

    def __init__(self, bench: Bench, config: ModelConfig) -> None:
        if bench.dry:
            config = replace(config, **TINY, head_dim=16, windows=(None,))
        self.bench, self.config = bench, config
        self.shape = ModelShape.of(config, bench.dtype.itemsize)
        self.budget, self.sequences = bench.size(4096, 16), bench.size(512, 4)
        self.longest = bench.size(LONGEST, 64)
        sizes = RunnerSizes(
            kv_tokens=512 if bench.dry else None,
            page_size=16,
            token_budget=self.budget,
            max_sequences=self.sequences,
            longest=self.longest,
            least=self.longest,
            most=self.sequences * self.longest,
        )
        decoder = Decoder(config, random_weights(config, bench))
        # In a dry run the memory is given, so nothing is asked of the stand-in but not to be None.
        memory: Any = object() if bench.dry else None
        self.runner = make_runner(decoder, sizes, self.shape.kv_bytes_per_token, memory=memory)

    def run(
        self, prompts: list[int], outputs: list[int], profile: DeviceProfile, policy: str = "blend"
    ) -> Run:
        """Answer requests of these lengths with the tokens of `random_tokens`."""
        tokens, start = random_tokens(prompts, self.config.vocab_size)
        sampling = [Sampling(max_tokens=n, ignore_eos=True) for n in outputs]
        settings = EngineSettings(
            kv_tokens=self.runner.kv_tokens,
            page_size=16,
            token_budget=self.budget,
            max_sequences=self.sequences,
        )
        estimate = np.array(outputs, np.float64)
        plan = make_plan(policy, tokens, start, estimate, self.shape, profile, seed=1)
        runner = Waiting(self.runner)
        engine = Engine(runner, None, settings, tokens, start, sampling, plan)
        steps, host, begin = [], [], time.perf_counter()
        answers: dict[int, list[int]] = {}
        while engine.unfinished:
            before = runner.waited
            finished, step = engine.step()
            answers |= {done.request: done.token_ids.tolist() for done in finished}
            steps.append(step)
            host.append(step.seconds - (runner.waited - before))
        answers |= {done.request: done.token_ids.tolist() for done in engine.drain()}
        seconds = time.perf_counter() - begin
        return Run(timed_steps(steps, self.runner.lag), host, seconds, int(start[-1]) + sum(outputs), answers)


def decode_lengths(made: EngineBench, spare: int) -> tuple[list[int], list[int]]:
    """Requests that fill the memory together: answers outlast the steps that all the prompts take."""
    room = min(made.runner.kv_tokens // made.sequences, made.longest) - spare
    prompt = int(room / (1 + 1.15 * made.sequences / made.budget))
    return [prompt] * made.sequences, [room - prompt + spare // 2] * made.sequences


def flipped(made: EngineBench, profile: DeviceProfile, count: int) -> tuple[float, int]:
    """Return the part of greedy answers that differ between two orders, and how many were compared.

    In 16 bits a sum depends on what else is in the step. With random weights, whose logits are nearly level,
    answers differ far more often than those of a trained model.
    """
    prompts, outputs = mixed_lengths(count, made.longest)
    first, second = (made.run(prompts, outputs, profile, policy).answers for policy in ("fcfs", "random"))
    if len(first) != count or first.keys() != second.keys():
        raise RuntimeError(f"{len(first)} and {len(second)} of {count} requests were answered")
    return sum(first[i] != second[i] for i in first) / count, count


def warm_host(bench: Bench) -> None:
    """Run a few tiny steps, so that everything that numba compiles is on disk."""
    made = EngineBench(bench, LLAMA_8B)
    made.run([16, 16], [4, 4], NOMINAL["cpu"])


def engine(
    bench: Bench, figures: dict[str, Any], name: str
) -> tuple[dict[str, Any], list[Row], DeviceProfile]:
    """Prefill only, decode only at full memory, and a mixture, on one model."""
    peak, read = figures["matmul_tflops"] * 1e12, figures["read_gb_s"] * 1e9
    profile = DeviceProfile(figures["device"], "measured", 0.7 * peak, read, peak, read, overlaps=False)
    made = EngineBench(bench, MODELS[name])
    shape, longest = made.shape, made.longest
    made.run([longest // 4] * 2, [4] * 2, profile)
    length = longest * 2 // 5
    count = bench.size(64, 2)
    prefill = made.run([length] * count, [1] * count, profile)
    flops = sum(shape.step_flops(s.tokens, s.samples, s.attended_tokens) for s in prefill.steps)
    mfu = flops / prefill.seconds / peak
    decode = made.run(*decode_lengths(made, bench.size(80, 8)), profile)
    full = [s for s in decode.steps if s.prefill_tokens == 0 and s.sequences >= 0.9 * made.sequences]
    if not full:
        raise RuntimeError("no step decoded as many sequences as there may be")
    # KV read and written, and one pass over the weights.
    kv = sum(s.tokens + s.kv_tokens_read for s in full) * shape.kv_bytes_per_token
    moved = kv + len(full) * shape.weight_bytes
    mbu = moved / sum(s.seconds for s in full) / read
    mixed = made.run(*mixed_requests(bench), profile)
    steps = mixed.steps[1:]
    fitted = fit(steps[::2], shape, profile).profile
    errors = step_errors(steps[1::2], shape, fitted)
    flips, compared = flipped(made, profile, bench.size(128, 4))
    found = {
        "flip_rate": flips,
        "flip_rate_answers": compared,
        "engine_prefill_mfu": mfu,
        "engine_decode_mbu": mbu,
        "engine_decode_kv_tokens": made.runner.kv_tokens,
        "mixed_tokens_per_second": mixed.tokens / mixed.seconds,
        "mixed_seconds": mixed.seconds,
        "step_time_error_p50": float(np.quantile(errors, 0.5)),
        "step_time_error_p95": float(np.quantile(errors, 0.95)),
        "host_ms_per_step": 1e3 * statistics.median(mixed.host),
    }
    rows = [
        Row(f"{name}: prefill only", prefill.tokens / prefill.seconds, "tokens/s", mfu),
        Row(f"{name}: decode only, full memory", moved / len(full) / 1e9, "GB/step", mbu),
        Row(f"{name}: mixed", found["mixed_tokens_per_second"], "tokens/s"),
        Row(f"{name}: greedy answers that depend on the order", 100 * flips, "%"),
        Row(f"{name}: host per step", found["host_ms_per_step"], "ms"),
        Row(f"{name}: step time, p50 off by", 100 * found["step_time_error_p50"], "%"),
        Row(f"{name}: step time, p95 off by", 100 * found["step_time_error_p95"], "%"),
    ]
    return found, rows, fitted
