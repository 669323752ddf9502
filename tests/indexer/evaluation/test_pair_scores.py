import numpy as np
import pytest

from facegallery.indexer.evaluation.pair_scores import crossed
from facegallery.indexer.evaluation.subsets import ProbePhotos
from tests import synthetic


def made_up(photos: int = 3, probes: int = 2) -> tuple[ProbePhotos, ProbePhotos]:
    """20 people enrolled; probes of them and of one who is not, the last of whom has no face."""
    names = np.array([f"person {i}" for i in range(20)], object)
    rng = np.random.default_rng(0)
    order, asked = rng.permutation(20 * photos), np.append(np.repeat(names, probes), ["nobody", "person 3"])
    gallery = ProbePhotos(synthetic.vectors(20, photos)[order], np.repeat(names, photos)[order])
    return gallery, ProbePhotos(synthetic.unit(rng.normal(size=(len(asked) - 1, synthetic.D))), asked)


def naive(gallery: ProbePhotos, probes: ProbePhotos) -> tuple[list[float], list[float]]:
    kinds: tuple[list[float], list[float]] = ([], [])
    for i, name in enumerate(probes.names):
        for x, other in zip(gallery.xb, gallery.names, strict=True):
            kinds[name != other].append(float(probes.xb[i] @ x) if i < len(probes.xb) else -np.inf)
    return kinds


def test_every_probe_beside_every_face():
    gallery, probes = made_up()
    found, (same, different) = crossed(gallery, probes), naive(gallery, probes)
    assert np.sort(found.same) == pytest.approx(sorted(same), abs=1e-6) and len(same) == 41 * 3
    assert np.sort(found.different) == pytest.approx(sorted(different), abs=1e-6) and not found.drawn
    result = found.result()
    assert (result["same"], result["different"], [t["far"] for t in result["tar"]]) == (
        len(same),
        len(different),
        [1e-3, 1e-2, 1e-1],
    )
    for at in result["tar"]:
        allowed = sorted(different)[::-1][int(at["far"] * len(different) + 1e-9)]
        assert at["tar"] == pytest.approx(np.mean(np.array(same) > allowed + 1e-6))


def test_of_too_many_pairs_some_are_drawn():
    gallery, probes = made_up(8, 4)
    found, again, other = (crossed(gallery, probes, seed, 500) for seed in (0, 0, 1))
    same, different = naive(gallery, probes)
    assert found.drawn and len(found.same) == 500 and 400 < len(found.different) <= 500
    assert (
        (found.same == again.same).all()
        and (found.different == again.different).all()
        and (found.same != other.same).any()
    )
    for drawn, kind in ((found.same, same), (found.different, different)):
        assert np.isin(np.round(drawn, 4), np.round(np.array(kind, np.float32), 4)).mean() > 0.95


def test_no_pairs_of_two_people():
    gallery, probes = made_up()
    one = np.array(["person 1"], object)
    assert crossed(gallery.of(one), probes.of(one)) is None
