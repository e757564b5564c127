"""The estimator `combined`: distributions from finished and unfinished answers, prefixes, earlier nights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.plan.features import LEVELS, Features, make_nodes, prefix_keys
from engine.plan.length_model import History, LengthModel
from engine.plan.survival import BINS, LONGEST, bin_of, bin_values, first_of, length_ratio, posterior

LENGTHS = st.integers(1, LONGEST)


@settings(deadline=None)
@given(st.integers(0, LONGEST))
def test_every_length_is_in_its_bin(length: int) -> None:
    b = bin_of(float(length))
    assert 0 <= b < BINS
    assert first_of(b) <= length < first_of(b + 1)
    assert first_of(b + 1) - first_of(b) <= max(1, first_of(b) / 8)


def after(counts: np.ndarray, prior: np.ndarray, weight: float) -> np.ndarray:
    out = np.empty(BINS)
    posterior(prior, weight, counts, out)
    return out


@settings(deadline=None)
@given(st.lists(LENGTHS, min_size=1, max_size=30), st.floats(0.01, 50))
def test_without_censoring_it_is_the_mixture_of_sample_and_prior(lengths: list[int], weight: float) -> None:
    prior = np.random.default_rng(len(lengths)).random(BINS)
    prior /= prior.sum()
    counts = np.zeros((2, BINS))
    for length in lengths:
        counts[0, bin_of(float(length))] += 1
    expected = (counts[0] + weight * prior) / (len(lengths) + weight)
    np.testing.assert_allclose(after(counts, prior, weight), expected, atol=1e-9)


def test_with_next_to_no_prior_it_is_kaplan_and_meier() -> None:
    # Ended at 3, 5, 5, 9; still running at 4 and 7: the estimate by hand, each factor 1 - ended / at risk.
    counts = np.zeros((2, BINS))
    for length in (3, 5, 5, 9):
        counts[0, length] += 1
    counts[1, [4, 7]] = 1
    found = after(counts, np.full(BINS, 1 / BINS), 1e-9)
    s3 = 1 - 1 / 6
    s5 = s3 * (1 - 2 / 4)
    np.testing.assert_allclose([found[3], found[5], found[9]], [1 / 6, s3 - s5, s5], atol=1e-6)


def features(group: list[int], prompts: list[list[int]]) -> Features:
    start = np.cumsum([0, *map(len, prompts)]).astype(np.int64)
    tokens = np.array([t for p in prompts for t in p], np.int32)
    return Features.of(tokens, start, np.array(group, np.int64))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), min_size=2, max_size=12))
def test_keys_are_equal_where_beginnings_are(shapes: list[tuple[int, int]]) -> None:
    prompts = [[head] * 20 + list(range(tail)) for head, tail in shapes]
    start = np.cumsum([0, *map(len, prompts)]).astype(np.int64)
    tokens = np.array([t for p in prompts for t in p], np.int32)
    keys = prefix_keys(tokens, start, np.array([16, 32], np.int64))
    for i, a in enumerate(prompts):
        for j, b in enumerate(prompts):
            for k, size in enumerate((16, 32)):
                if len(a) < size:
                    assert keys[i, k] == 0
                elif len(b) >= size:
                    assert (keys[i, k] == keys[j, k]) == (a[:size] == b[:size])


def night(seed: int, stretch: float = 1.0, n: int = 4000) -> tuple[Features, np.ndarray, np.ndarray]:
    """Two workloads; the first has ten prefixes, each with its own length. Features, lengths, true means."""
    rng = np.random.default_rng(seed)
    group, prefix = rng.integers(0, 2, n), rng.integers(0, 10, n)
    prompts = [[g, *[p * (g == 0)] * 40, *range(i, i + 5)] for i, (g, p) in enumerate(zip(group, prefix))]  # noqa: B905
    mean = stretch * np.where(group == 0, 40.0 * 1.5**prefix, 300.0)
    lengths = np.maximum(1, np.rint(mean * rng.gamma(4.0, 0.25, n))).astype(np.int32)
    return features(group.tolist(), prompts), lengths, mean


def learnt(model: LengthModel, lengths: np.ndarray, every: int) -> np.ndarray:
    generated, ended = np.zeros(len(lengths), np.int32), np.zeros(len(lengths), np.int8)
    generated[::every], ended[::every] = lengths[::every], 1
    return model.fit(generated, ended).mean


def error(estimate: np.ndarray, mean: np.ndarray, every: int) -> float:
    rest = np.arange(len(mean)) % every != 0
    return float(np.abs(estimate - mean)[rest].sum() / mean[rest].sum())


def test_prefixes_are_told_apart_as_far_as_they_are_known() -> None:
    found, lengths, mean = night(1)
    limit = np.full(len(lengths), 100_000, np.int64)
    by_workload = Features(found.group, np.zeros((len(lengths), len(LEVELS)), np.uint64), found.prompt)
    coarse = error(learnt(LengthModel.of(by_workload, limit), lengths, 20), mean, 20)
    fine = error(learnt(LengthModel.of(found, limit), lengths, 20), mean, 20)
    finer = error(learnt(LengthModel.of(found, limit), lengths, 4), mean, 4)
    assert finer < fine < 0.4 * coarse
    assert finer < 0.08


def test_prefixes_that_say_nothing_are_not_believed() -> None:
    found, _, _ = night(2)
    lengths = np.maximum(1, np.random.default_rng(3).exponential(200, 4000)).astype(np.int32)
    estimate = learnt(LengthModel.of(found, np.full(4000, 100_000, np.int64)), lengths, 20)
    rest = np.arange(4000) % 20 != 0
    assert np.abs(estimate[rest] / lengths[::20].mean() - 1).max() < 0.2


def test_running_answers_count_as_longer_than_they_are() -> None:
    found, lengths, mean = night(4)
    begun = np.arange(len(lengths)) % 2 == 0
    # They began one after the other and have had time for 1 to 600 tokens.
    time = np.random.default_rng(4).integers(1, 600, len(lengths))
    generated = np.where(begun, np.minimum(lengths, time), 0).astype(np.int32)
    ended = (begun & (lengths <= time)).astype(np.int8)
    waiting = ~begun & (found.group == 1)
    estimate = LengthModel.of(found, np.full(len(lengths), 1200, np.int64)).fit(generated, ended).mean
    naive = lengths[(ended == 1) & (found.group == 1)].mean()
    truth = mean[waiting].mean()
    assert naive < 0.9 * truth
    assert abs(estimate[waiting].mean() / truth - 1) < 0.05
    running = begun & (lengths > time)
    assert (estimate[running] > generated[running]).all()


def history_of(found: Features, lengths: np.ndarray) -> History:
    n = len(lengths)
    return History(found, lengths.astype(np.float64), np.ones(n, np.int8), np.ones(n))


def test_history_stands_in_before_anything_has_run() -> None:
    before, lengths, _ = night(5)
    found, tonight, mean = night(6)
    model = LengthModel.of(found, np.full(4000, 100_000, np.int64), history_of(before, lengths))
    assert model.history[0].any()
    assert error(model.fit(np.zeros(4000, np.int32), np.zeros(4000, np.int8)).mean, mean, 10**9) < 0.12
    again = LengthModel.from_arrays(model.arrays())
    np.testing.assert_array_equal(learnt(again, tonight, 50), learnt(model, tonight, 50))


@pytest.mark.parametrize("stretch", [0.5, 1.0, 2.0])
def test_history_is_stretched_to_what_a_small_sample_shows(stretch: float) -> None:
    before, lengths, _ = night(7)
    found, tonight, mean = night(8, stretch)
    limit = np.full(4000, 100_000, np.int64)
    both = error(learnt(LengthModel.of(found, limit, history_of(before, lengths)), tonight, 50), mean, 50)
    alone = error(learnt(LengthModel.of(found, limit), tonight, 50), mean, 50)
    assert both < alone
    assert both < 0.2


def test_the_log_is_believed_as_far_as_it_is_right() -> None:
    rng = np.random.default_rng(9)
    found, lengths, _ = night(10)
    limit = np.full(4000, 100_000, np.int64)
    same_model = lengths * np.exp(0.1 * rng.standard_normal(4000)) / 2
    unrelated = rng.permutation(lengths).astype(np.float64)
    rest = np.arange(4000) % 20 != 0
    off = []
    for logged in (np.full(4000, np.nan), same_model, unrelated):
        estimate = learnt(LengthModel.of(found, limit, None, logged), lengths, 20)
        off.append(np.abs(estimate - lengths)[rest].mean())
    assert off[1] < 0.5 * off[0]
    assert off[2] < 1.15 * off[0]


def test_nothing_known_is_half_the_limit() -> None:
    model = LengthModel.of(features([0, 1], [[1], [2, 3]]), np.array([100, 1], np.int64))
    assert not model.history.any()
    assert np.isnan(model.logged).all()
    assert model.fit(np.zeros(2, np.int32), np.zeros(2, np.int8)).mean.tolist() == [50, 1]


ROW = st.tuples(
    st.integers(0, 2),
    st.lists(st.integers(0, 1), max_size=40),
    st.integers(1, 5000),
    st.floats(0, 1),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 9000)),
)


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=40), st.booleans())
def test_estimates_are_within_bounds(rows: list[tuple], past: bool) -> None:
    found = features([r[0] for r in rows], [r[1] for r in rows])
    limit = np.array([r[2] for r in rows], np.int64)
    generated = np.array([int(r[2] * r[3]) for r in rows], np.int32)
    ended = np.array([r[4] and g > 0 for r, g in zip(rows, generated, strict=True)], np.int8)
    logged = np.array([np.nan if r[5] is None else r[5] for r in rows], np.float64)
    history = history_of(found, limit[::-1].copy()) if past else None
    fit = LengthModel.of(found, limit, history, logged).fit(generated, ended)
    assert (fit.mean >= 1).all()
    assert (fit.mean <= limit).all()
    over = (ended == 1) | (generated == limit)
    assert (fit.mean[over] == generated[over]).all()
    assert (fit.mean[~over] > generated[~over]).all()
    low, high = fit.quantile(0.5), fit.quantile(0.9)
    assert (low >= 1).all()
    assert (low <= high + 1e-9).all()
    assert (high <= limit).all()
    np.testing.assert_allclose(fit.distribution.sum(axis=1), 1.0, atol=1e-6)
    assert (
        np.diff(fit.outlooks(), axis=1)[fit.distribution[:, ::-1].cumsum(axis=1)[:, -2::-1] > 1e-6] >= -1e-6
    ).all()


def test_nodes_are_a_tree_of_the_requests() -> None:
    found, _, _ = night(11)
    tree = make_nodes(found)
    assert (tree.parent[1:] < np.arange(1, len(tree.parent))).all()
    assert set(found.group[tree.workload[tree.node] == tree.workload[tree.node[0]]]) == {found.group[0]}
    np.testing.assert_array_equal(tree.find(found), tree.node)
    other = Features(np.full(4000, 99, np.int64), found.keys, found.prompt)
    assert not tree.find(other).any()


def test_ratio_is_one_within_chance() -> None:
    sums = np.linspace(0.0, 6.0, BINS)[None, :]
    node, length = np.zeros(100, np.int32), bin_values()[np.arange(100) % 60 + 20]
    expected = sum(sums[0, bin_of(d)] for d in length)
    assert length_ratio(sums, node, length, expected, 3.0, 8.0) == 1.0
    assert length_ratio(sums, node, length, 0.5 * expected, 3.0, 8.0) > 1.5
