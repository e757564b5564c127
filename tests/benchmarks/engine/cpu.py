"""Our engine against padded transformers batches on this machine's CPU: the same requests, one run.

The baseline is not handicapped: it knows the output lengths, sorts by them (then by prompt length), runs at
its best batch size of 8, 16, 32 and 64, and is warmed up. A padded batch runs to its longest answer. Every
measurement has its own process, so that peak memory can be told apart; weights are loaded before the clock
starts, our planning runs while it does. Ours and the best batch size are measured three times in turn, and
the medians are compared. Tokens per second count real input and output tokens, no padding.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from engine.cost.step import ModelShape, measure_cpu
from engine.models.config import load_config
from engine.models.decoder import Decoder
from engine.models.weights import load_weights
from engine.plan.policies import POLICIES, make_plan
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.sample.settings import Sampling
from tests.benchmarks.lib import places

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = places.RESULTS / "cpu_engine.json"
BATCH_SIZES = (8, 16, 32, 64)
ROUNDS = 3
GOALS = {"uniform": 1.0, "mixed": 1.5}
MODEL = {
    "vocab_size": 8192,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 2048,
}


@dataclass(frozen=True)
class Requests:
    """Prompts and the exact number of tokens to generate for each."""

    prompts: list[list[int]]
    outputs: list[int]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.prompts)) + sum(self.outputs)


@dataclass(frozen=True)
class Measured:
    """One measurement: seconds of the whole workload, and peak resident memory of its process."""

    side: str
    seconds: float
    tokens_per_second: float
    peak_mib: float
    answers: list[list[int]]
    details: dict[str, Any]


def uniform(count: int) -> Requests:
    """All prompts 32 tokens and all answers 16, nothing shared: padding wastes nothing."""
    rng = np.random.default_rng(1)
    return Requests([rng.integers(10, 8192, 32).tolist() for _ in range(count)], [16] * count)


def mixed(count: int) -> Requests:
    """Eight shared prefixes of 64 tokens, own tails of 4 to 24, answers of 2 to 16 tokens (log-uniform)."""
    rng = np.random.default_rng(2)
    prefixes = [rng.integers(10, 8192, 64).tolist() for _ in range(8)]
    prompts, outputs = [], []
    for _ in range(count):
        tail = rng.integers(10, 8192, int(rng.integers(4, 25))).tolist()
        prompts.append(prefixes[int(rng.integers(8))] + tail)
        outputs.append(int(np.exp(rng.uniform(np.log(2), np.log(16)))))
    return Requests(prompts, outputs)


WORKLOADS = {"uniform": uniform, "mixed": mixed}


def make_model(folder: Path) -> None:
    """Save a random-weight Llama."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**MODEL, eos_token_id=None, bos_token_id=None, pad_token_id=0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def answer_with_ours(folder: Path, requests: Requests, policy: str) -> Measured:
    """Run our engine: plan, then all requests."""
    config = load_config(folder)
    decoder = Decoder(config, load_weights(folder, config, torch.float32, "cpu"))
    device = measure_cpu()

    def run(part: Requests) -> tuple[Engine, list[list[int]], float]:
        start = np.cumsum([0, *map(len, part.prompts)]).astype(np.int64)
        tokens = np.concatenate(part.prompts).astype(np.int32)
        estimate = np.array(part.outputs, np.float64)
        plan = make_plan(policy, tokens, start, estimate, ModelShape.of(config), device)
        sampling = [Sampling(max_tokens=n, ignore_eos=True) for n in part.outputs]
        settings = EngineSettings(kv_tokens=6144, token_budget=1024, max_sequences=128)
        engine = Engine(decoder, None, settings, tokens, start, sampling, plan)
        answers: list[list[int]] = [[] for _ in part.prompts]
        for finished, _ in engine.run():
            for completion in finished:
                answers[completion.request] = completion.token_ids.tolist()
        return engine, answers, plan.hit_rate_optimum

    # Short prompts: enough to load compiled code and start the threads.
    warm = [p[:8] for p in requests.prompts[:64]]
    run(Requests(warm, [2] * len(warm)))
    begin = time.perf_counter()
    engine, answers, optimum = run(requests)
    seconds = time.perf_counter() - begin
    prompt_tokens = sum(map(len, requests.prompts))
    counters = engine.counters()
    # The results' name is older than the engine's word for it.
    counters["retractions"] = counters.pop("preemptions")
    details = {
        "policy": policy,
        "hit_rate": counters["hit_tokens"] / prompt_tokens,
        "hit_rate_optimum": optimum,
        **counters,
    }
    return _measured("nightblend", requests, seconds, answers, details)


def answer_with_transformers(folder: Path, requests: Requests, batch_size: int) -> Measured:
    """Run padded batches of `generate`, sorted by output length and then prompt length."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(prompts: list[list[int]], longest: int) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, max_new_tokens=longest, do_sample=False)
        return out[:, width:].tolist()

    order = sorted(
        range(len(requests.outputs)), key=lambda i: (requests.outputs[i], len(requests.prompts[i]))
    )
    generate([requests.prompts[i][:8] for i in order[:batch_size]], 2)
    answers: list[list[int]] = [[] for _ in order]
    padded = 0
    begin = time.perf_counter()
    for first in range(0, len(order), batch_size):
        members = order[first : first + batch_size]
        longest = max(requests.outputs[i] for i in members)
        prompts = [requests.prompts[i] for i in members]
        for i, answer in zip(members, generate(prompts, longest), strict=True):
            answers[i] = answer[: requests.outputs[i]]
        padded += len(members) * (max(map(len, prompts)) + longest)
    seconds = time.perf_counter() - begin
    details = {"batch_size": batch_size, "tokens_with_padding": padded}
    return _measured(f"transformers, batch {batch_size}", requests, seconds, answers, details)


def _measured(
    side: str, requests: Requests, seconds: float, answers: list[list[int]], details: dict[str, Any]
) -> Measured:
    if [len(a) for a in answers] != requests.outputs:
        raise AssertionError(f"{side}: answers have the wrong lengths")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Measured(side, seconds, requests.tokens / seconds, peak, answers, details)


def _child(connection: Any, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    connection.send(function(*arguments))


def in_child(function: Callable[..., Any], *arguments: object) -> Any:
    """Call `function` in a forked process; this one has run no parallel region, so forking it is safe."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        raise SystemExit(f"{function.__name__} failed; see its traceback above") from None
    process.join()
    return result


def median(rounds: list[Measured]) -> Measured:
    """Return the round with the median time, all times in its details."""
    middle = sorted(rounds, key=lambda m: m.seconds)[len(rounds) // 2]
    return replace(middle, details={**middle.details, "round_seconds": [m.seconds for m in rounds]})


def compare(name: str, folder: Path, requests: Requests, policy: str) -> dict[str, Any]:
    """Measure both sides on one workload and print a line for each."""

    def measure_ours() -> Measured:
        found: Measured = in_child(answer_with_ours, folder, requests, policy)
        return found

    # Alternating, so that a slow spell of the machine does not fall on one side only.
    our_rounds = [measure_ours()]
    theirs: list[Measured] = [in_child(answer_with_transformers, folder, requests, b) for b in BATCH_SIZES]
    best = max(theirs, key=lambda m: m.tokens_per_second)
    best_rounds = [best]
    for _ in range(ROUNDS - 1):
        our_rounds.append(measure_ours())
        best_rounds.append(in_child(answer_with_transformers, folder, requests, best.details["batch_size"]))
    ours, again = median(our_rounds), median(best_rounds)
    theirs[theirs.index(best)] = best = again
    ratio = ours.tokens_per_second / best.tokens_per_second
    equal = sum(a == b for a, b in zip(ours.answers, best.answers, strict=True))
    prompt_tokens = sum(map(len, requests.prompts))
    print(f"\n{name}: {len(requests.prompts)} requests, {prompt_tokens} + {sum(requests.outputs)} tokens")
    print(f"  {'':26}{'seconds':>9}{'tokens/s':>10}{'peak MiB':>10}")
    for m in (ours, *theirs):
        mark = " (best)" if m is best else ""
        print(f"  {m.side:26}{m.seconds:9.2f}{m.tokens_per_second:10.0f}{m.peak_mib:10.0f}{mark}")
    rounds = ", ".join(f"{b.seconds / a.seconds:.2f}" for a, b in zip(our_rounds, best_rounds, strict=True))
    print(f"  medians of {ROUNDS} alternating rounds; their ratios: {rounds}")
    hit, optimum = ours.details["hit_rate"], ours.details["hit_rate_optimum"]
    print(f"  ratio {ratio:.2f} (goal {GOALS[name]}); hit rate {hit:.1%} of at most {optimum:.1%}; ", end="")
    print(f"{equal} of {len(requests.outputs)} answers equal token for token")
    rows = [{k: v for k, v in asdict(m).items() if k != "answers"} for m in (ours, *theirs)]
    return {
        "requests": len(requests.prompts),
        "prompt_tokens": prompt_tokens,
        "output_tokens": sum(requests.outputs),
        "ratio": ratio,
        "goal": GOALS[name],
        "equal_answers": equal,
        "measurements": rows,
    }


def main() -> None:
    """Run both workloads and print the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="48 requests: a trial, not a result")
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULTS.name}")
    parser.add_argument("--policy", choices=sorted(POLICIES), default="blend", help="our order")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), help="only this one")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    count = 48 if arguments.quick else 200
    about: dict[str, Any] = {
        "label": "measured",
        "device": f"{places.processor()}, {torch.get_num_threads()} threads",
        "load_at_start": round(os.getloadavg()[0], 2),
        "dtype": "float32",
        "model": MODEL,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    print(
        f"{about['device']}, load {about['load_at_start']} at the start; float32; random-weight Llama {MODEL}"
    )
    print(", ".join(f"{k} {v}" for k, v in about["versions"].items()))
    names = [arguments.workload] if arguments.workload else list(WORKLOADS)
    with tempfile.TemporaryDirectory() as folder:
        in_child(make_model, Path(folder))
        figures = {n: compare(n, Path(folder), WORKLOADS[n](count), arguments.policy) for n in names}
    seconds = time.perf_counter() - begin
    print(f"\n{seconds:.0f} s in total")
    if arguments.write:
        RESULTS.write_text(
            json.dumps({**about, "total_seconds": seconds, "workloads": figures}, indent=2) + "\n"
        )


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    main()
