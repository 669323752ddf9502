"""Realised rates of strangers: against plain loops, on made-up vectors."""

import numpy as np
import pytest

from benchmarks.accuracy import strangers as bench
from benchmarks.accuracy.people import first_half
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
