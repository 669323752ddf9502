import numpy as np
import pytest

from facegallery.trainer import gate
from facegallery.trainer.gate import Judged

ANGLES = np.radians([0, 10, 90, 130, 200])
VECTORS, LABELS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32), np.array([0, 0, 1, 1, 2])


def test_hits_are_photos_whose_nearest_first_one_is_their_persons():
    assert gate.hits(VECTORS, LABELS).tolist() == [True, True]
    assert gate.hits(VECTORS[[0, 2, 1, 3]], np.array([0, 0, 1, 1])).tolist() == [False, True]


def test_soft_tar_by_hand():
    """Person 0's pair has cos 10, person 1's cos 40; the others' largest, cos 70, is the threshold at a FAR of 0.01."""
    others = np.cos(ANGLES[:, None] - ANGLES)[[0, 0, 1, 1, 0, 1, 2, 3], [2, 3, 2, 3, 4, 4, 4, 4]]
    softness = 0.5 * others.std()
    each = [
        1 / (1 + np.exp(-(np.cos(np.radians(a)) - np.nextafter(np.float32(max(others)), np.float32(2))) / softness))
        for a in (10, 40)
    ]
    assert gate.soft_tar(VECTORS, LABELS) == pytest.approx(np.mean(each), abs=1e-5)


def test_each_person_counts_alike():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(30, 16))
    labels = np.repeat(np.arange(30), [20, *[2] * 29])
    spread = np.where(labels == 0, 3.0, 0.2)[:, None]  # the one with many photos is the hard one
    x = centres[labels] + spread * rng.normal(size=(len(labels), 16))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert gate.soft_tar(x.astype(np.float32), labels) > 0.9


def test_pairs_of_one_kind_only_tell_nothing():
    assert gate.soft_tar(VECTORS[:2], LABELS[:2]) == gate.soft_tar(VECTORS[::2], LABELS[::2]) == 0.0


def test_what_is_kept_has_a_better_tar_and_does_not_lose_people():
    before = np.arange(100) < 90

    def judged(hits: int, tar: float) -> Judged:
        return Judged(np.arange(100) < hits, tar)

    assert gate.is_kept(judged(90, 0.6), 0.5, before) and gate.is_kept(judged(95, 0.6), 0.5, before)
    assert not gate.is_kept(judged(100, 0.5), 0.5, before)
    assert gate.is_kept(judged(85, 0.6), 0.5, before)  # five lost, none won: p = 0.0625
    assert not gate.is_kept(judged(84, 0.6), 0.5, before)  # six: 0.03125


def test_few_people_show_a_small_change():
    """Twenty people, and noise that the share of pairs above the threshold hardly shows; the soft rate shows it."""
    rng, seen = np.random.default_rng(1), []
    for _ in range(40):
        labels = np.repeat(np.arange(20), 3)
        x = rng.normal(size=(20, 64))[labels] + 0.9 * rng.normal(size=(60, 64))
        worse = x + 0.25 * rng.normal(size=x.shape)
        a, b = (
            gate.soft_tar((v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32), labels) for v in (x, worse)
        )
        seen.append(a > b)
    assert np.mean(seen) > 0.9
