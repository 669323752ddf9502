"""Measure how well a face shows: what of it can be seen, and one score from 0 to 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from facegallery.embedder.dataset.row import Row
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


def light_of(face: np.ndarray) -> Light:
    """Return the light of a face's pixels, uint8 RGB (h, w, 3)."""
    grey = face.astype(np.float32) @ np.asarray(LUMA, np.float32)
    return Light(float(grey.mean()), float(grey.std()))


def light_in(row: Row) -> Light | None:
    """Return the light within the box of a row that has pixels; None without pixels, region or box."""
    if row.pixels is None or row.region is None or row.box is None:
        return None
    height, width = row.pixels.shape[:2]
    left, top, right, bottom = row.region
    across, down = width / (right - left), height / (bottom - top)
    x0, y0, x1, y1 = row.box
    columns = slice(max(0, int((x0 - left) * across)), max(1, int((x1 - left) * across)))
    rows = slice(max(0, int((y0 - top) * down)), max(1, int((y1 - top) * down)))
    face = row.pixels[rows, columns]
    return light_of(face) if face.size else None


# one score ------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What can be seen of a face; None where it is not known.

    size: the shorter side of its box, in pixels of the photo. sharpness: variance of the Laplacian of its crop.
    confidence: of the detector, 0 to 1. length: that of SFace's vector before it is scaled to 1, about 12.
    """

    size: float | None = None
    sharpness: float | None = None
    pose: Pose | None = None
    confidence: float | None = None
    length: float | None = None
    light: Light | None = None


def seen_in(row: Row, light: Light | None = None) -> Seen:
    """Return what a row says of its face. light: of its crop, where it was measured."""
    box = row.box
    return Seen(
        None if box is None else float(min(box[2] - box[0], box[3] - box[1])),
        row.sharpness,
        pose_of(row.landmarks),
        row.confidence,
        row.vector_length,
        light,
    )


def _least(value: float | None, low: float, high: float) -> float:
    """Return a value within bounds, the upper bound where it is not known: what is not known counts as good."""
    return high if value is None or not np.isfinite(value) else min(max(value, low), high)


def _turned(pose: Pose | None, angle: str, low: float, high: float) -> float:
    """Return minus an angle beyond `low`, down to -1 at `high`."""
    value = low if pose is None else abs(float(getattr(pose, angle)))
    return -(min(max(value, low), high) - low) / (high - low)


# Each rises with quality, between bounds beyond which it said nothing more of the probes of the benchmark's dev side
MEASURES: dict[str, Callable[[Seen], float]] = {
    "size": lambda seen: float(np.log2(_least(seen.size, 16, 96) / 96)),
    "sharpness": lambda seen: float(np.log2(_least(seen.sharpness, 1, 60) / 60)),
    "yaw": lambda seen: _turned(seen.pose, "yaw", 0.05, 0.5),
    "pitch": lambda seen: _turned(seen.pose, "pitch", 0.1, 0.5),
    "roll": lambda seen: _turned(seen.pose, "roll", 10, 90),
    "confidence": lambda seen: _least(seen.confidence, 0.6, 0.92),
    "length": lambda seen: _least(seen.length, 2, 13) / 4,
}
# Chosen and fitted by `python benchmarks/accuracy/quality.py ... --fit`, which says how
WITH_LENGTH = {"length": 3.073, "sharpness": 0.222, "constant": -6.905}
WITHOUT_LENGTH = {
    "confidence": 5.541,
    "sharpness": 0.418,
    "yaw": 0.635,
    "pitch": 0.887,
    "roll": 2.493,
    "constant": -3.009,
}
POOR = 0.2  # of the test side's probes below, 6 of 143 were found


def score_of(seen: Seen, *, length: bool = True) -> float:
    """Return the quality, 0 to 1: the share of faces like it whose person was found at FPIR 0.01.

    Measured with one photo of each person enrolled, of people and photos of many kinds, one in six made worse on
    purpose. length: use the length of the vector, where it is known; it says most.
    """
    weights = WITH_LENGTH if length and seen.length is not None else WITHOUT_LENGTH
    total = sum(weight * MEASURES[name](seen) for name, weight in weights.items() if name in MEASURES)
    return float(1 / (1 + np.exp(-(total + weights["constant"]))))
