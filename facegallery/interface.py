"""Declare what every gallery can do, whether it lies in a folder or behind a server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from facegallery import results
    from facegallery.embedder.progress import Progress

    PhotoInput = str | PathLike[str] | bytes | np.ndarray | Image
    PhotoInputs = PhotoInput | Iterable[PhotoInput]

Metadata = Mapping[str, object] | str | PathLike[str]
What = int | str  # the number of a group, or the id of a face
Score = Literal["best", "mean", "template"]
Review = Literal["off", "standard", "strict"]
NamesFrom = Literal["folders", "regions", "both", "nobody"]


def several(texts: str | Sequence[str]) -> tuple[str, ...]:
    """Return texts, of which one may be given alone."""
    return (texts,) if isinstance(texts, str) else tuple(texts)


class GalleryInterface(Protocol):
    """The methods that a local gallery and one behind a server share.

    A photo is a path (of a file, a folder, a CSV or a data set of vectors), the bytes of a file, an array uint8
    (h, w, 3) in RGB, or a PIL image; wherever photos are expected, a sequence of these may be given. An asynchronous
    gallery has the same methods, to be awaited.
    """

    def search(
        self,
        photos: PhotoInputs,
        *,
        k: int = 5,
        where: str | Sequence[str] = (),
        faces: bool = False,
        score: Score = "best",
        min_score: float | None = None,
    ) -> results.SearchResult:
        """Find the k people, or faces, nearest to each face in the photos."""

    def search_vectors(
        self,
        vectors: Any,
        *,
        k: int = 5,
        where: str | Sequence[str] = (),
        faces: bool = False,
        score: Score = "best",
        min_score: float | None = None,
    ) -> list[results.VectorResult]:
        """Find the k people, or faces, nearest to each vector of (n, d), unit length, by the gallery's model."""

    def compare(self, first: PhotoInput, second: PhotoInput) -> results.Compared:
        """Compare the largest, most central faces of two photos."""

    def people(self, *, containing: str = "") -> results.People:
        """List the enrolled people by name."""

    def person(self, identity: str) -> results.Person:
        """Return a person by name, or by id."""

    def faces(self, identity: str) -> results.EnrolledFaces:
        """List the enrolled faces of a person, oldest first."""

    def thumbnail(self, face_id: str) -> bytes:
        """Return the stored crop of an enrolled face as PNG."""

    def info(self) -> results.GalleryInfo:
        """Return what the gallery holds and how it stands."""

    def add(
        self,
        photos: PhotoInputs,
        *,
        identity: str | None = None,
        metadata: Metadata | None = None,
        readmit: bool = False,
        progress: Progress | None = None,
    ) -> results.Added:
        """Enrol the faces of photos; those that are enrolled already are left as they are."""

    def rename(self, old: str, new: str) -> results.Change:
        """Give a person another name."""

    def set_person(
        self, identity: str, metadata: Mapping[str, object | None] | None = None, *, note: str | None = None
    ) -> results.Change:
        """Change the metadata and the note of a person, given by name or by id; `undo` takes it back."""

    def merge(self, source: str, into: str) -> results.Change:
        """Give all faces of one person to another."""

    def split(self, face_ids: Sequence[str], *, to: str) -> results.Change:
        """Give chosen faces to another person, enrolled already or new."""

    def groups(self) -> results.FaceGroups:
        """List the groups of unnamed faces, largest first."""

    def unnamed(self, group: int | None = None) -> results.UnnamedFaces:
        """List the unnamed faces, or those of a group."""

    def suggest(self, limit: int = 5) -> list[results.Suggestion]:
        """Suggest what to name next."""

    def name_faces(self, what: What | Sequence[What], identity: str) -> results.Change:
        """Enrol groups, by number, and unnamed faces, by id, under a person's name."""

    def confirm(self, *groups: int) -> results.Change:
        """Note that a group, or several, are one person."""

    def reject(self, face_ids: str | Sequence[str], *, of: str | None = None) -> results.Change:
        """Take faces out of their group or person, or say that they are not `of`."""

    def ignore(self, what: What | Sequence[What]) -> results.Change:
        """Leave groups and unnamed faces alone."""

    def remove(self, *, identity: str | None = None, face_id: str | None = None) -> results.Change:
        """Take a person, or one face, out; `undo` brings them back."""

    def undo(self, command: str | None = None) -> list[results.Change]:
        """Take back the last change, or only the one with this command."""

    def forget(self, identity: str, *, unnamed: bool = False) -> results.Receipt:
        """Remove a person for good. There is no undo."""

    def calibrate(self, *, fpir: float = 0.01) -> results.Calibrated:
        """Fit the score from which a hit counts."""

    def compact(self, *, keep_undo: float | None = None) -> results.Compacted:
        """Build the index anew from all changes; drop what undo needs where it is older than `keep_undo` seconds."""
