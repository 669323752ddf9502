"""photos -> crops -> vectors -> shards, streaming: memory holds one shard's crops and a few photos."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from facegallery.embedder.dataset.checks import damaged
from facegallery.embedder.dataset.dataset import SHARD_PHOTOS, DataSet, DataSetWriter, check_is_ours, shard_path
from facegallery.embedder.dataset.row import Entry, Row, to_rows, to_table
from facegallery.embedder.errors import DataError
from facegallery.embedder.faces import align
from facegallery.embedder.faces.mtcnn import DetectedFace, Detector
from facegallery.embedder.files import locked, make_folder
from facegallery.embedder.machine import cores
from facegallery.embedder.outcomes import NO_FACE, OK, PASSING, TOO_SMALL
from facegallery.embedder.photos.decoder import Decoder, Photo
from facegallery.embedder.photos.listing import Listing, path_inside
from facegallery.embedder.photos.workers import Workers
from facegallery.embedder.spec import FaceSpec

if TYPE_CHECKING:
    from facegallery.embedder.network.runtime import Embedder

CHUNK_PIXELS = 32 * 250 * 250
SHARDS_AHEAD = 8  # at most so many between a photo that is decoded and one that is written
MANY = 4 << 20  # bytes of photos: processes of their own are ready by then, and have made up for it
PACKAGES = ("facegallery", "openvino", "tensorflow", "tensorflow-cpu", "keras", "mtcnn", "numpy", "pillow", "pyarrow")
OnProgress = Callable[[int, int], None]
Say = Callable[[str], None]


def _unsaid(line: str) -> None:
    pass


@dataclass
class Summary:
    """What a run did: inputs, rows by outcome, and the lines that the user should see."""

    folder: str
    photos: int
    written: int  # inputs that this run wrote; the others were there already
    outcomes: dict[str, int]
    seconds: float
    fingerprint: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    understood: dict[str, Any] | None = None  # whose the photos are; None where the input was crops
    unsure: list[str] = field(
        default_factory=list
    )  # new photos of a person in which another face is nearly as large as the one taken

    @property
    def failed(self) -> int:
        return sum(n for outcome, n in self.outcomes.items() if outcome != OK)


@dataclass(frozen=True)
class Options:
    """What a run does with each photo; part of what a resumed run must repeat."""

    all_faces: bool = False
    keep_crops: bool = True
    prune: bool = False
    keep_pixels: bool = False  # of crops, in the rows
    most_faces: int | None = None  # of a photo, the largest and most central ones; with all_faces
    retry: frozenset[str] = frozenset()  # lasting outcomes of earlier runs whose photos are done again


class PhotoStage:
    """Photos -> rows: detect, crop; and vectors where there is an embedder. As many chunks of photos at a time as there are cores.

    Many photos go to processes, each on a core of its own; few, which would be done before those are ready, to threads of this one, as do all
    where there is a GPU. The processes last as long as this object.
    """

    def __init__(self, spec: FaceSpec, detector: Detector, embedder: Embedder | None, options: Options):
        self.spec, self.options = replace(spec, detector=detector.record), options
        self._detector, self._embedder = detector, embedder
        self._threads = ThreadPoolExecutor(cores())  # kept: what a thread or process needs is made once
        self._workers: Workers | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_threads": None, "_workers": None}

    def rows(
        self, photos: Iterator[Photo], entries: dict[str, Entry]
    ) -> Generator[tuple[Photo, list[Row]], None, None]:
        """Each photo, without its pixels, and its rows, in order."""
        waiting: deque[Future[list[tuple[Photo, list[Row]]]]] = deque()
        submit = self._pool(sum(entry.size for entry in entries.values()))
        try:
            for chunk in chunks(map(self.checked, photos)):
                waiting.append(submit(chunk, [entries[photo.name] for photo in chunk]))
                if len(waiting) > cores():
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:  # where the user stopped it, or a chunk failed
            if [future for future in waiting if not future.cancel() and not future.done()]:
                self._end_workers()

    def _pool(self, n_bytes: int) -> Callable[[list[Photo], list[Entry]], Future[list[tuple[Photo, list[Row]]]]]:
        """What does a chunk of photos that have so many bytes together."""
        if n_bytes < MANY or cores() == 1 or self._detector.compute.on_gpu:
            return lambda *chunk: self._threads.submit(self.of_chunk, *chunk)
        self._workers = self._workers or Workers(self.of_chunk)
        return self._workers.submit

    def _end_workers(self) -> None:
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def of_chunk(self, chunk: list[Photo], entries: list[Entry]) -> list[tuple[Photo, list[Row]]]:
        """Photos and what is known of each -> each without its pixels, and its rows."""
        faces = iter(self._detector([photo.pixels for photo in chunk if photo.pixels is not None]))
        made = []
        for photo, entry in zip(chunk, entries, strict=True):
            pixels = photo.pixels
            made.append(
                (photo, [row_of(photo, entry)] if pixels is None else self._rows_of(photo, pixels, entry, next(faces)))
            )
            photo.pixels = None
        self._finish([row for _, rows in made for row in rows])
        return made

    def checked(self, photo: Photo) -> Photo:
        """A photo in which no face fits keeps no pixels."""
        least = self.spec.detector["min_face"]
        if photo.pixels is not None and min(photo.pixels.shape[:2]) < least:
            height, width = photo.pixels.shape[:2]
            return Photo(photo.name, TOO_SMALL, f"{width} x {height} pixels, faces have at least {least}", photo.sha256)
        return photo

    def _rows_of(self, photo: Photo, pixels: np.ndarray, entry: Entry, faces: list[DetectedFace]) -> list[Row]:
        height, width = pixels.shape[:2]
        ordered = align.order_faces(faces, width, height)
        if not ordered and self.spec.crop.no_face == "whole":
            ordered = [DetectedFace((0.0, 0.0, float(width), float(height)), (), 0.0)]
        if not ordered:
            photo.outcome, photo.why = NO_FACE, "the detector finds none"
            return [row_of(photo, entry)]
        photo.faces = len(ordered)
        kept = ordered[: self.options.most_faces] if self.options.all_faces else ordered[:1]
        return [self._face_row(photo, pixels, entry, number, ordered) for number in range(len(kept))]

    def _face_row(self, photo: Photo, pixels: np.ndarray, entry: Entry, number: int, faces: list[DetectedFace]) -> Row:
        face = faces[number]
        row = row_of(photo, entry, number)
        row.identity = entry.identity if number == 0 else None
        row.photo_faces, row.largest_other = photo.faces, align.largest_other(number, faces)
        row.box, row.landmarks, row.confidence = face.box, face.landmarks or None, face.confidence
        row.pixels = align.cut(pixels, face.box, self.spec.crop)
        row.sharpness = align.sharpness(align.centre(row.pixels, self.spec.crop))
        return row

    def _finish(self, rows: Sequence[Row]) -> None:
        """Vectors and PNGs from the crops' pixels."""
        if self._embedder is not None:
            add_vectors(rows, self._embedder, self.spec)
        for row in rows:
            if row.pixels is not None and self.options.keep_crops:
                row.crop = align.to_png(row.pixels)
            if not self.options.keep_pixels:
                row.pixels = None


def row_of(photo: Photo, entry: Entry, face: int = -1) -> Row:
    """A row with the photo's labels and the user's own columns."""
    return Row(photo.name, photo.outcome, photo.sha256, entry.identity, entry.split, face, extra=dict(entry.extra))


def chunks(photos: Iterator[Photo]) -> Iterator[list[Photo]]:
    """Runs of photos that together have at most CHUNK_PIXELS, or one larger photo."""
    chunk: list[Photo] = []
    pixels = 0
    for photo in photos:
        size = 0 if photo.pixels is None else photo.pixels.shape[0] * photo.pixels.shape[1]
        if chunk and pixels + size > CHUNK_PIXELS:
            yield chunk
            chunk, pixels = [], 0
        chunk.append(photo)
        pixels += size
    if chunk:
        yield chunk


def add_vectors(rows: Sequence[Row], embedder: Embedder, spec: FaceSpec) -> None:
    """Sets `vector` of each row that has pixels."""
    faces = [row for row in rows if row.pixels is not None]
    crops = [align.centre(row.pixels, spec.crop) for row in faces if row.pixels is not None]
    if faces:
        for row, vector in zip(faces, embedder(np.stack(crops)), strict=True):
            row.vector = vector


def process_photos(
    listing: Listing,
    out: Path,
    stage: PhotoStage,
    command: str,
    on_progress: OnProgress,
    per_shard: int = SHARD_PHOTOS,
    say: Say = _unsaid,
) -> Summary:
    """Run `stage` over the photos that are not done yet; a kill can lose the chunks in progress and a shard that is not full.

    say: receives a line where another process writes to the same folder, for which this one waits.
    """
    check_is_ours(out)
    with locked(make_folder(out), say):
        return _process_photos(listing, out, stage, command, on_progress, per_shard)


def _process_photos(
    listing: Listing, out: Path, stage: PhotoStage, command: str, on_progress: OnProgress, per_shard: int
) -> Summary:
    options = {
        "command": command,
        "all faces": stage.options.all_faces,
        "crops kept": stage.options.keep_crops,
        "border": stage.spec.crop.border,
        "no face": stage.spec.crop.no_face,
        "detector": stage.spec.detector,
    }
    writer = DataSetWriter(
        out,
        stage.spec,
        options,
        listing.entries,
        listing.extra,
        per_shard,
        prune=stage.options.prune,
        retry=PASSING | stage.options.retry,
        hash_of=lambda entry: hash_of(listing.root, entry),
    )
    problems: list[str] = []
    several = Several()
    retried: Counter[str] = Counter()
    made_now = 0
    pending = writer.pending()
    names = (e.path for shard, _ in pending for e in writer.todo(shard))
    every = {e.path: e for _, entries in pending for e in entries}
    with Decoder() as decoder, closing(stage.rows(decoder.stream(listing.root, names), every)) as made:

        def make(shard: int, entries: list[Entry], tick: Callable[[int], None]) -> pa.Table:
            nonlocal made_now
            rows: list[Row] = []
            kept = writer.kept(shard)
            for entry in entries:
                of_photo = kept.get(entry.path)
                if of_photo is None:
                    photo, of_photo = next(made)
                    made_now += 1
                    several.add(of_photo[0])
                    if of_photo[0].outcome != OK:
                        problems.append(f"{photo.name}: {of_photo[0].outcome} ({photo.why})")
                    if entry.path in writer.retried:
                        retried[of_photo[0].outcome] += 1
                rows += of_photo
                tick(1)
            return to_table(rows, stage.spec, listing.extra)

        summary = run(writer, make, on_progress)
    summary.written, summary.problems = made_now, problems
    summary.notes = listing.notes + summary.notes + _retry_notes(writer.retried, retried[OK]) + several.notes
    summary.understood, summary.unsure = listing.understood().result(), several.unsure
    return summary


@dataclass
class Several:
    """Photos of a person that show several faces."""

    count: int = 0
    unsure: list[str] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Counts a photo by the row of its first face."""
        if row.identity is not None and (row.photo_faces or 0) > 1:
            self.count += 1
            self.unsure += [row.image] if row.is_unsure else []

    @property
    def notes(self) -> list[str]:
        """One line, or none."""
        if not self.count:
            return []
        line = f"photos of a person that show several faces: {self.count}; the largest, most central one was taken"
        if not self.unsure:
            return [line]
        shown = ", ".join(map(repr, self.unsure[:3]))
        return [
            f"warning: {line}, but in {len(self.unsure)} another is nearly as large, such as {shown}: look at these, and crop them if need be"
        ]


def _retry_notes(retried: Mapping[str, str], good: int) -> list[str]:
    """What came of the photos that failed in an earlier run and were tried again."""
    if not retried:
        return []
    before = ", ".join(f"{n} {outcome}" for outcome, n in sorted(Counter(retried.values()).items()))
    return [f"{len(retried)} photos that failed before were tried again ({before}): {good} of them are ok now"]


def hash_of(root: Path, entry: Entry) -> str | None:
    """sha256 of a photo's bytes; None where they cannot be read."""
    from facegallery.embedder.photos.kinds import PhotoRefused
    from facegallery.embedder.photos.pixels import read

    path = path_inside(root, entry.path)
    try:
        return None if path is None else read(path)[1]
    except PhotoRefused:
        return None


def process_crops(
    crops: DataSet, out: Path, embedder: Embedder, keep_crops: bool, on_progress: OnProgress, say: Say = _unsaid
) -> Summary:
    """Vectors for the crops of a data set, shard by shard; waits for another process that writes to the folder."""
    check_is_ours(out)
    with locked(make_folder(out), say):
        return _process_crops(crops, out, embedder, keep_crops, on_progress)


def _process_crops(crops: DataSet, out: Path, embedder: Embedder, keep_crops: bool, on_progress: OnProgress) -> Summary:
    spec = embedder.spec.with_crop(crops.spec)
    entries = [_shard_entry(crops, shard) for shard in sorted(crops.marks)]
    extra = crops.extra
    writer = DataSetWriter(out, spec, {"command": "embed crops", "crops kept": keep_crops}, entries, extra, per_shard=1)

    def make(_: int, inputs: list[Entry], tick: Callable[[int], None]) -> pa.Table:
        rows = [row for e in inputs for row in to_rows(crops.shard(_shard_number(e)))]
        for row in rows:
            if row.outcome == OK and row.crop is None:
                raise DataError(
                    f"expected crops in {crops.folder}, {row.image} has none: run `align`, or `embed` without --no-crops"
                )
            row.pixels = align.read_crop(row.crop, spec.crop, row.image) if row.crop is not None else None
            row.crop = row.crop if keep_crops else None
        add_vectors(rows, embedder, spec)
        tick(len(rows))
        return to_table(rows, spec, extra)

    return run(writer, make, on_progress, lambda entry: crops.marks.get(_shard_number(entry), {"rows": 0})["rows"])


def _shard_entry(crops: DataSet, shard: int) -> Entry:
    path = shard_path(crops.folder, shard)
    try:
        status = path.stat()
    except OSError as error:
        raise damaged(path, error) from None
    return Entry(path.name, status.st_size, status.st_mtime_ns)


def _shard_number(entry: Entry) -> int:
    return int(Path(entry.path).stem.removeprefix("part-"))


def run(
    writer: DataSetWriter,
    make: Callable[[int, list[Entry], Callable[[int], None]], pa.Table],
    on_progress: OnProgress,
    photos_in: Callable[[Entry], int] = lambda entry: 1,
) -> Summary:
    """Writes the pending shards of a plan; what is done stays."""
    started = time.monotonic()
    pending = writer.pending()
    total = sum(map(photos_in, writer.entries))
    todo = sum(photos_in(entry) for _, entries in pending for entry in entries)
    done = total - todo

    def tick(n: int) -> None:
        nonlocal done
        done += n
        on_progress(done, total)

    tick(0)
    for shard, entries in pending:
        began = time.monotonic()
        writer.write(shard, make(shard, entries, tick), time.monotonic() - began, versions())
    outcomes = DataSet(writer.folder).outcomes
    notes = _vanished(writer) + _relabelled(writer)
    seconds = time.monotonic() - started
    return Summary(str(writer.folder), total, todo, outcomes, round(seconds, 2), writer.spec.fingerprint, notes=notes)


def _vanished(writer: DataSetWriter) -> list[str]:
    """One line where inputs of earlier runs are not among those of this one, or none."""
    if not writer.vanished:
        return []
    if writer.all_vanished:
        return [
            f"warning: {writer.folder} holds another folder's photos, none of its {len(writer.vanished)} inputs is among those given now; their "
            "rows are kept beside the new ones unless --prune, another --out keeps them apart"
        ]
    return [
        f"{len(writer.vanished)} inputs of earlier runs are gone, or of another folder; their rows are kept unless --prune"
    ]


def _relabelled(writer: DataSetWriter) -> list[str]:
    """One line where inputs of an earlier run are another person's now, or none."""
    if not writer.relabelled:
        return []
    before, now = writer.relabelled[0]
    return [
        f"{len(writer.relabelled)} photos now belong to another person and are processed again: {now.path!r} was {before.identity!r}, is now "
        f"{now.identity!r}"
    ]


def versions() -> dict[str, str]:
    """Versions of the packages that shape a result."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
