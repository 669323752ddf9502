"""Detect faces in photos: MTCNN (Zhang et al. 2016) as one cascade over many photos of any size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import numpy as np
from PIL import Image

from facegallery.embedder.compute import AUTO, Compute
from facegallery.embedder.faces import mtcnn_nets as nets
from facegallery.embedder.faces.boxes import BOX, PHOTO, SCORE, moved, squared, suppress
from facegallery.embedder.faces.pyramid import (
    CELL,
    SCALE_FACTOR,
    STRIDE,
    Canvases,
    Memory,
    centred,
    lay_out,
    patches,
    windows,
)
from facegallery.embedder.network.compiled_cache import CompiledCache
from facegallery.embedder.network.engines import (
    Engine,
    OpenvinoEngine,
    TensorflowEngine,
    choose,
    has_fast_bf16,
    in_batches,
)
from facegallery.embedder.weights.folder import models_folder

MIN_FACE = 20  # pixels
THRESHOLDS = (0.6, 0.7, 0.7)  # least probability of a face, of each network
MAX_SIDE = 1024  # pixels
CANVAS = 320  # pixels
BATCHES = 256, 64, 8  # windows of the first network, and patches of the second and third, in a batch
MARGIN = 0.25  # by which the log-odds in bf16 may lie below the threshold
_loading = Lock()


@dataclass(frozen=True)
class DetectedFace:
    """A detected face, in unrounded pixels of the photo."""

    box: tuple[float, float, float, float]  # x0 y0 x1 y1
    landmarks: tuple[float, ...]  # x, y of the person's right eye, left eye, nose, right and left mouth corner
    confidence: float


class Detector(Protocol):
    """A detector of faces.

    record: settings that are kept beside the vectors. where: what runs where, as one line for the user.
    """

    compute: Compute
    record: dict[str, Any]
    where: str

    def load(self) -> Detector:
        """Load the networks, which otherwise the first call does."""
        ...

    def __call__(self, photos: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """Return the faces of each photo, uint8 RGB (h, w, 3)."""
        ...


class MtcnnDetector:
    """The cascade with the weights of the `mtcnn` package; it finds the same faces.

    The first network looks at all sizes of all photos, laid out on canvases of one fixed size; the second and third
    look at the candidates of all photos together. A photo whose longer side exceeds `max_side` is detected on a smaller
    copy.

    float32 decides. In bf16 other boxes win among near-equal ones: 1.8 % of LFW's boxes overlap the package's by less
    than 0.9. Where the CPU multiplies bf16 faster, bf16 screens for the first two networks: they run in float32 only
    where the log-odds in bf16 exceed the threshold less MARGIN. Near the threshold, bf16 errs by less than 0.16 in 99.9
    % of LFW's places.
    """

    def __init__(self, min_face: int = MIN_FACE, max_side: int = MAX_SIDE, compute: Compute = AUTO):
        """Store the settings; no network is loaded yet, so that the detector can be pickled.

        min_face, max_side: pixels.
        """
        self.compute = choose(compute)
        self._min_face, self._max_side, self._loaded = min_face, max_side, False
        self._can_place = False
        self.record: dict[str, Any] = {
            "algorithm": "mtcnn",
            "weights": hashlib.sha256("".join(net.sha256 for net in nets.NETS).encode()).hexdigest()[:16],
            "thresholds": list(THRESHOLDS),
            "scale_factor": SCALE_FACTOR,
            "min_face": min_face,
            "max_side": max_side,
        }
        self.where = f"MTCNN on {self.compute.device}, faces of at least {min_face} px, photos of at most {max_side} px"

    def load(self) -> MtcnnDetector:
        """Load the networks, once."""
        with _loading:
            if not self._loaded:
                self._load()
        return self

    def load_placer(self) -> MtcnnDetector:
        """Load what `placed` needs, the third network, once."""
        with _loading:
            self._load_placer()
        return self

    def _load_placer(self) -> None:
        if not self._can_place:
            self._onet, self._memory = _engine(nets.ONET, (BATCHES[2], 48, 48, 4), self.compute), Memory()
            self._can_place = True

    def _load(self) -> None:
        self._load_placer()
        canvas, *small = (
            (1, CANVAS, CANVAS, 4),
            *((n, side, side, 4) for n, side in zip(BATCHES[:2], (CELL, 24), strict=True)),
        )
        self._screens: tuple[Engine, Engine] | None = None
        if not self.compute.on_gpu and self.compute.precision != "f32" and has_fast_bf16():
            self._screens = (
                _engine(nets.PNET, canvas, self.compute, "bf16"),
                _engine(nets.RNET, small[1], self.compute, "bf16"),
            )
        self._pnet = _engine(nets.PNET, small[0] if self._screens else canvas, self.compute)
        self._rnet = _engine(nets.RNET, small[1], self.compute)
        self._loaded = True

    def __getstate__(self) -> dict[str, Any]:
        settings = "compute", "record", "where", "_min_face", "_max_side"
        return {name: getattr(self, name) for name in settings} | {"_loaded": False, "_can_place": False}

    def __call__(self, photos: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """Return the faces of each photo, uint8 RGB (h, w, 3), by falling confidence."""
        self.load()
        small = [shrink(photo, self._max_side) for photo in photos]
        wide = [centred(photo) for photo, _ in small]
        found: list[list[DetectedFace]] = [[] for _ in photos]
        for row in self._third(wide, self._second(wide, self._first(wide))):
            photo, factor = small[int(row[PHOTO])]
            found[int(row[PHOTO])].append(_face(row, factor, photo.shape[1], photo.shape[0]))
        return found

    def placed(self, photos: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """Let the third network alone look at boxes that another detector found; return a face for each.

        photos: uint8 RGB (h, w, 3). boxes: of each photo, float (m, 4), x0 y0 x1 y1 in pixels of the photo. The
        confidence is the third network's, however low: the caller decides below which the box holds no face.
        """
        self.load_placer()
        some = [i for i, of_photo in enumerate(boxes) if len(of_photo)]
        found: list[list[DetectedFace]] = [[] for _ in photos]
        if not some:
            return found
        small = [shrink(photos[i], self._max_side) for i in some]
        rows = np.concatenate([_numbered(n, boxes[i] / small[n][1]) for n, i in enumerate(some)])
        for row in self._placed([centred(photo) for photo, _ in small], squared(rows)):
            n = int(row[PHOTO])
            photo, factor = small[n]
            found[some[n]].append(_face(row, factor, photo.shape[1], photo.shape[0]))
        return found

    def _first(self, photos: Sequence[np.ndarray]) -> np.ndarray:
        """Return squares that may hold a face: rows (m, 6)."""
        canvases = lay_out(photos, self._min_face, CANVAS, self._memory)
        rows, groups = self._proposals(canvases)
        rows = suppress(rows, groups, 0.5)
        return squared(suppress(rows, rows[:, PHOTO], 0.7))

    def _proposals(self, canvases: Canvases) -> tuple[np.ndarray, np.ndarray]:
        """Run the first network on every piece; return rows (m, 6), and a number of the photo and level of each."""
        if not canvases.pieces:
            return np.empty((0, 6)), np.empty(0, np.int64)
        everywhere = [(canvases.pixels[i : i + 1], canvases.gaps[i : i + 1]) for i in range(len(canvases.pixels))]
        answers = np.concatenate((self._screens[0] if self._screens else self._pnet)(everywhere))
        owners = _owners(canvases, answers.shape[:3])
        least = _least(THRESHOLDS[0], screened=bool(self._screens))
        cells = np.nonzero((answers[..., -1] > least) & (owners >= 0))
        found = answers[cells]
        if self._screens and len(found):
            some = range(0, len(found), 8 * BATCHES[0])  # in blocks, since windows take 80 times the memory of answers
            seen = (windows(canvases, tuple(axis[i : i + some.step] for axis in cells)) for i in some)
            found = np.concatenate([in_batches(self._pnet, of_some, BATCHES[0]) for of_some in seen])[:, 0, 0]
        likely = found[:, -1] > _least(THRESHOLDS[0])
        return _rows(canvases, owners[cells][likely], [axis[likely] for axis in cells[1:]], found[likely])

    def _second(self, photos: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
        """Return the squares that hold a face by the second network: rows (m, 6)."""
        if not len(rows):
            return rows
        seen = self._patches(photos, rows, 24)
        if self._screens:
            likely = in_batches(self._screens[1], (seen,), BATCHES[1])[:, -1] > _least(THRESHOLDS[1], screened=True)
            rows, seen = rows[likely], seen[likely]
            if not len(rows):
                return rows
        answers = in_batches(self._rnet, (seen,), BATCHES[1])
        rows = _likely(moved(rows, answers[:, :4]), answers[:, -1], THRESHOLDS[1])
        return squared(suppress(rows, rows[:, PHOTO], 0.7))

    def _third(self, photos: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
        """Return boxes and landmarks by the third network: rows (m, 16), by falling score within a photo.

        The last ten columns are five x, then five y.
        """
        if not len(rows):
            return rows
        rows = self._placed(photos, rows)
        rows = rows[rows[:, SCORE] > _least(THRESHOLDS[2])]
        return suppress(rows, rows[:, PHOTO], 0.7, smaller=True)

    def _placed(self, photos: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
        """Run the third network on squares; return rows (m, 16) of boxes, log-odds and landmarks in the same order."""
        answers = in_batches(self._onet, (self._patches(photos, rows, 48),), BATCHES[2])
        sides = np.repeat(rows[:, 3:5] - rows[:, 1:3] + 1, 5, axis=1)
        points = sides * answers[:, 4:14] + np.repeat(rows[:, 1:3], 5, axis=1) - 1
        rows = np.concatenate([moved(rows, answers[:, :4]), points], axis=1)
        rows[:, SCORE] = answers[:, -1]
        return rows

    def _patches(self, photos: Sequence[np.ndarray], rows: np.ndarray, size: int) -> np.ndarray:
        """Sample float32 patches (m, size, size, 4) of rows that are ordered by photo."""
        found = self._memory.room(f"patches {size}", len(rows), size, size, 4)
        numbers, starts = np.unique(rows[:, PHOTO].astype(int), return_index=True)
        for photo, start, end in zip(numbers, starts, [*starts[1:], len(rows)], strict=True):
            found[start:end] = patches(photos[photo], rows[start:end, BOX], size)
        return found


def _engine(net: nets.MtcnnNet, shape: tuple[int, ...], compute: Compute, precision: str = "f32") -> Engine:
    if compute.on_gpu:
        return TensorflowEngine(nets.in_tensorflow(net, nets.load(net), shape), compute.device)
    nets.verified(net)
    kept = CompiledCache(
        models_folder() / "mtcnn", f"{net.file.split('.')[0]}-{shape[1]}-{precision}", f"{net.sha256} {shape}"
    )
    return OpenvinoEngine(lambda: nets.in_openvino(net, nets.load(net), shape), precision, kept=kept)


def _least(probability: float, *, screened: bool = False) -> float:
    """Return the log-odds from which a network sees a face, or may see one if it only screens."""
    return float(np.log(probability / (1 - probability))) - MARGIN * screened


def _numbered(photo: int, boxes: np.ndarray) -> np.ndarray:
    """Return boxes (m, 4) of a photo as rows (m, 6) without a score."""
    return np.pad(boxes, ((0, 0), (1, 1)), constant_values=((0, 0), (photo, 0)))


def _likely(rows: np.ndarray, odds: np.ndarray, threshold: float) -> np.ndarray:
    """Set the scores of rows to log-odds (m,); return the rows above a probability."""
    rows[:, SCORE] = odds
    return rows[rows[:, SCORE] > _least(threshold)]


def _owners(canvases: Canvases, shape: tuple[int, ...]) -> np.ndarray:
    """Return the number of the piece that each answer is about, or -1: int32 (canvases, rows, columns)."""
    owners = np.full(shape, -1, np.int32)
    for i, (piece, (canvas, top, left)) in enumerate(zip(canvases.pieces, canvases.where, strict=True)):
        first, (height, width) = (top // STRIDE, left // STRIDE), piece.answers
        owners[canvas, first[0] : first[0] + height, first[1] : first[1] + width] = i
    return owners


def _rows(
    canvases: Canvases, numbers: np.ndarray, places: Sequence[np.ndarray], answers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Convert answers (m, 5) at places (y, x) of canvases to rows (m, 6), and a number of photo and level of each."""
    y, x = places
    pieces = np.array(
        [
            (p.photo, p.level, p.scale, p.left - left, p.top - top)
            for p, (_, top, left) in zip(canvases.pieces, canvases.where, strict=True)
        ]
    )[numbers]
    photo, level, scale = pieces[:, 0], pieces[:, 1].astype(np.int64), pieces[:, 2, None]
    corner = np.stack([x, y], axis=1) * STRIDE + pieces[:, 3:] + 1
    boxes = np.concatenate([corner, corner + CELL - 1], axis=1) + answers[:, :4] * (CELL - 1)
    return np.concatenate([photo[:, None], boxes / scale, answers[:, 4:]], axis=1), photo.astype(np.int64) << 8 | level


def shrink(photo: np.ndarray, max_side: int) -> tuple[np.ndarray, float]:
    """Return (photo, 1.0), or a smaller copy and the factor that scales its coordinates back."""
    height, width = photo.shape[:2]
    factor = max(height, width) / max_side
    if factor <= 1:
        return photo, 1.0
    size = max(1, round(width / factor)), max(1, round(height / factor))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)), factor


def _face(row: np.ndarray, factor: float, width: int, height: int) -> DetectedFace:
    """Convert a row to a face. width, height: of the photo in which it was detected; factor: as `shrink` returns it."""
    x0, y0, x1, y1 = (row[BOX].clip(0, [width - 1, height - 1] * 2) * factor).tolist()
    points = row[SCORE + 1 :].reshape(2, 5).T.ravel() * factor
    return DetectedFace((x0, y0, x1, y1), tuple(points.tolist()), float(1 / (1 + np.exp(-row[SCORE]))))
