"""Hold the photos of a gallery, and what became of a folder of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from facegallery.results.base import COMMAND, ResultList, fields_of
from facegallery.results.people import Conflict

TAKEN = {
    "description": "When, ISO 8601, by the camera's clock; null where the photo does not say.",
    "examples": ["2019-05-01T10:11:12"],
}


@dataclass(frozen=True)
class GalleryPhoto:
    """A photo that a gallery knows, and who is in it."""

    image: str = field(metadata={"description": "What its faces call it."})
    path: str | None = field(metadata={"description": "Where it was seen last; null where that is not known."})
    copies: tuple[str, ...] = field(metadata={"description": "Other paths with the same bytes."})
    taken: str | None = field(metadata=TAKEN)
    latitude: float | None = field(metadata={"description": "Degrees, north positive.", "ge": -90, "le": 90})
    longitude: float | None = field(metadata={"description": "Degrees, east positive.", "ge": -180, "le": 180})
    people: tuple[str, ...] = field(metadata={"description": "By name, each once."})
    unnamed: int = field(metadata={"description": "Faces without a person, without those that were to be ignored."})
    face_ids: tuple[str, ...] = field(metadata={"description": "Of all its faces, in the order of the people."})


@dataclass(frozen=True)
class GalleryPhotos(ResultList[GalleryPhoto]):
    """Photos of a gallery, oldest first, those without a date last.

    The table has a row for each: image, path, taken, latitude, longitude, people, unnamed.
    """

    photos: tuple[GalleryPhoto, ...]
    total: int = field(metadata={"description": "How many fit, shown or not."})
    undated: int = field(default=0, metadata={"description": "Left out, since they do not say when they were taken."})
    unplaced: int = field(default=0, metadata={"description": "Left out, since they do not say where."})

    @property
    def _items(self) -> Sequence[GalleryPhoto]:
        return self.photos

    def _columns(self) -> dict[str, str]:
        numbers = {"latitude": "float64", "longitude": "float64"}
        return {
            "image": "string",
            "path": "string",
            "taken": "string",
            **numbers,
            "people": "string",
            "unnamed": "int64",
        }

    def _rows(self) -> Iterator[dict[str, Any]]:
        for photo in self.photos:
            yield fields_of(photo, ("copies", "face_ids")) | {"people": ", ".join(photo.people)}


@dataclass(frozen=True)
class Synced:
    """What `sync` did with a folder of photos."""

    index: str
    folder: str
    new: int = field(metadata={"description": "Photos that were not known, copies of known ones too."})
    changed: int = field(metadata={"description": "Photos with other bytes than before."})
    moved: int = field(metadata={"description": "Photos that lie elsewhere than before."})
    unchanged: int
    gone: int = field(metadata={"description": "Photos that are no longer there; their faces stay unless pruned."})
    pruned: int = field(metadata={"description": "Faces of gone photos that were taken out."})
    added: int = field(metadata={"description": "Faces that were enrolled."})
    unnamed: int = field(metadata={"description": "Faces that were kept without a person."})
    kept: int = field(metadata={"description": "Faces of changed photos that stayed who they were."})
    lost: tuple[str, ...] = field(
        metadata={"description": "People of changed photos whose faces were not found again."}
    )
    forgotten: int = field(metadata={"description": "Faces left out, since they were forgotten."})
    failed: dict[str, int] = field(metadata={"description": "New and changed photos without a face, by outcome."})
    conflicts: tuple[Conflict, ...] = ()
    command: str | None = field(default=None, metadata=COMMAND)
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line for people."""
        photos = (
            f"{self.new} new, {self.changed} changed, {self.moved} moved, {self.unchanged} unchanged, {self.gone} gone"
        )
        faces = [f"{self.added} faces enrolled", f"{self.unnamed} kept unnamed"]
        faces += [f"{self.kept} of changed photos as before"] if self.kept else []
        faces += [f"{self.pruned} taken out"] if self.pruned else []
        return f"{self.index}: {photos} photos; {', '.join(faces)}"
