"""Hold what is said of the quality of faces: doubtful ones, and what `add --review` found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from facegallery.results.base import FACE_ID, ResultList, fields_of

QUALITY = {
    "ge": 0,
    "le": 1,
    "description": "How well the face shows: the chance, measured on other faces, that its person is found by it.",
}


@dataclass(frozen=True)
class DoubtfulFace:
    """An enrolled face that there is reason to doubt."""

    face_id: str = field(metadata=FACE_ID)
    image: str
    identity: str = field(metadata={"description": "Who it is enrolled as."})
    why: str = field(
        metadata={
            "description": "same: nearly the same photo is enrolled as somebody else; nearer: to another person than "
            "to its own; unlike: all other faces of its person; poor: of low quality."
        }
    )
    reason: str = field(metadata={"description": "The same in words, with scores."})
    own: float | None = field(metadata={"description": "Best score with the person's other faces."})
    own_face_id: str | None = field(metadata={"description": "Of that face."})
    looks_like: str | None = field(metadata={"description": "The nearest other person."})
    score: float | None = field(metadata={"description": "Best score with a face of theirs."})
    other_face_id: str | None = field(metadata={"description": "Of that face."})
    other_image: str | None = field(metadata={"description": "Its photo."})
    quality: float | None = field(metadata=QUALITY | {"description": "From 0 to 1; null where nothing is known."})


@dataclass(frozen=True)
class ReviewedFace:
    """A face that `add` warned of, or refused."""

    face_id: str = field(metadata=FACE_ID)
    image: str
    identity: str = field(metadata={"description": "Who it was to be enrolled as."})
    why: str = field(
        metadata={
            "description": "same: nearly the same photo is enrolled as somebody else; nearer: to another person than "
            "to its own; several: the photo shows another face nearly as large; copy: the photo is enrolled already; "
            "turned: the face lies on its side or upside down; poor: of low quality."
        }
    )
    reason: str = field(metadata={"description": "The same in words."})
    refused: bool = field(metadata={"description": "Whether it was left out."})


@dataclass(frozen=True)
class DoubtfulFaces(ResultList[DoubtfulFace]):
    """Doubtful faces, likely wrong names first. The table has a row for each, with all fields."""

    gallery: str
    total: int = field(metadata={"description": "All doubtful faces; `faces` may be the first of them."})
    compared: int = field(metadata={"description": "Enrolled faces, all of which were compared."})
    faces: tuple[DoubtfulFace, ...]

    @property
    def _items(self) -> Sequence[DoubtfulFace]:
        return self.faces

    def _columns(self) -> dict[str, str]:
        texts = ("face_id", "image", "identity", "why", "reason", "own_face_id", "looks_like")
        kinds = dict.fromkeys(texts, "string") | {"other_face_id": "string", "other_image": "string"}
        return kinds | dict.fromkeys(("own", "score", "quality"), "float64")

    def _rows(self) -> Iterator[dict[str, Any]]:
        return (fields_of(face) for face in self.faces)
