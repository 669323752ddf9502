"""Pictures of what was done: answers beside their probes, crops beside their photos."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facegallery.embedder.dataset.dataset import DataSet, is_data_set
from facegallery.embedder.dataset.row import Row, to_rows
from facegallery.embedder.errors import DataError
from facegallery.embedder.faces import align as crops_of
from facegallery.embedder.photos.decoder import Decoder
from facegallery.embedder.photos.listing import is_outside, list_photos
from facegallery.embedder.spec import INPUT_SIZE, CropRule
from facegallery.embedder.text import printable
from facegallery.indexer.evaluation.evaluate import RANKS
from facegallery.indexer.search.searcher import exact_scores
from facegallery.indexer.search.templates import exact_score
from facegallery.results import Hit
from facegallery.workflows.inputs import items_of
from facegallery.workflows.session import Where, session_of

if TYPE_CHECKING:
    from facegallery.embedder import draw
    from facegallery.indexer.evaluation.evaluate import Evaluation, ProbeAnswer
    from facegallery.indexer.evaluation.report import ReportTile, Sheet
    from facegallery.indexer.search.searcher import Searcher
    from facegallery.indexer.store.reader import StoredFace
    from facegallery.indexer.store.store import Store
    from facegallery.workflows.probes import ProbeReader
    from facegallery.workflows.search import Searched

SHEET_ROWS = 40
MISTAKES, STRANGERS = 60, 24  # of a web page
JPEG_QUALITY = 85
HOW_WRONG = (
    "Somebody else scored higher than the right person; the widest gap comes first. Where the asked face and the "
    "answered one are the same person, a label is wrong: the commands rename, merge and split correct it in the index."
)
HOW_STRANGE = (
    "Probes of people who are not enrolled, with the person they most resemble; the highest score comes first. Where "
    "both are the same person, they are enrolled under another name."
)


def draw_answers(where: Where, searched: Searched, path: Path) -> None:
    """Draw each probe's face beside its matches in an index, with names and scores; the first SHEET_ROWS of them."""
    from facegallery.embedder import draw
    from facegallery.indexer.store import outputs

    with session_of(where) as session, session.store() as store:
        rows = [
            [_probe_tile(row), *(_hit_tile(store, hit, row.identity) for hit in answer.hits)]
            for probe, answers in searched.probes
            for row, answer in zip(probe.rows, answers, strict=True)
            if row.vector is not None
        ]
        if not rows:
            raise DataError("expected at least one face to draw, found none in the probes: see their outcomes")
        draw.save(draw.grid(rows[:SHEET_ROWS]), path)
        outputs.note(store.folder, "picture", path)


def _probe_tile(row: Row) -> draw.Tile:
    from facegallery.embedder import draw

    picture = row.pixels if row.pixels is not None else _without_border(row.crop)
    return draw.Tile(picture, f"{printable(row.identity or '')}\n{printable(Path(row.image).name)}")


def _hit_tile(store: Store, hit: Hit, truth: str | None) -> draw.Tile:
    from facegallery.embedder import draw

    text = f"{hit.rank}. {printable(hit.identity)}\n{hit.score:.3f}"
    return draw.Tile(_without_border(store.crop(hit.face_id)), text, _frame(truth, hit.identity))


def _frame(truth: str | None, answer: str) -> tuple[int, int, int]:
    from facegallery.embedder import draw

    return draw.GREY if truth is None else draw.GREEN if truth == answer else draw.RED


def _without_border(png: bytes | None) -> np.ndarray | None:
    if png is None:
        return None
    crop = crops_of.from_png(png)
    is_square = crop.shape[0] == crop.shape[1] >= INPUT_SIZE  # of windows a square is rare, and loses little
    return crops_of.centre(crop, CropRule(border=(len(crop) - INPUT_SIZE) // 2)) if is_square else crop


def contact_sheet(photos: Path, crops: Path, path: Path) -> None:
    """Draw photos with their boxes beside their crops, SHEET_ROWS at most; photos without a face come first."""
    from facegallery.embedder import draw

    source = photos if photos.is_dir() else photos.parent
    rows = sorted(sheet_rows(DataSet(crops)), key=lambda row: row.outcome == "ok")[:SHEET_ROWS]
    with Decoder() as decoder:
        tiles = [[_photo_tile(row, source, decoder), _crop_tile(row)] for row in rows]
    columns = 4
    draw.save(draw.grid([sum(tiles[i : i + columns], []) for i in range(0, len(tiles), columns)]), path)


def _photo_tile(row: Row, source: Path, decoder: Decoder) -> draw.Tile:
    from facegallery.embedder import draw

    photo = None if is_outside(source, row.image) else decoder.submit(source, row.image).result().pixels
    frame = draw.GREY if row.outcome == "ok" else draw.RED
    return draw.Tile(photo, f"{printable(Path(row.image).name)}\n{row.outcome}", frame, row.box)


def _crop_tile(row: Row) -> draw.Tile:
    from facegallery.embedder import draw

    crop = crops_of.from_png(row.crop) if row.crop is not None else None
    return draw.Tile(crop, f"{printable(row.identity or '')}\n{row.confidence or 0:.3f}")


def sheet_rows(crops: DataSet) -> Iterator[Row]:
    """Rows for a sheet: all that failed, and the first SHEET_ROWS that did not."""
    good = 0
    for table in crops.shards():
        for row in to_rows(table):
            good += row.outcome == "ok"
            if row.outcome != "ok" or good <= SHEET_ROWS:
                yield row


# faces of a web page --------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """Where the faces of a web page come from."""

    searcher: Searcher
    reader: ProbeReader  # one that keeps pixels
    enrolled: tuple[list[StoredFace], np.ndarray]  # as `Searcher.all_faces` gives it
    score: str  # a person's


def contact_sheets(shown: Shown, sources: Iterable[Path], evaluation: Evaluation) -> list[Sheet]:
    """Lay out the worst mistakes, and the strangers who most resemble somebody."""
    wrong = evaluation.mistakes(MISTAKES)
    alike = sorted((a for a in evaluation.strangers if a.hits), key=lambda a: -a.best)[:STRANGERS]
    faces = probe_faces(shown.reader, sources, {(a.image, a.face_id) for a in (*wrong, *alike)})
    sheets = [_sheet_of_mistakes(shown, evaluation, wrong, faces)]
    return [*sheets, _sheet_of_strangers(shown, evaluation, alike, faces)] if alike else sheets


def _sheet_of_mistakes(
    shown: Shown, evaluation: Evaluation, wrong: Sequence[ProbeAnswer], faces: Mapping[str, bytes]
) -> Sheet:
    from facegallery.indexer.evaluation.report import Mistake, Sheet

    total = sum(bool(a.hits) and a.rank != 1 for a in evaluation.probes)
    lines = [
        Mistake(
            (_asked(a, faces), _enrolled(shown, "answered", a.hits[0]), _enrolled(shown, f"right, {_place(a)}", right))
        )
        for a, right in zip(wrong, _right_hits(shown, wrong), strict=True)
    ]
    text = HOW_WRONG if wrong else "Nobody scored higher than the right person."
    return Sheet(f"The worst mistakes: {len(lines)} of {total}", text, lines)


def _sheet_of_strangers(
    shown: Shown, evaluation: Evaluation, alike: Sequence[ProbeAnswer], faces: Mapping[str, bytes]
) -> Sheet:
    from facegallery.indexer.evaluation.report import Mistake, Sheet

    lines = [Mistake((_asked(a, faces), _enrolled(shown, "answered", a.hits[0]))) for a in alike]
    return Sheet(f"Strangers most like somebody: {len(lines)} of {len(evaluation.strangers)}", HOW_STRANGE, lines)


def _asked(answer: ProbeAnswer, faces: Mapping[str, bytes]) -> ReportTile:
    from facegallery.indexer.evaluation.report import ReportTile

    return ReportTile("asked", answer.identity or "(no name)", answer.image, faces.get(answer.face_id))


def _enrolled(shown: Shown, role: str, hit: Hit) -> ReportTile:
    from facegallery.indexer.evaluation.report import ReportTile

    return ReportTile(role, hit.identity, hit.image, enrolled_face(shown.searcher, hit.face_id), hit.score)


def _place(answer: ProbeAnswer) -> str:
    return f"rank {answer.rank}" if answer.rank else f"rank beyond {RANKS}"


def _right_hits(shown: Shown, wrong: Sequence[ProbeAnswer]) -> list[Hit]:
    """The true person's hit for each answer, scored here where it is not among the answers."""
    own: dict[str, list[int]] = {a.person: [] for a in wrong if a.right is None}
    for i, face in enumerate(shown.enrolled[0]):
        if face.identity in own:
            own[face.identity].append(i)
    return [a.right or _hit_of(shown, a, own[a.person]) for a in wrong]


def _hit_of(shown: Shown, answer: ProbeAnswer, own: list[int]) -> Hit:
    assert answer.vector is not None
    q, xb = shown.searcher.as_compared(answer.vector[None])[0], shown.enrolled[1][own]
    scores = exact_scores(q, xb)
    face = shown.enrolled[0][own[int(scores.argmax())]]
    value = float(scores.max()) if shown.score == "best" else exact_score(q, xb, shown.score)
    return Hit(0, face.identity, value, face.face_id, face.image)


def jpeg(pixels: np.ndarray | None) -> bytes | None:
    """A crop, uint8 RGB, an eighth of its PNG in size."""
    if pixels is None:
        return None
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=JPEG_QUALITY)
    return sink.getvalue()


def enrolled_face(searcher: Searcher, face_id: str) -> bytes | None:
    """JPEG; None where the crop was not kept."""
    return jpeg(_without_border(searcher.crop(face_id)))


def probe_faces(reader: ProbeReader, sources: Iterable[Path], wanted: Collection[tuple[str, str]]) -> dict[str, bytes]:
    """JPEGs of wanted probes by face_id: from data sets whose crops were kept, from photos by detecting them again.

    reader: one that keeps pixels. wanted: (image, face_id) of each.
    """
    images, ids = {image for image, _ in wanted}, {face_id for _, face_id in wanted}
    found: dict[str, bytes] = {}
    for source in sources:
        rows = _kept_rows(source, ids) if is_data_set(source) else _detected(reader, source, images)
        for face_id, pixels in rows:
            if face_id in ids and (picture := jpeg(pixels)) is not None:
                found[face_id] = picture
    return found


def _kept_rows(source: Path, ids: Collection[str]) -> Iterator[tuple[str, np.ndarray | None]]:
    data = DataSet(source)
    for shard in sorted(data.marks):
        of_shard = data.shard(shard, ["face_id"])["face_id"].to_pylist()
        if at := [i for i, face_id in enumerate(of_shard) if face_id in ids]:
            crops = data.shard(shard, ["crop"])["crop"]
            yield from ((of_shard[i], _without_border(crops[i].as_py())) for i in at)


def _detected(reader: ProbeReader, source: Path, images: Collection[str]) -> Iterator[tuple[str, np.ndarray | None]]:
    listing = list_photos(source)
    if entries := [entry for entry in listing.entries if entry.path in images]:
        for probe in reader.of_photos(items_of(replace(listing, entries=entries))):
            yield from ((row.face_id, row.pixels) for row in probe.rows)
