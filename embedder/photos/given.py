"""Read the faces that a CSV places in photos: a box on each line, in pixels of the photo as it is shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from facegallery.embedder.dataset.row import GivenFace
from facegallery.embedder.errors import DataError
from facegallery.embedder.photos.csv_file import SIDES, SIZE, CsvLine, CsvTable
from facegallery.embedder.photos.orientation import Box
from facegallery.embedder.photos.regions import BEYOND, MOST_REGIONS, NUMBER, WHY, Drawn, DrawnFace

OUTSIDE = "a box ({}) that does not lie in the photo of {} x {} pixels"
ALIKE = 0.02  # by which the proportions of a picture and its photo may differ: sides are rounded


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
    if not any(line[side] for side in sides):
        return None
    x0, y0, x1, y1 = (_number(line, side) for side in sides)
    if not (x0 < x1 and y0 < y1):
        shown = ", ".join(line[side] for side in sides)[:60]
        raise BadBox(f"a box ({shown}) without width or height; {', '.join(sides)} are expected")
    return x0, y0, x1, y1


def size_of(line: CsvLine) -> tuple[float, float] | None:
    """Return the size of the picture that a line's box applies to; None where no cell says it. Raise BadBox."""
    if not any(line[side] for side in SIZE):
        return None
    width, height = (_number(line, side) for side in SIZE)
    if not (width > 0 and height > 0):
        raise BadBox(f"a picture of {width:g} x {height:g} pixels")
    return width, height


def _number(line: CsvLine, column: str) -> float:
    cell = line[column]
    if not NUMBER.fullmatch(cell) or not math.isfinite(float(cell)):
        raise BadBox(f"{column} is {cell[:20]!r}, no number" if cell else f"{column} is empty")
    return float(cell)


def drawn_of(given: Sequence[GivenFace], width: int, height: int, before: Drawn | None = None) -> Drawn:
    """Return the faces that lie in a photo of width x height pixels; the others are refused, each with a reason.

    before: what was refused of the photo's own regions.
    """
    faces: list[DrawnFace] = []
    refused, why = (before.refused, before.why) if before is not None else (0, "")
    for face in given:
        try:
            box = _placed(face, width, height)
            if len(faces) == MOST_REGIONS:
                raise BadBox(f"more than {MOST_REGIONS:,} boxes")
        except BadBox as error:
            refused, why = refused + 1, str(error)
            continue
        faces.append(DrawnFace(face.identity or "", box, extra=face.extra))
    return Drawn(tuple(faces), refused, why[:WHY])


def _placed(face: GivenFace, width: int, height: int) -> Box:
    """Return a face's box in the photo, cut at its edge; raise BadBox where it lies farther out than by rounding."""
    wide, high = face.size or (width, height)
    if not 1 - ALIKE <= (wide / high) / (width / height) <= 1 + ALIKE:
        raise BadBox(f"a box in a picture of {wide:g} x {high:g} pixels, the photo has {width} x {height}")
    box = [side * (width / wide, height / high)[i % 2] for i, side in enumerate(face.box)]
    dx, dy = BEYOND * width, BEYOND * height
    x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
    is_near = -dx <= box[0] and -dy <= box[1] and box[2] <= width + dx and box[3] <= height + dy
    if not (is_near and x0 < x1 and y0 < y1):
        shown = ", ".join(f"{side:g}" for side in face.box)
        raise BadBox(OUTSIDE.format(shown, f"{wide:g}", f"{high:g}"))
    return x0, y0, x1, y1


def nameless(faces: Sequence[GivenFace]) -> tuple[GivenFace, ...]:
    """Return the same places, of nobody."""
    return tuple(replace(face, identity=None) for face in faces)
