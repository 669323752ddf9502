import numpy as np
import pytest

from facegallery.indexer.grouping import neighbours
from facegallery.indexer.grouping.neighbours import near_pairs
from tests import synthetic


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return synthetic.vectors(300, 4, seed=5)


def all_pairs(x: np.ndarray, cut: float) -> set[tuple[int, int]]:
    cosines = x @ x.T
    return {(int(a), int(b)) for a, b in np.argwhere(cosines >= cut) if a < b}


def test_pairs_are_all_that_are_near(vectors):
    found = near_pairs(vectors, 0.5, nearest=100)
    assert found.dtype == np.int64 and set(map(tuple, found.tolist())) == all_pairs(vectors, 0.5)


def test_each_has_so_many_at_most(vectors):
    found = near_pairs(vectors, -1.0, nearest=1)
    assert len(vectors) / 2 <= len(found) <= len(vectors)


def test_of_many_vectors_nearly_all_pairs_are_found(vectors, monkeypatch):
    monkeypatch.setattr(neighbours, "EXACT", 100)
    monkeypatch.setattr(neighbours, "CELL", 100)
    exact = all_pairs(vectors, 0.5)
    found = set(map(tuple, near_pairs(vectors, 0.5).tolist()))
    assert found <= exact and len(found) > 0.95 * len(exact)
