"""Hold what was found on photos and in a gallery: faces and the hits of each."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from facegallery.embedder.outcomes import OF_BYTES, OK
from facegallery.results.base import BOX, FACE_ID, NUMBER, PERSON_ID, Box, Point, ResultList, fields_of

if TYPE_CHECKING:
    import numpy as np


FACE_MEASURES = ("confidence", "quality", "sharpness", "brightness", "contrast", "yaw", "pitch", "roll")
VECTOR = {"binary": True, "description": "float32 (d,), length 1"}
OF_HIT = ("identity", "face_id", "image", "person_id")  # columns hit_* of the table
CROP = {"binary": True, "description": "uint8 RGB (160, 160, 3)"}


@dataclass(frozen=True)
class Hit:
    """One answer: a person by the best of their faces, or one enrolled face."""

    rank: int = field(metadata={"ge": 1, "description": "From 1."})
    identity: str
    score: float = field(metadata={"description": "Cosine."})
    face_id: str = field(metadata=FACE_ID)
    image: str = field(metadata={"description": "The enrolled photo."})
    person_id: str | None = field(default=None, metadata=PERSON_ID)


@dataclass(frozen=True)
class NearUnnamed:
    """A group of unnamed faces that a face resembles, or an unnamed face in no group. It is nobody's yet."""

    group: int | None = field(metadata=NUMBER | {"description": "The number of the group; null for a single face."})
    faces: int = field(metadata={"description": "Of the group."})
    photos: int = field(metadata={"description": "On which these faces are."})
    score: float = field(metadata={"description": "Cosine with the group's best face."})
    face_id: str = field(metadata=FACE_ID | {"description": "Of that face."})
    image: str


@dataclass(frozen=True)
class VectorResult:
    """The answer to one vector: the hits, and whether they count."""

    known: bool | None = field(
        metadata={"description": "Whether the best hit counts; null without a calibration."},
    )
    chance: float | None = field(
        metadata={"description": "That a stranger scores as high; null without a calibration."},
    )
    chance_limit: float | None = field(
        metadata={
            "description": "The smallest chance that the calibration can tell. A chance that is equal to it is an "
            "upper bound, 'at most 1 in 9'."
        }
    )
    weak: str | None = field(
        metadata={
            "description": "Why the calibration is weak: too few people for its rate.",
            "examples": ["only 8 people are enrolled, too few for a rate of 0.01"],
        }
    )
    stale: str | None = field(
        metadata={
            "description": "Why the calibration is stale: the gallery changed since.",
            "examples": ["it was made at 40 people, now there are 60"],
        }
    )
    margin: float | None = field(
        metadata={"description": "From the best person's score to that of the best other person, also among faces."}
    )
    hits: tuple[Hit, ...]
    unnamed: tuple[NearUnnamed, ...] | None = field(
        default=None,
        kw_only=True,
        metadata={"description": "Near groups of unnamed faces, best first; null where they were not asked for."},
    )


@dataclass(frozen=True)
class PhotoFace:
    """A face in a photo."""

    face: int = field(metadata={"description": "Its number in the photo, the largest and most central one first."})
    face_id: str = field(metadata=FACE_ID)
    box: Box | None = field(metadata=BOX)
    confidence: float | None = field(metadata={"description": "Of the detector."})


@dataclass(frozen=True)
class FoundFace(VectorResult, PhotoFace):
    """A face that was searched for, and the answer."""

    image: str = field(default="", metadata={"description": "The photo that shows the face."})


@dataclass(frozen=True)
class PhotoResult:
    """What a search found in one photo."""

    image: str
    outcome: str = field(metadata={"description": f"{', '.join(OF_BYTES[:-1])} or {OF_BYTES[-1]}.", "examples": [OK]})
    why: str = field(default="", metadata={"description": "Why there is no face to search for."})
    left_out: int = field(default=0, metadata={"description": "Faces of the photo that were not searched for."})
    faces: tuple[FoundFace, ...] = ()
    identity: str | None = field(default=None, metadata={"description": "Who the photo's folder says it shows."})


@dataclass(frozen=True)
class SearchResult(ResultList[FoundFace]):
    """The faces found in all photos, in order; `photos` has the same by photo, with those that show no face.

    The table has a row for each hit, and one row without a hit for a face or a photo that has none.
    """

    photos: tuple[PhotoResult, ...]

    @functools.cached_property
    def _items(self) -> Sequence[FoundFace]:
        return tuple(face for photo in self.photos for face in photo.faces)

    def _columns(self) -> dict[str, str]:
        probe = {"image": "string", "outcome": "string", "identity": "string", "face": "int16", "face_id": "string"}
        verdict = {"known": "bool", "chance": "float64", "margin": "float64"}
        hit = {"rank": "int32", "hit_identity": "string", "score": "float64", "hit_face_id": "string"}
        more = {"hit_image": "string", "chance_limit": "float64", "weak": "string", "stale": "string"}
        more |= {"hit_person_id": "string"}
        return probe | {"box": "floats", "confidence": "float64"} | verdict | hit | more

    def _rows(self) -> Iterator[dict[str, Any]]:
        for photo in self.photos:
            of_photo = {"image": photo.image, "outcome": photo.outcome, "identity": photo.identity}
            if not photo.faces:
                yield of_photo
            for face in photo.faces:
                of_face = of_photo | fields_of(face, but=("image", "hits", "unnamed"))
                for hit in face.hits:
                    renamed = {f"hit_{name}": getattr(hit, name) for name in OF_HIT}
                    yield of_face | {"rank": hit.rank, "score": hit.score} | renamed
                if not face.hits:
                    yield of_face


@dataclass(frozen=True)
class Face:
    """A face that `detect` or `embed` found."""

    image: str
    face: int  # its number in the photo, the largest and most central one first
    face_id: str  # 32 hex digits: the same for the same face of the same bytes
    box: Box  # x0, y0, x1, y1 in pixels of the photo as it is shown, not rounded
    landmarks: tuple[Point, ...]  # x, y of the person's right eye, left eye, nose, right and left corner of the mouth
    confidence: float  # of the detector, 0 to 1
    quality: float  # 0 to 1: how likely its person is found by it; see `facegallery evaluate --quality`
    sharpness: float  # the variance of the crop's Laplacian; a blurred crop has less than a sharp one
    brightness: float | None  # mean of the grey levels within the box, 0 to 255
    contrast: float | None  # their standard deviation
    yaw: float | None  # how far the nose lies to a side: 0 from the front, about 0.5 in a profile; + is to the right
    pitch: float | None  # how far it lies below (+) or above (-) its place in a front view
    roll: float | None  # degrees by which the line of the eyes is turned from the horizontal
    identity: str | None = None  # who the photo's folder says it shows
    vector: np.ndarray | None = field(default=None, compare=False, repr=False, metadata=VECTOR)
    crop: np.ndarray | None = field(default=None, compare=False, repr=False, metadata=CROP)


@dataclass(frozen=True)
class PhotoFaces:
    """What `detect` or `embed` found in one photo."""

    image: str
    outcome: str  # ok, no_face, too_small, unreadable, too_large, ...: see `facegallery.embedder.outcomes`
    why: str = ""  # why there is no face
    faces: tuple[Face, ...] = ()


@dataclass(frozen=True)
class Faces(ResultList[Face]):
    """The faces found in all photos, in order; `photos` has the same by photo, with those that show no face.

    The table has a row for each face, without the crops, and one row without a face for a photo that has none.
    """

    photos: tuple[PhotoFaces, ...]

    @functools.cached_property
    def _items(self) -> Sequence[Face]:
        return tuple(face for photo in self.photos for face in photo.faces)

    @property
    def vectors(self) -> np.ndarray:
        """The vectors as float32 (n, d). Raises ValueError where there are none: `detect` makes no vectors."""
        import numpy as np

        return np.stack([face.vector for face in self if face.vector is not None])

    def _columns(self) -> dict[str, str]:
        photo = {"image": "string", "outcome": "string", "identity": "string"}
        face = {"face": "int16", "face_id": "string", "box": "floats", "landmarks": "floats"}
        return photo | face | dict.fromkeys(FACE_MEASURES, "float64") | {"vector": "vector"}

    def _rows(self) -> Iterator[dict[str, Any]]:
        for photo in self.photos:
            of_photo = {"image": photo.image, "outcome": photo.outcome}
            if not photo.faces:
                yield of_photo
            for face in photo.faces:
                landmarks = [value for point in face.landmarks for value in point]
                yield of_photo | fields_of(face, but=("image", "crop")) | {"landmarks": landmarks}
