"""Hold who is enrolled, and what changes did."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from facegallery.results.base import BOX, COMMAND, FACE_ID, PERSON_ID, Box, ResultList, box_of, fields_of
from facegallery.results.faces import PhotoFace

if TYPE_CHECKING:
    from facegallery.embedder.photos.understood import Understood
    from facegallery.indexer.suspects import Suspect
    from facegallery.results.quality import ReviewedFace


@dataclass(frozen=True)
class Person:
    """Somebody who is enrolled."""

    identity: str
    faces: int = field(metadata={"description": "How many are enrolled."})
    face_id: str | None = field(metadata=FACE_ID | {"description": "Of the oldest face, for a thumbnail."})
    person_id: str | None = field(default=None, metadata=PERSON_ID)
    note: str = ""
    metadata: dict[str, str] = field(default_factory=dict, metadata={"description": "The user's own, for filters."})


@dataclass(frozen=True)
class People(ResultList[Person]):
    """The enrolled people by name. The table has a row for each: identity, faces, face_id, person_id, note, metadata.

    metadata is JSON there.
    """

    people: tuple[Person, ...]

    @property
    def _items(self) -> Sequence[Person]:
        return self.people

    def _columns(self) -> dict[str, str]:
        kept = {"person_id": "string", "note": "string", "metadata": "string"}
        return {"identity": "string", "faces": "int64", "face_id": "string"} | kept

    def _rows(self) -> Iterator[dict[str, Any]]:
        for person in self.people:
            yield fields_of(person) | {"metadata": json.dumps(person.metadata, ensure_ascii=False, sort_keys=True)}


@dataclass(frozen=True)
class EnrolledFace:
    """An enrolled face."""

    face_id: str = field(metadata=FACE_ID)
    image: str
    split: str | None
    box: Box | None = field(metadata=BOX)
    columns: dict[str, str] = field(
        default_factory=dict, metadata={"description": "The user's own columns, as `metadata` gave them to `add`."}
    )

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> EnrolledFace:
        """Make one from a row of the store, in which the user's own columns stand beside the others."""
        own = {name: value for name, value in row.items() if name not in ("face_id", "image", "split", "box")}
        return cls(row["face_id"], row["image"], row["split"], box_of(row["box"]), own)


@dataclass(frozen=True)
class EnrolledFaces(ResultList[EnrolledFace]):
    """The enrolled faces of one person, oldest first.

    The table has a row for each: identity, face_id, image, split, box, and a column for each of the user's own.
    """

    identity: str
    faces: tuple[EnrolledFace, ...]

    @property
    def _items(self) -> Sequence[EnrolledFace]:
        return self.faces

    def _columns(self) -> dict[str, str]:
        own = dict.fromkeys(sorted({name for face in self.faces for name in face.columns}), "string")
        return {"identity": "string", "face_id": "string", "image": "string", "split": "string", "box": "floats"} | own

    def _rows(self) -> Iterator[dict[str, Any]]:
        for face in self.faces:
            yield face.columns | {"identity": self.identity} | fields_of(face, but=("columns",))


@dataclass(frozen=True)
class Conflict:
    """A face that was offered for another person than the one it is enrolled under; the first one keeps it."""

    face_id: str = field(metadata=FACE_ID)
    image: str
    kept: str = field(metadata={"description": "Who the face is enrolled as."})
    refused: str = field(metadata={"description": "Who it was offered for."})


@dataclass(frozen=True)
class Added:
    """What `add` enrolled, and what became of the rest."""

    index: str
    added: int = field(metadata={"description": "Faces that are enrolled now."})
    again: int = field(default=0, metadata={"description": "Faces that were enrolled already."})
    unnamed: int = field(default=0, metadata={"description": "Faces that are kept without a person, for `group`."})
    forgotten: int = field(default=0, metadata={"description": "Faces refused because they were forgotten."})
    conflicts: tuple[Conflict, ...] = ()
    left_out: dict[str, int] = field(
        default_factory=dict,
        metadata={
            "description": "Photos without an enrolled face, and drawn faces (`box_...`) without one: number by reason."
        },
    )
    face_ids: tuple[str, ...] = field(default=(), metadata={"description": "Of the faces that were added."})
    unsure: tuple[str, ...] = field(
        default=(), metadata={"description": "Photos with another face nearly as large as the one that was taken."}
    )
    command: str | None = field(default=None, metadata=COMMAND)
    faces: int | None = field(default=None, metadata={"description": "All faces that are enrolled now."})
    people: int | None = field(default=None, metadata={"description": "All people who are enrolled now."})
    notes: tuple[str, ...] = field(default=(), metadata={"description": "What the user should read, a line each."})
    understood: Understood | None = None  # whose the photos were taken to be; of a local gallery
    suspects: tuple[Suspect, ...] = ()  # added faces that may be somebody else's; of a local gallery
    reviewed: tuple[ReviewedFace, ...] = ()  # faces that `review` warned of or refused; of a local gallery

    @property
    def text(self) -> str:
        """One line for people."""
        kept = {"known already": self.again, "forgotten": self.forgotten, "another person's": len(self.conflicts)}
        now = "" if self.faces is None else f", now {self.faces} of {self.people} people"
        kept = {"kept without a person": self.unnamed} | kept
        why = "".join(f"; {n} {what}" for what, n in (kept | self.left_out).items() if n)
        return f"{self.index}: {self.added} faces added{now}{why}"


@dataclass(frozen=True)
class Enrolled:
    """What a server did with the one face of a photo that was to be enrolled."""

    added: int
    again: int = field(metadata={"description": "Was enrolled already."})
    face: PhotoFace
    command: str | None = field(metadata=COMMAND)
    unsure: bool = field(
        default=False,
        metadata={"description": "Whether the photo has another face nearly as large as the one that was taken."},
    )


@dataclass(frozen=True)
class Change:
    """What a change of the gallery did, or `undo` took back."""

    verb: str = field(metadata={"examples": ["rename"]})
    faces: int
    people: tuple[str, ...]
    command: str | None = field(default=None, compare=False, metadata=COMMAND)


@dataclass(frozen=True)
class LogLine:
    """A change in the gallery's log, as `undo` takes it back."""

    time: float = field(metadata={"description": "Seconds since 1970."})
    verb: str
    faces: int
    people: tuple[str, ...]
    command: str = field(metadata={"description": "Give it to `undo` to take back this change and no other."})


@dataclass(frozen=True)
class Receipt:
    """What `forget` removed, and where it looked for traces afterwards. It names nobody."""

    index: str
    time: str
    face_ids: tuple[str, ...]
    found: int = field(metadata={"description": "Traces that are left."})
    pending: bool = field(
        metadata={
            "description": "A reader, or a running build, still holds an older state: whoever opens the gallery next "
            "finishes."
        }
    )
    files: dict[str, int] = field(
        default_factory=dict, metadata={"description": "How often a trace was found in each file afterwards."}
    )
    data_sets: dict[str, int] = field(
        default_factory=dict, metadata={"description": "How many rows were taken out of each data set."}
    )
    not_cleaned: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    others: dict[str, int] = field(
        default_factory=dict, metadata={"description": "How many faces of the person each other index holds."}
    )
    outputs: tuple[str, ...] = field(
        default=(), metadata={"description": "Files that were written with the gallery's people, and are there."}
    )
    withheld: int = field(
        default=0, metadata={"description": "Paths that are not shown whole because they name the person."}
    )
    alike: tuple[str, ...] = field(
        default=(),
        metadata={"description": "Ids of unnamed faces that look like the person, and stay; `unnamed` forgets them."},
    )
    receipt: str | None = field(default=None, metadata={"description": "The file that this was written to."})
