"""Groups by average linkage, against SciPy's UPGMA and against what must and must not be together."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from facegallery.indexer.grouping.linkage import Bindings, average_linkage
from facegallery.indexer.grouping.neighbours import near_pairs

CUT = 0.4


def people(n: int, seed: int, noise: float = 0.9) -> np.ndarray:
    """Unit vectors of a few people, some of whom are hard to tell apart."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, n // 4), 12))
    x = centres[rng.integers(0, len(centres), n)] + noise * rng.normal(size=(n, 12))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def every_pair(n: int) -> np.ndarray:
    return np.array(list(combinations(range(n), 2)), np.int64).reshape(-1, 2)


def as_sets(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10_000), st.sampled_from([0.1, CUT, 0.7]))
def test_groups_are_those_of_upgma(n, seed, cut):
    x = people(n, seed)
    tree = linkage(x.astype(np.float64), "average", metric="cosine")
    expected = fcluster(tree, 1 - cut, "distance")
    found = average_linkage(x, every_pair(n), cut)
    assert as_sets(found) == as_sets(expected)
    assert all(found[members := sorted(group)][0] == members[0] for group in as_sets(found)), "the first one's number"
    assert np.array_equal(average_linkage(x, near_pairs(x, cut, n), cut), found), "near pairs are all that is needed"


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000), st.data())
def test_what_must_be_apart_is_and_what_must_be_together_is_where_it_can(n, seed, data):
    x, chosen = people(n, seed, noise=0.5), st.lists(st.sampled_from(every_pair(n).tolist()), max_size=6)
    together, apart = (np.array(data.draw(chosen), np.int64).reshape(-1, 2) for _ in range(2))
    found = average_linkage(x, near_pairs(x, CUT), CUT, Bindings(together, apart))
    assert all(found[a] != found[b] for a, b in apart)
    if not len(apart):
        assert all(found[a] == found[b] for a, b in together)
    free = average_linkage(x, near_pairs(x, CUT), CUT)
    if not len(apart) and not len(together):
        assert np.array_equal(found, free)


def test_a_group_that_one_pair_keeps_apart_merges_with_others():
    x = people(1, 0).repeat(4, axis=0)
    apart = np.array([[3, 1]])
    found = average_linkage(x, every_pair(4), CUT, Bindings(apart=apart))
    assert found[1] != found[3] and len(set(found.tolist())) == 2


def test_vectors_that_are_equal_are_one_group_in_any_order():
    x = np.concatenate([people(3, 1, noise=2.0), people(3, 1, noise=2.0)])
    order = np.random.default_rng(0).permutation(6)
    groups = {
        frozenset(order[list(group)].tolist()) for group in as_sets(average_linkage(x[order], every_pair(6), CUT))
    }
    assert groups == as_sets(average_linkage(x, every_pair(6), CUT)) and all(
        {a, a + 3} <= g for g in groups for a in g if a < 3
    )


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_group(n):
    x = np.zeros((n, 4), np.float32)
    assert average_linkage(x, near_pairs(x, CUT), CUT).tolist() == list(range(n))
