"""Pictures of what was done: answers beside their probes, crops beside their photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedder import align as crops_of
from embedder.errors import DataError
from embedder.photos import Decoder, is_outside
from embedder.spec import INPUT_SIZE, CropRule
from embedder.table import DataSet, Row, to_rows

if TYPE_CHECKING:
    from indexer.search import Hit, Searcher
    from workflows import Probe

SHEET_ROWS = 40


def draw_answers(found: Sequence[tuple[Probe, list[list[Hit]]]], searcher: Searcher, path: Path) -> None:
    """Each probe's face beside its matches, with names and scores; the first SHEET_ROWS of them."""
    from embedder import draw

    rows = []
    for probe, hits in found:
        for row, of_row in zip(probe.rows, hits, strict=True):
            if row.vector is not None:
                tiles = [draw.Tile(_hit_picture(searcher, hit), f"{hit.rank}. {hit.identity}\n{hit.score:.3f}",
                                   _frame(row.identity, hit.identity)) for hit in of_row]  # fmt: skip
                rows.append([draw.Tile(_probe_picture(row), f"{row.identity or ''}\n{Path(row.image).name}"), *tiles])
    if not rows:
        raise DataError("expected at least one face to draw, found none in the probes: see their outcomes")
    draw.save(draw.grid(rows[:SHEET_ROWS]), path)


def _frame(truth: str | None, answer: str) -> tuple[int, int, int]:
    from embedder import draw

    return draw.GREY if truth is None else draw.GREEN if truth == answer else draw.RED


def _probe_picture(row: Row) -> np.ndarray | None:
    return row.pixels if row.pixels is not None else _without_border(row.crop)


def _hit_picture(searcher: Searcher, hit: Hit) -> np.ndarray | None:
    return _without_border(searcher.crop(hit.face_id))


def _without_border(png: bytes | None) -> np.ndarray | None:
    if png is None:
        return None
    crop = crops_of.from_png(png)
    return crops_of.centre(crop, CropRule(border=(len(crop) - INPUT_SIZE) // 2))


def contact_sheet(photos: Path, crops: Path, path: Path) -> None:
    """Photos with their boxes beside their crops, SHEET_ROWS at most; photos without a face come first."""
    from embedder import draw

    source = photos if photos.is_dir() else photos.parent
    rows = sorted(sheet_rows(DataSet(crops)), key=lambda row: row.outcome == "ok")[:SHEET_ROWS]
    tiles = []
    with Decoder() as decoder:
        for row in rows:
            photo = None if is_outside(source, row.image) else decoder.submit(source, row.image).result().pixels
            crop = crops_of.from_png(row.crop) if row.crop is not None else None
            tiles.append([
                draw.Tile(photo, f"{Path(row.image).name}\n{row.outcome}", draw.GREY if row.outcome == "ok" else draw.RED, row.box),
                draw.Tile(crop, f"{row.identity or ''}\n{row.confidence or 0:.3f}"),
            ])  # fmt: skip
    columns = 4
    draw.save(draw.grid([sum(tiles[i : i + columns], []) for i in range(0, len(tiles), columns)]), path)


def sheet_rows(crops: DataSet) -> Iterator[Row]:
    """Rows for a sheet: all that failed, and the first SHEET_ROWS that did not."""
    good = 0
    for table in crops.shards():
        for row in to_rows(table):
            good += row.outcome == "ok"
            if row.outcome != "ok" or good <= SHEET_ROWS:
                yield row
