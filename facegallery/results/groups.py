"""Hold groups of unnamed faces, and what to ask about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from facegallery.results.base import BOX, COMMAND, FACE_ID, NUMBER, Box, ResultList, fields_of


@dataclass(frozen=True)
class FaceGroup:
    """Unnamed faces that look like one person."""

    number: int = field(metadata=NUMBER)
    faces: int
    confirmed: bool = field(metadata={"description": "Whether somebody said that they are one person."})
    face_id: str = field(metadata=FACE_ID | {"description": "Of the oldest face, for a thumbnail."})


@dataclass(frozen=True)
class FaceGroups(ResultList[FaceGroup]):
    """The groups, largest first. The table has a row for each: number, faces, confirmed, face_id."""

    groups: tuple[FaceGroup, ...]

    @property
    def _items(self) -> Sequence[FaceGroup]:
        return self.groups

    def _columns(self) -> dict[str, str]:
        return {"number": "int64", "faces": "int64", "confirmed": "bool", "face_id": "string"}

    def _rows(self) -> Iterator[dict[str, Any]]:
        return (fields_of(group) for group in self.groups)


@dataclass(frozen=True)
class UnnamedFace:
    """A face without a person."""

    face_id: str = field(metadata=FACE_ID)
    image: str
    box: Box | None = field(metadata=BOX)
    group: int | None = field(metadata=NUMBER)
    ignored: bool = False


@dataclass(frozen=True)
class UnnamedFaces(ResultList[UnnamedFace]):
    """Unnamed faces, oldest first. The table has a row for each: face_id, image, box, group, ignored."""

    faces: tuple[UnnamedFace, ...]

    @property
    def _items(self) -> Sequence[UnnamedFace]:
        return self.faces

    def _columns(self) -> dict[str, str]:
        return {"face_id": "string", "image": "string", "box": "floats", "group": "int64", "ignored": "bool"}

    def _rows(self) -> Iterator[dict[str, Any]]:
        return (fields_of(face) for face in self.faces)


@dataclass(frozen=True)
class Grouped:
    """What `group` did, and what it is worth."""

    index: str
    groups: int = field(metadata={"description": "All groups there are now."})
    faces: int = field(metadata={"description": "Faces in a group now."})
    new_groups: int
    moved: int = field(metadata={"description": "Faces that came into a group, or changed it."})
    loose: int = field(metadata={"description": "Faces in no group."})
    ignored: int
    cut: float = field(metadata={"description": "The mean score from which two groups are joined."})
    error: float = field(metadata={"description": "The share of pairs of faces in a group that are two people."})
    most_error: float = field(metadata={"description": "The same at most, in 19 of 20 cases."})
    note: str = field(default="", metadata={"description": "The error in words."})
    command: str | None = field(default=None, metadata=COMMAND)

    @property
    def text(self) -> str:
        """One line for people."""
        ignored = f", {self.ignored} are ignored" if self.ignored else ""
        found = f"{self.groups} groups of {self.faces} faces ({self.new_groups} new), {self.loose} faces in none"
        return f"{self.index}: {found}{ignored}; {self.note}"


@dataclass(frozen=True)
class Likely:
    """A group or a single face that is asked about, and who it may be."""

    number: int | None = field(metadata=NUMBER)
    face_id: str | None = field(metadata=FACE_ID)
    person: str | None = field(metadata={"description": "Who it may be; null: the person of the question's first."})
    chance: float | None = field(metadata={"description": "The chance that it is; null for the question's first."})


@dataclass(frozen=True)
class Suggestion:
    """A question whose answer settles many faces."""

    kind: Literal["who", "same person", "same people"]
    question: str
    command: str = field(metadata={"description": "What to type for yes, or with the name that is asked for."})
    faces: int = field(metadata={"description": "How many faces the answer settles, as expected."})
    chance: float | None = field(metadata={"description": "The mean chance that one asked about is who it may be."})
    likely: tuple[Likely, ...] = ()
