"""Groups by average linkage, against SciPy's UPGMA, plain rounds, and what must and must not be together."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from facegallery.indexer.grouping import linkage as linkage_file
from facegallery.indexer.grouping.linkage import CUT, FACES, MARGIN, SLOPE, Start, cut_for, group

LIMIT = 0.4


def people(n: int, seed: int, noise: float = 0.9) -> np.ndarray:
    """Unit vectors of a few people, some of whom are hard to tell apart."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, n // 4), 12))
    x = centres[rng.integers(0, len(centres), n)] + noise * rng.normal(size=(n, 12))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def few_people(n: int, seed: int) -> np.ndarray:
    """Unit vectors of two people."""
    rng = np.random.default_rng(seed)
    x = np.eye(12)[rng.integers(0, 2, n)] + 0.25 * rng.normal(size=(n, 12))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def every_pair(n: int) -> np.ndarray:
    return np.array(list(combinations(range(n), 2)), np.int64).reshape(-1, 2)


def as_sets(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


def upgma(x: np.ndarray, cut: float) -> set[frozenset[int]]:
    tree = linkage(x.astype(np.float64), "average", metric="cosine")
    return as_sets(fcluster(tree, 1 - cut, "distance"))


def in_rounds(x: np.ndarray, cut: float) -> set[frozenset[int]]:
    """The definition, line by line: all pairs that are each other's nearest merge, until none has the score.

    A large group takes others, whose nearest it is, best first, until it has grown by an eighth.
    """
    x, groups = x.astype(np.float64), [[i] for i in range(len(x))]
    while len(groups) > 1:
        scores = np.full((len(groups), len(groups)), -np.inf)
        for i, j in combinations(range(len(groups)), 2):
            pairs = x[groups[i]] @ x[groups[j]].T
            scores[i, j] = scores[j, i] = pairs.mean() - MARGIN / np.sqrt(pairs.size)
        nearest = scores.argmax(axis=1)
        merged = [(i, j) for i, j in enumerate(nearest) if i < j and nearest[j] == i and scores[i, j] >= cut]
        if not merged:
            break
        new, gone = [], {k for pair in merged for k in pair}
        for pair in merged:
            small, large = sorted(pair, key=lambda k: (len(groups[k]), -min(groups[k])))
            members, taken = groups[large] + groups[small], len(groups[small])
            others = [k for k in np.argsort(-scores[large], kind="stable") if k != small and nearest[k] == large]
            for k in others:
                if scores[k, large] < cut or taken + len(groups[k]) > len(groups[large]) // 8:
                    break
                members, taken, gone = members + groups[k], taken + len(groups[k]), gone | {k}
            new.append(members)
        groups = new + [one for k, one in enumerate(groups) if k not in gone]
    return set(map(frozenset, groups))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10_000), st.sampled_from([0.1, LIMIT, 0.7]), st.booleans())
def test_groups_are_those_of_plain_rounds(n, seed, cut, large):
    x = people(n, seed) if not large else np.concatenate([few_people(2 * n, seed), people(n, seed)])
    found = group(x, cut)
    assert as_sets(found) == in_rounds(x, cut)
    assert all(found[members := sorted(one)][0] == members[0] for one in as_sets(found)), "the first one's number"


@pytest.mark.parametrize("cut", [0.1, LIMIT, 0.7])
@pytest.mark.parametrize("seed", range(5))
def test_without_a_margin_groups_are_those_of_upgma(cut, seed, monkeypatch):
    monkeypatch.setattr(linkage_file, "MARGIN", 0.0)
    x = people(60, seed)
    assert as_sets(group(x, cut)) == upgma(x, cut)


def test_two_faces_need_more_than_two_groups():
    """Cosines of 0.45 are too few for two faces, and enough for two groups of four."""
    near, axes = 0.45, np.eye(12)
    pair = np.stack([axes[0], near * axes[0] + np.sqrt(1 - near**2) * axes[1]]).astype(np.float32)
    assert as_sets(group(pair, LIMIT)) == {frozenset({0}), frozenset({1})}
    eight = np.repeat(pair, 4, axis=0)
    assert as_sets(group(eight, LIMIT)) == {frozenset(range(8))}


def test_a_person_of_more_photos_than_are_compared_is_one_group():
    """As of a burst or a film: all that are compared with a photo are of its own burst."""
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(2, 12)) + 3 * rng.normal(size=12)
    x = np.repeat(scenes, 70, axis=0) + 0.05 * rng.normal(size=(140, 12))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    assert upgma(x, LIMIT) == {frozenset(range(140))} == as_sets(group(x, LIMIT))
    assert as_sets(group(x, LIMIT, nearest=3)) == {frozenset(range(140))}


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000), st.booleans(), st.integers(0, 8), st.data())
def test_what_must_be_apart_is(n, seed, large, held, data):
    x = people(n, seed, noise=0.5) if not large else few_people(4 * n, seed)
    chosen = st.lists(st.sampled_from(every_pair(len(x)).tolist()), max_size=6)
    apart, held = np.array(data.draw(chosen), np.int64).reshape(-1, 2), min(held, len(x))
    found = group(x, LIMIT, Start(held=held, apart=apart))
    assert all(found[a] != found[b] for a, b in [*apart, *combinations(range(held), 2)])
    if not len(apart) and held < 2:
        assert as_sets(found) == in_rounds(x, LIMIT)


def test_those_that_are_asked_alone_find_others():
    x = people(60, 3)
    asked = np.arange(60) >= 50
    found = group(x, LIMIT, Start(asked=asked))
    assert all(any(asked[i] for i in one) for one in as_sets(found) if len(one) > 1)
    assert any(len(one) > 1 and not all(asked[i] for i in one) for one in as_sets(found))


def test_a_mean_stands_for_its_vectors():
    x = np.repeat(people(1, 0), 2, axis=0) + np.array([[0.0], [0.3]], np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cut = float(x[0] @ x[1]) - MARGIN / 2  # enough for four pairs, not for one
    assert as_sets(group(x, cut)) == {frozenset({0}), frozenset({1})}
    assert as_sets(group(x, cut, Start(sizes=np.array([3, 2])))) == {frozenset({0, 1})}


def test_a_large_group_takes_few_rounds(monkeypatch):
    rounds = []
    merge = linkage_file.Groups._merge
    monkeypatch.setattr(linkage_file.Groups, "_merge", lambda self, joins: [rounds.append(1), merge(self, joins)])
    assert max(map(len, as_sets(group(few_people(2000, 0), LIMIT)))) > 900 and len(rounds) < 100


def test_one_pair_that_must_be_apart_leaves_two_groups():
    x = people(1, 0).repeat(4, axis=0)
    found = group(x, LIMIT, Start(apart=np.array([[3, 1]])))
    assert found[1] != found[3] and len(set(found.tolist())) == 2


def test_equal_vectors_are_one_group_in_any_order():
    x = np.concatenate([people(3, 1, noise=2.0), people(3, 1, noise=2.0)])
    order = np.random.default_rng(0).permutation(6)
    groups = {frozenset(order[list(one)].tolist()) for one in as_sets(group(x[order], LIMIT))}
    assert groups == as_sets(group(x, LIMIT)) and all({a, a + 3} <= one for one in groups for a in one if a < 3)


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_group(n):
    assert group(np.zeros((n, 4), np.float32), LIMIT).tolist() == list(range(n))


def test_more_faces_have_a_higher_cut():
    assert cut_for(0) == cut_for(FACES) == CUT
    assert cut_for(FACES * 10, 0.5) == pytest.approx(0.5 + np.log(10) / SLOPE)
