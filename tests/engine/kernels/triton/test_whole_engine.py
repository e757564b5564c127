"""The whole engine with interpreted kernels answers like the engine with the torch references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction

from engine.cost.step import NOMINAL, ModelShape, step_cost
from engine.models.config import load_config
from engine.models.decoder import Decoder
from engine.models.weights import load_weights
from engine.plan.policies import make_plan
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.cpu.runner import CpuRunner
from engine.runtime.device.runner import DeviceRunner
from engine.runtime.sample.settings import Sampling
from tests.support.models import decoder_of, flatten, reference_model

SETTINGS = EngineSettings(kv_tokens=256, page_size=8, token_budget=16, max_sequences=4, verify=True)
LONGEST = 64
EXPECTED = {
    "rms_norm_kernel",
    "qk_rope_store_kernel",
    "gather_rows_kernel",
    "draw_kernel",
    "decode_work_kernel",
    "decode_attention_kernel",
    "merge_splits_kernel",
    "prefill_work_kernel",
    "prefill_attention_kernel",
}
EXPERTS = {"expert_tiles_kernel", "widen_kernel", "narrow_kernel", "add_experts_kernel"}
CASCADE = {"cascade_work_kernel", "cascade_prefix_kernel", "cascade_merge_kernel"}
ALWAYS = step_cost(ModelShape(1, 1, 1, 1, 1, 1), NOMINAL["cpu"])._replace(shared_read=0.0, shared_member=0.0)


def answers(runner, sampling: list[Sampling], prompts: list[list[int]]) -> list[list[int]]:
    tokens, start = flatten(prompts)
    shape = ModelShape.of(runner.decoder.config)
    plan = make_plan("blend", tokens, start, np.full(len(prompts), 5.0), shape, NOMINAL["cpu"], seed=1)
    engine = Engine(runner, None, SETTINGS, tokens, start, sampling, plan)
    done = {c.request: c.token_ids.tolist() for finished, _ in engine.run() for c in finished}
    return [done[i] for i in range(len(prompts))]


def saved_decoder(name: str, folder) -> Decoder:
    """A decoder from the files of its model: in memory transformers has all experts in one tensor."""
    reference_model(name).save_pretrained(folder)
    config = load_config(folder)
    return Decoder(config, load_weights(folder, config, torch.float32, "cpu"))


@pytest.mark.parametrize(
    ("name", "cascade"), [("llama", False), ("qwen3", False), ("llama", True), ("qwen3-moe", False)]
)
def test_answers_are_those_of_the_references(name: str, cascade: bool, monkeypatch, tmp_path) -> None:
    decoder = saved_decoder(name, tmp_path) if name == "qwen3-moe" else decoder_of(reference_model(name))
    rng = np.random.default_rng(3)
    base = rng.integers(4, 97, 20).tolist()
    prompts = [base[:19], base[:7], [*base[:11], 5], [9]]
    sampling = [Sampling(max_tokens=4, ignore_eos=True) for _ in prompts[1:]]
    sampling.append(Sampling(max_tokens=3, temperature=0.8, top_k=9, top_p=0.9, seed=7, ignore_eos=True))
    monkeypatch.delenv("NIGHTBLEND_KERNELS")
    reference = CpuRunner(decoder, SETTINGS.kv_tokens, SETTINGS.page_size)
    expected = answers(reference, sampling, prompts)
    monkeypatch.setenv("NIGHTBLEND_KERNELS", "triton")
    launched, run = set(), InterpretedFunction.run

    def record(kernel, *arguments, **options):
        launched.add(kernel.fn.__name__)
        return run(kernel, *arguments, **options)

    monkeypatch.setattr(InterpretedFunction, "run", record)
    runner = DeviceRunner(
        decoder,
        SETTINGS.kv_tokens,
        SETTINGS.page_size,
        SETTINGS.token_budget,
        SETTINGS.max_sequences,
        LONGEST,
        cascade=ALWAYS if cascade else None,
    )
    assert answers(runner, sampling, prompts) == expected
    mlp = EXPERTS if name == "qwen3-moe" else {"silu_and_mul_kernel"}
    assert launched >= EXPECTED | mlp
    assert (launched >= CASCADE) == cascade
