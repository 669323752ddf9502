"""Error versus discard, against counts made one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegallery.indexer.evaluation.discard import SHARES, Asked, discards

NOBODY = Asked(np.empty(0, np.float32), np.empty(0), np.empty(0))


def asked(scores, quality, people=None) -> Asked:
    return Asked(
        np.array(scores, np.float32), np.arange(len(scores)) if people is None else people, np.array(quality, float)
    )


@given(st.lists(st.tuples(st.floats(-1, 1, width=32), st.floats(0, 1)), min_size=1, max_size=60))
def test_the_share_that_is_missed_among_those_left(faces):
    probes = asked(*zip(*faces, strict=True))
    for row in discards(probes, NOBODY, 0.25):
        order = sorted(range(len(faces)), key=lambda i: (faces[i][1], i))[round(row.share * len(faces)) :]
        missed = [faces[i][0] < np.float32(0.25) for i in order]
        assert row.refused == len(faces) - len(order) and row.fnir == pytest.approx(np.mean(missed))
        assert row.quality == min(faces[i][1] for i in order)
        assert row.interval[0] - 1e-9 <= row.fnir <= row.interval[1] + 1e-9 and row.fpir is None


def test_quality_that_tells_all_removes_all_misses_and_one_that_tells_nothing_none():
    scores = np.where(np.arange(200) < 10, -np.inf, 0.9)
    good = discards(asked(scores, scores > 0), NOBODY, 0.5)
    assert [row.fnir for row in good] == pytest.approx([0.05, 8 / 198, 6 / 196, 0, 0, 0])
    bad = discards(asked(scores, scores < 0), NOBODY, 0.5)
    assert [row.share for row in bad] == list(SHARES)
    assert [row.fnir for row in bad] == sorted(row.fnir for row in bad)


def test_strangers_below_the_quality_are_refused_too():
    strangers = asked([0.9, 0.1, 0.9, 0.1], [0.1, 0.2, 0.9, 0.9])
    rows = discards(asked([0.9] * 10, np.linspace(0, 1, 10)), strangers, 0.5, shares=(0.0, 0.5))
    assert [row.fpir for row in rows] == [0.5, 0.5] and rows[1].quality == pytest.approx(5 / 9)


def test_intervals_are_over_people():
    scores, quality = [0.9] * 50 + [0.1] * 50, np.ones(100)
    apart = discards(asked(scores, quality), NOBODY, 0.5)[0].interval
    two = discards(asked(scores, quality, np.repeat([0, 1], 50)), NOBODY, 0.5)[0].interval
    assert two == (0, 1) and 0.35 < apart[0] < 0.5 < apart[1] < 0.65
