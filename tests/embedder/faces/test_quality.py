"""Pose and light of faces by geometry, and that quality falls with each thing that hides a face."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.faces import quality
from facegallery.embedder.faces.picture import ARCFACE
from facegallery.embedder.faces.quality import Light, Pose, Seen, light_in, light_of, pose_of, score_of

DEPTH = np.array([0.0, 0.0, 25.0, 8.0, 8.0])  # of the points, in pixels of ArcFace's template: the nose in front
CLEAR = Seen(size=150, sharpness=100, pose=Pose(0, 0, 0), confidence=0.94, length=12.5)


def head(yaw: float = 0, pitch: float = 0, roll: float = 0, scale: float = 1, at: float = 0) -> list[float]:
    """Landmarks of a head that is turned about its three axes, in degrees."""
    y, p, r = np.radians([yaw, pitch, roll])
    points = np.c_[ARCFACE - ARCFACE.mean(axis=0), DEPTH]
    points = points @ np.array([[np.cos(y), 0, 0], [0, 1, 0], [np.sin(y), 0, 1]])
    points = points[:, :2] + np.c_[np.zeros(5), np.sin(p) * DEPTH]
    turn = np.array([[np.cos(r), np.sin(r)], [-np.sin(r), np.cos(r)]])
    return (scale * points @ turn + at).ravel().tolist()


@given(st.floats(-89, 89), st.floats(-60, 60), st.floats(0.2, 50), st.floats(-1000, 1000))
def test_roll_is_the_angle_in_the_picture_and_nothing_else_depends_on_it(roll, yaw, scale, at):
    still, turned = pose_of(head(yaw)), pose_of(head(yaw, roll=roll, scale=scale, at=at))
    assert turned.roll == pytest.approx(still.roll + roll, abs=0.1)
    assert (turned.yaw, turned.pitch) == pytest.approx((still.yaw, still.pitch), abs=1e-3)


def test_a_head_that_turns_further_has_a_larger_yaw_to_its_side():
    yaws = [pose_of(head(yaw)).yaw for yaw in (-60, -30, 0, 30, 60)]
    assert yaws == sorted(yaws) and yaws[2] == pytest.approx(0, abs=0.03)
    assert yaws[4] > 0.3 and yaws[0] < -0.3


def test_a_head_that_nods_has_a_lower_nose():
    pitches = [pose_of(head(pitch=pitch)).pitch for pitch in (-40, 0, 40)]
    assert pitches == sorted(pitches) and abs(pitches[1]) < 0.1 < pitches[2] - pitches[1]


@pytest.mark.parametrize("landmarks", [None, [1.0, 2.0], [5.0] * 10, [float("nan")] * 10])
def test_points_that_are_no_face_have_no_pose(landmarks):
    assert pose_of(landmarks) is None


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=10, max_size=10))
def test_any_points_have_a_finite_pose_or_none(landmarks):
    pose = pose_of(landmarks)
    assert pose is None or np.isfinite([pose.yaw, pose.pitch, pose.roll]).all()


def test_light_is_that_of_the_pixels_within_the_box():
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[10:30, 20:60] = 200  # the face, in a copy of half the size
    row = Row("a.jpg", "ok", face=0, box=(140, 220, 220, 260), pixels=pixels, region=(100, 200, 260, 280))
    assert light_in(row) == Light(pytest.approx(200, abs=1e-3), pytest.approx(0, abs=1e-3))
    assert light_in(replace(row, pixels=None)) is None and light_in(replace(row, box=None)) is None
    halves = np.zeros((10, 10, 3), np.uint8)
    halves[:5] = 100
    assert light_of(halves) == Light(pytest.approx(50), pytest.approx(50))


@pytest.mark.parametrize("length", [True, False])
def test_quality_is_a_share_and_falls_with_what_hides_a_face(length):
    clear = score_of(CLEAR, length=length)
    assert 0.8 < clear < 1
    worse = [
        replace(CLEAR, sharpness=3),
        replace(CLEAR, length=6) if length else replace(CLEAR, confidence=0.65),
        *([] if length else [replace(CLEAR, pose=Pose(0, 0, 80))]),
    ]
    assert all(score_of(seen, length=length) < clear for seen in worse)


@given(
    st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 1), st.floats(0, 40), st.sampled_from(["sharpness", "length"])
)
def test_more_of_a_measure_never_lowers_quality(size, sharpness, confidence, length, name):
    seen = Seen(size, sharpness, None, confidence, length)
    more = replace(seen, **{name: getattr(seen, name) * 1.5 + 0.1})
    assert 0 <= score_of(seen) <= score_of(more) + 1e-12 <= 1


def test_nothing_known_is_neither_refused_nor_an_error():
    assert score_of(Seen()) > quality.POOR
    assert score_of(quality.seen_in(Row("a.jpg", "ok", face=0))) == score_of(Seen())
