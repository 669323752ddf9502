import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegallery.embedder.errors import DataError
from facegallery.indexer.evaluation.verification import compare_folds, roc, verify_folds


def test_roc_by_hand():
    found = roc(np.array([0.9, 0.8, 0.8, 0.3, 0.1]), np.array([True, True, False, False, True]))
    assert found.thresholds.tolist() == [np.inf, 0.9, 0.8, 0.3, 0.1]
    assert found.far.tolist() == [0, 0, 0.5, 1, 1] and found.tar == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1])
    assert found.auc == pytest.approx((1 + 1 + 0 + 0.5 + 1 + 0) / 6)  # same pairs above different ones, ties half
    assert found.eer == pytest.approx(0.4)  # between (0, 1/3) and (1/2, 2/3): far = 1 - tar


pairs = st.lists(
    st.tuples(st.sampled_from([-math.inf, 0.1, 0.2, 0.3, 0.4]), st.booleans()), min_size=2, max_size=20
).filter(lambda found: len({same for _, same in found}) == 2)


@settings(deadline=None)
@given(pairs)
def test_roc_against_every_pair_of_pairs(found):
    scores, same = (np.array(column) for column in zip(*found, strict=True))
    curve = roc(scores, same)
    wins = [(a > b) + (a == b) / 2 for a in scores[same] for b in scores[~same]]
    assert curve.auc == pytest.approx(np.mean(wins))
    for threshold, far, tar in zip(curve.thresholds, curve.far, curve.tar, strict=True):
        assert (far, tar) == (
            np.mean([s >= threshold for s in scores[~same]]),
            np.mean([s >= threshold for s in scores[same]]),
        )
    assert 0 <= curve.eer <= 1 and len(curve.thresholds) == len(set(scores.tolist())) + 1


def test_chance_and_perfection():
    assert roc(np.array([1.0, 0.5, 0.4]), np.array([True, True, False])).eer == 0
    assert roc(np.array([0.4, 0.5, 1.0]), np.array([True, False, False])).auc == 0
    same = roc(np.array([0.5, 0.5]), np.array([True, False]))
    assert (same.auc, same.eer) == (0.5, 0.5)


def made_up(folds: int = 10, n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """scores, same, folds; the pairs of a fold: n of one person, n of two."""
    rng = np.random.default_rng(seed)
    same = np.tile(np.repeat([True, False], n), folds)
    return (
        np.clip(np.where(same, 0.7, 0.3) + 0.12 * rng.normal(size=len(same)), -1, 1),
        same,
        np.repeat(np.arange(folds), 2 * n),
    )


def sandberg(scores, same, folds):
    """calculate_roc of davidsandberg/facenet, a threshold and a fold at a time, on squared distances."""
    distance, thresholds, accuracies = 2 - 2 * scores, np.arange(0, 4, 0.01), []
    for fold in range(folds.max() + 1):
        train, test = folds != fold, folds == fold
        best = np.argmax([np.mean((distance[train] < t) == same[train]) for t in thresholds])
        accuracies.append(np.mean((distance[test] < thresholds[best]) == same[test]))
    return np.mean(accuracies), np.std(accuracies)


def test_folds_against_sandbergs_way():
    scores, same, folds = made_up()
    found = verify_folds(scores, same, folds)
    assert (found.accuracy, found.std) == pytest.approx(sandberg(scores, same, folds))
    assert found.right.mean() == pytest.approx(found.accuracy)
    for tar in found.tars:
        slow = []
        for fold in range(10):
            others = sorted(scores[(folds != fold) & ~same], reverse=True)
            slow.append(np.mean(scores[(folds == fold) & same] > others[int(tar.asked * len(others) + 1e-9)]))
        assert (tar.tar, tar.std) == pytest.approx((np.mean(slow), np.std(slow)), abs=1e-6)
        assert 0 <= tar.far < 0.05


def test_a_folds_own_pairs_choose_nothing():
    scores, same, folds = made_up()
    changed = np.where(folds == 3, -scores, scores)
    before, after = verify_folds(scores, same, folds), verify_folds(changed, same, folds)
    assert before.thresholds[3] == after.thresholds[3] and before.accuracies[3] != after.accuracies[3]


def test_photos_without_a_face_are_different():
    scores, same, folds = made_up()
    scores[[0, -1]] = -np.inf  # of one person, of two
    found = verify_folds(scores, same, folds)
    assert not found.right[0] and found.right[-1]


def test_two_systems_on_the_same_pairs():
    scores, same, folds = made_up()
    better = np.clip(scores + np.where(same, 0.1, -0.1), -1, 1)
    found = compare_folds(verify_folds(scores, same, folds), verify_folds(better, same, folds))
    assert found.second_only > found.first_only and found.p < 0.01 and found.interval[0] > 0


def test_folds_refuse_what_cannot_be_judged():
    scores, same, folds = made_up()
    for given_ in [
        (scores, same, folds * 0),
        (scores, folds < 5, folds),
        (scores, same | True, folds),
        (scores[1:], same, folds),
    ]:
        with pytest.raises(DataError):
            verify_folds(*given_)
