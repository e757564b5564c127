"""The engine on a CUDA device: the tokens of transformers in float32, close in bfloat16, never waiting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import flatten, greedy
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from engine.cost import NOMINAL, ModelShape
from engine.models.config import parse_config
from engine.models.decoder import Decoder
from engine.models.weights import assemble
from engine.plan.policies import make_plan
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.device_runner import DeviceRunner
from engine.runtime.sampling import Sampling
from engine.runtime.setup import RunnerSizes, make_runner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SIZES = {
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
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2-window": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=100, max_window_layers=1),
    "qwen3": Qwen3Config(**SIZES),
}


def model_of(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).to("cuda", torch.float32).eval()


def decoder_of(model: torch.nn.Module, dtype: torch.dtype) -> Decoder:
    config = parse_config(model.config.to_dict() | {"architectures": [type(model).__name__]})
    return Decoder(config, assemble(config, dict(model.state_dict()).__getitem__, dtype, "cuda"))


def prompts_of(count: int) -> list[list[int]]:
    rng = np.random.default_rng(1)
    base = rng.integers(4, 997, 700).tolist()
    sizes = rng.integers(1, 600, (count, 2))
    return [base[: int(n)] + rng.integers(4, 997, int(m)).tolist() for n, m in sizes]


def run(decoder: Decoder, prompts, sampling, *, launch_without_waiting: bool = False):
    tokens, start = flatten(prompts)
    shape = ModelShape.of(decoder.config, decoder.weights.embed.element_size())
    sizes = RunnerSizes(8192, 16, 512, 32, 1400, 0, 0)
    runner = make_runner(decoder, sizes, shape.kv_bytes_per_token)
    assert isinstance(runner, DeviceRunner)
    if launch_without_waiting:
        launch = runner.launch

        def watched(*args):
            torch.cuda.set_sync_debug_mode("error")
            try:
                return launch(*args)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        runner.launch = watched
    plan = make_plan("blend", tokens, start, np.full(len(prompts), 20.0), shape, NOMINAL["h100"], seed=1)
    settings = EngineSettings(8192, page_size=16, token_budget=512, max_sequences=32, verify=True)
    engine = Engine(runner, None, settings, tokens, start, sampling, plan)
    return {c.request: c for finished, _ in engine.run() for c in finished}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_float32_answers_are_those_of_transformers(name: str) -> None:
    model, prompts = model_of(name), prompts_of(24)
    done = run(decoder_of(model, torch.float32), prompts, [Sampling(max_tokens=24)] * 24)
    for i, prompt in enumerate(prompts):
        with torch.device("cuda"):
            assert done[i].token_ids.tolist() == greedy(model, prompt, 24)


def test_no_launch_waits_for_the_device() -> None:
    prompts = prompts_of(24)
    sampling = [
        Sampling(24, temperature=float(i % 2), top_k=20 * (i % 3), seed=i, logprobs=3 if i % 4 == 0 else None)
        for i in range(24)
    ]
    decoder = decoder_of(model_of("llama"), torch.float32)
    expected = run(decoder, prompts, sampling)
    found = run(decoder, prompts, sampling, launch_without_waiting=True)
    for i in range(24):
        assert found[i].token_ids.tolist() == expected[i].token_ids.tolist()


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_bfloat16_stays_close(name: str) -> None:
    model, prompts = model_of(name), prompts_of(12)
    sampling = [Sampling(max_tokens=16, ignore_eos=True, logprobs=0)] * 12
    done = run(decoder_of(model, torch.bfloat16), prompts, sampling)
    errors = []
    for i, prompt in enumerate(prompts):
        answer = done[i].token_ids.tolist()
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + answer], device="cuda")).logits[0, len(prompt) - 1 : -1]
        reference = logits.log_softmax(-1)[torch.arange(16), answer].cpu().numpy()
        errors.append(np.abs(done[i].logprobs.chosen - reference))
    assert np.concatenate(errors).mean() < 0.05


def test_memory_is_measured() -> None:
    decoder = decoder_of(model_of("llama"), torch.bfloat16)
    shape = ModelShape.of(decoder.config, 2)
    free, total = torch.cuda.mem_get_info()
    sizes = RunnerSizes(None, 16, 512, 32, 1400, 1408, 1 << 40)
    runner = make_runner(decoder, sizes, shape.kv_bytes_per_token)
    left, _ = torch.cuda.mem_get_info()
    assert 0.5 * free < runner.kv_tokens * shape.kv_bytes_per_token < 0.92 * total
    assert left > 0.02 * total
