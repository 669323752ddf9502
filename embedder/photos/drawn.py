"""Read the faces that somebody drew in a photo: from the sidecars beside it, the photo itself, else Picasa's file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from facegallery.embedder.outcomes import MISSING
from facegallery.embedder.photos import picasa
from facegallery.embedder.photos.kinds import PhotoRefused
from facegallery.embedder.photos.pixels import Decoded, read
from facegallery.embedder.photos.regions import WHY, Drawn, Region, placed, regions_of
from facegallery.embedder.photos.xmp import EXTENDED, MOST_BYTES, XmpRefused, joined, read_xmp

Source = Callable[[], tuple[list[Region], Drawn]]


@dataclass(frozen=True)
class Beside:
    """What may lie beside a photo. sidecars: paths of XMP. picasa: paths of Picasa's files. photo: its file's name."""

    sidecars: Sequence[str] = ()
    picasa: Sequence[str] = ()
    photo: str = ""


def drawn_in(photo: Decoded, beside: Beside) -> Drawn:
    """Return the faces that somebody drew in a photo; called where a decoder may be killed.

    The first sidecar that has faces counts, else the photo's own XMP, else Picasa's file. What cannot be read is left
    out.
    """
    height, width = photo.pixels.shape[:2]
    refused, why = 0, ""
    for source in _sources(photo, beside):
        try:
            regions, bad = source()
        except (XmpRefused, PhotoRefused) as error:
            if not (isinstance(error, PhotoRefused) and error.outcome == MISSING):
                refused, why = refused + 1, str(error)[:WHY]
            continue
        refused, why = refused + bad.refused, bad.why or why
        if regions:
            return Drawn(placed(regions, width, height, photo.turn), refused, why)
    return Drawn((), refused, why)


def _sources(photo: Decoded, beside: Beside) -> Iterator[Source]:
    for path in beside.sidecars:
        yield partial(_of_file, path)
    if photo.xmp:
        yield partial(_of_photo, photo)
    if beside.picasa:
        yield partial(picasa.first_of, beside.picasa, beside.photo)


def _of_file(path: str) -> tuple[list[Region], Drawn]:
    return regions_of(read_xmp(read(path, MOST_BYTES)[0]))


def _of_photo(photo: Decoded) -> tuple[list[Region], Drawn]:
    fields = read_xmp(photo.xmp)
    more = joined(fields.get(EXTENDED), photo.xmp_parts)
    return regions_of(fields | read_xmp(more) if more else fields)
