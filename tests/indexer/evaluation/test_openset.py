import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegallery.embedder.errors import DataError
from facegallery.indexer.evaluation import openset
from facegallery.indexer.evaluation.openset import OpenSet, curve, dir_at, rates
from facegallery.indexer.metrics import wilson


def answers(genuine, strangers, people=None, stranger_people=None) -> OpenSet:
    genuine, strangers = np.asarray(genuine, np.float32), np.asarray(strangers, np.float32)
    people = np.arange(len(genuine)) if people is None else np.asarray(people)
    return OpenSet(
        genuine,
        people,
        strangers,
        np.arange(len(strangers)) if stranger_people is None else np.asarray(stranger_people),
    )


MISS = -np.inf
BY_HAND = answers([0.9, 0.8, 0.6, 0.5, MISS], [0.95, 0.7, 0.55, 0.55, 0.4, 0.3, 0.2, 0.1, 0.0, MISS])


@pytest.mark.parametrize(
    "fpir, dir, reached", [(0.01, 0, 0), (0.1, 0.4, 1), (0.2, 0.6, 2), (0.3, 0.6, 2), (0.4, 0.8, 4), (0.9, 0.8, 9)]
)
def test_dir_by_hand(fpir, dir, reached):
    (rate,) = rates(BY_HAND, [fpir], resamples=50)
    assert (rate.dir, rate.false_positives) == (dir, reached) and rate.interval[0] <= dir <= rate.interval[1]
    assert dir_at(BY_HAND, fpir) == dir


def naive_dir(genuine, strangers, fpir):
    """The best DIR of all thresholds that at most that share of strangers reach, one comparison at a time."""
    best = 0.0
    for threshold in sorted({*genuine, *strangers, np.inf} - {MISS}):
        if sum(s >= threshold for s in strangers) <= fpir * len(strangers) + 1e-9:
            best = max(best, sum(g >= threshold for g in genuine) / len(genuine))
    return best


scores = st.lists(st.sampled_from([MISS, 0.1, 0.2, 0.3, 0.4, 0.5]), min_size=1, max_size=9)


@settings(deadline=None)
@given(scores, scores, st.sampled_from([0.003, 0.1, 0.25, 0.5]))
def test_dir_against_every_threshold(genuine, strangers, fpir):
    assert dir_at(answers(genuine, strangers), fpir) == pytest.approx(naive_dir(genuine, strangers, fpir))


def test_the_curve_by_hand():
    fpir, dir = curve(BY_HAND)
    assert fpir == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert dir == pytest.approx([0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8])


@settings(deadline=None)
@given(scores, scores)
def test_the_curve_goes_through_every_rate(genuine, strangers):
    found = answers(genuine, strangers)
    fpir, dir = curve(found)
    assert dir[:-1] == pytest.approx([dir_at(found, f) for f in fpir[:-1]]) and fpir[-1] == pytest.approx(1)


def photos_of(people: int, rng: np.random.Generator, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores and people: one to four photos each, alike."""
    owner = np.repeat(np.arange(people), rng.integers(1, 5, people))
    return (mean + 0.1 * rng.normal(size=people)[owner] + 0.05 * rng.normal(size=len(owner))).astype(np.float32), owner


def system(seed: int = 0) -> OpenSet:
    rng = np.random.default_rng(seed)
    (genuine, people), (strangers, others) = photos_of(80, rng, 0.7), photos_of(150, rng, 0.4)
    return answers(np.where(rng.random(len(genuine)) < 0.05, MISS, genuine), strangers, people, others)


def naive_resamples(systems, fpir, resamples, seed=1):
    """One resample at a time: people and strangers drawn with all of their photos, the same for both systems."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        rows = [
            np.concatenate([np.flatnonzero(owner == p) for p in rng.integers(0, owner.max() + 1, owner.max() + 1)])
            for owner in (systems[0].people, systems[0].stranger_people)
        ]
        found.append([dir_at(answers(s.genuine[rows[0]], s.strangers[rows[1]]), fpir) for s in systems])
    return np.array(found)


def test_intervals_against_one_resample_at_a_time():
    one = system()
    for rate in rates(one, (0.01, 0.1)):
        drawn = naive_resamples([one], rate.fpir, 1500)[:, 0]
        assert rate.interval == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.025)
    assert rates(one, seed=3) == rates(one, seed=3)


def test_two_systems_against_one_resample_at_a_time():
    first = system()
    noise = np.random.default_rng(5)
    second = answers(
        first.genuine + 0.1,
        first.strangers + 0.02 * noise.normal(size=len(first.strangers)),
        first.people,
        first.stranger_people,
    )
    (found,) = openset.compare(first, second, [0.02])
    drawn = naive_resamples([first, second], 0.02, 1500)
    assert (found.first, found.second) == (dir_at(first, 0.02), dir_at(second, 0.02))
    assert found.interval == pytest.approx(np.quantile(drawn[:, 1] - drawn[:, 0], [0.025, 0.975]), abs=0.04)
    (same,) = openset.compare(first, first, [0.02])
    assert same.interval == (0, 0)


def test_blocks_and_many_people_draw_as_few_do(monkeypatch):
    one = system()
    whole = rates(one, [0.1])[0].interval
    monkeypatch.setattr(openset, "BLOCK_DRAWS", 7 * len(one.strangers))
    monkeypatch.setattr(openset, "DRAWS", 230 * 2000)
    assert openset.resampled([one], [0.1]).shape == (1, 2000, 1)
    assert rates(one, [0.1])[0].interval == pytest.approx(whole, abs=0.02)


def test_everybody_found_still_has_an_interval():
    assert rates(answers([0.9] * 4, [0.1] * 20, list("aabb")), [0.1])[0].interval == wilson(2, 2)
    assert rates(answers([MISS] * 4, [0.1] * 20), [0.1])[0].interval == wilson(0, 4)


def test_one_person_tells_little():
    one = answers([0.9, 0.05], [0.1] * 20, list("aa"))
    (rate,) = rates(one, [0.1])
    assert rate.dir == 0.5 and rate.interval == wilson(0.5, 1) and rate.interval[1] - rate.interval[0] > 0.7
    (difference,) = openset.compare(one, answers([0.9, 0.9], [0.1] * 20, list("aa")), [0.1])
    assert (
        difference.second - difference.first == 0.5 and difference.interval[0] < 0 < 0.5 < difference.interval[1] <= 1
    )


def test_what_does_not_fit_is_refused():
    for genuine, strangers in [([], [0.1]), ([0.1], []), ([np.nan], [0.1]), ([0.5], [np.nan])]:
        with pytest.raises(DataError, match="strangers"):
            answers(genuine, strangers)
    with pytest.raises(DataError, match="same"):
        openset.compare(answers([0.5, 0.6], [0.1]), answers([0.5, 0.6], [0.1], [1, 0]))
