"""Embed training crops with SFace, from whose vectors `train --recipe distil` learns.

The crops' landmarks are looked for again, since training crops are stored without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from facegallery.embedder.compute import AUTO, Compute
from facegallery.embedder.faces.align import order_faces
from facegallery.embedder.faces.mtcnn import MtcnnDetector
from facegallery.embedder.faces.picture import warped
from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.network.runtime import on_openvino
from facegallery.embedder.network.sface_layers import DIMENSION
from facegallery.embedder.spec import INPUT_SIZE
from facegallery.embedder.weights.store import open_model

TOGETHER = 256  # canvases in memory at once
WIDTH = 0.75  # width of MTCNN's boxes per height; crops are stretched to squares
MIN_FACES = 48, 64  # pixels; a face that is missed at the sizes of one pyramid is searched at those of another


def unstretched(canvas: np.ndarray) -> np.ndarray:
    """Undo the stretch of a crop: uint8 (s, s, 3) -> uint8 (s, WIDTH x s, 3)."""
    side = len(canvas)
    return np.asarray(Image.fromarray(canvas).resize((round(side * WIDTH), side), Image.Resampling.BILINEAR))


class SFace:
    """Embeds crops of `align` with SFace, mirror images averaged in; runs on the CPU, even beside a GPU."""

    def __init__(self, compute: Compute = AUTO):
        """Load the weights; raise ModelError where they are not stored. compute: its precision is the detector's."""
        model = open_model("sface")
        self._looks = [MtcnnDetector(size, compute=Compute("cpu", compute.precision)) for size in MIN_FACES]
        self._network = on_openvino(model.arrays(0), model.spec.parts[0], "f32")

    def __call__(self, canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embed canvases, uint8 (n, s, s, 3): float32 (n, 128) of unit length, and whether a face was found (n,).

        A canvas without a face has zeros as its vector.
        """
        vectors, found = np.zeros((len(canvases), DIMENSION), np.float32), np.zeros(len(canvases), bool)
        for i in range(0, len(canvases), TOGETHER):
            some = [unstretched(canvas) for canvas in canvases[i : i + TOGETHER]]
            points = self._points(some)
            places = [k for k, of_face in enumerate(points) if of_face is not None]
            if places:
                faces = np.stack([warped(some[k], points[k]) for k in places])
                vectors[i + np.array(places)], found[i + np.array(places)] = self._vectors(faces), True
        return vectors, found

    def _points(self, canvases: Sequence[np.ndarray]) -> list[Any]:
        """Return five points (5, 2) of each canvas's largest, most central face, or None.

        The border is not searched.
        """
        height, width = INPUT_SIZE, round(INPUT_SIZE * WIDTH)
        corners = [((canvas.shape[1] - width) // 2, (canvas.shape[0] - height) // 2) for canvas in canvases]
        middles = [canvas[y : y + height, x : x + width] for canvas, (x, y) in zip(canvases, corners, strict=True)]
        points: list[Any] = [None] * len(canvases)
        for look in self._looks:
            missing = [k for k, of_face in enumerate(points) if of_face is None]
            for k, faces in zip(missing, look([middles[k] for k in missing]), strict=True):
                if faces:
                    points[k] = np.reshape(order_faces(faces, width, height)[0].landmarks, (5, 2)) + corners[k]
        return points

    def _vectors(self, faces: np.ndarray) -> np.ndarray:
        plain, mirrored = (unit(self._network(x)) for x in (faces, faces[:, :, ::-1]))
        return unit(plain + mirrored).astype(np.float32)
