"""Read the faces that somebody drew in a photo: from the sidecars beside it, else from the photo itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from facegallery.embedder.outcomes import MISSING
from facegallery.embedder.photos.kinds import PhotoRefused
from facegallery.embedder.photos.pixels import Decoded, read
from facegallery.embedder.photos.regions import WHY, Drawn, placed, regions_of
from facegallery.embedder.photos.xmp import EXTENDED, MOST_BYTES, Value, XmpRefused, joined, read_xmp

Packet = Callable[[], dict[str, Value]]


def drawn_in(photo: Decoded, sidecars: Sequence[str]) -> Drawn:
    """Return the faces that somebody drew in a photo; called where a decoder may be killed.

    The first sidecar that has faces counts, else the photo's own XMP. A packet that cannot be read is left out.
    """
    height, width = photo.pixels.shape[:2]
    refused, why = 0, ""
    for packet in _packets(photo, sidecars):
        try:
            regions, bad = regions_of(packet())
        except (XmpRefused, PhotoRefused) as error:
            if not (isinstance(error, PhotoRefused) and error.outcome == MISSING):
                refused, why = refused + 1, str(error)[:WHY]
            continue
        refused, why = refused + bad.refused, bad.why or why
        if regions:
            return Drawn(placed(regions, width, height, photo.turn), refused, why)
    return Drawn((), refused, why)


def _packets(photo: Decoded, sidecars: Sequence[str]) -> Iterator[Packet]:
    for path in sidecars:
        yield partial(_of_file, path)
    if photo.xmp:
        yield partial(_of_photo, photo)


def _of_file(path: str) -> dict[str, Value]:
    return read_xmp(read(path, MOST_BYTES)[0])


def _of_photo(photo: Decoded) -> dict[str, Value]:
    fields = read_xmp(photo.xmp)
    more = joined(fields.get(EXTENDED), photo.xmp_parts)
    return fields | read_xmp(more) if more else fields
