"""The stated share of wrong pairs, against counts pair by pair and against made-up people whose labels are known."""

from itertools import combinations

import numpy as np
import pytest

from facegallery.embedder.errors import DataError
from facegallery.indexer.grouping import wrong_pairs
from facegallery.indexer.grouping.linkage import MARGIN, Start, cut_for, group
from facegallery.indexer.grouping.wrong_pairs import (
    ABOVE,
    BELOW,
    STEP,
    PairError,
    Tail,
    cases,
    choose_cut,
    fit_tail,
    halfway,
    joined,
    near_misses,
    pair_error,
    pairs_within,
    tail_of,
    wrong_within,
)

TAIL = Tail(0.001, 0.01, 0.1)


def crowd(n: int, seed: int, photos: int = 3, noise: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of n people, and the person of each; some people look alike."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(n), photos)
    x = rng.normal(size=(n, 32))[who] / np.sqrt(32) + noise * rng.normal(size=(n * photos, 32))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), who


def test_counts_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    groups, people = rng.integers(0, 6, 40), rng.integers(0, 6, 40).astype(str)
    within = [(i, j) for i, j in combinations(range(40), 2) if groups[i] == groups[j]]
    assert pairs_within(groups) == len(within)
    assert wrong_within(groups, people) == sum(people[i] != people[j] for i, j in within)
    assert pairs_within(groups[:0]) == 0 == wrong_within(groups[:0], people[:0])


def test_near_misses_are_those_of_all_pairs_of_groups():
    x, _ = crowd(30, 1)
    cut = 0.4
    groups = group(x, cut)
    expected = 0
    for a, b in combinations(np.unique(groups), 2):
        cosines = x[groups == a] @ x[groups == b].T
        score = cosines.mean() - MARGIN / np.sqrt(cosines.size)
        expected += cosines.size * (cut - BELOW <= score < cut)
    assert near_misses(*joined(x, groups), cut) == expected > 0


def test_of_many_groups_a_sample_is_compared(monkeypatch):
    x, _ = crowd(200, 1)
    groups = group(x, 0.4)
    exact = pair_error(x, groups, 0.4, TAIL)
    monkeypatch.setattr(wrong_pairs, "SAMPLE", 150)
    monkeypatch.setattr(wrong_pairs, "LARGEST", 50)
    found = pair_error(x, groups, 0.4, TAIL)
    assert found.share == pytest.approx(exact.share, rel=0.3) and found.share != exact.share > 0
    assert found.pairs == exact.pairs


def test_groups_may_start_from_groups():
    x, _ = crowd(40, 2)
    before = group(x, 0.6)
    means, sizes = joined(x, before)
    start = Start(sizes)
    groups = group(means, 0.4, start)
    of_faces = groups[np.unique(before, return_inverse=True)[1]]
    stated = pair_error(means, groups, 0.4, TAIL, start)
    assert stated == pair_error(x, of_faces, 0.4, TAIL) and stated.pairs > 0


def test_what_is_stated_follows_from_the_pairs_just_below_the_cut():
    x, _ = crowd(40, 2)
    groups = group(x, 0.4)
    near, pairs = near_misses(*joined(x, groups), 0.4), pairs_within(groups)
    found = pair_error(x, groups, 0.4, TAIL)
    assert found.share == pytest.approx(0.01 * near / pairs) and found.pairs == pairs
    assert found.low <= found.share < found.high == pytest.approx((0.1 * near + 3) / pairs)
    assert str(PairError(0.005, 0.0, 0.02, 900)) == "about 1 in 200 pairs in a group are two people, at most 1 in 50"


def test_faces_that_are_all_alone_have_no_error():
    x, _ = crowd(5, 3, photos=1)
    found = pair_error(x, np.arange(5), 0.4)
    assert found == PairError(0.0, 0.0, 0.0, 0) and str(found) == "no two faces are in one group"


def test_the_chosen_cut_is_the_lowest_with_the_error():
    x, _ = crowd(400, 4, noise=0.12)
    chosen = choose_cut(x, 0.02, tail=TAIL)
    cut, groups = chosen.cut, chosen.groups
    assert chosen.error == pair_error(x, groups, cut, TAIL)
    assert np.array_equal(groups, group(x, cut)) and pair_error(x, groups, cut, TAIL).share <= 0.02
    below = group(x, cut - STEP)
    assert pair_error(x, below, cut - STEP, TAIL).share > 0.02
    assert choose_cut(x, 0.1, tail=TAIL).cut < cut


def test_more_people_need_a_higher_cut():
    x, who = crowd(400, 5, noise=0.12)
    few = choose_cut(x[who < 40], 0.02, tail=TAIL).cut
    assert choose_cut(x, 0.02, tail=TAIL).cut > few


def test_no_cut_is_enough_for_an_error_of_nothing():
    x, _ = crowd(20, 6, noise=0.3)
    assert choose_cut(x, 0.0, tail=TAIL).cut <= cut_for(60) + STEP * ABOVE + 1e-9


def test_what_must_be_apart_is_apart_at_the_chosen_cut():
    x, _ = crowd(10, 7)
    groups = choose_cut(x, start=Start(apart=np.array([[0, 1]]))).groups
    assert groups[0] != groups[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_tail_of_labelled_people_holds_for_others(seed):
    """Scores like those of real faces: a tail from 100 people, and what it states of 200 others."""
    x, who = crowd(300, seed, noise=0.17)
    tail = fit_tail(x[who < 100], who[who < 100])
    assert 0 < tail.low <= tail.middle <= tail.high
    others = x[who >= 100]
    for cut in (0.40, 0.44):
        groups = group(others, cut)
        stated = pair_error(others, groups, cut, tail)
        true = wrong_within(groups, who[who >= 100]) / pairs_within(groups)
        assert stated.low <= true <= stated.high


def test_a_tail_halfway_is_so_by_logarithms():
    found = halfway(Tail(0.001, 0.01, 0.1), Tail(0.004, 0.09, 0.1))
    assert (found.low, found.middle, found.high) == pytest.approx((0.002, 0.03, 0.1))


def test_sets_weigh_the_same_however_many_cases_they_have():
    many, few = np.full(1000, 0.2), np.array([0.1])
    assert tail_of([many, few, few.copy()]).middle == 0.1 and tail_of([many, few, many]).middle == 0.2


def test_a_fit_without_pairs_is_refused():
    x, who = crowd(2, 8, photos=1)
    assert not len(cases(x[:1], who[:1])) or cases(x, who).ndim == 1
    with pytest.raises(DataError, match="two photos"):
        tail_of([np.empty(0)])
