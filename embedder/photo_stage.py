"""Turn photos into rows: detect faces, crop them and embed the crops."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from facegallery.embedder.dataset.row import Entry, Row
from facegallery.embedder.faces import align, picture
from facegallery.embedder.faces.drawn import Assigned, Closer, assign, number_of
from facegallery.embedder.faces.mtcnn import DetectedFace, Detector
from facegallery.embedder.machine import cores
from facegallery.embedder.outcomes import NO_FACE, TOO_SMALL
from facegallery.embedder.photos.decoder import Photo
from facegallery.embedder.photos.given import drawn_of
from facegallery.embedder.photos.workers import Workers
from facegallery.embedder.spec import FaceSpec

if TYPE_CHECKING:
    from facegallery.embedder.network.runtime import Embedder

CHUNK_PIXELS = 32 * 250 * 250  # pixels that are detected together
SMALLER = 2  # a drawn box may be this many times smaller than the least face of a whole photo
MANY = 4 << 20  # bytes of photos from which the time to start processes pays off
PhotoRows = list[tuple[Photo, list[Row]]]


@dataclass(frozen=True)
class Options:
    """What a run does with each photo; a resumed run must repeat the first three.

    most_faces: how many faces of a photo, the largest and most central ones; only with all_faces. keep_pixels: keep the
    crops' pixels in the rows. retry: lasting outcomes of earlier runs whose photos are processed again. prune: drop the
    rows of photos that are gone. regions: take the names of faces that somebody drew in a photo program; such a photo
    gets a row for every face. given: take the faces that a CSV places, likewise; drawn ones count before them.
    """

    all_faces: bool = False
    keep_crops: bool = True
    prune: bool = False
    keep_pixels: bool = False
    most_faces: int | None = None
    retry: frozenset[str] = frozenset()
    regions: bool = False
    given: bool = True


class PhotoStage:
    """Detects, crops and, with an embedder, embeds the faces of photos; as many chunks of photos at a time as cores.

    Many photos go to worker processes, each on a core of its own. Few photos, which would be finished before the
    processes have started, go to threads of this process, as do all photos on a GPU. The processes end with this
    object.
    """

    def __init__(self, spec: FaceSpec, detector: Detector, embedder: Embedder | None, options: Options):
        self.spec, self.options = replace(spec, detector=detector.record), options
        self._detector, self._embedder = detector, embedder
        self._threads = ThreadPoolExecutor(cores())  # kept, since each thread holds memory and requests of its own
        self._workers: Workers | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_threads": None, "_workers": None}

    def rows(
        self, photos: Iterator[Photo], entries: dict[str, Entry]
    ) -> Generator[tuple[Photo, list[Row]], None, None]:
        """Yield each photo, without its pixels, and its rows, in order.

        entries: the labels of each photo by its name.
        """
        waiting: deque[Future[PhotoRows]] = deque()
        submit = self._pool(sum(entry.size for entry in entries.values()))
        try:
            for chunk in chunks(map(self.checked, photos)):
                waiting.append(submit(chunk, [entries[photo.name] for photo in chunk]))
                if len(waiting) > cores():
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:  # where the user stopped the run, or a chunk failed
            if [future for future in waiting if not future.cancel() and not future.done()]:
                self._end_workers()

    def _pool(self, n_bytes: int) -> Callable[[list[Photo], list[Entry]], Future[PhotoRows]]:
        """Return the function that submits a chunk: to processes, if `n_bytes` of photos are many, or to threads."""
        if n_bytes < MANY or cores() == 1 or self._detector.compute.on_gpu:
            return lambda *chunk: self._threads.submit(self.of_chunk, *chunk)
        self._workers = self._workers or Workers(self.of_chunk)
        return self._workers.submit

    def _end_workers(self) -> None:
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def of_chunk(self, chunk: list[Photo], entries: list[Entry]) -> PhotoRows:
        """Return each photo, without its pixels, and its rows. entries: the labels of each photo, in the same order."""
        faces = iter(self._detector([photo.pixels for photo in chunk if photo.pixels is not None]))
        made = []
        for photo, entry in zip(chunk, entries, strict=True):
            pixels = photo.pixels
            rows = [row_of(photo, entry)] if pixels is None else self._rows_of(photo, pixels, entry, next(faces))
            made.append((photo, rows))
            photo.pixels = None
        self._finish([row for _, rows in made for row in rows])
        return made

    def checked(self, photo: Photo) -> Photo:
        """Return the photo; where it is too small for a face, one without pixels and with the outcome too_small."""
        least = self.spec.detector["min_face"]
        if photo.pixels is not None and min(photo.pixels.shape[:2]) < least:
            height, width = photo.pixels.shape[:2]
            why = f"{width} x {height} pixels, faces have at least {least}"
            return replace(photo, outcome=TOO_SMALL, why=why, pixels=None, drawn=None)
        return photo

    def _rows_of(self, photo: Photo, pixels: np.ndarray, entry: Entry, faces: list[DetectedFace]) -> list[Row]:
        height, width = pixels.shape[:2]
        ordered = align.order_faces(faces, width, height)
        is_given = self._take_drawn(photo, entry, width, height)
        drawn = photo.drawn.faces if photo.drawn is not None else ()
        closer = Closer(self._detector, self.spec.detector["min_face"] // SMALLER, cuts=not self.spec.sees_points)
        found = assign(drawn, ordered, pixels, closer) if drawn else Assigned()
        photo.drawn_outcomes = dict(found.outcomes)
        if not ordered and not found.more and self.spec.crop.no_face == "whole":
            ordered = [DetectedFace((0.0, 0.0, float(width), float(height)), (), 0.0)]
        every = ordered + [face for face, _ in found.more]
        if not every:
            photo.outcome, photo.why = NO_FACE, "the detector finds none"
            return [row_of(photo, entry)]
        photo.faces = len(every)
        kept = ordered[: self.options.most_faces] if self.options.all_faces or drawn else ordered[:1]
        whose = found.drawn | {len(ordered) + n: i for n, (_, i) in enumerate(found.more)}
        numbers = [*range(len(kept)), *range(len(ordered), len(every))]
        rows = [self._face_row(photo, pixels, entry, number, every) for number in numbers]
        self._name(photo, entry if is_given else None, rows, whose)
        taken: set[int] = set()
        for row in rows:
            if row.face >= len(ordered):
                row.face = number_of(drawn[whose[row.face]].box, taken)
                taken.add(row.face)
        return rows

    def _take_drawn(self, photo: Photo, entry: Entry, width: int, height: int) -> bool:
        """Set the drawn faces of a photo to those that count; return whether they are those that a CSV places."""
        if not self.options.regions:
            photo.drawn = None
        if not (self.options.given and entry.given) or (photo.drawn is not None and photo.drawn.faces):
            return False
        photo.drawn = drawn_of(entry.given, width, height, photo.drawn)
        return True

    def _name(self, photo: Photo, given: Entry | None, rows: Sequence[Row], whose: Mapping[int, int]) -> None:
        """Give rows the names of their drawn faces. given: places them; None where a photo program does."""
        if photo.drawn is None or not (whose or given):
            return
        faces = photo.drawn.faces
        for row in rows:
            i = whose.get(row.face)
            row.identity, row.largest_other = None, None  # nobody has to guess which face is the person's
            if i is not None:
                row.identity = faces[i].name or None
                photo.named += row.identity is not None
                row.extra |= dict(faces[i].extra)

    def _face_row(self, photo: Photo, pixels: np.ndarray, entry: Entry, number: int, faces: list[DetectedFace]) -> Row:
        face = faces[number]
        row = row_of(photo, entry, number)
        row.identity = entry.identity if number == 0 else None
        row.photo_faces, row.largest_other = photo.faces, align.largest_other(number, faces)
        row.box, row.landmarks, row.confidence = face.box, face.landmarks or None, face.confidence
        row.pixels, row.region = picture.take(pixels, face.box, row.landmarks, self.spec.crop)
        row.sharpness = align.sharpness(picture.boxed(picture_of(row, self.spec), self.spec.crop, self.spec.crop.size))
        return row

    def _finish(self, rows: Sequence[Row]) -> None:
        """Add vectors and PNGs, made from the crops' pixels, to the rows."""
        if self._embedder is not None:
            add_vectors(rows, self._embedder, self.spec)
        for row in rows:
            if row.pixels is not None and self.options.keep_crops:
                row.crop = align.to_png(row.pixels, row.region)
            if not self.options.keep_pixels:
                row.pixels = None


def row_of(photo: Photo, entry: Entry, face: int = -1) -> Row:
    """Return a row with the photo's labels and the user's own columns. face: its number; -1 where there is none."""
    return Row(photo.name, photo.outcome, photo.sha256, entry.identity, entry.split, face, extra=dict(entry.extra))


def chunks(photos: Iterator[Photo]) -> Iterator[list[Photo]]:
    """Yield lists of photos that together have at most CHUNK_PIXELS; a larger photo stands alone."""
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
    """Set `vector` and `vector_length` of each row that has pixels. spec: the contract of the crops."""
    faces = [row for row in rows if row.pixels is not None]
    if faces:
        vectors, lengths = embedder.measured([picture_of(row, spec) for row in faces], spec.crop)
        for i, (row, vector) in enumerate(zip(faces, vectors, strict=True)):
            row.vector, row.vector_length = vector, None if lengths is None else float(lengths[i])


def picture_of(row: Row, spec: FaceSpec) -> picture.FacePicture:
    """Return the picture of a row that has pixels."""
    assert row.pixels is not None
    return picture.stored(row.pixels, row.region, row.box, row.landmarks, spec.crop)
