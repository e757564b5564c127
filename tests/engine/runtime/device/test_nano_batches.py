"""Steps cut into two nano-batches, through the runner of a device, on the CPU."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from engine.cost.step import NOMINAL, step_cost
from engine.kernels.decode_attention import decode_attention_reference
from engine.kernels.prefill_attention import prefill_attention_reference
from engine.models.lanes import StreamLanes
from engine.models.schedule import launch_order
from engine.runtime import state
from engine.runtime.cpu.runner import CpuRunner
from engine.runtime.device.attention import AttentionOps
from engine.runtime.device.nano_batches import SplitRule, cut, make_halves
from engine.runtime.device.overlap import Overlap, Strategy
from engine.runtime.sample.settings import Sampling
from tests.support.device_runners import ALWAYS, SHAPE, Poisoned, mixed_sampling
from tests.support.engines import answers, assert_idle, run_engine, some_prompts
from tests.support.models import CONFIGS, decoder_of, greedy, reference_model
from tests.support.schedule_checks import early_drops, footprint, missing_edges
from tests.support.streams import Recorded

LIMITED = Strategy.of(
    "carveout", SHAPE, NOMINAL["h200"], {16: ((0.0, 0.1), (1.0, 0.6)), 48: ((0.0, 0.5), (1.0, 0.2))}
)


class Issued:
    """Lanes that compute, and keep what a device would have been told."""

    def __init__(self) -> None:
        self.api = Recorded()
        self._lanes = StreamLanes(self.api.Stream("attention"), api=self.api)

    def run(self, tasks, launch) -> None:
        self.api.forget()

        def both(task) -> None:
            self.api.launch(task)
            launch(task)

        self._lanes.run(tasks, both)


class Cut(Poisoned):
    """Cuts every step that it can; checks what is issued by what the halves store and attend to."""

    def __init__(self, *arguments, **settings):
        self.kept: list[int | None] = []
        self.programs: list[int | None] = []

        def decode(*given, programs=None, **options):
            self.programs.append(programs)
            return decode_attention_reference(*given, **options)

        ops = AttentionOps(decode, prefill_attention_reference)
        more = {"overlap": Overlap(ALWAYS, LIMITED), "lanes": lambda _: Issued(), "ops": ops}
        super().__init__(*arguments, **settings, **more)
        self.crossings = 0

    @property
    def cuts(self) -> int:
        return len(self.kept)

    def launch(self, work, slots, requests, wish, masks=None):
        for staging in self._parts:
            staging._device.fill_(123456789)
        self.slots = slots
        return super().launch(work, slots, requests, wish, masks)

    def _forward_halves(self, bucket):
        self.programs.clear()
        super()._forward_halves(bucket)
        halves = self._halves.first, self._halves.second
        prints = [footprint(half, self.slots, self.page_size) for half in halves]
        issued = self._lanes[bucket.kept].api.tasks
        assert [t[:3] for t in map(astuple, issued)] == [
            t[:3] for t in map(astuple, launch_order(self.decoder.config.layers, 2))
        ]
        assert missing_edges(issued, prints) == []
        assert early_drops(issued) == []
        assert set(self.programs) == {bucket.kept}
        self.kept.append(bucket.kept)
        self.crossings += len(np.intersect1d(prints[0].stores, prints[1].attends)) > 0


def run_cut(decoder, prompts, sampling, *more, lag=1, token_budget=64, max_sequences=8, **settings):
    made = []

    def make(decoder, kv_tokens, page_size, lag):
        made.append(Cut(decoder, kv_tokens, page_size, token_budget, max_sequences, 512, lag=lag))
        return made[-1]

    sizes = {"token_budget": token_budget, "max_sequences": max_sequences}
    engine, done = run_engine(decoder, prompts, sampling, *more, lag=lag, runner=make, **sizes, **settings)
    return engine, done, made[-1]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_greedy_equals_transformers(name: str) -> None:
    model, prompts = reference_model(name), some_prompts()
    sampling = [Sampling(max_tokens=10, ignore_eos=i % 3 == 0) for i in range(len(prompts))]
    engine, done, runner = run_cut(decoder_of(model), prompts, sampling, "blend")
    for i, prompt in enumerate(prompts):
        assert done[i].token_ids.tolist() == greedy(model, prompt, 10, stop=i % 3 != 0)
    assert_idle(engine)
    assert runner.cuts > 5


DECODER = decoder_of(reference_model("qwen2-window"))


@given(
    seed=st.integers(0, 100),
    kv_tokens=st.sampled_from([88, 120, 400]),
    budget=st.integers(2, 40),
    page_size=st.sampled_from([1, 4, 8]),
    lag=st.sampled_from([0, 1]),
)
@hypothesis_settings(max_examples=8, deadline=None)
def test_answers_are_those_of_whole_steps(seed, kv_tokens, budget, page_size, lag) -> None:
    prompts, sampling = some_prompts(seed, 10), mixed_sampling(seed, drawn=True)
    sizes = {"kv_tokens": kv_tokens // page_size * page_size, "page_size": page_size, "token_budget": budget}
    more = {**sizes, "max_sequences": min(budget, 6)}
    _, expected = run_engine(DECODER, prompts, sampling, "blend", runner=CpuRunner, **more)
    engine, found, _ = run_cut(DECODER, prompts, sampling, "blend", lag=lag, **more)
    assert [a[:3] for a in answers(found)] == [a[:3] for a in answers(expected)]
    for i in range(0, 10, 4):
        assert np.allclose(found[i].logprobs.top, expected[i].logprobs.top, atol=1e-3)
    assert_idle(engine)


def test_followers_and_cut_chunks_attend_across_the_nano_batches() -> None:
    base = np.random.default_rng(4).integers(4, 97, 48).tolist()
    prompts = [[*base, *([7 + i] * (3 + i))] for i in range(6)]
    sampling = [Sampling(max_tokens=6, ignore_eos=True) for _ in prompts]
    settings = {"kv_tokens": 400, "page_size": 8, "token_budget": 90}
    _, expected = run_engine(DECODER, prompts, sampling, "dfs", runner=CpuRunner, max_sequences=8, **settings)
    _, found, runner = run_cut(DECODER, prompts, sampling, "dfs", **settings)
    assert [a[:3] for a in answers(found)] == [a[:3] for a in answers(expected)]
    assert runner.crossings >= 1


def work_of(decoding: list[int], chunks: list[tuple[int, int, bool]]) -> state.Work:
    """A step of sequences of these contexts, and of chunks (rows, tokens before them, whether sampled)."""
    rows = len(decoding) + sum(n for n, _, _ in chunks)
    work = state.make_work(max(rows, 1), max(len(decoding) + len(chunks), 1))
    sequences = [(1, context - 1, True) for context in decoding] + chunks
    row = samples = 0
    for i, (n, before, sampled) in enumerate(sequences):
        work.first[i], work.length[i], work.context[i], work.slot[i] = row, n, before + n, i
        work.positions[row : row + n] = before + np.arange(n)
        work.tokens[row : row + n] = 100_000 * i + before + np.arange(n)
        work.pages[row : row + n], work.offsets[row : row + n] = i, np.arange(n)
        if sampled:
            work.sample_rows[samples], work.sample_slots[samples] = row + n - 1, i
            samples += 1
        row += n
    work.size[state.W_TOKENS], work.size[state.W_SEQUENCES] = row, len(sequences)
    work.size[state.W_SAMPLES], work.size[state.W_KV_DECODE] = samples, sum(decoding)
    work.size[state.W_KV_READ] = sum(n + before for n, before, _ in sequences)
    work.size[state.W_ATTENDED] = sum(n * before + n * (n + 1) // 2 for n, before, _ in chunks)
    return work


@given(
    decoding=st.lists(st.integers(1, 3000), max_size=12),
    chunks=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 500), st.booleans()), max_size=6),
)
def test_the_halves_are_the_step(decoding, chunks) -> None:
    work = work_of(decoding, chunks)
    tokens = int(work.size[state.W_TOKENS])
    if tokens < 2:
        return
    halves = make_halves(tokens, len(decoding) + len(chunks))
    for half in (halves.first, halves.second):
        for array in half[1:]:
            array[...] = -5
    cut(work, halves)
    parts = halves.first, halves.second
    found = []
    for half in parts:
        count = int(half.size[state.W_TOKENS])
        assert count >= 1
        found += list(zip(*(x[:count].tolist() for x in half[1:5]), strict=True))
        for i in range(int(half.size[state.W_SEQUENCES])):
            last = half.first[i] + half.length[i] - 1
            assert half.positions[last] == half.context[i] - 1
            assert half.tokens[last] // 100_000 == half.slot[i]
    assert sorted(found) == sorted(zip(*(x[:tokens].tolist() for x in work[1:5]), strict=True))
    for column in (state.W_TOKENS, state.W_SAMPLES, state.W_KV_DECODE, state.W_ATTENDED):
        assert sum(int(half.size[column]) for half in parts) == work.size[column]
    for sample in range(int(work.size[state.W_SAMPLES])):
        half, index = parts[halves.part[sample]], halves.row[sample]
        assert half.tokens[half.sample_rows[index]] == work.tokens[work.sample_rows[sample]]
        assert half.sample_slots[index] == work.sample_slots[sample]
    # Half of the KV that decoding reads, up to one sequence, and half of the prefill tokens.
    read = [int(half.size[state.W_KV_DECODE]) for half in parts]
    assert abs(read[0] - read[1]) <= max(decoding, default=0)
    prefill = [int(h.size[state.W_TOKENS]) - _decoding(h) for h in parts]
    assert abs(prefill[0] - prefill[1]) <= (1 if decoding else 2)
    # A chunk's earlier rows are never in the second half while later ones are in the first.
    for i in range(len(decoding), len(decoding) + len(chunks)):
        places = [h.positions[: h.size[0]][h.pages[: h.size[0]] == i] for h in parts]
        assert not (len(places[0]) and len(places[1])) or places[0].max() < places[1].min()


def _decoding(half: state.Work) -> int:
    count, read = 0, 0
    while read < half.size[state.W_KV_DECODE]:
        read += half.context[count]
        count += 1
    return count


def test_a_step_is_cut_where_the_modelled_gain_is_worth_it() -> None:
    rule = SplitRule.of(SHAPE, NOMINAL["h200"])
    # The weights would be read twice, with too little attention to run beside the products, or none.
    decode = work_of([500] * 64, [])
    prefill = work_of([], [(2048, 0, True)])
    mixed = work_of([4000] * 256, [(1800, 0, True)])
    assert rule.gain(decode) < 0.0
    assert rule.gain(prefill) < 0.0
    assert rule.gain(mixed) > 0.3
    assert [rule.cuts(work) for work in (decode, prefill, mixed)] == [False, False, True]
    assert not ALWAYS.cuts(work_of([5], []))
    # Where work given together takes as long as one after the other, nothing is gained.
    alone = replace(NOMINAL["h200"], pair=((0.0, 1.0), (1.0, 1.0)))
    assert SplitRule.of(SHAPE, alone).gain(mixed) < 0.0
    assert SplitRule.of(SHAPE, NOMINAL["h200"], least_gain=10.0).cuts(mixed) is False
    whole, halves = step_cost(SHAPE, NOMINAL["h200"]), rule.halves
    assert halves.weight_bytes == 2 * whole.weight_bytes
