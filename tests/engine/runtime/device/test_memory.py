"""KV memory from a measured warm-up, on a device that is made up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cost.step import NOMINAL, ModelShape
from engine.errors import CapacityError
from engine.kernels.decode_attention import decode_attention_reference
from engine.kernels.prefill_attention import prefill_attention_reference
from engine.plan.policies import make_plan
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.cpu.runner import CpuRunner
from engine.runtime.device.attention import AttentionOps
from engine.runtime.device.memory import measured_kv_tokens
from engine.runtime.device.runner import DeviceRunner
from engine.runtime.sample.settings import Sampling
from engine.runtime.setup import RunnerSizes, make_runner
from tests.support.engines import some_prompts
from tests.support.models import decoder_of, flatten, greedy, reference_model


class MadeUp:
    """A device of which `used` bytes are held, where each part of a step takes what `peaks` say."""

    def __init__(self, total: int, used: int, peaks: list[int]) -> None:
        self.total, self.used, self.peaks = total, used, list(peaks)

    def free_and_total(self) -> tuple[int, int]:
        return self.total - self.used, self.total

    def peak_of(self, work) -> int:
        work()
        return self.peaks.pop(0)


@given(
    total=st.integers(1, 1 << 38),
    used=st.floats(0, 1),
    peaks=st.lists(st.integers(0, 1 << 34), min_size=2, max_size=2),
    per_token=st.integers(1, 1 << 20),
    page_size=st.sampled_from([1, 16, 64]),
    share=st.floats(0.1, 1),
)
def test_what_is_handed_out_fits(total, used, peaks, per_token, page_size, share) -> None:
    used = int(used * total)
    ran = []
    parts = [lambda: ran.append(0), lambda: ran.append(1)]
    page = per_token * page_size
    room = share * total - used - sum(peaks)
    try:
        tokens = measured_kv_tokens(MadeUp(total, used, peaks), parts, per_token, page_size, share)
    except CapacityError:
        assert room < 2 * page + 1
    else:
        assert tokens % page_size == 0
        # With the page for padding, and not a page less than there is room for.
        assert room - page - 1 <= tokens * per_token + page <= room + 1
    assert ran == [0, 1]


def sizes(**more) -> RunnerSizes:
    settings = {"kv_tokens": None, "page_size": 8, "token_budget": 32, "max_sequences": 6}
    return RunnerSizes(**{**settings, "longest": 80, "least": 88, "most": 4000, **more})


def test_a_runner_with_measured_memory_answers_right() -> None:
    model = reference_model("qwen3")
    decoder, prompts = decoder_of(model), some_prompts()
    shape = ModelShape.of(decoder.config)
    ops = AttentionOps(decode_attention_reference, prefill_attention_reference)
    page = shape.kv_bytes_per_token * 8
    memory = MadeUp(total=100 * page, used=30 * page, peaks=[20 * page, 10 * page])
    runner = make_runner(decoder, sizes(), shape.kv_bytes_per_token, memory=memory, ops=ops)
    assert isinstance(runner, DeviceRunner)
    # 0.92 of 100 pages, without those held, those a step needs, and the one for padding.
    assert runner.kv_tokens == (92 - 30 - 30 - 1) * 8
    tokens, start = flatten(prompts)
    plan = make_plan("dfs", tokens, start, np.full(len(prompts), 8.0), shape, NOMINAL["cpu"])
    settings = EngineSettings(runner.kv_tokens, page_size=8, token_budget=32, max_sequences=6, verify=True)
    engine = Engine(runner, None, settings, tokens, start, [Sampling(max_tokens=8)] * len(prompts), plan)
    done = {c.request: c.token_ids.tolist() for finished, _ in engine.run() for c in finished}
    assert done == {i: greedy(model, prompt, 8) for i, prompt in enumerate(prompts)}


def test_no_more_memory_than_the_requests_can_use() -> None:
    decoder = decoder_of(reference_model("llama"))
    memory = MadeUp(1 << 34, 0, [0, 0])
    assert make_runner(decoder, sizes(most=400), 768, memory=memory).kv_tokens == 400
    assert make_runner(decoder, sizes(kv_tokens=96), 768, memory=MadeUp(1, 0, [])).kv_tokens == 96
    with pytest.raises(CapacityError, match="leave no room for KV"):
        make_runner(decoder, sizes(), 768, memory=MadeUp(1 << 20, 1 << 19, [1 << 19, 0]))


def test_on_the_cpu_the_reference_runs() -> None:
    decoder = decoder_of(reference_model("llama"))
    assert isinstance(make_runner(decoder, sizes(), 768), CpuRunner)
    assert make_runner(decoder, sizes(), 768).kv_tokens == 4000
    assert make_runner(decoder, sizes(), 1 << 30).kv_tokens == 88
    assert make_runner(decoder, sizes(kv_tokens=160), 768).kv_tokens == 160
