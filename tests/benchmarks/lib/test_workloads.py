"""The benchmark's mixes are what they say: density, sharing, lengths, and what is shared."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cost.step import NOMINAL, ModelShape
from engine.plan.tree import build_tree, hit_rate_optimum, node_costs
from tests.benchmarks.lib import sources, workloads
from tests.support.paths import trace

# Llama-3.1-8B in bf16: 32 layers, hidden 4096, 32 query and 8 KV heads of 128, MLP 14336, vocabulary 128256.
SHAPE = ModelShape(
    body_parameters=32 * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336),
    head_parameters=4096 * 128256,
    layers=32,
    query_size=4096,
    kv_bytes_per_token=131072,
    weight_bytes=15_009_316_864,
)


@pytest.fixture(autouse=True)
def with_traces():
    trace("mmlu.parquet")


def prompt_of(mix: workloads.Workload, request: int) -> np.ndarray:
    return mix.tokens[mix.start[request] : mix.start[request + 1]]


def measured(mix: workloads.Workload, device) -> tuple[float, float]:
    """Density and hit rate from the prefix tree over the tokens themselves."""
    tree = build_tree(mix.tokens, mix.start)
    _, compute, memory = node_costs(
        tree, mix.output.astype(np.float64), SHAPE, device.flops, device.read_bytes
    )
    return compute.sum() / memory.sum(), hit_rate_optimum(tree)


@pytest.mark.parametrize("device", ["a100", "h200"])
@pytest.mark.parametrize("name", sorted(workloads.TRACES))
def test_density_and_sharing_of_the_four_traces(name, device):
    density, sharing = workloads.TRACES[name]
    mix = workloads.recipe(density, sharing, SHAPE, NOMINAL[device], requests=3000)
    found = measured(mix, NOMINAL[device])
    assert mix.requests >= 3000
    assert (mix.density, mix.hit_rate) == pytest.approx((density, sharing), rel=0.01)
    assert found == pytest.approx((density, sharing), rel=0.01)


@pytest.mark.parametrize("base", ["code", "conversation", "sharegpt"])
@pytest.mark.parametrize(("density", "sharing"), [workloads.GRID[0], workloads.GRID[-1]])
def test_the_corners_of_the_grid(base, density, sharing):
    device = NOMINAL["a100"]
    mix = workloads.recipe(density, sharing, SHAPE, device, requests=2000, base=base)
    assert measured(mix, device) == pytest.approx((density, sharing), rel=0.01)
    assert mix.workloads == (base, "video", "mmlu")


def test_the_grid_is_the_published_one():
    assert len(set(workloads.GRID)) == 65
    assert (min(workloads.GRID), max(workloads.GRID)) == ((0.8, 0.05), (1.4, 0.45))


def test_an_impossible_mix_is_refused():
    # One system prompt shared by all is already more than a thousandth of the prompts.
    with pytest.raises(ValueError, match="nearest"):
        workloads.recipe(1.0, 0.001, SHAPE, NOMINAL["a100"], requests=500)


def test_the_same_seed_gives_the_same_mix_and_another_does_not():
    first, again, other = (
        workloads.recipe(1.1, 0.25, SHAPE, NOMINAL["a100"], requests=400, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.tokens, again.tokens)
    assert np.array_equal(first.output, again.output)
    assert not np.array_equal(first.output[:400], other.output[:400])


def test_sources_arrive_in_bursts_of_their_own():
    mix = workloads.recipe(1.1, 0.25, SHAPE, NOMINAL["a100"], requests=3000)
    changes = np.count_nonzero(np.diff(mix.workload)) + 1
    assert 3000 / workloads.BURST / 3 < changes < 3000 / workloads.BURST * 2
    # The first tenth already holds all but the rare videos.
    assert {0, 1, 3} <= set(mix.workload[:300].tolist())


def test_each_source_has_its_own_system_prompt():
    mix = workloads.recipe(1.1, 0.25, SHAPE, NOMINAL["a100"], requests=400)
    heads = {
        w: {tuple(prompt_of(mix, i)[: sources.SYSTEM_TOKENS]) for i in np.flatnonzero(mix.workload == w)}
        for w in range(len(mix.workloads))
    }
    assert all(len(each) == 1 for each in heads.values())
    assert len(set.union(*heads.values())) == len(mix.workloads)


def test_video_answers():
    video = sources.video_source(20_000, seed=4)
    assert video.output.mean() == pytest.approx(16_384, rel=0.01)
    assert np.all(video.output % 256 == 0)
    assert video.output.min() >= 0.25 * 16_384
    assert video.output.max() <= 3 * 16_384


def test_mmlu_prompts_share_their_subject_s_examples():
    source = sources.mmlu_source(16_000, seed=0)
    prefixes, _, _ = sources._mmlu()
    assert len(prefixes) == 57
    starts = {p.tobytes() for p in prefixes}
    sizes = sorted({p.size for p in prefixes})
    for text in (source.text[0], source.text[14_041], source.text[15_999]):
        assert any(text[:n].tobytes() in starts for n in sizes)
    # All but the first of each subject find at least the examples in the cache.
    assert np.count_nonzero(source.shared < min(sizes)) == 57
    # Behind the real questions come new ones: no text, but the prefix and a tail of random ids.
    assert source.prompt[15_999] > sources.SYSTEM_TOKENS + source.text[15_999].size


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12))
def test_earlier_prefixes_agree_with_comparing_all_pairs(lists):
    prompts = [np.array(x, np.int32) for x in lists]

    def common(a, b):
        return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

    expected = [max((common(p, q) for q in prompts[:i]), default=0) for i, p in enumerate(prompts)]
    assert sources.earlier_prefixes(prompts).tolist() == expected


def test_word_ids_depend_on_the_words_alone():
    assert np.array_equal(sources.word_ids("The heart has"), sources.word_ids("The  heart has"))
    assert not np.array_equal(sources.word_ids("The heart has"), sources.word_ids("The hearts has"))
    assert sources.word_ids("abcdefgh 12345, x").size == 6


def test_mooncake_shares_where_its_hashes_do():
    source = sources.mooncake_source(12_031 // 20)
    rows = sources._conversations()[: source.prompt.size]
    ids = [row["hash_ids"] for row in rows]
    pair = next(
        (i, j) for i in range(1, len(ids)) for j in range(i) if len(ids[i]) > 1 and ids[i][:2] == ids[j][:2]
    )
    assert np.array_equal(source.text[pair[0]][:1024], source.text[pair[1]][:1024])
    device = NOMINAL["a100"]
    mix = workloads.with_videos("mooncake", source, 1.1, SHAPE, device)
    assert measured(mix, device)[1] == pytest.approx(mix.hit_rate, rel=0.01)


def test_mooncake_as_a_whole_shares_37_percent_of_its_blocks():
    ids = [i for row in sources._conversations() for i in row["hash_ids"]]
    assert 1 - len(set(ids)) / len(ids) == pytest.approx(0.37, abs=0.005)


def test_documents_are_asked_five_times():
    source = sources.documents_source(50, seed=3, document_tokens=2000)
    device = NOMINAL["a100"]
    mix = workloads.with_videos("documents", source, 1.1, SHAPE, device)
    assert np.count_nonzero(mix.workload == 0) == 50
    assert mix.hit_rate == pytest.approx(0.8 * 2000 / 2072, abs=0.02)
    assert measured(mix, device) == pytest.approx((mix.density, mix.hit_rate), rel=0.01)
    assert mix.density <= 1.1


def test_a_sample_is_stratified():
    mix = workloads.recipe(1.1, 0.25, SHAPE, NOMINAL["a100"], requests=4000)
    part = mix.sample(1000)
    assert part.requests == 1000
    for w in range(len(mix.workloads)):
        assert abs(np.mean(part.workload == w) - np.mean(mix.workload == w)) <= 1.5 / 1000
    assert part.output.mean() == pytest.approx(mix.output.mean(), rel=0.1)
    assert mix.sample(10_000) is mix


def test_taking_requests_keeps_their_tokens():
    mix = workloads.recipe(1.1, 0.25, SHAPE, NOMINAL["a100"], requests=300)
    part = mix.take(np.array([7, 3, 299]))
    assert np.array_equal(prompt_of(part, 1), prompt_of(mix, 3))
    assert part.output.tolist() == mix.output[[7, 3, 299]].tolist()
    assert part.total_tokens == sum(len(prompt_of(mix, i)) + mix.output[i] for i in (7, 3, 299))


def test_pictures_have_the_tokens_of_a_processor_and_are_shared_by_their_questions() -> None:
    source = sources.picture_source(600, 3)
    # By hand: 640 x 480 is 23 x 17 cells of 28 pixels, 1024 x 1024 37 x 37, 3024 x 4032 108 x 144.
    lengths = {len(text) for text in source.text or ()}
    assert {23 * 17, 37 * 37, 108 * 144} <= lengths
    assert len(lengths) == len(sources.PICTURE_SIZES)
    mix = workloads.alone(source, SHAPE, NOMINAL["a100"])
    tree = build_tree(mix.tokens, mix.start)
    assert hit_rate_optimum(tree) == pytest.approx(source.shared.sum() / source.prompt.sum(), rel=1e-3)
    # Two of three questions find their picture there.
    assert 0.5 < hit_rate_optimum(tree) < 2 / 3
