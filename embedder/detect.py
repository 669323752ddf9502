"""Faces in photos: the Detector protocol, and the `mtcnn` package behind it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from embedder.errors import ModelError

MIN_FACE = 20
THRESHOLDS = (0.6, 0.7, 0.7)
SCALE_FACTOR = 0.709
MAX_SIDE = 1024
BATCH_PIXELS = 64 * 250 * 250
WEIGHTS = {
    "pnet.lz4": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet.lz4": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet.lz4": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}


@dataclass(frozen=True)
class Face:
    """One detected face, in unrounded pixels of the photo."""

    box: tuple[float, float, float, float]  # x0 y0 x1 y1
    landmarks: tuple[float, ...]  # x, y of the person's right eye, left eye, nose, right and left mouth corner
    confidence: float


class Detector(Protocol):
    """What finds faces; `record` is kept beside the vectors."""

    record: dict[str, Any]

    def __call__(self, photos: Sequence[np.ndarray]) -> list[list[Face]]:
        """uint8 RGB (h, w, 3) each -> the faces of each."""
        ...


class MtcnnDetector:
    """MTCNN (Zhang et al. 2016) by the `mtcnn` package.

    Photos of one size share a batch (the package would pad others, slowly); a photo whose longer side exceeds
    `max_side` is detected on a smaller copy.
    """

    def __init__(self, min_face: int = MIN_FACE, max_side: int = MAX_SIDE, device: str = "CPU:0"):
        from mtcnn import MTCNN

        self._net = MTCNN(stages=verified_stages(), device=device)
        self._min_face, self._max_side = min_face, max_side
        self.record = {
            "algorithm": "mtcnn",
            "weights": hashlib.sha256("".join(WEIGHTS.values()).encode()).hexdigest()[:16],
            "thresholds": list(THRESHOLDS),
            "scale_factor": SCALE_FACTOR,
            "min_face": min_face,
            "max_side": max_side,
        }

    def __call__(self, photos: Sequence[np.ndarray]) -> list[list[Face]]:
        """The faces of each photo, by falling confidence."""
        small = [shrink(photo, self._max_side) for photo in photos]
        found: list[list[Face]] = [[] for _ in photos]
        for group in batches_of_one_size([pixels.shape[:2] for pixels, _ in small]):
            rows = self._detect([small[i][0] for i in group])
            for j, i in enumerate(group):
                height, width = photos[i].shape[:2]
                found[i] = [_face(row, small[i][1], width, height) for row in rows[rows[:, 0] == j]]
        return [sorted(faces, key=lambda f: -f.confidence) for faces in found]

    def _detect(self, photos: list[np.ndarray]) -> np.ndarray:
        """(m, 16): photo, x0 y0 x1 y1, confidence, five x, five y. The package returns no rows where nothing is found."""
        pnet, rnet, onet = THRESHOLDS
        return self._net.detect_faces(
            [photo.astype(np.float32) for photo in photos], box_format="xyxy", output_type="numpy", min_face_size=self._min_face,
            scale_factor=SCALE_FACTOR, threshold_pnet=pnet, threshold_rnet=rnet, threshold_onet=onet,
        )  # fmt: skip


def verified_stages() -> list[Any]:
    """The package's three stages with its own weights, by absolute path and hash.

    Left to itself the package looks in the working folder first, and runs what lies there; what is loaded here are the bytes that
    were hashed, from a folder that only we can write to.
    """
    import lz4.frame
    import mtcnn
    from mtcnn.stages import StageONet, StagePNet, StageRNet

    folder = Path(mtcnn.__file__).resolve().parent / "assets" / "weights"
    stages = []
    with tempfile.TemporaryDirectory() as scratch:
        for stage, (name, expected) in zip((StagePNet, StageRNet, StageONet), WEIGHTS.items(), strict=True):
            plain = Path(scratch) / name
            plain.write_bytes(lz4.frame.decompress(_verified(folder / name, expected)))
            stages.append(stage(weights=str(plain)))
    return stages


def _verified(path: Path, expected: str) -> bytes:
    data = path.read_bytes() if path.is_file() else b""
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ModelError(
            f"expected {path.name} of mtcnn 1.0 (sha256 {expected[:16]}...), found {found[:16] if data else 'no file'}: "
            "run `pip install --force-reinstall mtcnn`"
        )
    return data


def shrink(photo: np.ndarray, max_side: int) -> tuple[np.ndarray, float]:
    """(photo, 1.0), or a smaller copy and the factor that brings its coordinates back."""
    height, width = photo.shape[:2]
    factor = max(height, width) / max_side
    if factor <= 1:
        return photo, 1.0
    size = max(1, round(width / factor)), max(1, round(height / factor))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)), factor


def batches_of_one_size(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Indices grouped so that each batch holds photos of one size and at most BATCH_PIXELS."""
    batches: list[list[int]] = []
    for shape in sorted(set(shapes)):
        same = [i for i, s in enumerate(shapes) if s == shape]
        step = max(1, BATCH_PIXELS // (shape[0] * shape[1]))
        batches += [same[i : i + step] for i in range(0, len(same), step)]
    return batches


def _face(row: np.ndarray, factor: float, width: int, height: int) -> Face:
    x0, y0, x1, y1 = row[1:5] * factor
    box = max(float(x0), 0.0), max(float(y0), 0.0), min(float(x1), float(width)), min(float(y1), float(height))
    points = np.stack([row[6:11], row[11:16]], axis=1).ravel() * factor
    return Face(box, tuple(float(v) for v in points), float(row[5]))
