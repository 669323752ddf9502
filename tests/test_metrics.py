import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedder.errors import DataError, InputError
from indexer import metrics
from indexer.metrics import hits_at, nearest_people, top_k, wilson
from tests import synthetic


def test_nearest_people_by_hand():
    xb = np.asarray([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], np.float32)
    people, scores = nearest_people(xb, np.asarray(["ann", "bob", "ann", "cy"]), np.asarray([[1, 0], [0.8, 0.6], [0, 1]], np.float32), 2)
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
    people, scores = nearest_people(np.eye(3, dtype=np.float32), np.asarray(["a", "b", "a"]), np.eye(3, dtype=np.float32), 9)
    assert people.shape == scores.shape == (3, 2)


def test_calls_that_cannot_be_answered():
    eye = np.eye(2, dtype=np.float32)
    with pytest.raises(InputError, match="k of at least 1"):
        nearest_people(eye, np.arange(2), eye, 0)
    for xb, yb, xq in [(eye, np.arange(3), eye), (eye, np.arange(2), np.eye(3)), (eye[:0], np.arange(0), eye), (eye[0], np.arange(2), eye)]:
        with pytest.raises(DataError, match="expected xb"):
            nearest_people(xb, yb, xq, 1)


def test_hits_by_hand():
    ranked = np.array([["a", "b", "c"], ["b", "a", None], ["c", None, None], [None, None, None]], object)
    truth = np.array(["a", "a", "a", None], object)
    hits = hits_at(ranked, truth)
    assert hits.tolist() == [[True, True, True], [False, True, True], [False] * 3, [False] * 3]
    assert [top_k(hits, k) for k in (1, 2, 3, 99)] == [0.25, 0.5, 0.5, 0.5]


@settings(deadline=None)
@given(hnp.arrays(np.int64, (6, 4), elements=st.integers(0, 5)), hnp.arrays(np.int64, 6, elements=st.integers(0, 5)))
def test_hits_against_a_loop(ranked, truth):
    want = [[t in r[: j + 1].tolist() for j in range(4)] for r, t in zip(ranked, truth.tolist(), strict=True)]
    assert hits_at(ranked, truth).tolist() == want


def test_hits_and_shares_refuse_what_does_not_fit():
    with pytest.raises(DataError, match="ranked"):
        hits_at(np.array([["a"]], object), np.array(["a", "b"], object))
    for hits, k in [(np.zeros((0, 5), bool), 1), (np.zeros((2, 5), bool), 0)]:
        with pytest.raises(InputError):
            top_k(hits, k)


# Newcombe (1998), table I: method 3, without continuity correction
@pytest.mark.parametrize(
    "successes, n, low, high", [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
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
    code = f"import sys, indexer.metrics; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
