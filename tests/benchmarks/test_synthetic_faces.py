import itertools
import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.accuracy import synthetic_fit
from benchmarks.common import synthetic
from benchmarks.common.synthetic import BLOCK, STRANGERS, blocks, faces, probes
from facegallery.embedder.errors import DataError, InputError
from tests import synthetic as sets

MODELS = {"msceleb": 128, "casia": 512, "duo": 640}
# real LFW photos, mean of both halves: genuine mean; impostor mean, sd, score of one pair in 10,000; top-1 of 2,166
REAL = {
    "msceleb": (0.755, 0.022, 0.140, 0.633, 0.950),
    "casia": (0.699, 0.052, 0.136, 0.596, 0.933),
    "duo": (0.727, 0.037, 0.126, 0.580, 0.964),
}


@pytest.mark.parametrize("like", MODELS)
@pytest.mark.parametrize("d", [None, 1, 3, 64, 200, 700])
def test_unit_vectors_of_any_dimension(like, d):
    x, people = faces(300, like, d)
    q = probes(people, like, d)
    assert x.shape == q.shape == (300, d or MODELS[like]) and x.dtype == q.dtype == np.float32
    assert people.shape == (300,) and people.dtype == np.int64
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([x, q]), axis=1), 1, atol=1e-6)


WHOLE = faces(5 * BLOCK, d=40, seed=3)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 4 * BLOCK), st.integers(0, BLOCK), st.integers(1, 700))
def test_a_row_depends_on_its_number_alone(start, n, size):
    x, people = faces(n, d=40, seed=3, start=start)
    np.testing.assert_array_equal(x, WHOLE[0][start : start + n])
    np.testing.assert_array_equal(people, WHOLE[1][start : start + n])
    pieces = list(blocks(n, d=40, seed=3, start=start, size=size))
    assert all(len(x) == size for x, _ in pieces[:-1])
    assert np.array_equal(np.concatenate([x, *(piece for piece, _ in pieces)]), np.concatenate([x, x]))


def test_a_set_without_end_is_made_piece_by_piece():
    (x, people), (y, others) = itertools.islice(blocks(10**9, d=8, size=1000), 2)
    assert len(x) == len(y) == 1000 and people[-1] <= others[0]
    assert faces(10, d=8, start=10**12)[1].min() > 4 * 10**11


@pytest.mark.parametrize("per_person", [1, 1.5, 2, 3, 10, BLOCK])
def test_photos_of_a_person_stand_together(per_person):
    people = faces(40 * BLOCK, d=2, per_person=per_person)[1]
    counts = np.bincount(people)
    assert (np.diff(people) >= 0).all() and counts.min() >= 1  # numbered from 0, none left out
    assert len(people) / len(counts) == pytest.approx(per_person, rel=0.03)
    if 1 < per_person < 5:  # geometric: as likely to have a second photo as a third after the second
        assert (counts == 1).mean() == pytest.approx(1 / per_person, abs=0.02)
        assert (counts[counts > 1] == 2).mean() == pytest.approx(1 / per_person, abs=0.03)


def test_another_seed_is_another_world_and_another_take_another_photo():
    x, people = faces(BLOCK, per_person=1)
    sets_of_vectors = [
        x,
        faces(BLOCK, per_person=1, seed=1)[0],
        probes(people),
        probes(people, take=1),
        probes(people, seed=1),
    ]
    for a, b in itertools.combinations(sets_of_vectors, 2):
        assert not np.isclose(a, b, atol=1e-4).all(axis=1).any()


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 2000) | st.integers(STRANGERS, STRANGERS + 600), max_size=20))
def test_a_probe_does_not_depend_on_the_others(people):
    q = probes(np.asarray(people, np.int64), d=40)
    for person, vector in zip(people, q, strict=True):
        np.testing.assert_allclose(probes(np.asarray([person]), d=40)[0], vector, atol=1e-6)


def scores(like, d=None, n=2166):
    """Genuine and impostor cosines, and top-1, of n people with one photo each."""
    xb, people = faces(n, like, d, per_person=1)
    table = probes(people, like, d) @ xb.T
    genuine = table.diagonal().copy()
    return genuine, table[~np.eye(n, dtype=bool)], (table.argmax(axis=1) == people).mean()


@pytest.mark.parametrize("like", MODELS)
def test_scores_are_those_of_real_faces(like):
    genuine, impostor, top1 = scores(like)
    mean, other, sd, lookalike, right = REAL[like]
    assert genuine.mean() == pytest.approx(mean, abs=0.015) and genuine.std() == pytest.approx(0.11, abs=0.015)
    assert impostor.mean() == pytest.approx(other, abs=0.01) and impostor.std() == pytest.approx(sd, rel=0.03)
    assert np.quantile(impostor, 1 - 1e-4) == pytest.approx(lookalike, abs=0.03)
    assert top1 == pytest.approx(right, abs=0.025)


def test_more_dimensions_leave_the_scores_as_they_are():
    few, many = scores("msceleb", n=300), scores("msceleb", 512, n=300)
    np.testing.assert_allclose(few[0], many[0], atol=1e-5)
    np.testing.assert_allclose(few[1], many[1], atol=1e-5)


def test_strangers_are_nobody():
    xb, people = faces(2000, per_person=2)
    known, unknown = probes(np.unique(people)), probes(STRANGERS + np.arange(1000))
    assert people.max() < STRANGERS
    assert np.median((known @ xb.T).max(axis=1)) > np.quantile((unknown @ xb.T).max(axis=1), 0.95)


def test_the_axes_are_turned_so_that_no_coordinate_tells_more():
    variance = faces(4000, "casia", per_person=1)[0].var(axis=0)
    assert variance.max() < 3 * variance.mean() and variance.min() > variance.mean() / 3


@pytest.mark.parametrize(
    "call",
    [
        lambda: faces(10, like="nobody"),
        lambda: faces(-1),
        lambda: faces(10, start=-1),
        lambda: faces(10, seed=-1),
        lambda: faces(10, d=0),
        lambda: faces(10, per_person=0.5),
        lambda: list(blocks(10, size=0)),
        lambda: probes(np.asarray([[1]])),
        lambda: probes(np.asarray([-1])),
    ],
)
def test_a_wrong_argument_is_one_line(call):
    with pytest.raises(InputError, match="^expected .*, received [^\n]*$"):
        call()


def test_nothing_asked_nothing_made():
    assert faces(0)[0].shape == (0, 512) and probes(np.asarray([], np.int64)).shape == (0, 512)


def test_fit_and_check_of_a_data_set(tmp_path, monkeypatch):
    """What is fitted to made-up faces of six dimensions resembles them."""
    monkeypatch.setattr(synthetic, "PROFILES", tmp_path / "synthetic.json")
    monkeypatch.setattr(synthetic_fit, "SEEDS", range(1))
    synthetic.profile.cache_clear()
    people = np.repeat(np.arange(400), np.tile([3, 1], 200))
    rng = np.random.default_rng(0)
    xb = sets.unit(
        (rng.normal(size=(400, 6))[people] + 0.4 * rng.normal(size=(len(people), 6))) * np.linspace(1, 0.4, 6)
    )
    rows = [
        sets.row(f"p{who:03}/{i:04}.jpg", f"p{who:03}", x) for i, (who, x) in enumerate(zip(people, xb, strict=True))
    ]
    folder = sets.write(tmp_path / "vectors", rows, sets.spec(6))
    assert CliRunner().invoke(synthetic_fit.main, ["fit", str(folder)], catch_exceptions=False).exit_code == 0
    assert list(json.loads((tmp_path / "synthetic.json").read_text())) == ["made-up"]
    done = CliRunner().invoke(synthetic_fit.main, ["check", str(folder)], catch_exceptions=False)
    table = {
        line[:32].strip(): [float(v) for v in line[32:].split()]
        for line in done.output.splitlines()
        if line[32:].strip()[:1].isdigit()
    }
    for key, tolerance in {"genuine, mean": 0.03, "impostor, sd": 0.03, "participation ratio": 0.6}.items():
        assert table[key][2] == pytest.approx(table[key][0], abs=tolerance)
    with pytest.raises(DataError, match="people with one photo"):
        synthetic_fit.statistics(xb[people % 2 == 0], people[people % 2 == 0])
    synthetic.profile.cache_clear()
