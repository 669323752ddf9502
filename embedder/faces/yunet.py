"""Detect faces in photos with YuNet (Wu et al. 2023), which also finds faces from the side and cut ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np

from facegallery.embedder.compute import AUTO, Compute
from facegallery.embedder.faces import yunet_net as net
from facegallery.embedder.faces.mtcnn import MAX_SIDE, MIN_FACE, DetectedFace, MtcnnDetector, shrink
from facegallery.embedder.network.compiled_cache import CompiledCache
from facegallery.embedder.network.engines import Engine, OpenvinoEngine, choose
from facegallery.embedder.weights import onnx_file
from facegallery.embedder.weights.detectors import YUNET

THRESHOLD = 0.6  # least score of a face
PLACED = 0.3  # least probability, by MTCNN's third network, of a face that it places
OVERLAP = 0.3  # largest overlap of two faces, as a share of their union
CANVASES = 320, 640  # sides in pixels; a larger photo lies on one whose side is the largest side that photos have
_loading = Lock()


class YunetDetector:
    """The network of OpenCV's FaceDetectorYN, on the CPU; it finds the same faces.

    Each photo lies alone in the corner of the smallest canvas that holds it, so that its faces do not depend on the
    photos that are detected with it. A photo whose longer side exceeds `max_side` is detected on a smaller copy.
    """

    def __init__(self, min_face: int = MIN_FACE, max_side: int = MAX_SIDE, compute: Compute = AUTO):
        """Store the settings; no network is loaded yet, so that the detector can be pickled.

        min_face: pixels of the photo, smaller faces are dropped; max_side: pixels.
        """
        self.compute = choose(compute)
        self._min_face, self._max_side = min_face, max_side
        self._sides = [
            *(side for side in CANVASES if side < max_side),
            -(-max_side // net.STRIDES[-1]) * net.STRIDES[-1],
        ]
        self._engines: dict[int, Engine] = {}
        self.record: dict[str, Any] = {
            "algorithm": "yunet",
            "weights": YUNET.file_sha256[:16],
            "thresholds": [THRESHOLD],
            "overlap": OVERLAP,
            "min_face": min_face,
            "max_side": max_side,
        }
        self.where = f"YuNet on CPU:0, faces of at least {min_face} px, photos of at most {max_side} px"

    def load(self) -> YunetDetector:
        """Load the network for small photos, once; for larger ones it is loaded when such a photo comes.

        Raises ModelError where its file is missing or damaged.
        """
        self._engine(self._sides[0])
        return self

    def _engine(self, side: int) -> Engine:
        with _loading:
            if side not in self._engines:
                data = YUNET.read()
                kept = CompiledCache(YUNET.file.parent, f"yunet-{side}-f32", f"{YUNET.file_sha256} {side}")
                self._engines[side] = OpenvinoEngine(lambda: net.in_openvino(_arrays(data), side), kept=kept)
            return self._engines[side]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_engines": {}}

    def __call__(self, photos: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """Return the faces of each photo, uint8 RGB (h, w, 3), by falling confidence."""
        small = [shrink(photo, self._max_side) for photo in photos]
        sides = np.array([min(s for s in self._sides if s >= max(photo.shape[:2])) for photo, _ in small], int)
        found: list[list[DetectedFace]] = [[] for _ in photos]
        for side in np.unique(sides).tolist():
            numbers = np.flatnonzero(sides == side).tolist()
            answers = self._engine(side)([(_canvas(small[i][0], side),) for i in numbers])
            for i, of_photo in zip(numbers, answers, strict=True):
                found[i] = self._faces(of_photo[0], side, small[i][1], photos[i].shape)
        return found

    def _faces(self, answers: np.ndarray, side: int, factor: float, shape: tuple[int, ...]) -> list[DetectedFace]:
        """Convert the answers of a photo; factor: as `shrink` returns it; shape: of the photo."""
        scores, boxes, points = decoded(answers, side, THRESHOLD)
        kept = greedy(boxes, OVERLAP)
        boxes, points = boxes[kept] * factor, points[kept] * factor
        large = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) >= self._min_face
        limits = np.array([shape[1] - 1, shape[0] - 1] * 2)
        return [
            DetectedFace(tuple(box.clip(0, limits).tolist()), tuple(of_face.tolist()), float(score))
            for box, of_face, score in zip(boxes[large], points[large], scores[kept][large], strict=True)
        ]


class PlacedYunet:
    """YuNet's faces, whose box and points come from MTCNN's third network wherever it sees a face in the box, too.

    YuNet's own points are coarser: vectors of faces that are aligned by them find fewer people.
    """

    def __init__(
        self,
        min_face: int = MIN_FACE,
        max_side: int = MAX_SIDE,
        compute: Compute = AUTO,
        placer: MtcnnDetector | None = None,
    ):
        """Store the settings; no network is loaded yet, so that the detector can be pickled.

        min_face, max_side: pixels. placer: a detector of the same settings that is there already.
        """
        self._finder = YunetDetector(min_face, max_side, compute)
        self._placer = placer or MtcnnDetector(min_face, max_side, compute)
        self.compute = self._placer.compute
        self.record: dict[str, Any] = self._finder.record | {
            "thresholds": [THRESHOLD, PLACED],
            "weights": f"{self._finder.record['weights']}+{self._placer.record['weights']}",
        }
        self.where = self._finder.where

    def load(self) -> PlacedYunet:
        """Load the networks, once. Raises ModelError where YuNet's file is missing or damaged."""
        self._finder.load()
        self._placer.load_placer()
        return self

    def __call__(self, photos: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """Return the faces of each photo, uint8 RGB (h, w, 3), by falling confidence: YuNet's."""
        found = self._finder(photos)
        boxes = [np.array([face.box for face in faces]).reshape(-1, 4) for faces in found]
        return list(map(moved, found, self._placer.placed(photos, boxes)))


def moved(faces: list[DetectedFace], placed: list[DetectedFace]) -> list[DetectedFace]:
    """Return the faces of a photo, each as it was placed where a face was seen there, with its own confidence."""
    return [
        replace(there, confidence=face.confidence) if there.confidence >= PLACED else face
        for face, there in zip(faces, placed, strict=True)
    ]


def _arrays(data: bytes) -> dict[str, np.ndarray]:
    return onnx_file.dequantised(onnx_file.constants_in(data, str(YUNET.file)))


def _canvas(photo: np.ndarray, side: int) -> np.ndarray:
    """Lay a photo in the corner of a black canvas: uint8 (h, w, 3) -> uint8 (1, side, side, 3)."""
    canvas = np.zeros((1, side, side, 3), np.uint8)
    canvas[0, : photo.shape[0], : photo.shape[1]] = photo
    return canvas


def decoded(answers: np.ndarray, side: int, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode the answers of a canvas, float32 (answers, 16), of at least a score; the best first.

    Return scores (m,), boxes (m, 4) x0 y0 x1 y1, and points (m, 10) x y ..., float64, in pixels of the canvas.
    """
    scores = np.sqrt(answers[:, 0].clip(0, 1) * answers[:, 1].clip(0, 1)).astype(np.float64)
    order = np.flatnonzero(scores >= threshold)
    order = order[np.argsort(-scores[order], kind="stable")]
    cells, found = net.grid(side)[order], answers[order].astype(np.float64)
    place, stride = cells[:, :2], cells[:, 2:]
    middle, half = (place + found[:, 2:4]) * stride, np.exp(found[:, 4:6]) * stride / 2
    points = (np.tile(place, 5) + found[:, 6:]) * stride
    return scores[order], np.concatenate([middle - half, middle + half], axis=1), points


def greedy(boxes: np.ndarray, overlap: float) -> list[int]:
    """Return the numbers of the boxes, (m, 4) best first, that overlap no better one that is returned too much.

    overlap: the largest that is kept, as a share of the union of two boxes.
    """
    kept: list[int] = []
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for i, box in enumerate(boxes):
        sides = np.minimum(box[2:], boxes[kept, 2:]) - np.maximum(box[:2], boxes[kept, :2])
        both = np.prod(sides.clip(0), axis=1)
        if (both <= overlap * (areas[i] + areas[kept] - both)).all():
            kept.append(i)
    return kept
