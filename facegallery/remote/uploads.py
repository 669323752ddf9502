"""Read the photos that a client sends: files, folders, CSVs, bytes, arrays and PIL images."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from facegallery.embedder.errors import InputError
from facegallery.embedder.outcomes import MISSING, NO_ACCESS, OUTSIDE
from facegallery.embedder.photos.listing import Listing, list_photos, path_inside
from facegallery.results import PhotoResult
from facegallery.workflows.inputs import PhotoItem, all_items, has_data_set, items_of, single_photo, sources_of

if TYPE_CHECKING:
    import numpy as np

    from facegallery.interface import Metadata, PhotoInput, PhotoInputs

GALLERY = "gallery"  # the split that is enrolled, of folders that have splits


@dataclass(frozen=True)
class Upload:
    """A photo to send, with what is known of it here: its name, and its labels from folders or a CSV."""

    item: PhotoItem
    columns: tuple[tuple[str, str], ...] = ()  # of the user's own

    @property
    def image(self) -> str:
        return self.item.entry.path

    @property
    def identity(self) -> str | None:
        return self.item.entry.identity

    @property
    def split(self) -> str | None:
        return self.item.entry.split

    @property
    def size(self) -> int:
        """Bytes, about."""
        return max(0, self.item.entry.size)

    @property
    def pixels(self) -> dict[str, bool]:
        """The parameter that tells the server that the photo is an array: its id is then made from its pixels."""
        return {"pixels": True} if self.item.decoded is not None else {}

    def read(self) -> bytes | PhotoResult:
        """Return the bytes to send; the result of the photo where it cannot be read."""
        if self.item.data is not None:
            return self.item.data
        if self.item.decoded is not None:
            photo = self.item.decoded
            return self.failed(photo.outcome, photo.why) if photo.pixels is None else png_of(photo.pixels)
        if self.item.root is None or (path := path_inside(self.item.root, self.image)) is None:
            return self.failed(OUTSIDE, "the path leaves the folder")
        try:
            return Path(path).read_bytes()
        except FileNotFoundError:
            return self.failed(MISSING, "there is no such file")
        except OSError as error:
            return self.failed(NO_ACCESS, error.strerror or "it cannot be read")

    def failed(self, outcome: str, why: str) -> PhotoResult:
        """Return the result of the photo without a face."""
        return PhotoResult(self.image, outcome, why, identity=self.identity)

    def named(self, found: PhotoResult) -> PhotoResult:
        """Return the server's result with the photo's name and labels here."""
        faces = tuple(replace(face, image=self.image) for face in found.faces)
        return replace(found, image=self.image, identity=self.identity, faces=faces)


def to_search(photos: PhotoInputs) -> list[Upload]:
    """List the photos to search for. Raises InputError for a data set of vectors."""
    return [Upload(item) for item in all_items(_sources(photos))]


def to_enrol(photos: PhotoInputs, identity: str | None, metadata: Metadata | None) -> list[Upload]:
    """List the photos to enrol: of folders with splits those of `gallery`.

    identity: the person in all photos; None for those whom the folders name. metadata: columns of all photos, or the
    path of a CSV of a folder's. Raises InputError for a data set of vectors, and for single photos without an identity.
    """
    if isinstance(metadata, str | PathLike):
        if not isinstance(photos, str | PathLike):
            raise InputError("expected the path of a folder for a CSV of metadata, received several photos: give one")
        items = _of_split(list_photos(Path(photos), Path(metadata)))
        columns: tuple[tuple[str, str], ...] = ()
    else:
        items = [item for source in _sources(photos) for item in _items(source, identity)]
        columns = tuple((str(name), str(value)) for name, value in (metadata or {}).items() if value is not None)
    if identity is not None:
        items = [item.labelled(identity=identity) for item in items]
    return [Upload(item, tuple(dict(item.entry.extra + columns).items())) for item in items]


def single(photo: PhotoInput) -> Upload:
    """Return one photo. Raises InputError for anything that may hold several."""
    return Upload(single_photo(photo))


def name_of(photo: PhotoInput, upload: Upload) -> str:
    """Return what to call a photo alone: its path as it is given, where it has one."""
    return str(photo) if isinstance(photo, str | PathLike) else upload.image


def png_of(pixels: np.ndarray) -> bytes:
    """Encode pixels, uint8 RGB (h, w, 3)."""
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def _sources(photos: PhotoInputs) -> list[Path | list[PhotoItem]]:
    sources = sources_of(photos)
    if (folder := has_data_set(sources)) is not None:
        raise InputError(
            f"expected photos for a server, {folder} is a data set of vectors: use search_vectors, or a local gallery"
        )
    return sources


def _items(source: Path | list[PhotoItem], identity: str | None) -> Iterable[PhotoItem]:
    if isinstance(source, Path):
        return _of_split(list_photos(source))
    if identity is None:
        raise InputError(
            "expected whose face single photos show, received photos alone: give identity, or a folder of people"
        )
    return source


def _of_split(listing: Listing) -> list[PhotoItem]:
    if any(entry.given for entry in listing.entries):
        raise InputError("expected photos for a server, received a CSV with boxes: add it to a local gallery")
    has_gallery = any(entry.split == GALLERY for entry in listing.entries)
    return [item for item in items_of(listing) if not has_gallery or item.entry.split == GALLERY]
