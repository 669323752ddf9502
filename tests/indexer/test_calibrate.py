import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegallery.embedder.errors import DataError, InputError
from facegallery.indexer.calibrate import (
    KEPT,
    Calibration,
    Enrolled,
    OwnScores,
    fit,
    is_stale,
    kept_ranks,
    leave_own_out,
)
from facegallery.indexer.metrics import nearest_people
from tests import synthetic

NONE = np.empty(0)
CONTRACT = "0123456789abcdef"


def of_strangers(scores, fpir, **changes) -> Calibration:
    """Fitted to photos of real strangers alone: independent samples."""
    genuine = changes.pop("genuine", None)
    enrolled = Enrolled(**{"people": 50, "faces": 60, "fingerprint": CONTRACT} | changes)
    return fit(OwnScores(NONE, NONE, NONE), np.asarray(scores, np.float32), fpir, enrolled, genuine)


def of_people(people, nearest, scores, fpir=0.1, held_out=NONE) -> Calibration:
    own = OwnScores(np.asarray(scores), np.asarray(people), np.asarray(nearest))
    return fit(own, held_out, fpir, Enrolled(50, 60, CONTRACT))


def falling(n):
    return np.linspace(0.9, 0.1, n, dtype=np.float32)


def test_threshold_by_hand():
    found = of_strangers([0.5, 0.1, 0.4, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9], 0.3)  # floor(0.3 * 10) = 3 may reach it
    assert found.threshold == np.float32(0.7) and found.exceeding == found.held_out_exceeding == 3
    assert (found.n, found.held_out, found.effect, found.people, found.faces) == (9, 9, 1.0, 50, 60)
    assert found.known(found.threshold) and not found.known(np.nextafter(found.threshold, 0))


def test_equal_scores_stand_or_fall_together():
    found = of_strangers([0.9, 0.7, 0.7, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1], 0.3)
    assert (
        found.exceeding == 1
        and not found.known(np.float32(0.7))
        and found.known(np.nextafter(np.float32(0.7), np.float32(1)))
    )
    assert of_strangers([0.5] * 9, 0.3).exceeding == 0


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=60), st.floats(0.001, 0.999))
def test_no_more_reach_the_threshold_than_the_rate_allows_and_a_lower_one_would_let_too_many(values, fpir):
    scores = np.asarray(values, np.float32) / 20
    found = of_strangers(scores, fpir)
    assert found.exceeding == (scores >= found.threshold).sum() <= fpir * (len(scores) + 1) + 1e-6
    below = scores[scores < found.threshold].max()
    allowed = min(len(scores) - 1, int(fpir * (len(scores) + 1) + 1e-9))
    assert (scores >= below).sum() > allowed


def test_too_few_samples_are_told_apart_and_warned_of():
    few = of_strangers(falling(99), 0.005)
    assert few.exceeding == 0 and few.threshold > few.scores[0]
    (line,) = few.warnings
    assert "expected 600 scores" in line and "received 99, enough for 0.03" in line
    low, high = few.interval()
    assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 99))  # exact for no success
    assert of_strangers(falling(600), 0.005).warnings == []


def test_one_sample():
    found = of_strangers([0.3], 0.5)
    assert not found.known(np.float32(0.3)) and found.chance(1) == 0.5 and found.chance(-1) == 1
    assert found.interval(10) == (0.0, 1.0)


# what depends on what ------------------------------------------------------------


def test_mutually_nearest_people_count_as_one():
    people = np.arange(40)
    assert of_people(people, people ^ 1, falling(40)).effect == 2  # 0 and 1, 2 and 3, ...
    assert (
        of_people(people, (people + 1) % 40, falling(40)).effect == 1
    )  # a ring: nobody is the nearest of their nearest
    assert of_people(people, np.where(people, 0, 1), falling(40)).effect == pytest.approx(
        1 + 2 / 30
    )  # all look like person 0: one pair


def test_photos_of_a_person_count_as_one():
    people = np.repeat(np.arange(10), 3)
    assert of_people(people, people + 100, falling(30)).effect == 3
    assert of_people(people, people ^ 1, falling(30)).effect == 6


def test_strangers_are_independent():
    found = of_people([0, 1], [1, 0], [0.9, 0.9], held_out=falling(28))
    assert found.effect == (4 + 28) / 30 and (found.n, found.held_out) == (30, 28)


def test_the_tail_alone_decides():
    people = np.arange(400)
    nearest = np.where(people < 30, people ^ 1, people + 1000)
    assert of_people(people, nearest, falling(400), 0.01).effect == 2
    assert of_people(people, nearest, falling(400), 0.25).effect == pytest.approx((60 + 70) / 100)


def test_leave_own_out_against_a_loop():
    xb, yb = synthetic.vectors(12, 3), np.repeat(np.arange(12), 3)
    rows = np.asarray([0, 5, 7, 35])
    scores, people, nearest = leave_own_out(xb, yb, rows)
    for i, row in enumerate(rows):
        others = np.where(yb == yb[row], -2, xb @ xb[row])
        assert scores[i] == pytest.approx(others.max(), abs=1e-6)
        assert (people[i], nearest[i]) == (yb[row], yb[others.argmax()])
    with pytest.raises(DataError, match="two people"):
        leave_own_out(xb[:3], yb[:3], rows[:1])


def test_leave_own_out_where_two_people_are_alike_to_the_bit():
    xb, yb = np.eye(3, dtype=np.float32)[[0, 0, 0, 1]], np.asarray([4, 2, 9, 7])
    scores, people, nearest = leave_own_out(xb, yb, np.arange(4))
    assert scores.tolist() == [1, 1, 1, 0] and (people != nearest).all()


def promised_and_came(people, photos, fpir, repeats=100, strangers=1000) -> tuple[float, float]:
    """How often the interval held, with the design effect and without, in galleries of made-up people."""
    held = []
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        xq = synthetic.unit(rng.normal(size=(strangers, 12)) * 1.16**0.5)
        xb, yb = synthetic.vectors(people, photos, 12, seed=seed + 1000), np.repeat(np.arange(people), photos)
        found = fit(leave_own_out(xb, yb, np.arange(len(xb))), NONE, fpir, Enrolled(people, len(xb), CONTRACT))
        share = (nearest_people(xb, yb, xq, 1)[1] >= found.threshold).mean()
        intervals = (one.interval(strangers) for one in (found, replace(found, effect=1.0)))
        held.append([low <= share <= high for low, high in intervals])
    return tuple(np.mean(held, axis=0))


@pytest.mark.parametrize("people, photos", [(200, 1), (60, 4)])
def test_the_interval_holds_what_comes(people, photos):
    with_effect, without = promised_and_came(people, photos, 0.05)
    assert with_effect >= 0.93 and without <= with_effect - 0.05


def at_most(k: int, n: int, p: float) -> float:
    """Chance of k successes or fewer among n."""
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def test_intervals_of_independent_samples_are_the_exact_ones():
    found = of_strangers(falling(999), 0.01)
    assert found.exceeding == 10
    low, high = found.interval()
    assert 1 - at_most(9, 999, low) == pytest.approx(0.025) and at_most(10, 999, high) == pytest.approx(
        0.025
    )  # Clopper and Pearson
    wide = found.interval(100)
    assert wide[0] == 0 and wide[1] > found.interval()[1] and (wide[1] * 100) % 1 == pytest.approx(0, abs=1e-9)
    assert found.interval(100_000) == pytest.approx(found.interval(), rel=0.02)
    narrow = found.interval(level=0.5)
    assert found.interval()[0] < narrow[0] < 0.01 < narrow[1] < found.interval()[1]
    for bad in [{"strangers": 0}, {"level": 1.0}, {"level": 0.0}]:
        with pytest.raises(InputError):
            found.interval(**bad)


def test_everything_exceeds_only_in_a_file():
    assert replace(of_strangers(falling(5), 0.5), exceeding=5).interval()[1] == 1


# chance, detection, words --------------------------------------------------------


def test_chance_is_a_rank_among_one_more():
    found = of_strangers([0.1, 0.2, 0.3, 0.4], 0.3)
    assert [found.chance(s) for s in (0.5, 0.35, 0.25, 0.15, 0.05)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("n", [1, KEPT, KEPT + 1, 100_000])
def test_scores_that_are_left_out_change_chance_by_half_a_percent(n):
    scores = np.random.default_rng(0).permutation(falling(n)) if n > 1 else falling(1)
    found = of_strangers(scores, 0.01)
    assert len(found.scores) <= KEPT and found.scores[0] == scores.max() and found.scores[-1] == scores.min()
    ranks = kept_ranks(n)
    assert ranks[0] == 1 and ranks[-1] == n and (ranks[: min(n, 200)] == np.arange(1, min(n, 200) + 1)).all()
    for score in np.float32([0.95, 0.899, 0.85, 0.5, 0.2, 0.05]):
        exact = ((scores >= score).sum() + 1) / (n + 1)
        assert exact <= found.chance(score) <= 1.005 * exact + 1e-9
    assert found.chance(found.threshold) <= 1.005 * max(0.01, 2 / (n + 1))


def test_chance_falls_as_scores_rise():
    found = of_strangers(np.random.default_rng(1).normal(size=9000), 0.01)
    chances = [found.chance(s) for s in np.linspace(-5, 5, 200)]
    assert chances == sorted(chances, reverse=True) and chances[-1] > 0


def test_detection():
    found = of_strangers(falling(99), 0.1, genuine=np.asarray([0.95, 0.85, 0.5, -np.inf]))
    assert (found.genuine, found.detected) == (4, 2)
    assert found.detection == pytest.approx((0.5, 0.1500, 0.8500), abs=1e-4)
    assert of_strangers(falling(99), 0.1).detection is None


def test_strangers_unlike_the_people_enrolled_are_told():
    people = np.arange(200)
    alike = of_people(people, people + 1000, falling(200), 0.05, falling(200))
    assert alike.warnings == []
    unlike = of_people(people, people + 1000, falling(200), 0.05, falling(200) + 0.2)
    assert len(unlike.warnings) == 1 and "20 of 200 reach the threshold and 0 of 200" in unlike.warnings[0]


def test_whom_it_holds_for_is_said():
    people, nearest, scores = [1, 2, 3], [2, 1, 1], [0.5, 0.5, 0.3]
    assert of_people(people, nearest, scores).holds_for.startswith("fitted on 50 people of this gallery: holds for")
    both = of_people(people, nearest, scores, held_out=np.array([0.2, 0.3])).holds_for
    assert both.startswith("fitted on 50 people of this gallery and 2 photos of strangers: holds for")
    alone = of_strangers([0.5, 0.4], 0.3).holds_for
    assert alone.startswith("fitted on 2 photos of strangers: holds for") and "relatives of enrolled" in alone


def test_when_a_calibration_is_stale():
    found = of_strangers(falling(99), 0.1, people=100, faces=100)
    assert [is_stale(found, people, CONTRACT) is None for people in (89, 90, 100, 110, 111)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert "at 100 people, now there are 111" in is_stale(found, 111, CONTRACT)
    assert f"{CONTRACT}, now fedc" in is_stale(found, 100, "fedc")


# refusals and files --------------------------------------------------------------


def test_what_cannot_be_fitted():
    for fpir in (0, 1, -0.1, float("nan"), 5e-324, 1e-310, 9e-13):
        with pytest.raises(InputError, match="within 0 and 1"):
            of_strangers(falling(9), fpir)
    assert "enrol more people" in of_strangers(falling(9), 1e-12).warnings[0]
    for scores in ([], [0.1, np.inf], [0.1, np.nan], [[0.1, 0.2]]):
        with pytest.raises(DataError, match="^expected .*received .*: "):
            of_strangers(scores, 0.1)
    for people, nearest in [([0, 1], [1]), ([0], [1]), ([0, 1], [1, 1])]:
        with pytest.raises(DataError, match="own"):
            of_people(people, nearest, [0.1, 0.2])
    with pytest.raises(DataError, match="genuine"):
        of_strangers(falling(9), 0.1, genuine=np.asarray([np.nan]))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6000), st.floats(0.001, 0.9))
def test_written_and_read_again(n, fpir):
    people = np.arange(n)
    scores = np.random.default_rng(n).normal(size=n)
    found = of_people(people, people ^ 1, scores, fpir, scores[: n // 2])
    assert Calibration.from_json(found.to_json()) == found
    assert Calibration.from_json(found.to_json().encode()) == found


def test_it_holds_numbers_alone():
    fields = json.loads(of_people([0, 1], [1, 0], [0.5, 0.5]).to_json())
    assert fields.pop("fingerprint") == CONTRACT and fields.pop("scores") == [0.5, 0.5]
    assert all(isinstance(value, int | float) for value in fields.values())


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.3},
        {"exceeding": 3},
        {"n": 0},
        {"n": 98},
        {"n": "99"},
        {"effect": 0.5},
        {"fpir": 0},
        {"fpir": None},
        {"people": 0},
        {"faces": 1},
        {"held_out": 100},
        {"held_out_exceeding": 100},
        {"detected": 1},
        {"scores": []},
        {"scores": None},
        {"more": 1},
        {"scores": [0.5] * 98 + [float("nan")]},
        {"scores": list(range(99))},
        {"threshold": float("nan")},
        {"n": 10**40},
    ],
)
def test_damage_is_found(change):
    fields = json.loads(of_strangers(falling(99), 0.1).to_json())
    with pytest.raises(DataError, match="^expected a calibration .*: calibrate again$"):
        Calibration.from_json(json.dumps(fields | change))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "{", b"\xff\xfe", '{"scores": []}'])
def test_what_is_no_calibration(text):
    with pytest.raises(DataError, match="^expected a calibration .*: calibrate again$"):
        Calibration.from_json(text)


def test_a_search_that_reads_one_does_not_wait_for_scipy():
    heavy = "{'faiss', 'apsw', 'scipy', 'tensorflow'}"
    code = f"import sys, facegallery.indexer.calibrate; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
