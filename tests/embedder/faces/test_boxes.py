from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegallery.embedder.faces import boxes
from facegallery.embedder.faces.boxes import BOX, PHOTO, SCORE, moved, squared, suppress


def naive(rows: np.ndarray, groups: np.ndarray, threshold: float, smaller: bool) -> list[list[float]]:
    """One pair after the other."""
    found = []
    for group in sorted(set(groups.tolist())):
        mine = sorted(rows[groups == group].tolist(), key=lambda row: -row[SCORE])
        for i, row in enumerate(mine):
            if not any(overlap(row[BOX], better[BOX], smaller) > threshold for better in mine[:i]):
                found.append(row)
    return found


def overlap(a: Sequence[float], b: Sequence[float], smaller: bool) -> float:
    both = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    mine, other = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return both / (min(mine, other) if smaller else mine + other - both)


def some_rows(n: int, groups: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of 1 to 30 pixels that often overlap, with scores that all differ."""
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(0, 40, (n, 2)), rng.uniform(1, 30, (n, 2))
    group = rng.integers(0, max(groups, 1), n)
    return np.concatenate([group[:, None], corner, corner + side, rng.permutation(n)[:, None] / 7], axis=1), group


@settings(deadline=None)
@given(
    st.integers(0, 120),
    st.integers(1, 9),
    st.integers(0, 10**6),
    st.sampled_from((0.3, 0.5, 0.7)),
    st.booleans(),
    st.sampled_from((3, 256)),
)
def test_suppression_is_what_pairs_say(n, groups, seed, threshold, smaller, block):
    rows, group = some_rows(n, groups, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes, "BLOCK", block)
        kept = suppress(rows.copy(), group, threshold, smaller=smaller)
    assert kept.tolist() == naive(rows, group, threshold, smaller)


def test_suppression_of_thousands_in_one_group():
    rows, group = some_rows(1500, 1, 5)
    rows[:, BOX] *= 4
    assert suppress(rows, group, 0.5).tolist() == naive(rows, group, 0.5, False)


def test_a_suppressed_box_still_suppresses():
    rows = np.array([[0, 0, 0, 10, 10, 3.0], [0, 3, 0, 13, 10, 2.0], [0, 6, 0, 16, 10, 1.0]])
    assert suppress(rows, rows[:, PHOTO], 0.5)[:, SCORE].tolist() == [3.0]


def test_boxes_are_moved_by_shares_of_their_sides_and_grow_to_squares():
    rows = np.array([[7, 10.0, 20.0, 29.0, 59.0, 0.9]])
    assert moved(rows, np.array([[0.1, -0.1, 0.5, 0.0]]))[0].tolist() == [7, 12.0, 16.0, 39.0, 59.0, 0.9]
    assert squared(rows)[0].tolist() == [7, 0.0, 20.0, 39.0, 59.0, 0.9]
    assert rows[0].tolist() == [7, 10.0, 20.0, 29.0, 59.0, 0.9], "left as they were"


@pytest.mark.parametrize(
    ("a", "b", "share"),
    [
        ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3),
        ((0, 0, 2, 2), (0, 0, 2, 2), 1),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0),
        ((0, 0, 4, 4), (1, 1, 2, 2), 1 / 16),
        ((1, 1, 1, 1), (1, 1, 1, 1), 0),
    ],
)
def test_overlap_is_the_share_of_the_union(a, b, share):
    assert boxes.overlap(a, b) == boxes.overlap(b, a) == pytest.approx(share)
