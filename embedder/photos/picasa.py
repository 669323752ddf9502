"""Read the faces that Picasa keeps in `.picasa.ini`, a file beside the photos of a folder.

    [Contacts2]
    8e62b2035b74b477=Ann Lee;;
    [photo.jpg]
    faces=rect64(3f845bcb59418507),8e62b2035b74b477;rect64(9eb15c26b2ab8507),ffffffffffffffff

`rect64` holds left, top, right and bottom as shares of the picture's sides, 16 bits each, in hex without leading zeros;
the contact `ffffffffffffffff` is nobody. The files are untrusted: a face that breaks a rule costs only itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.names import person_name, spelling
from facegallery.embedder.outcomes import UNREADABLE
from facegallery.embedder.photos.kinds import PhotoRefused
from facegallery.embedder.photos.orientation import Box
from facegallery.embedder.photos.pixels import read
from facegallery.embedder.photos.regions import MOST_REGIONS, WHY, Drawn, Region

NAMES = (".picasa.ini", "Picasa.ini")  # of later and of earlier versions
MOST_BYTES = 16 << 20
MOST_LINE = 1 << 20  # characters
NOBODY = "f" * 16
SECTION = re.compile(r"\s*\[(.+)\]\s*")
FACE = re.compile(r"\s*rect64\(([0-9a-fA-F]{1,16})\)\s*,\s*([0-9a-fA-F]{1,16})\s*")
TURNED = re.compile(r"rotate\((\d+)\)")
EDITED = "a face in a photo that Picasa shows turned or cropped: save the photo in Picasa first"


@dataclass(frozen=True)
class PicasaFolder:
    """What a `.picasa.ini` says.

    photos: of each photo, by its name in lower case, its keys and values. contacts: names by id of 16 hex digits.
    """

    photos: dict[str, dict[str, str]] = field(default_factory=dict)
    contacts: dict[str, str] = field(default_factory=dict)


def regions_in(path: str, photo: str) -> tuple[list[Region], Drawn]:
    """Return the named faces of a photo, and what was refused of them, as `regions.regions_of` does.

    photo: the name of its file. Raise PhotoRefused for a file that is missing, too large, or not in UTF-8.
    """
    status = os.stat(path) if os.path.exists(path) else None
    mark = None if status is None else (status.st_size, status.st_mtime_ns, status.st_ino)
    folder = _folder(path, mark)
    entry = folder.photos.get(photo.casefold(), {})
    found: list[Region] = []
    refused, why = 0, ""
    for text in filter(str.strip, entry.get("faces", "").split(";")):
        region = _region(text, entry, folder.contacts)
        if region is None:
            continue
        if isinstance(region, str) or len(found) == MOST_REGIONS:
            refused, why = refused + 1, region if isinstance(region, str) else f"more than {MOST_REGIONS:,} regions"
            continue
        found.append(region)
    return found, Drawn((), refused, why[:WHY])


@lru_cache(4)
def _folder(path: str, mark: object) -> PicasaFolder:
    """Read a file; mark: changes when the file does."""
    return parse(read(path, MOST_BYTES)[0])


def parse(data: bytes) -> PicasaFolder:
    """Return what the bytes of a `.picasa.ini` say; raise PhotoRefused for bytes that are not UTF-8."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise PhotoRefused(UNREADABLE, f"a .picasa.ini whose line {number} is not UTF-8") from None
    folder, keys = PicasaFolder(), dict[str, str]()
    for line in text.split("\n"):
        if len(line) > MOST_LINE:
            raise PhotoRefused(UNREADABLE, f"a .picasa.ini with a line of more than {MOST_LINE:,} characters")
        if section := SECTION.fullmatch(line):
            keys = folder.photos.setdefault(section[1].casefold(), {})
            continue
        key, _, value = line.partition("=")
        keys.setdefault(key.strip().lower(), value.strip())
    for id, value in folder.photos.pop("contacts2", {}).items():
        folder.contacts[id.zfill(16)] = value.split(";")[0]
    return folder


def _region(text: str, entry: dict[str, str], contacts: dict[str, str]) -> Region | str | None:
    """Return a face; None for one without a name, or else the reason why it is refused."""
    match = FACE.fullmatch(text)
    if not match:
        return f"a face that is not rect64(...),contact: {text.strip()[:40]!r}"
    contact = match[2].lower().zfill(16)
    if contact == NOBODY:
        return None
    if contact not in contacts:
        return f"a face of the contact {contact}, whose name is not in [Contacts2]"
    if not spelling(contacts[contact]):
        return None
    try:
        name = person_name(contacts[contact])
    except FaceGalleryError as error:
        return str(error)
    turn = TURNED.fullmatch(entry.get("rotate", ""))
    if "crop" in entry or (turn and int(turn[1][:9]) % 4):
        return EDITED
    return _placed(name, match[1].zfill(16))


def _placed(name: str, digits: str) -> Region | str:
    box: Box = tuple(int(digits[i : i + 4], 16) / 65535 for i in range(0, 16, 4))  # type: ignore[assignment]
    return Region(name, box) if box[0] < box[2] and box[1] < box[3] else "a face without width or height"


def first_of(paths: Sequence[str], photo: str) -> tuple[list[Region], Drawn]:
    """Return the faces of the first of several files that is there."""
    return next((regions_in(path, photo) for path in paths if os.path.exists(path)), ([], Drawn()))
