"""Mixtures of experts answer as transformers does, in any company; what of them is not there is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from engine import kernels
from engine.cost.devices import model_shape
from engine.cost.step import ModelShape
from engine.errors import UnsupportedModelError
from engine.models.config import load_config, parse_config
from engine.models.decoder import Decoder
from engine.models.weights import load_weights
from engine.runtime.sample.settings import Sampling
from tests.support.engines import run_engine
from tests.support.models import EXPERTS, greedy, reference_model

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = [[5, 6, 7] * n + [n] for n in range(1, 12)] + [[9], [11, 12]]


def saved(name: str, folder: Path) -> tuple[torch.nn.Module, Decoder]:
    """Return a model of transformers and ours, loaded from the folder that it was written to."""
    model = reference_model(name)
    model.save_pretrained(folder)
    config = load_config(folder)
    return model, Decoder(config, load_weights(folder, config, torch.float32, "cpu"))


@pytest.mark.parametrize("name", EXPERTS)
def test_greedy_answers_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """All at once, in little memory and after cut prompts, and each by itself in transformers."""
    model, decoder = saved(name, tmp_path)
    sampling = [Sampling(12) for _ in PROMPTS]
    engine, done = run_engine(
        decoder, PROMPTS, sampling, "blend", np.full(len(PROMPTS), 2.0), kv_tokens=128, token_budget=16
    )
    for i, prompt in enumerate(PROMPTS):
        assert done[i].token_ids.tolist() == greedy(model, prompt, 12), i
    assert engine.counters()["finished"] == len(PROMPTS)


@pytest.mark.parametrize("normalised", [True, False])
def test_the_mixture_is_the_sum_over_the_chosen_experts(normalised: bool) -> None:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    hidden, router = random(33, 12), random(6, 12)
    gate_up, down = random(6, 10, 12), random(6, 12, 5)
    found = kernels.mixture(hidden, router, gate_up, down, per_token=2, normalised=normalised)
    for token, x in enumerate(hidden):
        shares = torch.softmax(router @ x, 0)
        best = torch.argsort(shares, descending=True)[:2].tolist()
        whole = shares[best].sum() if normalised else 1.0
        expected = torch.zeros(12)
        for e in best:
            gate, up = (gate_up[e] @ x).chunk(2)
            expected += shares[e] / whole * (down[e] @ (torch.nn.functional.silu(gate) * up))
        torch.testing.assert_close(found[token], expected, rtol=1e-4, atol=1e-5)
    # A token's result does not depend on those beside it.
    alone = kernels.mixture(hidden[7:8], router, gate_up, down, per_token=2, normalised=normalised)
    torch.testing.assert_close(alone[0], found[7], rtol=1e-5, atol=1e-6)
    none = kernels.mixture(hidden[:0], router, gate_up, down, per_token=2, normalised=normalised)
    assert none.shape == (0, 12)


def test_the_cost_of_a_model_counts_the_experts_that_a_token_meets(tmp_path: Path) -> None:
    _, decoder = saved("qwen3-moe", tmp_path)
    config = decoder.config
    shape = model_shape(config, "float32")
    hidden, layers, inner = config.hidden_size, config.layers, 24
    query, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention = hidden * (query + 2 * kv) + query * hidden
    expert = 3 * hidden * inner
    assert shape.body_parameters == layers * (attention + hidden * 8 + 3 * expert)
    assert shape.expert_bytes == layers * 8 * expert * 4
    assert (shape.experts, shape.experts_per_token) == (8, 3)
    # In memory are all of them; norms are not counted.
    norms = layers * (2 * hidden + 2 * config.head_dim) + hidden
    scales = layers * 2 * config.kv_heads
    assert decoder.weights.nbytes() == shape.resident_bytes + 4 * (norms + scales)
    assert ModelShape.of(config) == shape, "and so has an engine that is told no profile"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
    ],
)
def test_what_is_not_there_is_refused_by_name(change: dict[str, object], field: str) -> None:
    raw = {**EXPERTS["qwen3-moe"].to_dict(), "architectures": ["Qwen3MoeForCausalLM"]}
    assert parse_config(raw).experts is not None
    with pytest.raises(UnsupportedModelError) as caught:
        parse_config(raw | change)
    assert caught.value.field == field


def test_a_config_of_the_hub_has_other_names() -> None:
    raw = {**EXPERTS["qwen3-moe"].to_dict(), "architectures": ["Qwen3MoeForCausalLM"]}
    raw["num_experts"] = raw.pop("num_local_experts")
    found = parse_config(raw).experts
    assert found is not None
    assert (found.count, found.per_token, found.normalised) == (8, 3, True)
