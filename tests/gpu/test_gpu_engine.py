"""The engine on a CUDA device: the tokens of transformers in float32, close in bfloat16, never waiting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.cost.step import NOMINAL, ModelShape
from engine.runtime.device.nano_batches import SplitRule
from engine.runtime.device.overlap import STRATEGIES, Overlap, Strategy
from engine.runtime.device.runner import DeviceRunner
from engine.runtime.sample.settings import Sampling
from engine.runtime.schedule.buckets import HalvedBucket
from engine.runtime.setup import RunnerSizes, make_runner
from tests.benchmarks.gpu import check
from tests.benchmarks.gpu.check import KINDS, Place
from tests.support.device_runners import Poisoned

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PLACE = Place(torch.device("cuda"))


@pytest.mark.parametrize("name", sorted(KINDS))
def test_float32_answers_are_those_of_transformers(name: str) -> None:
    assert all(check.float32_agreement(name, PLACE, 24, 24, 600))


def test_answers_do_not_depend_on_what_the_buffers_held() -> None:
    prompts = check.prompts_of(24, seed=int.from_bytes(np.random.default_rng().bytes(4)))
    sampling = [Sampling(24, temperature=float(i % 2), top_k=20 * (i % 3), seed=i) for i in range(24)]
    decoder = check.decoder_of(check.model_of("llama", PLACE), torch.float32)
    plain, poisoned = (
        check.answer(check.runner_of(decoder, PLACE, kind), PLACE, prompts, sampling)
        for kind in (DeviceRunner, Poisoned)
    )
    for i in range(24):
        assert poisoned[i].token_ids.tolist() == plain[i].token_ids.tolist(), prompts[i]


SURFACES = {16: ((0.0, 0.1), (1.0, 0.6)), 48: ((0.0, 0.5), (1.0, 0.2))}


@pytest.mark.parametrize("name", STRATEGIES)
def test_answers_of_cut_steps_are_those_of_whole_ones(name: str) -> None:
    """On two streams, captured, with another stream's memory given back and used again all the time."""
    decoder = check.decoder_of(check.model_of("llama", PLACE), torch.float32)
    shape, device = ModelShape.of(decoder.config), NOMINAL["h200"]
    strategy = Strategy.of(name, shape, device, SURFACES)
    how = Overlap(SplitRule.of(shape, device, least_gain=-1.0), strategy)

    class Halved(DeviceRunner):
        steps = 0

        def __init__(self, *arguments):
            super().__init__(*arguments, overlap=how)

        def _halved(self):
            sizes = [(t, n) for n in self._buckets._sequences for t in self._buckets._tokens if t >= n]
            return [HalvedBucket(t, n, k) for t, n in sorted(sizes, reverse=True) for k in strategy.kept]

        def launch(self, *arguments):
            launched = super().launch(*arguments)
            self.steps += launched.nano_batches == 2
            return launched

    prompts = check.prompts_of(24)
    sampling = [Sampling(24, temperature=float(i % 2), top_k=20 * (i % 3), seed=i) for i in range(24)]
    whole, runner = (check.runner_of(decoder, PLACE, kind) for kind in (DeviceRunner, Halved))
    expected, found = (check.answer(r, PLACE, prompts, sampling) for r in (whole, runner))
    assert runner.steps > 10
    for i in range(24):
        assert found[i].token_ids.tolist() == expected[i].token_ids.tolist(), prompts[i]


class NeverWaiting(DeviceRunner):
    def launch(self, *arguments):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return super().launch(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_no_launch_waits_for_the_device() -> None:
    prompts = check.prompts_of(24)
    sampling = [
        Sampling(24, temperature=float(i % 2), top_k=20 * (i % 3), seed=i, logprobs=3 if i % 4 == 0 else None)
        for i in range(24)
    ]
    decoder = check.decoder_of(check.model_of("llama", PLACE), torch.float32)
    expected, found = (
        check.answer(check.runner_of(decoder, PLACE, kind), PLACE, prompts, sampling)
        for kind in (DeviceRunner, NeverWaiting)
    )
    for i in range(24):
        assert found[i].token_ids.tolist() == expected[i].token_ids.tolist()


@pytest.mark.parametrize("name", sorted(KINDS))
def test_bfloat16_is_as_close_as_transformers(name: str) -> None:
    ours, theirs = check.bf16_errors(name, PLACE, 12, 16, 600)
    assert ours.mean() < 2 * theirs.mean() + 0.01


def test_float32_answers_do_not_depend_on_the_order() -> None:
    prompts = check.prompts_of(24)
    decoder = check.decoder_of(check.model_of("qwen3", PLACE), torch.float32)
    first, second = (
        check.answer(check.runner_of(decoder, PLACE), PLACE, prompts, [Sampling(24)] * 24, policy)
        for policy in ("fcfs", "random")
    )
    assert [first[i].token_ids.tolist() for i in first] == [second[i].token_ids.tolist() for i in first]


def test_memory_is_measured() -> None:
    decoder = check.decoder_of(check.model_of("llama", PLACE), torch.bfloat16)
    shape = ModelShape.of(decoder.config, 2)
    free, total = torch.cuda.mem_get_info()
    sizes = RunnerSizes(None, 16, 512, 32, 1400, 1408, 1 << 40)
    runner = make_runner(decoder, sizes, shape.kv_bytes_per_token)
    left, _ = torch.cuda.mem_get_info()
    assert 0.5 * free < runner.kv_tokens * shape.kv_bytes_per_token < 0.92 * total
    assert left > 0.02 * total
