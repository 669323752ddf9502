"""Read which faces people drew in a photo program: the regions in a photo's XMP or in a sidecar beside it.

Three vocabularies are read: MWG's (digiKam, Lightroom, Picasa, exiftool), ACDSee's and Microsoft's. The files are
untrusted: a region that breaks a rule costs only itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.names import person_name, spelling
from facegallery.embedder.photos.orientation import BACK, Box, turned
from facegallery.embedder.photos.xmp import Value

MOST_REGIONS = 1000  # of a packet
WHY = 200  # most characters of a reason
BEYOND = 0.01  # share of a side by which a box may lie outside of the picture: it was rounded, or drawn over the edge
NUMBER = re.compile(r"[+-]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})([eE][+-]?\d{1,3})?")
MWG = "http://www.metadataworkinggroup.com/schemas/regions/ "
AREA, SIZE = "http://ns.adobe.com/xmp/sType/Area# ", "http://ns.adobe.com/xap/1.0/sType/Dimensions# "
ACDSEE = "http://ns.acdsee.com/regions/ "
ACDSEE_AREA, ACDSEE_SIZE = "http://ns.acdsee.com/sType/Area# ", "http://ns.acdsee.com/sType/Dimensions# "
MICROSOFT = "http://ns.microsoft.com/photo/1.2/ "
MICROSOFT_LIST = "http://ns.microsoft.com/photo/1.2/t/RegionInfo# "
MICROSOFT_FACE = "http://ns.microsoft.com/photo/1.2/t/Region# "


@dataclass(frozen=True)
class DrawnFace:
    """A face that somebody drew and named.

    box: x0, y0, x1, y1 in pixels of the upright photo. other: where it lies if its program meant the other one of the
    stored picture and the upright one; None where the two are the same. name: '' and extra: columns, where a CSV
    places the face.
    """

    name: str
    box: Box
    other: Box | None = None
    extra: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Drawn:
    """The faces that somebody drew in a photo.

    refused: how many regions break a rule. why: why the last one, or a whole packet, was refused; '' where none was.
    """

    faces: tuple[DrawnFace, ...] = ()
    refused: int = 0
    why: str = ""


@dataclass(frozen=True)
class Region:
    """A named face as its program wrote it: x0, y0, x1, y1 as shares of the sides of a picture of the size `applied`.

    applied: None where the size is not stated.
    """

    name: str
    box: Box
    applied: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Raw:
    """A region as a packet has it. sides: x, y, w, h. centred: whether x and y are the centre's, or the corner's."""

    name: Value
    sides: Sequence[Value]
    unit: Value = None
    applied: tuple[float, float] | None = None
    centred: bool = True


class _Bad(Exception):
    """A region breaks a rule."""


def regions_of(fields: dict[str, Value]) -> tuple[list[Region], Drawn]:
    """Return the named faces in a packet's properties, and what was refused of them.

    Of a name that several vocabularies have, the first one's regions are taken: MWG's, ACDSee's, Microsoft's.
    """
    found: list[Region] = []
    refused, why = 0, ""
    for raws in (_mwg(fields), _acdsee(fields), _microsoft(fields)):
        names = {region.name for region in found}
        for raw in raws:
            try:
                region = _region(raw)
                if region is None or region.name in names:
                    continue
                if len(found) == MOST_REGIONS:
                    raise _Bad(f"more than {MOST_REGIONS:,} regions")
                found.append(region)
            except _Bad as error:
                refused, why = refused + 1, str(error)[:WHY]
    return found, Drawn((), refused, why)


def _mwg(fields: dict[str, Value]) -> list[_Raw]:
    top = _dictionary(fields.get(MWG + "Regions"))
    applied = _size(_dictionary(top.get(MWG + "AppliedToDimensions")), SIZE)
    faces = (one for one in _list(top.get(MWG + "RegionList")) if one.get(MWG + "Type") == "Face")
    return [_of_area(one.get(MWG + "Name"), one.get(MWG + "Area"), AREA, applied) for one in faces]


def _acdsee(fields: dict[str, Value]) -> list[_Raw]:
    top = _dictionary(fields.get(ACDSEE + "Regions"))
    applied = _size(_dictionary(top.get(ACDSEE + "AppliedToDimensions")), ACDSEE_SIZE)
    every = _list(top.get(ACDSEE + "RegionList"))
    faces = [o for o in every if o.get(ACDSEE + "Type") == "Face" and o.get(ACDSEE + "NameAssignType") != "denied"]
    return [_of_area(one.get(ACDSEE + "Name"), one.get(ACDSEE + "DLYArea"), ACDSEE_AREA, applied) for one in faces]


def _of_area(name: Value, area: Value, spelt: str, applied: tuple[float, float] | None) -> _Raw:
    sides = _dictionary(area)
    return _Raw(name, [sides.get(spelt + side) for side in "xywh"], sides.get(spelt + "unit"), applied)


def _microsoft(fields: dict[str, Value]) -> list[_Raw]:
    every = _list(_dictionary(fields.get(MICROSOFT + "RegionInfo")).get(MICROSOFT_LIST + "Regions"))
    texts = [(one.get(MICROSOFT_FACE + "PersonDisplayName"), one.get(MICROSOFT_FACE + "Rectangle")) for one in every]
    return [_Raw(name, text.split(","), centred=False) for name, text in texts if isinstance(text, str)]


def _region(raw: _Raw) -> Region | None:
    """Return a checked region; None for a face without a name."""
    name = _name(raw.name)
    if name is None:
        return None
    if len(raw.sides) != 4:
        raise _Bad("a rectangle that is not four numbers")
    x, y, w, h = map(_number, raw.sides)
    if raw.unit == "pixel":
        if raw.applied is None:
            raise _Bad("a region in pixels of a picture whose size is not stated")
        x, y, w, h = x / raw.applied[0], y / raw.applied[1], w / raw.applied[0], h / raw.applied[1]
    if raw.centred:
        x, y = x - w / 2, y - h / 2
    return Region(name, _box(x, y, w, h), raw.applied)


def _name(name: Value) -> str | None:
    """Return a person's name; None where there is none, as of faces that were found but not named."""
    text = name[0] if isinstance(name, list) and name else name
    if not isinstance(text, str) or not spelling(text):
        return None
    try:
        return person_name(text)
    except FaceGalleryError as error:
        raise _Bad(str(error)) from None


def _number(text: Value) -> float:
    """Return a number, which is never infinite or NaN."""
    text = text.strip() if isinstance(text, str) else ""
    if not NUMBER.fullmatch(text) or not math.isfinite(number := float(text)):
        raise _Bad("a region without a place, or with one that is no number")
    return number


def _box(x: float, y: float, w: float, h: float) -> Box:
    """Return x0, y0, x1, y1 within the picture; x, y: of the corner at the top left."""
    if not (w > 0 and h > 0 and min(x, y) >= -BEYOND and max(x + w, y + h) <= 1 + BEYOND):
        raise _Bad("a region that does not lie in the picture")
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + w, 1.0), min(y + h, 1.0)
    if not (x0 < x1 and y0 < y1):
        raise _Bad("a region that does not lie in the picture")
    return x0, y0, x1, y1


def _size(fields: dict[str, Value], spelt: str) -> tuple[float, float] | None:
    """Return the width and height that regions apply to; None where they are not stated."""
    try:
        w, h = _number(fields.get(spelt + "w")), _number(fields.get(spelt + "h"))
    except _Bad:
        return None
    return (w, h) if w > 0 and h > 0 else None


def _dictionary(value: Value) -> dict[str, Value]:
    return value if isinstance(value, dict) else {}


def _list(value: Value) -> list[dict[str, Value]]:
    """Return the dictionaries of a list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def placed(regions: Iterable[Region], width: int, height: int, turn: int) -> tuple[DrawnFace, ...]:
    """Return where regions lie in a photo of width x height upright pixels.

    turn: how the stored picture was turned, 1 to 8. Regions apply to the stored picture, as MWG says, unless they state
    a size that is upright where the stored picture is wide, or the other way round.
    """
    stored = (height, width) if turn >= 5 else (width, height)
    return tuple(_placed(region, (width, height), stored, turn) for region in regions)


def _placed(region: Region, upright: tuple[int, int], stored: tuple[int, int], turn: int) -> DrawnFace:
    as_stored, as_upright = _scaled(turned(region.box, turn), upright), _scaled(region.box, upright)
    if turn == 1:
        return DrawnFace(region.name, as_upright)
    if turn >= 5 and region.applied is not None and _lies(region.applied) == -_lies(stored):
        as_stored, as_upright = as_upright, as_stored
    return DrawnFace(region.name, as_stored, as_upright)


def _lies(size: Sequence[float]) -> float:
    """Return 1 for a wide picture, -1 for a high one; NaN for a square, which equals nothing."""
    return math.copysign(1, size[0] - size[1]) if size[0] != size[1] else math.nan


def _scaled(box: Box, size: tuple[int, int]) -> Box:
    return box[0] * size[0], box[1] * size[1], box[2] * size[0], box[3] * size[1]


def stored_box(box: Sequence[float], width: int, height: int, turn: int) -> Box:
    """Return a box in pixels of the upright photo, width x height, as shares of the sides of the stored picture.

    What lies outside of the photo is cut off.
    """
    x0, x1 = (min(max(x / width, 0.0), 1.0) for x in (box[0], box[2]))
    y0, y1 = (min(max(y / height, 0.0), 1.0) for y in (box[1], box[3]))
    return turned((x0, y0, x1, y1), BACK.get(turn, turn))


# between the decoder's process and this one ---------------------------------------


def to_record(drawn: Drawn) -> dict[str, Any]:
    """Return the faces as what JSON holds."""
    faces = [{"name": face.name, "box": face.box, "other": face.other} for face in drawn.faces]
    return {"faces": faces, "refused": drawn.refused, "why": drawn.why}


def from_record(record: Any, width: int, height: int) -> Drawn:
    """Return the faces of a record, checked again; raise ValueError for anything that `to_record` would not write."""
    if not isinstance(record, dict) or record.keys() != {"faces", "refused", "why"}:
        raise ValueError("other keys")
    faces, refused, why = record["faces"], record["refused"], record["why"]
    if not isinstance(faces, list) or len(faces) > MOST_REGIONS or type(refused) is not int or refused < 0:
        raise ValueError("no faces")
    if not isinstance(why, str) or len(why) > WHY:
        raise ValueError("no reason")
    return Drawn(tuple(_face(one, width, height) for one in faces), refused, why)


def _face(record: Any, width: int, height: int) -> DrawnFace:
    if not isinstance(record, dict) or record.keys() != {"name", "box", "other"}:
        raise ValueError("other keys")
    try:
        name = person_name(record["name"]) if isinstance(record["name"], str) else ""
    except FaceGalleryError:
        name = ""
    if not name or name != record["name"]:
        raise ValueError("no name")
    other = record["other"]
    return DrawnFace(
        name, _checked(record["box"], width, height), None if other is None else _checked(other, width, height)
    )


def _checked(box: Any, width: int, height: int) -> Box:
    if not isinstance(box, list) or len(box) != 4 or any(type(side) is not float for side in box):
        raise ValueError("no box")
    x0, y0, x1, y1 = box
    if not (0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height):
        raise ValueError("a box outside of the photo")
    return x0, y0, x1, y1
