"""Which faces are doubtful, against scores computed one by one, and that planted wrong names come first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegallery.indexer.doubtful import BLOCK, TILE, Enrolled, doubts, neighbours
from facegallery.indexer.suspects import SAME

D = 64


def people(n: int, photos: int, seed: int = 0, noise: float = 0.65) -> Enrolled:
    """Faces of people, alike (about 0.7), of people who are not (about 0)."""
    rng = np.random.default_rng(seed)
    faces = rng.standard_normal((n, 1, D)) + noise * rng.standard_normal((n, photos, D))
    vectors = (faces / np.linalg.norm(faces, axis=2, keepdims=True)).reshape(-1, D).astype(np.float32)
    return Enrolled(np.arange(n * photos) + 100, np.repeat(np.arange(n), photos), vectors)


def moved(faces: Enrolled, rows, owners) -> Enrolled:
    given_to = faces.owners.copy()
    given_to[rows] = owners
    return Enrolled(faces.ids, given_to, faces.vectors)


def naive(faces: Enrolled, row: int) -> tuple[float, float]:
    scores = [
        (o, i, float(x @ faces.vectors[row])) for i, (o, x) in enumerate(zip(faces.owners, faces.vectors, strict=True))
    ]
    own = [s for o, i, s in scores if o == faces.owners[row] and i != row]
    other = [s for o, _, s in scores if o != faces.owners[row]]
    return max(own, default=-np.inf), max(other, default=-np.inf)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 1000))
def test_nearest_faces_are_those_found_one_by_one(n, photos, seed):
    faces = people(n, photos, seed)
    near = neighbours(faces)
    for row in range(len(faces.ids)):
        assert (near.own[row], near.other[row]) == pytest.approx(naive(faces, row), abs=1e-5)
        if near.own_at[row] >= 0:
            assert near.own_at[row] != row and faces.owners[near.own_at[row]] == faces.owners[row]
        if near.other_at[row] >= 0:
            assert faces.owners[near.other_at[row]] != faces.owners[row]


def test_more_faces_than_a_tile_and_a_block():
    faces = people(1100, 4)
    assert len(faces.ids) > BLOCK > TILE
    every, some = neighbours(faces), np.array([3, 4398, 1024, 4096])
    assert np.isclose(faces.vectors[some] @ faces.vectors[every.own_at[some]].T, every.own[some]).any()
    few = neighbours(faces, some)
    assert few.own_at.tolist() == every.own_at[some].tolist() and few.other_at.tolist() == every.other_at[some].tolist()
    assert (every.own[3], every.other[3]) == pytest.approx(naive(faces, 3), abs=1e-5)


def test_sound_people_are_not_doubtful():
    faces = people(30, 4)
    assert doubts(neighbours(faces), faces.spread) == []


def test_moved_faces_come_first_and_those_they_resemble_are_not_listed():
    faces = people(30, 6)
    wrong = moved(faces, [7, 60, 119], [20, 2, 5])
    found = doubts(neighbours(wrong), wrong.spread)
    assert {doubt.row for doubt in found} == {7, 60, 119}
    assert {doubt.why for doubt in found} == {"nearer"} and not any(doubt.two_names for doubt in found)


def test_one_person_with_two_names_is_said_to_be():
    faces = people(30, 6, noise=0.4)
    wrong = moved(faces, [0, 1, 2], [99, 99, 99])
    found = doubts(neighbours(wrong), wrong.spread)
    assert found and {doubt.row for doubt in found} <= set(range(6)) and all(doubt.two_names for doubt in found)


def test_a_copy_under_another_name_comes_before_all_and_a_stranger_after_them():
    faces = people(30, 4)
    vectors, stranger = faces.vectors.copy(), np.random.default_rng(9).standard_normal(D)
    vectors[9] = vectors[50]
    vectors[70] = stranger / np.linalg.norm(stranger)
    wrong = moved(Enrolled(faces.ids, faces.owners, vectors), [33], [0])
    near = neighbours(wrong)
    assert near.other[9] >= SAME
    found = doubts(near, wrong.spread)
    assert found[0].why == "same" and found[-1].row == 70
    assert {33, 70} < {doubt.row for doubt in found} <= {9, 50, 33, 70}


def test_faces_of_low_quality_come_last_the_worst_first():
    faces = people(10, 4)
    quality = np.full(40, 0.9)
    quality[[3, 5, 8]] = 0.2, 0.1, np.nan
    found = doubts(neighbours(faces), faces.spread, quality, poor=0.5)
    assert [(doubt.row, doubt.why) for doubt in found] == [(5, "poor"), (3, "poor")]


def test_one_person_alone_gives_no_reason_for_doubt():
    faces = people(1, 5)
    assert doubts(neighbours(faces), faces.spread) == [] and doubts(neighbours(people(0, 1)), faces.spread) == []
