"""Follow faces through the frames of a video.

A face belongs to the track whose last box it is near, and whose vectors it resembles most, from a stated score on;
otherwise it begins a track. A face that scores a little less is in doubt: a person half hidden, or another one in the
same place. It is left out where the person is seen again, and begins a track where its own face is. Of each track the
best few faces are kept, so that memory does not grow with its length.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import InputError

SHARP = 100.0  # variance of the Laplacian at which a crop counts half
SIDEWAYS = 0.05  # least frontalness, so that a track of profiles keeps its best ones, too
UNMARKED = 0.5  # frontalness of a face without landmarks
DOUBT = 0.15  # by which the score of a face in doubt may lie below that of a track's own
SPEED = 2.0  # sides of a box that a face may move in a second, beside one side at once

Face = tuple[Row, np.ndarray]  # and its box, float64 (4,)


@dataclass(frozen=True)
class TrackRules:
    """When a face belongs to a track; raise InputError for numbers that cannot be.

    score: least cosine of the face and the track. gap: seconds without a face after which a track ends. best: faces
    that are kept of a track. most: tracks that are kept of a video; those with the fewest faces are left out.
    """

    score: float = 0.4
    gap: float = 2.0
    best: int = 3
    most: int = 2000

    def __post_init__(self) -> None:
        if not 0 < self.score < 1:
            raise InputError(f"expected a --track-score between 0 and 1, received {self.score}")
        if self.best < 1:
            raise InputError(f"expected --faces of at least 1, received {self.best}: give a larger one")


@dataclass(eq=False)
class Track:
    """One face through consecutive frames: when it was seen, in seconds, how often, and its best faces.

    Each kept face is (quality, number, time, row); a heap, the worst first.
    """

    start: float
    end: float
    box: np.ndarray  # of the last face: x0, y0, x1, y1, float64 (4,)
    last: np.ndarray  # its vector, float32 (d,)
    total: np.ndarray  # the sum of all vectors, float64 (d,)
    seen: int = 0
    best: list[tuple[float, int, float, Row]] = field(default_factory=list)
    doubts: list[Track] = field(default_factory=list)  # of a face each, which may be this person's or another's

    def cosine(self, vector: np.ndarray) -> float:
        """Return the cosine of a face and the track: of the mean of its faces, or of the last, if that is larger."""
        mean = float(self.total @ vector) / max(float(np.linalg.norm(self.total)), 1e-12)
        return max(mean, float(self.last @ vector))

    def is_near(self, box: np.ndarray, time: float) -> bool:
        """Whether a box may be the next of this track: its centre has moved no farther than a face moves."""
        side = math.sqrt(max(_area(self.box), _area(box)))
        moved = float(np.hypot(*(_centre(box) - _centre(self.box))))
        return moved <= side * (1 + SPEED * (time - self.end)) and _area(box) > 0

    def rows(self) -> list[tuple[float, Row]]:
        """Return the kept faces and their times, in the order of time."""
        return sorted(((time, row) for _, _, time, row in self.best), key=lambda one: one[0])


class Tracker:
    """Joins the faces of frames that come in the order of time to tracks."""

    def __init__(self, rules: TrackRules = TrackRules()):  # noqa: B008
        self._rules, self._numbers = rules, count()
        self._open: list[Track] = []

    def add(self, time: float, rows: Sequence[Row]) -> list[Track]:
        """Take the faces of a frame, each with a box and a vector; return the tracks that have ended before it."""
        ended = [track for track in self._open if time - track.end > self._rules.gap]
        self._open = [track for track in self._open if time - track.end <= self._rules.gap]
        self._open += [doubt for track in ended for doubt in track.doubts]
        faces = [(row, np.asarray(row.box, np.float64)) for row in rows if row.box is not None]
        faces = self._taken(time, faces, self._open)
        faces = self._taken(time, faces, [doubt for track in self._open for doubt in track.doubts])
        self._settle()
        doubtful = self._matches(time, faces, self._unseen(time), self._rules.score - DOUBT)
        for (row, box), alike in doubtful:
            owner = next(track for track in self._open if track is alike or alike in track.doubts)
            owner.doubts.append(self._begun(time, row, box))
        used = {id(face) for face, _ in doubtful}
        self._open += [self._begun(time, *face) for face in faces if id(face) not in used]
        return ended

    def end(self) -> list[Track]:
        """Return the tracks that are open at the end of the video."""
        ended, self._open = self._open, []
        return ended + [doubt for track in ended for doubt in track.doubts]

    def _unseen(self, time: float) -> list[Track]:
        """Return the tracks without a face in this frame, and their doubtful faces."""
        free = [track for track in self._open if track.end < time]
        return free + [doubt for track in free for doubt in track.doubts]

    def _settle(self) -> None:
        """Make tracks of the doubtful faces that were seen again."""
        for track in list(self._open):
            self._open += [doubt for doubt in track.doubts if doubt.seen > 1]
            track.doubts = [doubt for doubt in track.doubts if doubt.seen == 1]

    def _taken(self, time: float, faces: Sequence[Face], tracks: Sequence[Track]) -> list[Face]:
        """Give faces to the tracks that they belong to; return the others."""
        matches = self._matches(time, faces, tracks, self._rules.score)
        for (row, box), track in matches:
            self._extend(track, time, row, box)
            track.doubts = []  # they were this person, half hidden or turned away
        used = {id(face) for face, _ in matches}
        return [face for face in faces if id(face) not in used]

    def _matches(
        self, time: float, faces: Sequence[Face], tracks: Sequence[Track], score: float
    ) -> list[tuple[Face, Track]]:
        """Return pairs of a face and a track near it, alike from `score` on; the most alike pairs win."""
        pairs = []
        for number, (row, box) in enumerate(faces):
            for place, track in enumerate(tracks):
                assert row.vector is not None
                if track.is_near(box, time) and (cosine := track.cosine(row.vector)) >= score:
                    pairs.append((-cosine, number, place))
        by_face: dict[int, int] = {}
        for _, number, place in sorted(pairs):
            if number not in by_face and place not in by_face.values():
                by_face[number] = place
        return [(faces[number], tracks[place]) for number, place in by_face.items()]

    def _begun(self, time: float, row: Row, box: np.ndarray) -> Track:
        assert row.vector is not None
        track = Track(time, time, box, row.vector, np.zeros(len(row.vector)))
        self._extend(track, time, row, box)
        return track

    def _extend(self, track: Track, time: float, row: Row, box: np.ndarray) -> None:
        assert row.vector is not None
        track.end, track.box, track.last, track.seen = time, box, row.vector, track.seen + 1
        track.total = track.total + row.vector
        kept = quality(row), next(self._numbers), time, row
        if len(track.best) < self._rules.best:
            heapq.heappush(track.best, kept)
        elif kept > track.best[0]:
            heapq.heapreplace(track.best, kept)


def fewest_left_out(tracks: list[Track], most: int) -> list[Track]:
    """Return at most `most` tracks in their order: those with the most faces, the earlier where two have as many."""
    if len(tracks) <= most:
        return tracks
    kept = sorted(range(len(tracks)), key=lambda i: (-tracks[i].seen, i))[:most]
    return [tracks[i] for i in sorted(kept)]


def quality(row: Row) -> float:
    """Return how well a face is seen, 0 to 1: detector's score x sharpness x frontalness.

    Sharpness counts as s / (s + SHARP), so that a very sharp profile does not beat a sharp front view.
    """
    sharpness = max(0.0, row.sharpness or 0.0)
    return (row.confidence or 0.0) * sharpness / (sharpness + SHARP) * frontalness(row.landmarks)


def frontalness(landmarks: Sequence[float] | None) -> float:
    """Return 1 for a face whose nose lies midway between its eyes, SIDEWAYS for one that is turned to a side.

    landmarks: x, y of the right eye, the left eye and the nose, and more; None where they are not known.
    """
    if landmarks is None or len(landmarks) < 6:
        return UNMARKED
    right, left, nose = np.asarray(landmarks[:6], np.float64).reshape(3, 2)
    axis = left - right
    length = float(axis @ axis)
    if length <= 0:
        return SIDEWAYS
    return max(SIDEWAYS, 1 - 2 * abs(float((nose - right) @ axis) / length - 0.5))


def _centre(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2


def _area(box: np.ndarray) -> float:
    return float(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]))
