"""Pages that decoding sequences share are read once, through the runner of a device, on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from engine.cost.step import NOMINAL, ModelShape, step_cost
from engine.kernels.cascade_attention import cascade_attention_reference
from engine.kernels.decode_attention import decode_attention_reference
from engine.kernels.prefill_attention import prefill_attention_reference
from engine.runtime.cpu.runner import CpuRunner
from engine.runtime.device.attention import AttentionOps
from engine.runtime.device.overlap import Overlap, Strategy
from engine.runtime.sample.settings import Sampling
from engine.runtime.schedule.buckets import Buckets
from tests.support.device_runners import ALWAYS, Poisoned, mixed_sampling
from tests.support.engines import answers, assert_idle, run_engine
from tests.support.models import decoder_of, reference_model

if TYPE_CHECKING:
    from torch import Tensor

DECODER = decoder_of(reference_model("llama"))
ANY = step_cost(ModelShape.of(DECODER.config), NOMINAL["h200"])._replace(
    shared_read=0.0, shared_member=0.0, shared_step=0.0
)


class Counting:
    """Attention that notes which places each operation reads, and in how many groups."""

    def __init__(self) -> None:
        self.groups = self.plain = 0

    def decode(self, *arguments, **options) -> Tensor:
        self.plain += 1
        return decode_attention_reference(*arguments, **options)

    def cascade(self, q, cache, table, context, pages, **options) -> Tensor:
        sizes = pages.start.diff()
        assert (sizes[sizes > 0] > 1).all()
        self.groups += int((sizes > 0).sum())
        return cascade_attention_reference(q, cache, table, context, pages, **options)


def run_cascade(decoder, prompts, sampling, *more, lag=1, overlap=None, **settings):
    ops = Counting()

    def make(decoder, kv_tokens, page_size, lag):
        sizes = settings["token_budget"], settings["max_sequences"], 512
        given_ops = AttentionOps(ops.decode, prefill_attention_reference, ops.cascade)
        return Poisoned(
            decoder, kv_tokens, page_size, *sizes, lag=lag, ops=given_ops, overlap=overlap, cascade=ANY
        )

    engine, done = run_engine(decoder, prompts, sampling, *more, lag=lag, runner=make, **settings)
    return engine, done, ops


def family(seed: int, count: int = 10) -> list[list[int]]:
    """Prompts of which most share their first tokens, some of these more."""
    rng = np.random.default_rng(seed)
    base, more = rng.integers(4, 97, 20).tolist(), rng.integers(4, 97, 17).tolist()
    return [
        base * (i % 5 > 0) + more * (i % 2) + rng.integers(4, 97, 1 + i % 4).tolist() for i in range(count)
    ]


@given(
    seed=st.integers(0, 100),
    kv_tokens=st.sampled_from([160, 400]),
    page_size=st.sampled_from([1, 4, 8]),
    lag=st.sampled_from([0, 1]),
    cut=st.booleans(),
)
@hypothesis_settings(max_examples=8, deadline=None)
def test_answers_are_those_of_plain_attention(seed, kv_tokens, page_size, lag, cut) -> None:
    prompts, sampling = family(seed), mixed_sampling(seed, drawn=True)
    more = {"kv_tokens": kv_tokens, "page_size": page_size, "token_budget": 40, "max_sequences": 6}
    _, expected = run_engine(DECODER, prompts, sampling, "dfs", runner=CpuRunner, **more)
    overlap = Overlap(ALWAYS, Strategy()) if cut else None
    engine, found, ops = run_cascade(DECODER, prompts, sampling, "dfs", lag=lag, overlap=overlap, **more)
    assert [a[:3] for a in answers(found)] == [a[:3] for a in answers(expected)]
    for i in range(0, 10, 4):
        assert np.allclose(found[i].logprobs.top, expected[i].logprobs.top, atol=1e-3)
    assert ops.groups > 0
    assert_idle(engine)


def test_layers_with_a_window_read_their_pages_as_before() -> None:
    decoder = decoder_of(reference_model("qwen2-window"))
    windows = decoder.config.windows
    assert None in windows
    assert set(windows) != {None}
    prompts, sampling = family(3), [Sampling(max_tokens=6, ignore_eos=True)] * 10
    more = {"kv_tokens": 400, "page_size": 4, "token_budget": 40, "max_sequences": 6}
    _, expected = run_engine(decoder, prompts, sampling, "dfs", runner=CpuRunner, **more)
    _, found, ops = run_cascade(decoder, prompts, sampling, "dfs", **more)
    assert [a[:3] for a in answers(found)] == [a[:3] for a in answers(expected)]
    assert ops.groups > 0
    assert ops.plain > 0


def test_there_are_buckets_for_steps_with_groups_only_where_they_are_looked_for() -> None:
    plain, both = Buckets(512, 64).all(), Buckets(512, 64, cascade=True).all()
    assert len(both) == 2 * len(plain)
    assert {b._replace(cascade=False) for b in both} == set(plain)
    assert both == sorted(both, reverse=True)


def test_a_device_without_a_measured_factor_never_forms_groups() -> None:
    cost = step_cost(ModelShape.of(DECODER.config), NOMINAL["h200"])
    assert cost.shared_read == 1.0
    profile = replace(NOMINAL["h200"], shared_read=0.2, shared_seconds=1e-5)
    assert step_cost(ModelShape.of(DECODER.config), profile).shared_step > 0.0
