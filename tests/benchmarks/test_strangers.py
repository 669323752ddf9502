"""Realised rates of strangers: against plain loops, on made-up vectors."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import strangers as bench
from benchmarks.accuracy.people import first_half
from benchmarks.common.people_sets import PeopleSet, SetVectors
from tests import synthetic


def faces(people: int, photos: int, name: str, seed: int) -> bench.Faces:
    names = np.array([f"{name}{i // photos}" for i in range(people * photos)])
    return bench.Faces(synthetic.vectors(people, photos, seed=seed), names, names)


def threshold(scores: list[float], fpir: float) -> float:
    """The score that a share of at most `fpir` of one more than these reaches."""
    return sorted(scores, reverse=True)[int(fpir * (len(scores) + 1)) - 1]


def test_realised_rates_against_plain_loops():
    gallery, asked, fpir = faces(40, 1, "e", 1), faces(30, 3, "s", 2), 0.1
    (line,) = bench.measured(gallery, {"some": asked}, fpir, "m")
    own = [max(float(x @ y) for j, y in enumerate(gallery.vectors) if j != i) for i, x in enumerate(gallery.vectors)]
    scores = [max(float(x @ y) for y in gallery.vectors) for x in asked.vectors]
    half = first_half(asked.people)
    reached = {"own": [s >= threshold(own, fpir) - 1e-6 for s in scores], "given": [], "alone": []}
    for name, score in zip(asked.people, scores, strict=True):
        others = [s for n, s in zip(asked.people, scores, strict=True) if (n in half) != (name in half)]
        reached["given"].append(score >= threshold(own + others, fpir) - 1e-6)
        reached["alone"].append(score >= threshold(others, fpir) - 1e-6)
    for kind, hits in reached.items():
        share = getattr(line, kind)
        assert share.value == pytest.approx(np.mean(hits)) and share.low <= share.value <= share.high
    assert (line.people, line.photos, line.enrolled) == (30, 90, 40) and line.promised[0] <= line.promised[1]
    assert "| some | 30 / 90 | `m` |" in "\n".join(bench.table([line]))


def test_one_member_of_a_family_is_enrolled_and_the_others_are_asked():
    everybody = faces(6, 2, "p", 3)
    families = np.array([f"f{int(name[1:]) // 3}" for name in everybody.people])
    everybody = bench.Faces(everybody.vectors, everybody.people, families)
    enrolled, relatives = bench.members(everybody.where(np.arange(12) % 2 == 0), everybody)
    assert sorted(enrolled.groups) == ["f0", "f1"] and len(relatives) == 8
    assert not set(enrolled.people) & set(relatives.people)


def test_people_who_are_in_lfw_too_are_left_out():
    names = np.array(["a", "a", "b", "c"])
    blank, splits = np.full(4, ""), np.array(["gallery", "probe", "gallery", "gallery"])
    people = PeopleSet("some", Path("some.csv"), names, names, splits, blank)
    found = SetVectors(people, synthetic.vectors(4, 1), np.array([True, True, True, False]))
    assert bench.of_set(found).people.tolist() == ["some/a", "some/a", "some/b"]
    left = bench.of_set(bench.without(found, [("some", "a"), ("other", "b")]))
    assert left.people.tolist() == ["some/b"] and np.array_equal(left.vectors, found.vectors[2:3])


def test_relatives_beside_other_families():
    """Two children a parent, near to the parent: by pairs."""
    parents, fpir = faces(20, 1, "p", 5), 0.1
    noise = np.random.default_rng(6).normal(size=(40, synthetic.D))
    near = synthetic.unit(np.repeat(parents.vectors, 2, axis=0) + 0.25 * noise)
    children = bench.Faces(near, np.array([f"c{i}" for i in range(40)]), np.repeat(parents.groups, 2))
    gallery = faces(40, 1, "e", 1)
    found = bench.of_relatives(gallery, parents, children, fpir, "m")
    both = [*gallery.vectors, *parents.vectors]
    own = [max(float(x @ y) for j, y in enumerate(both) if j != i) for i, x in enumerate(both)]
    limit, mine, others, nearest = threshold(own, fpir) - 1e-6, [], [], []
    for i, x in enumerate(children.vectors):
        scores = [float(x @ y) for y in both]
        mine.append(scores[40 + i // 2] >= limit)
        nearest.append(int(np.argmax(scores)) == 40 + i // 2)
        others += [s >= limit for j, s in enumerate(scores[40:]) if j != i // 2]
    assert 0 < np.mean(others) < np.mean(mine) < 1
    for share, hits in ((found.nearest, nearest), (found.relative, mine), (found.other, others)):
        assert share.value == pytest.approx(np.mean(hits))
    assert (found.families, found.photos, found.enrolled) == (20, 40, 60)
    assert "| `m` | 20 / 40 | 60 |" in "\n".join(bench.relatives_table([found]))
