"""Match the faces that somebody drew in photos to the detected ones, and look closer for those that were not found."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from facegallery.embedder.faces.boxes import overlap
from facegallery.embedder.faces.closer import centre_in, look_closer
from facegallery.embedder.faces.mtcnn import DetectedFace
from facegallery.embedder.photos.decoder import Photo
from facegallery.embedder.photos.folders import LeftOut
from facegallery.embedder.photos.orientation import Box
from facegallery.embedder.photos.regions import DrawnFace

LEAST_OVERLAP = 0.05  # of two boxes, as a share of their union
OF_SEVERAL = 0.2  # the same, for a box that holds several faces: one around a whole group names nobody in it
BY_HAND, HANDS = 10_000, 20_000  # the first number of faces that only their boxes gave, and how many numbers there are
FOUND, CLOSER, CUT = "box_found", "box_found_closer", "box_cut"
NO_FACE, OTHERS, SMALL = "box_no_face", "box_of_others", "box_too_small"
# what becomes of a drawn face -> the line for the user; lines of FOUND are the number of names
OUTCOMES = {
    FOUND: "",
    CLOSER: "{n} drawn face{s} found only around the box",
    CUT: "{n} drawn face{s} not found, cut out by the box",
    NO_FACE: "{n} drawn face{s} not among the faces that were found",
    OTHERS: "{n} drawn face{s} left out whose box holds faces of others",
    SMALL: "{n} drawn face{s} left out whose box is too small for a face",
}
LOST = (NO_FACE, OTHERS, SMALL)  # drawn faces that give no row


@dataclass
class Matched:
    """Which detected face is which drawn one.

    drawn: the number of the drawn face by that of the detected one. boxes: where the drawn faces lie. certain: whether
    the detected faces, or the program that drew them, leave no doubt of that.
    """

    drawn: dict[int, int]
    boxes: list[Box]
    certain: bool = True


@dataclass
class Assigned:
    """What became of a photo's drawn faces.

    drawn: as in `Matched`. more: further faces with the number of the drawn face. outcomes: of all, keys of OUTCOMES.
    """

    drawn: dict[int, int] = field(default_factory=dict)
    more: list[tuple[DetectedFace, int]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Closer:
    """How faces are looked for that were drawn and not found.

    detector: finds the faces of photos. least: pixels of a face's side. cuts: whether the box alone makes a face.
    """

    detector: Callable[[Sequence[np.ndarray]], list[list[DetectedFace]]]
    least: int
    cuts: bool


def match(drawn: Sequence[DrawnFace], boxes: Sequence[Box]) -> Matched:
    """Match drawn faces to the boxes of detected ones.

    Where programs disagree about which picture boxes apply to, the reading counts that matches more of the faces.
    """
    one = [face.box for face in drawn]
    found = _matched(one, boxes)
    if all(face.other is None for face in drawn):
        return Matched(found, one)
    two = [face.other or face.box for face in drawn]
    other = _matched(two, boxes)
    certain = len(found) != len(other)
    return Matched(other, two, certain) if len(other) > len(found) else Matched(found, one, certain)


def assign(drawn: Sequence[DrawnFace], faces: Sequence[DetectedFace], pixels: np.ndarray, closer: Closer) -> Assigned:
    """Match drawn faces to the detected ones of a photo, uint8 RGB (h, w, 3); look closer for those that are left."""
    matched = match(drawn, [face.box for face in faces])
    done = Assigned(matched.drawn, outcomes=Counter({FOUND: len(matched.drawn)} if matched.drawn else {}))
    left = [i for i in range(len(drawn)) if i not in matched.drawn.values()]
    sought: list[int] = []
    for i in left:
        why = _not_sought(matched.boxes[i], faces, closer.least)
        sought += [i] if why is None else []
        done.outcomes.update([why] if why else [])
    seen = look_closer(pixels, [matched.boxes[i] for i in sought], [face.box for face in faces], closer.detector)
    for i, face in zip(sought, seen, strict=True):
        outcome = CLOSER if face is not None else CUT if closer.cuts and matched.certain else NO_FACE
        done.outcomes[outcome] += 1
        if outcome != NO_FACE:
            done.more.append((face or DetectedFace(matched.boxes[i], (), 0.0), i))
    return done


def _not_sought(box: Box, faces: Sequence[DetectedFace], least: int) -> str | None:
    """Return the outcome of a drawn face that cannot be one of its own; None for one that is looked for."""
    if any(centre_in(box, face.box) for face in faces):
        return OTHERS
    return SMALL if min(box[2] - box[0], box[3] - box[1]) < least else None


def number_of(box: Box, taken: set[int]) -> int:
    """Return the number of a face that only its drawn box gave: the same for the same box, and none of `taken`."""
    number = zlib.crc32(",".join(str(round(side)) for side in box).encode()) % HANDS
    while BY_HAND + number in taken:
        number = (number + 1) % HANDS
    return BY_HAND + number


def _matched(drawn: Sequence[Box], boxes: Sequence[Box]) -> dict[int, int]:
    """Return which drawn box belongs to which other one, each to one at most, those that overlap most first.

    The centre of one of the two lies within the other.
    """
    least = [OF_SEVERAL if sum(centre_in(a, b) for b in boxes) > 1 else LEAST_OVERLAP for a in drawn]
    pairs = [
        (overlap(a, b), i, j)
        for i, a in enumerate(drawn)
        for j, b in enumerate(boxes)
        if centre_in(a, b) or centre_in(b, a)
    ]
    found: dict[int, int] = {}
    for shared, i, j in sorted(pairs, key=lambda pair: -pair[0]):
        if shared >= least[i] and j not in found and i not in found.values():
            found[j] = i
    return found


@dataclass
class DrawnFaces:
    """Counts the faces that people drew in photos, and those that were not found or not read."""

    photos: int = 0
    named: int = 0
    said: dict[str, LeftOut] = field(default_factory=lambda: {one: LeftOut(text) for one, text in OUTCOMES.items()})
    refused: LeftOut = field(default_factory=lambda: LeftOut("warning: {n} drawn face{s} not read"))

    def add(self, photo: Photo) -> None:
        """Count a photo."""
        if photo.drawn is None:
            return
        self.photos += bool(photo.drawn.faces)
        self.named += photo.named
        for outcome, count in photo.drawn_outcomes.items():
            for _ in range(count):
                self.said[outcome].add(photo.name)
        for _ in range(photo.drawn.refused):
            self.refused.add(photo.name)
        if photo.drawn.why and not self.refused.advice:
            self.refused.advice = f": {photo.drawn.why}"

    @property
    def lost(self) -> dict[str, int]:
        """How many drawn faces gave no row, by outcome."""
        return {outcome: self.said[outcome].count for outcome in LOST if self.said[outcome].count}

    @property
    def notes(self) -> list[str]:
        """Lines for the user."""
        named = [f"{self.named} drawn faces of {self.photos} photos got their names"] if self.photos else []
        return named + [line for one in OUTCOMES if one != FOUND for line in self.said[one].notes] + self.refused.notes
