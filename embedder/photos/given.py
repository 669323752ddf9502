"""Read the faces that a CSV places in photos: a box on each line, in pixels of the photo as it is shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from facegallery.embedder.dataset.row import GivenFace
from facegallery.embedder.errors import DataError
from facegallery.embedder.photos.csv_file import SIDES, CsvLine, CsvTable
from facegallery.embedder.photos.orientation import Box
from facegallery.embedder.photos.regions import BEYOND, MOST_REGIONS, NUMBER, WHY, Drawn, DrawnFace

OUTSIDE = "a box ({}) that does not lie in the photo of {} x {} pixels"


class BadBox(Exception):
    """A line's box cannot be one."""


def sides_of(table: CsvTable) -> tuple[str, ...] | None:
    """Return the columns that hold boxes; None where there are none. Raise DataError where two sets of them do."""
    found = [sides for sides in SIDES if set(sides) <= set(table.columns)]
    if len(found) > 1:
        raise DataError(
            f"expected boxes once, {table.path} has {', '.join(found[0])} and {', '.join(found[1])}: "
            "take out one of the two"
        )
    return found[0] if found else None


def box_of(line: CsvLine, sides: Sequence[str]) -> Box | None:
    """Return a line's box; None where its cells are empty. Raise BadBox for anything else but a box."""
    cells = [line[side] for side in sides]
    if not any(cells):
        return None
    for side, cell in zip(sides, cells, strict=True):
        if not NUMBER.fullmatch(cell) or not math.isfinite(float(cell)):
            raise BadBox(f"{side} is {cell[:20]!r}, no number" if cell else f"{side} is empty")
    x0, y0, x1, y1 = map(float, cells)
    if not (x0 < x1 and y0 < y1):
        raise BadBox(f"a box ({', '.join(cells)[:60]}) without width or height; {', '.join(sides)} are expected")
    return x0, y0, x1, y1


def drawn_of(given: Sequence[GivenFace], width: int, height: int, before: Drawn | None = None) -> Drawn:
    """Return the faces that lie in a photo of width x height pixels; the others are refused, each with a reason.

    before: what was refused of the photo's own regions.
    """
    faces: list[DrawnFace] = []
    refused, why = (before.refused, before.why) if before is not None else (0, "")
    for face in given:
        box = _inside(face.box, width, height)
        if box is None or len(faces) == MOST_REGIONS:
            shown = ", ".join(f"{side:g}" for side in face.box)
            refused += 1
            why = OUTSIDE.format(shown, width, height) if box is None else f"more than {MOST_REGIONS:,} boxes"
            continue
        faces.append(DrawnFace(face.identity or "", box, extra=face.extra))
    return Drawn(tuple(faces), refused, why[:WHY])


def _inside(box: Box, width: int, height: int) -> Box | None:
    """Return a box cut at the photo's edge; None for one that lies farther outside than rounding explains."""
    dx, dy = BEYOND * width, BEYOND * height
    if not (-dx <= box[0] and -dy <= box[1] and box[2] <= width + dx and box[3] <= height + dy):
        return None
    x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def nameless(faces: Sequence[GivenFace]) -> tuple[GivenFace, ...]:
    """Return the same places, of nobody."""
    return tuple(replace(face, identity=None) for face in faces)
