import faiss
import numpy as np
import pytest

from benchmarks.common import synthetic
from facegallery.indexer.derived import codes as compress
from facegallery.indexer.derived.codes import Codes, Coding, HeldOut, K, Setting

N, D = 20_000, 128


@pytest.fixture(scope="module")
def xb() -> np.ndarray:
    return synthetic.faces(N, "msceleb")[0]


@pytest.fixture(scope="module")
def flat(xb):
    index = faiss.IndexFlatIP(D)
    index.add(xb)
    return index


@pytest.fixture(scope="module")
def coding(xb) -> Coding:
    return compress.codings(compress.second_moment(xb[:4000])[0], N)[0]


@pytest.fixture(scope="module")
def index(xb, coding):
    made = compress.train(xb[:8000], compress.second_moment(xb[:4000])[1], coding)
    compress.fill(made, xb)
    return made


@pytest.fixture(scope="module")
def held(flat, xb) -> HeldOut:
    return compress.held_out(flat, xb, np.arange(0, N, 100))


def test_axes_are_those_of_an_eigendecomposition():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    x = (rng.standard_normal((5000, 6)) * [5, 4, 3, 2, 1, 0.1]) @ turn
    values, axes = compress.second_moment(np.float32(x))
    assert (np.diff(values) < 0).all() and axes.shape == (6, 6)
    np.testing.assert_allclose(np.sqrt(values / 5000), [5, 4, 3, 2, 1, 0.1], rtol=0.05)
    np.testing.assert_allclose(abs(axes @ turn.T), np.eye(6), atol=0.06)


def test_codings_keep_what_holds_the_energy():
    moments = np.r_[np.ones(30), np.full(482, 1e-6)]
    assert compress.codings(moments, 1_000_000) == [Coding(32, 32, 1024), Coding(32, 16, 1024)]
    assert compress.codings(np.ones(512), 4_000_000)[0] == Coding(512, 512, 2048)
    assert all(c.axes <= 10 and c.axes % c.parts == 0 for c in compress.codings(np.ones(10), 5000))
    assert Coding(80, 80, 1024).memory(1_000_000) == 48_000_000


def test_what_is_right_leaves_a_face_out_of_its_own_answers(held, xb):
    scores = held.xq.astype(np.float64) @ xb.T.astype(np.float64)
    scores[np.arange(len(held.at)), held.at] = -np.inf
    np.testing.assert_allclose(held.least, np.sort(scores, axis=1)[:, -K], atol=1e-6)


def test_recall_is_that_of_a_plain_count(index, flat, held, xb):
    scores = held.xq @ xb.T
    scores[np.arange(len(held.at)), held.at] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :K]
    params = faiss.SearchParametersPreTransform(index_params=faiss.SearchParametersIVF(nprobe=8))
    found = index.search(held.xq, 65, params=params)[1]
    naive = [np.isin(best[i], [f for f in found[i] if f != held.at[i]][:64]).mean() for i in range(len(best))]
    got = compress.recalled(index, flat, held, 8)[compress.DEPTHS.index(64)]
    assert 0.3 < got.mean() < 0.999
    np.testing.assert_allclose(got, naive, atol=1e-9)


def test_more_lists_and_more_depth_find_more(index, flat, held, coding):
    tried = list(compress.settings(index, flat, held, coding, 2))
    of_depth = [s.recall for s in tried if s.depth == 64]
    assert all(a <= b + 0.005 for a, b in zip(of_depth, of_depth[1:], strict=False)) and of_depth[-1] > 0.99
    for nprobe in {s.nprobe for s in tried}:
        of_nprobe = [s.recall for s in tried if s.nprobe == nprobe]
        assert of_nprobe == sorted(of_nprobe)
    assert all(s.bound <= s.recall and s.ms is None for s in tried)
    first = min(s.nprobe for s in tried if s.bound >= 0.9)
    assert {s.nprobe for s in compress.settings(index, flat, held, coding, 0.9)} == {
        s.nprobe for s in tried if s.nprobe <= 2 * first
    }


def test_the_frontier_is_what_nothing_beats_in_both(coding):
    made = {
        (n, d): Setting(coding, n, d, 1, bound)
        for n, d, bound in [(4, 16, 0.9), (8, 16, 0.99), (16, 16, 1), (4, 64, 0.995), (4, 128, 1)]
    }
    assert compress.frontier(list(made.values()), 0.99) == [made[8, 16], made[4, 64]]
    assert compress.frontier([made[4, 16]], 0.99) == []


def test_more_work_takes_longer(index, flat, held):
    little, much = compress.in_turns(
        [Codes(index, flat, 1, 16), Codes(index, flat, faiss.extract_index_ivf(index).nlist, N // 4)], held.xq[:20]
    )
    assert 0 < little < much


def test_batches_are_answered_as_single_queries_are(index, flat, held):
    codes = Codes(index, flat, 16, 64)
    D, I = codes.search(held.xq, 10)  # noqa: E741
    single = [codes.search(q[None], 10) for q in held.xq]
    np.testing.assert_array_equal(I, np.concatenate([i for _, i in single]))
    np.testing.assert_allclose(D, np.concatenate([d for d, _ in single]), atol=1e-6)


def test_scores_are_exact_and_fall(index, flat, held, xb):
    D, I = Codes(index, flat, 16, 64).search(held.xq, 40)  # noqa: E741
    assert D.shape == I.shape == (len(held.at), 40) and (np.diff(D, axis=1) <= 0).all()
    np.testing.assert_allclose(D, np.einsum("qd,qcd->qc", held.xq, xb[I]), atol=1e-6)
    assert (I[:, 0] == held.at).mean() > 0.99


def test_where_too_few_are_found_the_rest_is_marked(index, flat, held):
    D, I = Codes(index, flat, 1, 5000).search(held.xq[:3], 5000)  # noqa: E741
    assert ((I == -1) == (D < -1e30)).all() and (I[:, -1] == -1).all() and (I[:, 0] >= 0).all()


def test_effort_looks_through_more(index, flat, held):
    codes = Codes(index, flat, 2, 16)
    shallow, deep = (codes.search(held.xq, 10, effort)[0] for effort in (1, 16))
    assert (deep >= shallow - 1e-6).all() and deep.sum() > shallow.sum()
    assert codes.covers(1) and not codes.covers(N)
