"""Faces in photos: MTCNN (Zhang et al. 2016) as one cascade over many photos of any size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import numpy as np
from PIL import Image

from facegallery.embedder.compute import Compute
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
from facegallery.embedder.network.engines import Engine, OpenvinoEngine, TensorflowEngine, choose, has_bf16, in_batches
from facegallery.embedder.weights.store import models_folder

MIN_FACE = 20
THRESHOLDS = (0.6, 0.7, 0.7)
MAX_SIDE = 1024
CANVAS = 320
BATCHES = 256, 64, 8  # windows of the first network, patches of the second and the third that go together
MARGIN = 0.25  # of the log-odds, for what bf16 errs by
_loading = Lock()


@dataclass(frozen=True)
class DetectedFace:
    """One detected face, in unrounded pixels of the photo."""

    box: tuple[float, float, float, float]  # x0 y0 x1 y1
    landmarks: tuple[float, ...]  # x, y of the person's right eye, left eye, nose, right and left mouth corner
    confidence: float


class Detector(Protocol):
    """What finds faces; `record` is kept beside the vectors, `where` is a line for the user."""

    compute: Compute
    record: dict[str, Any]
    where: str

    def load(self) -> Detector:
        """Makes it ready, which otherwise the first call does."""
        ...

    def __call__(self, photos: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """uint8 RGB (h, w, 3) each -> the faces of each."""
        ...


class MtcnnDetector:
    """The cascade by the weights of the `mtcnn` package, whose answers it gives.

    The first network looks at all sizes of all photos on canvases of one fixed size, the second and third at all candidates together. A
    photo whose longer side exceeds `max_side` is detected on a smaller copy.

    float32 decides: in bf16 other boxes win among near-equal ones, and 1.8 % of LFW's overlap the package's by less than 0.9. But where the
    CPU multiplies bf16 natively it screens for the first two networks: float32 is asked only where the log-odds in bf16 exceed the threshold
    less MARGIN: near the threshold bf16 errs by less than 0.16 in 99.9 % of LFW's places.
    """

    def __init__(self, min_face: int = MIN_FACE, max_side: int = MAX_SIDE, compute: Compute = Compute()):  # noqa: B008
        """Loads no network yet, and can be pickled: what is sent are the settings."""
        self.compute = choose(compute)
        self._min_face, self._max_side, self._loaded = min_face, max_side, False
        self.record = {
            "algorithm": "mtcnn",
            "weights": hashlib.sha256("".join(net.sha256 for net in nets.NETS).encode()).hexdigest()[:16],
            "thresholds": list(THRESHOLDS),
            "scale_factor": SCALE_FACTOR,
            "min_face": min_face,
            "max_side": max_side,
        }
        self.where = f"MTCNN on {self.compute.device}, faces of at least {min_face} px, photos of at most {max_side} px"

    def load(self) -> MtcnnDetector:
        """Makes the networks ready, once."""
        with _loading:
            if not self._loaded:
                self._load()
        return self

    def _load(self) -> None:
        canvas, *small = (
            (1, CANVAS, CANVAS, 4),
            *((n, side, side, 4) for n, side in zip(BATCHES, (CELL, 24, 48), strict=True)),
        )
        self._screens: tuple[Engine, Engine] | None = None
        if not self.compute.on_gpu and self.compute.precision != "f32" and has_bf16():
            self._screens = (
                _engine(nets.PNET, canvas, self.compute, "bf16"),
                _engine(nets.RNET, small[1], self.compute, "bf16"),
            )
        self._pnet = _engine(nets.PNET, small[0] if self._screens else canvas, self.compute)
        self._rnet, self._onet = _engine(nets.RNET, small[1], self.compute), _engine(nets.ONET, small[2], self.compute)
        self._memory, self._loaded = Memory(), True

    def __getstate__(self) -> dict[str, Any]:
        settings = "compute", "record", "where", "_min_face", "_max_side"
        return {name: getattr(self, name) for name in settings} | {"_loaded": False}

    def __call__(self, photos: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """The faces of each photo, by falling confidence."""
        self.load()
        small = [shrink(photo, self._max_side) for photo in photos]
        wide = [centred(photo) for photo, _ in small]
        found: list[list[DetectedFace]] = [[] for _ in photos]
        for row in self._third(wide, self._second(wide, self._first(wide))):
            photo, factor = small[int(row[PHOTO])]
            found[int(row[PHOTO])].append(_face(row, factor, photo.shape[1], photo.shape[0]))
        return found

    def _first(self, photos: Sequence[np.ndarray]) -> np.ndarray:
        """(m, 6): squares that may hold a face."""
        canvases = lay_out(photos, self._min_face, CANVAS, self._memory)
        rows, groups = self._proposals(canvases)
        rows = suppress(rows, groups, 0.5)
        return squared(suppress(rows, rows[:, PHOTO], 0.7))

    def _proposals(self, canvases: Canvases) -> tuple[np.ndarray, np.ndarray]:
        """What the first network says of every piece: rows (m, 6), and a number of the photo and level of each."""
        if not canvases.pieces:
            return np.empty((0, 6)), np.empty(0, np.int64)
        everywhere = [(canvases.pixels[i : i + 1], canvases.gaps[i : i + 1]) for i in range(len(canvases.pixels))]
        answers = np.concatenate((self._screens[0] if self._screens else self._pnet)(everywhere))
        owners = _owners(canvases, answers.shape[:3])
        cells = np.nonzero((answers[..., -1] > _least(THRESHOLDS[0], bool(self._screens))) & (owners >= 0))
        found = answers[cells]
        if self._screens and len(found):
            some = range(0, len(found), 8 * BATCHES[0])  # windows are 80 times the size of what they answer
            seen = (windows(canvases, tuple(axis[i : i + some.step] for axis in cells)) for i in some)
            found = np.concatenate([in_batches(self._pnet, of_some, BATCHES[0]) for of_some in seen])[:, 0, 0]
        likely = found[:, -1] > _least(THRESHOLDS[0])
        return _rows(canvases, owners[cells][likely], [axis[likely] for axis in cells[1:]], found[likely])

    def _second(self, photos: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
        """(m, 6): squares that hold a face."""
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
        """(m, 16): boxes of faces and five x, five y of each; by falling score within a photo."""
        if not len(rows):
            return rows
        answers = in_batches(self._onet, (self._patches(photos, rows, 48),), BATCHES[2])
        sides = np.repeat(rows[:, 3:5] - rows[:, 1:3] + 1, 5, axis=1)
        points = sides * answers[:, 4:14] + np.repeat(rows[:, 1:3], 5, axis=1) - 1
        rows = _likely(np.concatenate([moved(rows, answers[:, :4]), points], axis=1), answers[:, -1], THRESHOLDS[2])
        return suppress(rows, rows[:, PHOTO], 0.7, smaller=True)

    def _patches(self, photos: Sequence[np.ndarray], rows: np.ndarray, size: int) -> np.ndarray:
        """float32 (m, size, size, 4) of rows that are ordered by photo."""
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


def _least(probability: float, screened: bool = False) -> float:
    """The log-odds above which a network sees a face, or may see one where it screens."""
    return float(np.log(probability / (1 - probability))) - MARGIN * screened


def _likely(rows: np.ndarray, odds: np.ndarray, threshold: float) -> np.ndarray:
    """Rows with the log-odds (n,) as their scores, those above a probability."""
    rows[:, SCORE] = odds
    return rows[rows[:, SCORE] > _least(threshold)]


def _owners(canvases: Canvases, shape: tuple[int, ...]) -> np.ndarray:
    """int32 (canvases, rows, columns): the number of the piece that an answer is about, or -1."""
    owners = np.full(shape, -1, np.int32)
    for i, (piece, (canvas, top, left)) in enumerate(zip(canvases.pieces, canvases.where, strict=True)):
        first, (height, width) = (top // STRIDE, left // STRIDE), piece.answers
        owners[canvas, first[0] : first[0] + height, first[1] : first[1] + width] = i
    return owners


def _rows(
    canvases: Canvases, numbers: np.ndarray, places: Sequence[np.ndarray], answers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Answers (m, 5) about pieces at places (y, x) of their canvases -> rows (m, 6), and a number of the photo and level of each."""
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
    """(photo, 1.0), or a smaller copy and the factor that brings its coordinates back."""
    height, width = photo.shape[:2]
    factor = max(height, width) / max_side
    if factor <= 1:
        return photo, 1.0
    size = max(1, round(width / factor)), max(1, round(height / factor))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)), factor


def _face(row: np.ndarray, factor: float, width: int, height: int) -> DetectedFace:
    """A face of a photo of that size, in the pixels of one that is `factor` times larger."""
    x0, y0, x1, y1 = (row[BOX].clip(0, [width - 1, height - 1] * 2) * factor).tolist()
    points = row[SCORE + 1 :].reshape(2, 5).T.ravel() * factor
    return DetectedFace((x0, y0, x1, y1), tuple(points.tolist()), float(1 / (1 + np.exp(-row[SCORE]))))
