"""Measure how well a face shows: what of it can be seen, and one score from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facegallery.embedder.faces.align import LUMA

POINTS = 5  # right eye, left eye, nose, right and left corner of the mouth
NOSE_DROP = 0.55  # of the way from the eyes to the mouth, where the nose of a face seen from the front is


@dataclass(frozen=True)
class Pose:
    """How a face is turned, from its landmarks.

    yaw: of the nose from the middle of the eyes, in distances of the eyes and mouth; 0 from the front, about 0.5 for a
    profile, to either side. pitch: of the nose from where it lies in a front view, 0, below it positive. roll: degrees
    that the line of the eyes is turned from the horizontal, -180 to 180.
    """

    yaw: float
    pitch: float
    roll: float


def pose_of(landmarks: Sequence[float] | None) -> Pose | None:
    """Return the pose; None without five points, or where they lie in one place."""
    if landmarks is None or len(landmarks) != 2 * POINTS:
        return None
    points = np.asarray(landmarks, np.float64).reshape(POINTS, 2) @ (1, 1j)
    if not np.isfinite(points).all():
        return None
    right, left, nose, mouth_right, mouth_left = points
    eyes, mouth = (right + left) / 2, (mouth_right + mouth_left) / 2
    axis = left - right
    roll = float(np.degrees(np.angle(axis))) if axis else 0.0
    scale = max(abs(axis), abs(mouth - eyes))
    if not scale:
        return None
    down = mouth - eyes
    across = axis / abs(axis) if axis else down / abs(down) * -1j
    drop = (nose - eyes) / across
    height = (down / across).imag
    pitch = drop.imag / height - NOSE_DROP if abs(height) > 0.1 * scale else np.sign(drop.imag) * 1.0
    yaw = drop.real - NOSE_DROP * (down / across).real
    return Pose(float(yaw / scale), float(np.clip(pitch, -1, 1)), roll)


@dataclass(frozen=True)
class Light:
    """The light on a face: mean and standard deviation of its grey levels, 0 to 255."""

    brightness: float
    contrast: float


def light_of(crop: np.ndarray) -> Light:
    """Return the light of the middle of a crop with a margin, uint8 RGB (h, w, 3)."""
    height, width = crop.shape[:2]
    middle = crop[height // 6 : height - height // 6, width // 6 : width - width // 6]
    grey = middle.astype(np.float32) @ np.asarray(LUMA, np.float32)
    return Light(float(grey.mean()), float(grey.std()))
