"""Draw pictures for people: a contact sheet of photos beside their crops, and a probe beside its matches."""

from __future__ import annotations

import functools
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from facegallery.embedder.errors import InputError
from facegallery.embedder.replaceable import PICTURES, SIGN, check_replaceable, write_own

TILE, CAPTION, GAP = 160, 34, 6
INK, PAPER, GREEN, RED, GREY = (20, 20, 20), (255, 255, 255), (0, 140, 60), (200, 40, 40), (150, 150, 150)


@dataclass
class Tile:
    """A cell of a grid: a picture, its caption and its frame.

    picture: uint8 RGB (h, w, 3) of any size; None draws an empty cell. caption: at most two lines. frame: RGB colour.
    """

    picture: np.ndarray | None
    caption: str = ""
    frame: tuple[int, int, int] = GREY
    box: Sequence[float] | None = None  # x0 y0 x1 y1 in pixels of the picture; drawn on it


def grid(rows: Sequence[Sequence[Tile]]) -> Image.Image:
    """Draw rows of tiles as one RGB picture."""
    columns = max(map(len, rows))
    step_x, step_y = TILE + GAP, TILE + CAPTION + GAP
    sheet = Image.new("RGB", (columns * step_x + GAP, len(rows) * step_y + GAP), PAPER)
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            _draw(sheet, tile, GAP + c * step_x, GAP + r * step_y)
    return sheet


def _draw(sheet: Image.Image, tile: Tile, x: int, y: int) -> None:
    draw = ImageDraw.Draw(sheet)
    if tile.picture is not None:
        picture = Image.fromarray(tile.picture)
        scale = min(TILE / picture.width, TILE / picture.height)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        left, top = x + (TILE - size[0]) // 2, y + (TILE - size[1]) // 2
        sheet.paste(picture.resize(size, Image.Resampling.BILINEAR), (left, top))
        if tile.box is not None:
            x0, y0, x1, y1 = (v * scale for v in tile.box)
            draw.rectangle((left + x0, top + y0, left + x1, top + y1), outline=GREEN, width=2)
    draw.rectangle((x - 1, y - 1, x + TILE, y + TILE), outline=tile.frame, width=2)
    font = _font()
    for i, line in enumerate(tile.caption.split("\n")[:2]):
        draw.text((x + 2, y + TILE + 3 + 15 * i), _fit(line, font), fill=INK, font=font)


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which matplotlib ships: it has the letters of most names."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 11)


def _fit(text: str, font: ImageFont.FreeTypeFont) -> str:
    text = unicodedata.normalize("NFC", text)
    if font.getlength(text) <= TILE - 4:
        return text
    while text and font.getlength(text + "…") > TILE - 4:
        text = text[:-1]
    return text + "…"


def save(sheet: Image.Image, path: Path) -> None:
    """Write a picture, signed as ours, atomically.

    Raise InputError for a suffix other than .png and .jpg, and where `path` is a file that this program did not write.
    """
    if path.suffix.lower() not in PICTURES:
        raise InputError(f"expected a picture's name such as answers.png, received {path.name}: choose .png or .jpg")
    check_replaceable(path, "picture")
    sink = io.BytesIO()
    if path.suffix.lower() == ".png":
        info = PngInfo()
        info.add_text("Software", SIGN)
        sheet.save(sink, "PNG", pnginfo=info)
    else:
        sheet.save(sink, "JPEG", comment=SIGN.encode())
    write_own(path, "picture", sink.getvalue())
