"""Hold which photos are copies of others or lie in bursts, and which of them to keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from facegallery.results.base import ResultList, fields_of

Kind = Literal["same file", "same picture", "burst"]


@dataclass(frozen=True)
class DuplicatePhoto:
    """A photo of a set."""

    image: str = field(metadata={"description": "Its path."})
    width: int = field(metadata={"description": "In pixels, upright."})
    height: int
    bytes: int = field(metadata={"description": "Of the file."})
    taken: str | None = field(
        metadata={
            "description": "When it was taken by its EXIF, without a zone; null where that does not say it.",
            "examples": ["2024-05-01T10:11:12.250000"],
        }
    )
    sharpness: float = field(metadata={"description": "Low where it is blurred; comparable within a set."})


@dataclass(frozen=True)
class DuplicateSet:
    """Photos of which one is enough, the one to keep first.

    A photo that one set keeps may lie in a later set of a weaker kind, too; one that a set does not keep lies in no
    later one.
    """

    kind: Kind = field(
        metadata={
            "description": "same file: the same bytes; same picture: saved again, resized, converted or turned; burst: "
            "nearly the same scene within seconds."
        }
    )
    why: str = field(metadata={"description": "Why the first one is to be kept."})
    photos: tuple[DuplicatePhoto, ...]

    @property
    def keep(self) -> DuplicatePhoto:
        """The photo to keep."""
        return self.photos[0]

    @property
    def others(self) -> tuple[DuplicatePhoto, ...]:
        """The photos that need not be kept."""
        return self.photos[1:]


@dataclass(frozen=True)
class UnreadPhoto:
    """A photo that could not be read."""

    image: str
    outcome: str
    why: str


@dataclass(frozen=True)
class Duplicates(ResultList[DuplicateSet]):
    """The sets of photos of which one is enough: same files first, then same pictures, then bursts.

    The table has a row for each photo of a set: set, kind, keep, and the fields of the photo.
    """

    sets: tuple[DuplicateSet, ...]
    photos: int = field(metadata={"description": "That were given, each file once."})
    unread: tuple[UnreadPhoto, ...] = field(default=(), metadata={"description": "Photos that could not be read."})

    @property
    def _items(self) -> Sequence[DuplicateSet]:
        return self.sets

    def _columns(self) -> dict[str, str]:
        of_set = {"set": "int64", "kind": "string", "keep": "bool", "image": "string"}
        return of_set | {
            "width": "int64",
            "height": "int64",
            "bytes": "int64",
            "taken": "string",
            "sharpness": "float64",
        }

    def _rows(self) -> Iterator[dict[str, Any]]:
        for number, one in enumerate(self.sets):
            for photo in one.photos:
                yield {"set": number, "kind": one.kind, "keep": photo is one.keep} | fields_of(photo)

    def spare(self, kind: Kind) -> int:
        """Return how many photos need not be kept, of the sets of this kind."""
        return sum(len(one.others) for one in self.sets if one.kind == kind)

    @property
    def spare_bytes(self) -> int:
        """The size of all files that need not be kept."""
        return sum(photo.bytes for one in self.sets for photo in one.others)


@dataclass(frozen=True)
class GalleryDuplicatePhoto:
    """A photo that a gallery has faces of."""

    image: str
    people: tuple[str, ...] = field(metadata={"description": "Who is enrolled with it."})
    unnamed: int = field(metadata={"description": "Its faces without a person."})
    width: int = field(metadata={"description": "Of its largest face, in pixels; 0 where it is not known."})
    height: int
    sharpness: float = field(metadata={"description": "Of that face; low where it is blurred."})


@dataclass(frozen=True)
class GalleryDuplicateSet:
    """Near-identical photos of a gallery, the one to keep first."""

    why: str = field(metadata={"description": "Why the first one is to be kept."})
    photos: tuple[GalleryDuplicatePhoto, ...]
    commands: tuple[str, ...] = field(
        metadata={"description": "What drops the others; empty where they are enrolled as other people."}
    )

    @property
    def keep(self) -> GalleryDuplicatePhoto:
        """The photo to keep."""
        return self.photos[0]

    @property
    def others(self) -> tuple[GalleryDuplicatePhoto, ...]:
        """The photos that need not be kept."""
        return self.photos[1:]


@dataclass(frozen=True)
class GalleryDuplicates(ResultList[GalleryDuplicateSet]):
    """The sets of near-identical photos of a gallery.

    The table has a row for each photo of a set: set, keep, and the fields of the photo.
    """

    name: str = field(metadata={"description": "Of the gallery."})
    sets: tuple[GalleryDuplicateSet, ...]
    photos: int = field(metadata={"description": "That the gallery has faces of."})
    by_crops: bool = field(metadata={"description": "Whether crops are kept, by which pictures are compared."})

    @property
    def _items(self) -> Sequence[GalleryDuplicateSet]:
        return self.sets

    def _columns(self) -> dict[str, str]:
        of_photo = {"people": "string", "unnamed": "int64", "width": "int64", "height": "int64", "sharpness": "float64"}
        return {"set": "int64", "keep": "bool", "image": "string"} | of_photo

    def _rows(self) -> Iterator[dict[str, Any]]:
        for number, one in enumerate(self.sets):
            for photo in one.photos:
                people = {"people": "; ".join(photo.people)}
                yield {"set": number, "keep": photo is one.keep} | fields_of(photo) | people
