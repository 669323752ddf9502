"""Tracks by the rules: what belongs together, what does not, which faces are kept, and that memory is bounded."""

import numpy as np
import pytest

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import InputError
from facegallery.embedder.video.stage import fragment, seconds
from facegallery.embedder.video.tracks import Tracker, TrackRules, fewest_left_out, frontalness, quality
from facegallery.workflows.videos import people_of

RNG = np.random.default_rng(0)
FRONT = (30, 40, 70, 40, 50, 60, 35, 80, 65, 80)
SIDE = (30, 40, 70, 40, 74, 60, 50, 80, 72, 80)


def unit(vector):
    return (vector / np.linalg.norm(vector)).astype(np.float32)


ANN, BOB = unit(RNG.normal(size=64)), unit(RNG.normal(size=64))

BOB = unit(BOB - (BOB @ ANN) * ANN)


def face(person, x, noise=0.05, sharpness=100.0, landmarks=FRONT, confidence=0.9):
    vector = unit(person + noise * RNG.normal(size=64))
    box = (x, 10.0, x + 40, 60.0)
    return Row("v", "ok", box=box, vector=vector, sharpness=sharpness, landmarks=landmarks, confidence=confidence)


def run(frames, **rules):
    """The tracks of frames (time, faces), by their beginning."""
    tracker = Tracker(TrackRules(**rules))
    ended = [track for time, faces in frames for track in tracker.add(time, faces)]
    return sorted([*ended, *tracker.end()], key=lambda track: track.start)


def spans(tracks):
    return [(track.start, track.end, track.seen) for track in tracks]


def test_a_face_that_moves_is_one_track():
    assert spans(run([(i / 2, [face(ANN, 25 * i)]) for i in range(20)])) == [(0, 9.5, 20)]


def test_a_face_that_changes_slowly_is_one_track():
    """As it turns: the last face is alike, the mean is not."""
    turned = [unit(np.cos(a) * ANN + np.sin(a) * BOB) for a in np.linspace(0, np.pi / 2, 12)]
    assert float(turned[0] @ turned[-1]) < 0.3
    assert spans(run([(i / 2, [face(one, 5 * i)]) for i, one in enumerate(turned)])) == [(0, 5.5, 12)]


def test_two_who_cross_stay_two():
    found = run([(i / 2, [face(BOB, 200 - 20 * i), face(ANN, 20 * i)]) for i in range(11)])
    assert spans(found) == [(0, 5, 11)] * 2
    assert {round(float(track.total @ ANN) / 11) for track in found} == {0, 1}


def test_another_face_in_the_same_place_begins_a_track():
    assert spans(run([(0, [face(ANN, 0)]), (0.5, [face(BOB, 0)])])) == [(0, 0, 1), (0.5, 0.5, 1)]


def test_a_face_that_is_half_hidden_once_is_left_out_and_another_in_its_place_is_not():
    half = unit(0.36 * ANN + np.sqrt(1 - 0.36**2) * BOB)
    hidden = [face(ANN, 0, 0), face(half, 0, 0), face(ANN, 0, 0)]
    assert spans(run([(i / 2, [one]) for i, one in enumerate(hidden)])) == [(0, 1, 2)]
    replaced = [face(ANN, 0, 0), face(half, 0, 0), face(half, 0, 0)]
    assert spans(run([(i / 2, [one]) for i, one in enumerate(replaced)])) == [(0, 0, 1), (0.5, 1, 2)]
    gone = [(0, [hidden[0]]), (0.5, [hidden[1]]), (1, []), (1.5, [hidden[2]])]
    assert spans(run(gone)) == [(0, 1.5, 2)]
    assert spans(run(gone[:3])) == [(0, 0, 1), (0.5, 0.5, 1)]


def test_the_same_face_far_away_at_once_begins_a_track():
    assert spans(run([(0, [face(ANN, 0)]), (0.5, [face(ANN, 900)])])) == [(0, 0, 1), (0.5, 0.5, 1)]


def test_a_track_ends_after_seconds_without_a_face():
    gaps = [(0, [face(ANN, 0)]), (1.9, [face(ANN, 9)]), (4, [face(ANN, 9)])]
    assert spans(run(gaps)) == [(0, 1.9, 2), (4, 4, 1)]
    assert spans(run(gaps, gap=3)) == [(0, 4, 3)]


def test_one_face_of_a_frame_goes_to_a_track():
    assert spans(run([(0, [face(ANN, 0)]), (0.5, [face(ANN, 0), face(ANN, 4)])])) == [(0, 0.5, 2), (0.5, 0.5, 1)]


def test_the_best_faces_are_kept():
    poor = [face(ANN, 0, sharpness=5), face(ANN, 0, landmarks=SIDE), face(ANN, 0, confidence=0.2)]
    good = [face(ANN, 0, sharpness=sharp) for sharp in (150, 200)]
    (track,) = run([(i / 2, [one]) for i, one in enumerate([poor[0], good[0], poor[1], good[1], poor[2]])], best=2)
    assert [(time, row.sharpness) for time, row in track.rows()] == [(0.5, 150), (1.5, 200)]
    assert quality(good[1]) > quality(good[0]) > max(map(quality, poor))
    assert frontalness(FRONT) == 1 and frontalness(SIDE) < 0.1 and frontalness(None) == 0.5
    with pytest.raises(InputError, match="--faces"):
        TrackRules(best=0)


def test_of_many_tracks_those_with_the_fewest_faces_are_left_out():
    tracks = run([(i, [face(ANN, 0)] * (1 + i % 3)) for i in range(0, 30, 3)] + [(40.5, [face(ANN, 0)])], gap=1)
    for number, track in enumerate(tracks):
        track.seen = number % 4
    kept = fewest_left_out(tracks, 4)
    assert [track.seen for track in kept] == [3, 3, 2, 2][: len(kept)] or sorted(t.seen for t in kept) == [2, 2, 3, 3]
    assert [track.start for track in kept] == sorted(track.start for track in kept)
    assert fewest_left_out(tracks, 100) is tracks


def test_tracks_of_one_person_are_joined_unless_they_are_visible_at_once():
    later = run([(i / 2, [face(ANN, 5 * i)]) for i in range(6)] + [(9 + i / 2, [face(ANN, 300)]) for i in range(6)])
    assert people_of(later) == [1, 1]
    twins = run([(i / 2, [face(ANN, 5 * i), face(ANN, 400)]) for i in range(6)])
    assert len(twins) == 2 and people_of(twins) == [1, 2]
    mixed = run([(i / 2, [face(BOB, 0)]) for i in range(3)] + [(9 + i / 2, [face(ANN, 0)]) for i in range(3)])
    assert people_of(mixed) == [1, 2] and people_of([]) == []


def test_times_are_written_as_short_as_they_are():
    assert [seconds(time) for time in (0, 12.5, 100, 1 / 3)] == ["0", "12.5", "100", "0.333"]
    assert fragment("a/b.mp4", 12.5) == "a/b.mp4#t=12.5"
