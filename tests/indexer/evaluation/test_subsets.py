import numpy as np
import pytest

from facegallery.embedder.errors import DataError, InputError
from facegallery.indexer.evaluation.openset import OpenSet, dir_at
from facegallery.indexer.evaluation.subsets import ProbePhotos, by_photos, by_size, photos_of, pooled
from facegallery.indexer.search.templates import exact_score
from tests import synthetic

FPIR = 0.1


def photos(people, count: int, seed: int) -> ProbePhotos:
    """Photos of 40 made-up people, of which `people` are returned; another seed gives other photos of the same."""
    centres = np.random.default_rng(0).normal(size=(40, synthetic.D))
    xb = np.repeat(centres, count, axis=0) + 0.8 * np.random.default_rng(seed).normal(size=(40 * count, synthetic.D))
    names = np.array([f"p{i // count}" for i in range(40 * count)], object)
    return ProbePhotos(synthetic.unit(xb), names).of(np.array([f"p{i}" for i in people], object))


GALLERY, PROBES, STRANGERS = photos(range(25), 4, 1), photos(range(25), 2, 2), photos(range(25, 40), 2, 3)


def naive(
    gallery: ProbePhotos, probes: ProbePhotos, strangers: ProbePhotos, score: str = "best"
) -> tuple[float, float, float]:
    """top-1, top-5 and DIR by one person and one probe at a time."""
    faces = {name: gallery.xb[gallery.names == name] for name in np.unique(gallery.names)}

    def person(q, xb):
        return float((xb.astype(np.float64) @ q).max()) if score == "best" else exact_score(q, xb, score)

    def ranked(q):
        return sorted(((person(q, xb), name) for name, xb in faces.items()), reverse=True)

    answers = [(ranked(q), name) for q, name in zip(probes.xb, probes.names, strict=True)]
    top1, top5 = (np.mean([name in [n for _, n in found[:k]] for found, name in answers]) for k in (1, 5))
    genuine = np.array([found[0][0] if found[0][1] == name else -np.inf for found, name in answers])
    others = np.array([ranked(q)[0][0] for q in strangers.xb])
    return top1, top5, dir_at(OpenSet(genuine, probes.names, others, strangers.names), FPIR)


def check(outcome, gallery, probes) -> None:
    top1, top5, dir = naive(gallery, probes, STRANGERS, outcome.score)
    assert (outcome.top1, outcome.top5) == pytest.approx((top1, top5))
    assert outcome.rates[2].dir == pytest.approx(dir, abs=1e-6) and outcome.rates[2].fpir == FPIR
    assert (outcome.people, outcome.faces, outcome.probes) == (
        len(set(gallery.names)),
        len(gallery.xb),
        len(probes.names),
    )


def test_the_whole_gallery_is_one_size(monkeypatch):
    (whole,) = by_size(GALLERY, PROBES, STRANGERS, [25])
    check(whole, GALLERY, PROBES)
    assert whole.top1_interval[0] < whole.top1 < whole.top1_interval[1]


def test_smaller_galleries_hold_some_of_the_people():
    order = np.random.default_rng(4).permutation(np.unique(GALLERY.names))
    for outcome, size in zip(
        by_size(GALLERY, PROBES, STRANGERS, [3, 10, 25], "template", seed=4), [3, 10, 25], strict=True
    ):
        check(outcome, GALLERY.of(order[:size]), PROBES.of(order[:size]))
        assert outcome.score == "template"


def test_fewer_photos_a_person_are_asked_the_same_probes():
    found = by_photos(GALLERY, PROBES, STRANGERS, [1, 2, 4])
    assert [(o.photos, o.score) for o in found] == [
        (1, "best"),
        *((n, s) for n in (2, 4) for s in ("best", "mean", "template")),
    ]
    for outcome in found:
        kept = np.concatenate(
            [np.flatnonzero(GALLERY.names == name)[: outcome.photos] for name in np.unique(GALLERY.names)]
        )
        check(outcome, ProbePhotos(GALLERY.xb[kept], GALLERY.names[kept]), PROBES)
    assert found[-1].top1 > found[0].top1


def test_people_with_fewer_photos_stay_in_the_gallery_and_are_not_asked():
    few = photos(range(25, 30), 1, 1)
    gallery = ProbePhotos(np.concatenate([GALLERY.xb, few.xb]), np.concatenate([GALLERY.names, few.names]))
    probes = photos(range(30), 2, 2)
    one, *_ = by_photos(gallery, probes, photos_of([], synthetic.D), [1, 4])
    assert (one.people, one.probes, one.rates) == (30, 50, ())


def test_photos_without_a_face_are_misses():
    found = photos_of([("p0", None), ("p1", PROBES.xb[2]), ("p0", None)], synthetic.D)
    assert found.names.tolist() == ["p1", "p0", "p0"] and found.xb.shape == (1, synthetic.D)
    (outcome,) = by_size(GALLERY, found, photos_of([("s", None), ("t", None)], synthetic.D), [25])
    assert outcome.probes == 3 and outcome.top5 <= 1 / 3 and outcome.rates[2].dir == outcome.top1


def test_pooled_vectors_give_a_persons_score():
    for score in ("mean", "template"):
        found = pooled(GALLERY, score)
        assert found.names.tolist() == sorted(set(GALLERY.names))
        for q in PROBES.xb[:3]:
            want = [exact_score(q, GALLERY.xb[GALLERY.names == name], score) for name in found.names]
            assert found.xb @ q == pytest.approx(want, abs=1e-6)
    assert pooled(GALLERY, "best") is GALLERY


def test_numbers_that_cannot_be_are_one_line():
    for sizes in ([0], [26], [5, 99]):
        with pytest.raises(InputError, match="1 to 25 people"):
            by_size(GALLERY, PROBES, STRANGERS, sizes)
    with pytest.raises(DataError, match="larger"):
        by_size(GALLERY, photos(range(40, 40), 1, 1), STRANGERS, [3])
    for counts in ([0], [5], [1, 9]):
        with pytest.raises(InputError, match="from 1 up to 4"):
            by_photos(GALLERY, PROBES, STRANGERS, counts)
