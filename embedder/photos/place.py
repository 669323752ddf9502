"""Read from EXIF where a photo was taken; ignore whatever else it holds, however malformed."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from facegallery.embedder.photos.taken import ASCII, directory, entries

GPS_DIRECTORY = 0x8825  # tag of the first directory: where the directory with the place begins
LATITUDE, LONGITUDE = (1, 2, b"N", b"S"), (3, 4, b"E", b"W")  # tags (side, degrees), and the sides: ahead, behind
RATIONAL, RATIONAL_BYTES = 5, 8
MOST_LATITUDE, MOST_LONGITUDE = 90.0, 180.0
DIGITS = 7  # of a degree: a centimetre
Place = tuple[float, float]  # latitude, longitude in degrees; north and east are positive


def place(exif: bytes) -> Place | None:
    """Return where a photo was taken; None where EXIF does not say it, or says what is nowhere.

    exif: as for `taken`.
    """
    found = directory(exif, GPS_DIRECTORY)
    if found is None:
        return None
    body, start, order = found
    tags = {tag: (kind, count, value) for tag, kind, count, value in entries(body, start, order)}
    latitude = _angle(body, tags, order, LATITUDE)
    longitude = _angle(body, tags, order, LONGITUDE)
    return on_earth(latitude, longitude)


def on_earth(latitude: float | None, longitude: float | None) -> Place | None:
    """Return a place on earth, to DIGITS of a degree, or None."""
    if latitude is None or longitude is None:
        return None
    if not (abs(latitude) <= MOST_LATITUDE and abs(longitude) <= MOST_LONGITUDE):  # of NaN, too
        return None
    return round(latitude, DIGITS) + 0.0, round(longitude, DIGITS) + 0.0


def _angle(
    exif: bytes,
    tags: Mapping[int, tuple[int, int, bytes]],
    order: str,
    which: tuple[int, int, bytes, bytes],
) -> float | None:
    """Return degrees from three rationals: degrees, minutes, seconds."""
    side_tag, angle_tag, ahead, behind = which
    kind, _, side = tags.get(side_tag, (0, 0, b""))
    unit, count, value = tags.get(angle_tag, (0, 0, b""))
    if kind != ASCII or side[:1] not in (ahead, behind) or unit != RATIONAL or count != 3:
        return None
    (at,) = struct.unpack(order + "I", value)
    if at + 3 * RATIONAL_BYTES > len(exif):
        return None
    parts = struct.unpack_from(order + "6I", exif, at)
    degrees, sixtieths = 0.0, 1.0
    for above, below in zip(parts[::2], parts[1::2], strict=True):
        if above and not below:
            return None
        degrees, sixtieths = degrees + (above / below if above else 0.0) / sixtieths, sixtieths * 60
    return degrees if side[:1] == ahead else -degrees
