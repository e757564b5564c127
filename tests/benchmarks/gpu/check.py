"""Part of the GPU benchmark and of the tests on a GPU: tiny models' answers beside those of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.cost.step import NOMINAL, ModelShape
from engine.models.config import parse_config
from engine.models.decoder import Decoder
from engine.models.weights import assemble
from engine.plan.policies import make_plan
from engine.runtime.core import Completion, Engine, EngineSettings
from engine.runtime.device.runner import DeviceRunner
from engine.runtime.sample.settings import Sampling
from tests.benchmarks.gpu.bench import Bench, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES: dict[str, Any] = {
    "vocab_size": 997,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "initializer_range": 0.1,
    "eos_token_id": 3,
    "pad_token_id": 0,
}
WINDOW = {"use_sliding_window": True, "sliding_window": 100, "max_window_layers": 1}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen2-window": ("Qwen2Config", WINDOW),
    "qwen3": ("Qwen3Config", {}),
}


@dataclass(frozen=True)
class Place:
    """Where tiny models run: the device, and sizes of the engine."""

    device: torch.device
    kv_tokens: int = 8192
    page_size: int = 16
    budget: int = 512
    sequences: int = 32
    longest: int = 1400


def model_of(name: str, place: Place, seed: int = 0) -> torch.nn.Module:
    """A model of transformers with random weights in float32."""
    import transformers

    torch.manual_seed(seed)
    kind, more = KINDS[name]
    config = getattr(transformers, kind)(**SIZES, **more)
    model = transformers.AutoModelForCausalLM.from_config(config)
    return model.to(place.device, torch.float32).eval()


def decoder_of(model: torch.nn.Module, dtype: torch.dtype) -> Decoder:
    """Ours with the same weights on the same device."""
    config = parse_config(model.config.to_dict() | {"architectures": [type(model).__name__]})
    device = next(model.parameters()).device
    return Decoder(config, assemble(config, dict(model.state_dict()).__getitem__, dtype, device))


def prompts_of(count: int, longest: int = 600, seed: int = 1) -> list[list[int]]:
    """Prompts of which each begins with a part of the same text."""
    rng = np.random.default_rng(seed)
    base = rng.integers(4, SIZES["vocab_size"], longest).tolist()
    sizes = rng.integers(1, longest, (count, 2))
    return [base[: int(n)] + rng.integers(4, SIZES["vocab_size"], int(m)).tolist() for n, m in sizes]


def runner_of(decoder: Decoder, place: Place, kind: type[DeviceRunner] = DeviceRunner) -> DeviceRunner:
    """A runner with its graphs."""
    runner = kind(decoder, place.kv_tokens, place.page_size, place.budget, place.sequences, place.longest)
    runner.capture()
    return runner


def answer(
    runner: DeviceRunner,
    place: Place,
    prompts: list[list[int]],
    sampling: Sequence[Sampling],
    policy: str = "blend",
) -> dict[int, Completion]:
    """Run the engine, checking its page pool after every step."""
    start = np.cumsum([0] + [len(p) for p in prompts]).astype(np.int64)
    tokens = np.array([t for p in prompts for t in p], np.int32)
    shape = ModelShape.of(runner.decoder.config, runner.decoder.weights.embed.element_size())
    plan = make_plan(policy, tokens, start, np.full(len(prompts), 20.0), shape, NOMINAL["h100"], seed=1)
    settings = EngineSettings(place.kv_tokens, place.page_size, place.budget, place.sequences, verify=True)
    engine = Engine(runner, None, settings, tokens, start, sampling, plan)
    return {c.request: c for finished, _ in engine.run() for c in finished}


def greedy(model: torch.nn.Module, prompt: list[int], count: int) -> list[int]:
    """The answer of transformers."""
    device = next(model.parameters()).device
    inputs = torch.tensor([prompt], device=device)
    with torch.inference_mode():
        out = model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=count, do_sample=False
        )
    return out[0, len(prompt) :].tolist()


def logprobs(model: torch.nn.Module, prompt: list[int], tokens: list[int]) -> np.ndarray:
    """Log probabilities of `tokens` after `prompt`, by transformers, in float32 [n]."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + tokens], device=device)).logits[0, len(prompt) - 1 : -1]
    places = torch.arange(len(tokens), device=device)
    return logits.float().log_softmax(-1)[places, torch.tensor(tokens, device=device)].cpu().numpy()


def float32_agreement(name: str, place: Place, count: int, tokens: int, longest: int) -> list[bool]:
    """Whether each greedy answer is that of transformers, token for token, with everything in float32."""
    model, prompts = model_of(name, place), prompts_of(count, longest)
    runner = runner_of(decoder_of(model, torch.float32), place)
    done = answer(runner, place, prompts, [Sampling(max_tokens=tokens)] * count)
    return [done[i].token_ids.tolist() == greedy(model, p, tokens) for i, p in enumerate(prompts)]


def bf16_errors(
    name: str, place: Place, count: int, tokens: int, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of bfloat16 log probabilities against transformers in float32: ours, and transformers' own."""
    model, prompts = model_of(name, place), prompts_of(count, longest)
    runner = runner_of(decoder_of(model, torch.bfloat16), place)
    sampling = [Sampling(max_tokens=tokens, ignore_eos=True, logprobs=0)] * count
    done = answer(runner, place, prompts, sampling)
    answers = [done[i].token_ids.tolist() for i in range(count)]
    wide = [logprobs(model, p, a) for p, a in zip(prompts, answers, strict=True)]
    narrow = model.to(torch.bfloat16)
    theirs = [logprobs(narrow, p, a) for p, a in zip(prompts, answers, strict=True)]
    ours = [done[i].logprobs.chosen for i in range(count)]
    return tuple(np.abs(np.concatenate(x) - np.concatenate(wide)) for x in (ours, theirs))


def answers(bench: Bench, figures: dict[str, Any]) -> tuple[dict[str, Any], list[Row]]:
    """Greedy answers in float32 and log probabilities in bfloat16 beside those of transformers."""
    del figures
    place = Place(bench.device, 256, 8, 16, 4, 64) if bench.dry else Place(bench.device)
    sizes = bench.size(8, 2), bench.size(24, 2), bench.size(600, 12)
    names = list(KINDS)[:1] if bench.dry else list(KINDS)
    equal = [same for name in names for same in float32_agreement(name, place, *sizes)]
    share = sum(equal) / len(equal)
    rows = [Row("float32 greedy answers as transformers'", 100 * share, "%", error=1 - share, limit=0.0)]
    found: dict[str, Any] = {"float32_answers_equal": share, "float32_answers": len(equal)}
    if bench.dry:
        # The interpreter's bfloat16 is wrong.
        return {**found, "bf16_logprob_error": None}, rows
    ours, theirs = (
        np.concatenate(x) for x in zip(*(bf16_errors(name, place, *sizes) for name in names), strict=True)
    )
    error, other = float(ours.mean()), float(theirs.mean())
    found |= {"bf16_logprob_error": error, "bf16_logprob_error_transformers": other}
    found |= {
        f"bf16_logprob_error_p99{x}": float(np.quantile(e, 0.99))
        for x, e in (("", ours), ("_transformers", theirs))
    }
    # Sums of other orders give other errors, of the same size.
    rows += [
        Row("bfloat16 log probabilities, mean error", error, "nat", error=error, limit=2 * other + 0.01),
        Row("the same of transformers", other, "nat"),
    ]
    return found, rows
