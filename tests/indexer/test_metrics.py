import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facegallery.embedder.errors import DataError, InputError
from facegallery.indexer import metrics
from facegallery.indexer.metrics import hits_at, nearest_people, wilson
from tests import synthetic


def test_nearest_people_by_hand():
    xb = np.asarray([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], np.float32)
    people, scores = nearest_people(
        xb, np.asarray(["ann", "bob", "ann", "cy"]), np.asarray([[1, 0], [0.8, 0.6], [0, 1]], np.float32), 2
    )
    assert people.tolist() == [["ann", "bob"], ["bob", "ann"], ["ann", "bob"]]
    np.testing.assert_allclose(scores, [[1, 0.6], [0.96, 0.8], [1, 0.8]], atol=1e-6)
    assert scores.dtype == np.float32


def naive(xb, yb, xq, k):
    """One pair at a time."""
    ranked = []
    for q in xq:
        best = {}
        for x, y in zip(xb, yb, strict=True):
            best[y] = max(best.get(y, -np.inf), float(sum(float(a) * float(b) for a, b in zip(x, q, strict=True))))
        ranked.append(sorted(best, key=lambda y: (-best[y], y))[:k])
    return ranked


whole = st.integers(-3, 3).map(float)  # so that sums are exact and ties are ties


@settings(deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(1, 4), st.integers(1, 7))
def test_nearest_people_against_one_pair_at_a_time(data, n, d, k):
    xb = data.draw(hnp.arrays(np.float32, (n, d), elements=whole))
    xq = data.draw(hnp.arrays(np.float32, (3, d), elements=whole))
    yb = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, 4)))
    people, _ = nearest_people(xb, yb, xq, k)
    assert people.tolist() == naive(xb, yb.tolist(), xq, k)


def test_blocks_give_what_one_product_gives(monkeypatch):
    xb, xq, yb = synthetic.vectors(20, 3), synthetic.vectors(31, 1, seed=1), np.repeat(np.arange(20), 3)
    people, scores = nearest_people(xb, yb, xq, 5)
    monkeypatch.setattr(metrics, "BLOCK_SCORES", 7 * len(xb))
    again, close = nearest_people(xb, yb, xq, 5)
    assert (people == again).all()
    np.testing.assert_allclose(scores, close, atol=1e-6)


def test_k_beyond_the_people_gives_all_of_them():
    people, scores = nearest_people(
        np.eye(3, dtype=np.float32), np.asarray(["a", "b", "a"]), np.eye(3, dtype=np.float32), 9
    )
    assert people.shape == scores.shape == (3, 2)


def test_calls_that_cannot_be_answered():
    eye = np.eye(2, dtype=np.float32)
    with pytest.raises(InputError, match="k of at least 1"):
        nearest_people(eye, np.arange(2), eye, 0)
    for xb, yb, xq in [
        (eye, np.arange(3), eye),
        (eye, np.arange(2), np.eye(3)),
        (eye[:0], np.arange(0), eye),
        (eye[0], np.arange(2), eye),
    ]:
        with pytest.raises(DataError, match="expected xb"):
            nearest_people(xb, yb, xq, 1)


def test_hits_by_hand():
    ranked = np.array([["a", "b", "c"], ["b", "a", None], ["c", None, None], [None, None, None]], object)
    truth = np.array(["a", "a", "a", None], object)
    hits = hits_at(ranked, truth)
    assert hits.tolist() == [[True, True, True], [False, True, True], [False] * 3, [False] * 3]
    assert hits.mean(axis=0).tolist() == [0.25, 0.5, 0.5]


@settings(deadline=None)
@given(hnp.arrays(np.int64, (6, 4), elements=st.integers(0, 5)), hnp.arrays(np.int64, 6, elements=st.integers(0, 5)))
def test_hits_against_a_loop(ranked, truth):
    want = [[t in r[: j + 1].tolist() for j in range(4)] for r, t in zip(ranked, truth.tolist(), strict=True)]
    assert hits_at(ranked, truth).tolist() == want


def test_hits_and_shares_refuse_what_does_not_fit():
    with pytest.raises(DataError, match="ranked"):
        hits_at(np.array([["a"]], object), np.array(["a", "b"], object))
    for ranks, k in [(np.zeros(0, int), 1), (np.zeros(2, int), 0)]:
        with pytest.raises(InputError):
            metrics.cmc(ranks, k)


# Newcombe (1998), table I: method 3, without continuity correction
@pytest.mark.parametrize(
    "successes, n, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_at_the_ends():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 5)[0] == 0.0 and wilson(5, 5)[1] == 1.0
    for bad in [(-1, 5), (6, 5)]:
        with pytest.raises(InputError):
            wilson(*bad)


def test_wilson_holds_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    for share in (0.5, 0.9, 0.97):
        inside = [low <= share <= high for low, high in (wilson(int(s), 400) for s in rng.binomial(400, share, 2000))]
        assert 0.93 < np.mean(inside) < 0.97


def test_the_trainer_gets_numpy_and_nothing_heavy():
    heavy = "{'apsw', 'faiss', 'pyarrow', 'sqlite3', 'tensorflow', 'openvino'}"
    code = f"import sys, facegallery.indexer.metrics; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ranks, intervals -----------------------------------------------------------


def test_ranks_cmc_and_mrr_by_hand():
    hits = np.array([[True, True, True], [False, False, True], [False, False, False], [False, True, True]])
    ranks = metrics.ranks_of(hits)
    assert ranks.tolist() == [1, 3, 0, 2]
    assert metrics.cmc(ranks, 4).tolist() == [0.25, 0.5, 0.75, 0.75]
    assert metrics.reciprocal_ranks(ranks).mean() == pytest.approx((1 + 1 / 3 + 0 + 1 / 2) / 4)


@settings(deadline=None)
@given(hnp.arrays(np.int64, (7, 5), elements=st.integers(0, 6)), hnp.arrays(np.int64, 7, elements=st.integers(0, 6)))
def test_cmc_is_the_share_of_hits_for_every_k(ranked, truth):
    hits = hits_at(ranked, truth)
    ranks = metrics.ranks_of(hits)
    assert metrics.cmc(ranks, 5).tolist() == hits.mean(axis=0).tolist()
    slow = [
        next((1 / (j + 1) for j, r in enumerate(row) if r == t), 0)
        for row, t in zip(ranked.tolist(), truth.tolist(), strict=True)
    ]
    assert metrics.reciprocal_ranks(ranks).tolist() == slow


def test_cmc_refuses_nothing():
    for ranks, k in [(np.empty(0, int), 5), (np.ones(3, int), 0)]:
        with pytest.raises(InputError):
            metrics.cmc(ranks, k)


def naive_bootstrap(values, people, resamples, seed=1):
    """One resample at a time: people drawn with replacement, all of their rows taken."""
    rng, rows = np.random.default_rng(seed), {p: np.flatnonzero(people == p) for p in np.unique(people)}
    names = list(rows)
    means = []
    for _ in range(resamples):
        taken = np.concatenate([rows[names[i]] for i in rng.integers(0, len(names), len(names))])
        means.append(values[taken].mean(axis=0))
    return np.quantile(means, [0.025, 0.975], axis=0).T


def test_intervals_against_a_loop_over_people():
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(60), rng.integers(1, 6, 60))
    of_person = rng.random(60)
    values = np.stack([rng.random(len(people)) < of_person[people], rng.normal(size=len(people))], axis=1)
    assert metrics.mean_intervals(values, people) == pytest.approx(naive_bootstrap(values, people, 4000), abs=0.015)
    assert (metrics.mean_intervals(values, people) == metrics.mean_intervals(values, people)).all()


def test_photos_of_one_person_are_no_more_news_than_one():
    hits = np.arange(100)[:, None] % 10 != 0
    alone, many = hits, np.repeat(hits, 9, axis=0)
    people = np.repeat(np.arange(100), 9)
    assert metrics.share_intervals(many, people) == pytest.approx(
        metrics.share_intervals(alone, np.arange(100)), abs=1e-9
    )
    low, high = metrics.share_intervals(many, np.arange(900))[0]
    assert high - low < 0.05 < np.diff(metrics.share_intervals(many, people)[0])


def test_one_probe_a_person_gives_nearly_wilsons_interval():
    hits = np.arange(1680)[:, None] >= 77
    assert metrics.share_intervals(hits, np.arange(1680))[0] == pytest.approx(wilson(1680 - 77, 1680), abs=0.002)


def test_nothing_but_hits_still_has_an_interval():
    found = metrics.share_intervals(np.array([[True, False]] * 6), np.array(list("aabbcc")))
    assert found.tolist() == [list(wilson(3, 3)), list(wilson(0, 3))]


@pytest.mark.parametrize("values", [[0.5], [0.0, 1.0], [0.25, 0.5, 1.0], [1.0], [0.0]])
def test_one_person_tells_little(values):
    low, high = metrics.share_intervals(np.array(values)[:, None], np.zeros(len(values)))[0]
    assert 0 <= low <= np.mean(values) <= high <= 1 and high - low > 0.7


@pytest.mark.parametrize(("first", "second"), [([1, 0], [1, 0]), ([0, 0], [1, 1]), ([1, 1, 0], [0, 0, 0])])
def test_a_difference_by_one_person_tells_little(first, second):
    low, high = metrics.compare(np.array(first), np.array(second), np.zeros(len(first))).interval
    difference = np.mean(second) - np.mean(first)
    assert -1 <= low <= difference <= high <= 1 and high - low > 1.5


def test_intervals_refuse_what_does_not_fit():
    for values, people in [
        (np.zeros((0, 1)), np.empty(0)),
        (np.zeros((3, 1)), np.arange(2)),
        (np.zeros(3), np.arange(3)),
    ]:
        with pytest.raises(DataError, match="expected values"):
            metrics.mean_intervals(values, people)


def test_blocks_of_resamples_are_all_of_them(monkeypatch):
    values, people = np.random.default_rng(0).normal(size=(40, 1)), np.arange(40)
    whole = metrics.mean_intervals(values, people)
    monkeypatch.setattr(metrics, "BLOCK_SCORES", 8 * 40 * 7)
    assert metrics.mean_intervals(values, people) == pytest.approx(whole, abs=0.02)


# two systems ----------------------------------------------------------------


@pytest.mark.parametrize(  # two-sided binomial by hand: 2 * sum of C(n, i) / 2^n
    "b, c, p",
    [
        (0, 0, 1),
        (1, 0, 1),
        (0, 5, 2 / 32),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (3, 3, 1),
        (10, 2, 2 * (1 + 12 + 66) / 4096),
    ],
)
def test_mcnemar_by_hand(b, c, p):
    first = np.array([True] * b + [False] * c + [True] * 7 + [False] * 4)
    second = np.array([False] * b + [True] * c + [True] * 7 + [False] * 4)
    assert metrics.mcnemar(first, second) == (b, c, pytest.approx(p))
    assert metrics.mcnemar(second, first) == (c, b, pytest.approx(p))


def test_comparing_two_systems():
    first, second = np.arange(400) >= 40, np.arange(400) >= 20
    found = metrics.compare(first, second, np.arange(400))
    assert (found.first_only, found.second_only, found.difference) == (0, 20, pytest.approx(0.05))
    assert found.p == pytest.approx(2 * 0.5**20) and found.interval[0] > 0.025 and found.interval[1] < 0.08
    same = metrics.compare(first, first, np.arange(400))
    assert (same.p, same.difference, same.interval) == (1, 0, (0, 0))
    with pytest.raises(DataError, match="two answers"):
        metrics.compare(first, second[1:], np.arange(400))


# thresholds -----------------------------------------------------------------


def test_thresholds_by_hand():
    scores = np.array([0.9, 0.5, 0.7, 0.7, 0.1], np.float32)
    for rate, reached in [(0.1, 0), (0.2, 1), (0.4, 1), (0.6, 3), (0.8, 4), (0.99, 4)]:
        assert (scores >= metrics.threshold_at(scores, rate)).sum() == reached, rate
    for some, rate in [(scores, 0), (scores, 1), (scores[:0], 0.1)]:
        with pytest.raises(InputError):
            metrics.threshold_at(some, rate)


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 12), elements=st.integers(-2, 2).map(np.float32)),
    st.sampled_from([0.01, 0.1, 0.25, 0.3, 0.5, 0.9]),
)
def test_thresholds_are_the_lowest_that_hold_the_rate(scores, rate):
    threshold = metrics.threshold_at(scores, rate)
    assert (scores >= threshold).sum() <= rate * len(scores) + 1e-6
    lower = max((s for s in scores.tolist() if s < threshold), default=None)
    assert lower is not None and (scores >= lower).sum() > rate * len(scores) + 1e-6
