"""Match the faces that somebody drew in photos to the detected ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from facegallery.embedder.photos.decoder import Photo
from facegallery.embedder.photos.folders import LeftOut
from facegallery.embedder.photos.orientation import Box
from facegallery.embedder.photos.regions import DrawnFace

LEAST_OVERLAP = 0.05  # of two boxes, as a share of their union: a box around a whole group names nobody in it


def names_of(drawn: Sequence[DrawnFace], boxes: Sequence[Box]) -> dict[int, str]:
    """Return the name of each detected face that somebody drew, by its number in `boxes`.

    Where programs disagree about which picture boxes apply to, the reading counts that names more of the faces.
    """
    found = _matched([face.box for face in drawn], boxes)
    if any(face.other is not None for face in drawn):
        other = _matched([face.other or face.box for face in drawn], boxes)
        found = max(found, other, key=len)
    return {number: drawn[i].name for i, number in found.items()}


def _matched(drawn: Sequence[Box], boxes: Sequence[Box]) -> dict[int, int]:
    """Return which box belongs to which drawn one, each to one at most, those that overlap most first.

    The centre of one of the two lies within the other.
    """
    pairs = [
        (_overlap(a, b), i, j)
        for i, a in enumerate(drawn)
        for j, b in enumerate(boxes)
        if _has_centre(a, b) or _has_centre(b, a)
    ]
    found: dict[int, int] = {}
    taken: set[int] = set()
    for overlap, i, j in sorted(pairs, key=lambda pair: -pair[0]):
        if overlap >= LEAST_OVERLAP and i not in found and j not in taken:
            found[i] = j
            taken.add(j)
    return found


def _has_centre(box: Box, other: Box) -> bool:
    """Whether the centre of `other` lies in `box`."""
    x, y = (other[0] + other[2]) / 2, (other[1] + other[3]) / 2
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def _overlap(a: Box, b: Box) -> float:
    """Return the area that two boxes share, as a share of their union."""
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


@dataclass
class DrawnFaces:
    """Counts the faces that people drew in photos, and those that were not found or not read."""

    photos: int = 0
    named: int = 0
    lost: LeftOut = field(default_factory=lambda: LeftOut("{n} drawn face{s} not among the faces that were found"))
    refused: LeftOut = field(default_factory=lambda: LeftOut("warning: {n} drawn face{s} not read"))

    def add(self, photo: Photo) -> None:
        """Count a photo."""
        if photo.drawn is None:
            return
        self.photos += bool(photo.drawn.faces)
        self.named += photo.named
        for _ in range(photo.lost):
            self.lost.add(photo.name)
        for _ in range(photo.drawn.refused):
            self.refused.add(photo.name)
        if photo.drawn.why and not self.refused.advice:
            self.refused.advice = f": {photo.drawn.why}"

    @property
    def notes(self) -> list[str]:
        """Lines for the user."""
        named = [f"{self.named} drawn faces of {self.photos} photos got their names"] if self.photos else []
        return named + self.lost.notes + self.refused.notes
