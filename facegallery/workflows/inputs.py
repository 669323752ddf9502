"""Read what a user gives as photos: paths, bytes of files, arrays and PIL images."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from facegallery.embedder.dataset.dataset import is_data_set
from facegallery.embedder.dataset.row import Entry
from facegallery.embedder.errors import InputError
from facegallery.embedder.outcomes import OK, UNREADABLE
from facegallery.embedder.photos.bounds import MAX_PIXELS, check_size
from facegallery.embedder.photos.colours import to_rgb
from facegallery.embedder.photos.decoder import Decoder, Photo
from facegallery.embedder.photos.filenames import to_text
from facegallery.embedder.photos.kinds import PhotoRefused
from facegallery.embedder.photos.listing import Listing, list_photos
from facegallery.embedder.photos.orientation import ORIENTATION, TURNS, orientation, valid

PhotoInput = str | os.PathLike[str] | bytes | np.ndarray | Image
PhotoInputs = PhotoInput | Iterable[PhotoInput]

PIXELS = b"facegallery pixels 1\0"  # begins what is hashed of a photo that is given as pixels
EXPECTED = "expected a photo as a path, the bytes of a file, an array uint8 (h, w, 3) in RGB or a PIL image"


@dataclass(frozen=True)
class PhotoItem:
    """One photo to read: a file below a root, the bytes of one, or a photo that is decoded already."""

    entry: Entry
    root: Path | None = None
    data: bytes | None = None
    decoded: Photo | None = None

    def submit(self, decoder: Decoder, *, drawn: bool = False) -> Future[Photo]:
        """Have the photo decoded; one that is decoded already is copied, so that it can be read again.

        drawn: read which faces somebody drew in it, too.
        """
        if self.root is not None:
            return decoder.submit(self.root, self.entry.path, drawn=drawn)
        if self.data is not None:
            return decoder.submit_bytes(self.entry.path, self.data, drawn=drawn)
        done: Future[Photo] = Future()
        assert self.decoded is not None
        done.set_result(replace(self.decoded))
        return done

    def sha256(self) -> str | None:
        """Return the hash by which faces of the photo get their ids; None where it cannot be read."""
        from facegallery.embedder.pipeline import hash_of

        if self.root is not None:
            return hash_of(self.root, self.entry)
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest()
        return None if self.decoded is None else self.decoded.sha256

    def labelled(self, **labels: Any) -> PhotoItem:
        """Return the photo with other labels: fields of `Entry`."""
        return replace(self, entry=replace(self.entry, **labels))


def items_of(listing: Listing) -> list[PhotoItem]:
    """Return the photos of a listing."""
    return [PhotoItem(entry, listing.root) for entry in listing.entries]


def sources_of(photos: PhotoInputs) -> list[Path | list[PhotoItem]]:
    """Sort what a user gives, in order: folders, CSVs and data sets as paths, the photos between them as lists.

    A photo is called by its file name; where two files have one name, all are called by their paths below the folder
    that holds them. Raises InputError for what is no photo, DataError for a path where nothing is.
    """
    sources: list[Path | list[PhotoItem]] = []
    for one in [photos] if is_single(photos) else photos:  # type: ignore[union-attr]
        if isinstance(one, str | os.PathLike) and _holds_many(path := Path(one)):
            sources.append(path)
            continue
        if not (sources and isinstance(sources[-1], list)):
            sources.append([])
        sources[-1].append(_item(one))  # type: ignore[union-attr]
    return [source if isinstance(source, Path) else _told_apart(source) for source in sources]


def _told_apart(items: list[PhotoItem]) -> list[PhotoItem]:
    """Return photos under one root where files of several folders have one name."""
    files = {(item.root, item.entry.path) for item in items if item.root is not None}
    roots = {root for root, _ in files}
    if len({name for _, name in files}) == len(files):
        return items
    base = Path(os.path.commonpath([os.path.realpath(root) for root in roots]))
    names = {root: to_text(os.path.relpath(os.path.realpath(root), base)) for root in roots}
    return [
        item if item.root is None else replace(item.labelled(path=f"{names[item.root]}/{item.entry.path}"), root=base)
        for item in items
    ]


def is_single(photos: Any) -> bool:
    """Return whether this is one photo, or path, rather than several; what is no photo at all counts as one."""
    is_photo = isinstance(photos, str | bytes | bytearray | memoryview | os.PathLike | np.ndarray)
    return is_photo or not isinstance(photos, Iterable)


def as_list(photos: PhotoInputs) -> PhotoInputs:
    """Return several photos as a list, which can be read again; one as it is."""
    return photos if is_single(photos) else list(photos)  # type: ignore[arg-type]


def single_photo(photo: PhotoInput) -> PhotoItem:
    """Return one photo; raises InputError for a folder, a CSV and what else may stand for any number of photos."""
    _check_single(photo, "expected one photo", "give the photo itself")
    return _item(photo)


def two_photos(first: PhotoInput, second: PhotoInput) -> list[PhotoItem]:
    """Return two photos; raises InputError as `single_photo` does before either is read."""
    for photo in (first, second):
        _check_single(photo, "expected two photos", "give the photos themselves")
    return [_item(first), _item(second)]


def _check_single(photo: PhotoInput, expected: str, advice: str) -> None:
    if not is_single(photo):
        raise InputError(f"{EXPECTED}, received {_kind(photo)}: {advice}")
    if isinstance(photo, str | os.PathLike) and _holds_many(path := Path(photo)):
        raise InputError(f"{expected}, {path} is a {'folder' if path.is_dir() else 'CSV'}: {advice}")


def has_data_set(sources: Iterable[Path | list[PhotoItem]]) -> Path | None:
    """Return the first source that is a data set; None where there is none."""
    return next((one for one in sources if isinstance(one, Path) and is_data_set(one)), None)


def all_items(sources: Iterable[Path | list[PhotoItem]]) -> Iterable[PhotoItem]:
    """Return the photos of sources that are no data sets, in order."""
    for source in sources:
        yield from items_of(list_photos(source)) if isinstance(source, Path) else source


def with_columns(items: Iterable[PhotoItem], columns: Mapping[str, object]) -> list[PhotoItem]:
    """Return photos with more of the user's own columns, whose values become text."""
    more = tuple((str(name), str(value)) for name, value in columns.items() if value is not None)
    return [item.labelled(extra=item.entry.extra + more) for item in items]


def _holds_many(path: Path) -> bool:
    return path.is_dir() or (path.suffix.lower() == ".csv" and path.is_file())


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _item(photo: Any) -> PhotoItem:
    if isinstance(photo, str | os.PathLike):
        (entry,) = (listing := list_photos(Path(photo))).entries
        return PhotoItem(entry, listing.root)
    if isinstance(photo, bytes | bytearray | memoryview):
        data = bytes(photo)
        return PhotoItem(_entry(hashlib.sha256(data).hexdigest(), len(data)), data=data)
    if isinstance(photo, np.ndarray):
        return _of_pixels(_checked(photo))
    if isinstance(photo, Image):
        return _of_image(photo)
    raise InputError(f"{EXPECTED}, received {_kind(photo)}: give one of these, or a list of them")


def _entry(sha256: str, size: int) -> Entry:
    """What is known of a photo that is no file; a server calls one that is sent to it the same."""
    return Entry(f"upload-{sha256[:16]}", size, 0)


def _checked(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InputError(
            f"expected pixels as an array uint8 (h, w, 3) in RGB, received {pixels.dtype} {pixels.shape}: convert it, "
            "or give the path or the bytes of the file"
        )
    return pixels


def _of_image(image: Image) -> PhotoItem:
    """A PIL image as the decoder would give the pixels of its file: turned as its EXIF says, in RGB."""
    try:
        check_size(*image.size, MAX_PIXELS)
        image.load()
        turn = _orientation(image)
        return _of_pixels(to_rgb(image.transpose(TURNS[turn]) if turn in TURNS else image))
    except PhotoRefused as error:
        return _refused(error)
    except OSError as error:  # of an image that reads its file only now
        return _refused(PhotoRefused(UNREADABLE, f"a broken image: {error}"))


def _orientation(image: Image) -> int:
    """1 to 8, as EXIF or XMP say it; a TIFF, which Pillow turns by itself, has 1."""
    exif, xmp = image.info.get("exif"), image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    if not isinstance(exif, bytes):
        return valid(image.getexif().get(ORIENTATION)) or 1
    return orientation(exif, xmp.encode() if isinstance(xmp, str) else xmp)


def _of_pixels(pixels: np.ndarray) -> PhotoItem:
    """Pixels as a photo."""
    height, width = pixels.shape[:2]
    try:
        check_size(width, height, MAX_PIXELS)
    except PhotoRefused as error:
        return _refused(error)
    pixels, sha256 = np.ascontiguousarray(pixels), hash_of_pixels(pixels)
    entry = _entry(sha256, pixels.nbytes)
    return PhotoItem(entry, decoded=Photo(entry.path, OK, sha256=sha256, pixels=pixels))


def hash_of_pixels(pixels: np.ndarray) -> str:
    """Return the hash of pixels, uint8 RGB (h, w, 3): hex, of their height, width and values."""
    digest = hashlib.sha256(PIXELS + struct.pack("<QQ", *pixels.shape[:2]))
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _refused(error: PhotoRefused) -> PhotoItem:
    """A photo that gives no pixels."""
    return PhotoItem(Entry("upload", 0, 0), decoded=Photo("upload", error.outcome, str(error)))
