"""Load MTCNN's three networks (Zhang et al. 2016) from the `mtcnn` package 1.0, as OpenVINO or TensorFlow graphs.

Each takes float32 RGB less CENTRE, (n, h, w, 4), and ignores the fourth channel. Along its last axis it returns four
box offsets, ten landmarks (the third network alone) and the log-odds of a face.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facegallery.embedder.errors import ModelError
from facegallery.embedder.faces.pyramid import CENTRE

if TYPE_CHECKING:
    import openvino


@dataclass(frozen=True)
class MtcnnNet:
    """A network: its file of weights and its layers.

    conv and dense take kernel, bias and PReLU slopes from the weights in turn; gaps subtracts the second input. The
    heads follow the last layer.
    """

    file: str
    sha256: str
    layers: tuple[str, ...]


PNET = MtcnnNet(
    "pnet.lz4",
    "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    ("conv", "gaps", "pool 2 same", "conv", "conv"),
)
RNET = MtcnnNet(
    "rnet.lz4",
    "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    ("conv", "pool 3 same", "conv", "pool 3 valid", "conv", "flatten", "dense"),
)
ONET = MtcnnNet(
    "onet.lz4",
    "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
    ("conv", "pool 3 same", "conv", "pool 3 valid", "conv", "pool 2 same", "conv", "flatten", "dense"),
)
NETS = (PNET, RNET, ONET)
LANES = 16  # numbers that the CPU multiplies at once


# weights --------------------------------------------------------------------


def load(net: MtcnnNet) -> list[np.ndarray]:
    """Return the package's arrays, in the order of the layers; raise ModelError where its file is not the known one.

    The file is a pickle. The bytes that are unpickled are those that were hashed, from the package's own folder.
    """
    import joblib
    import lz4.frame

    arrays = joblib.load(io.BytesIO(lz4.frame.decompress(verified(net))))
    kernel, bias, slopes, following, *rest = arrays
    # the package's (x - 127.5) / 128 becomes part of the first convolution
    bias = bias + kernel.sum((0, 1, 2)) * (CENTRE - 127.5) / 128
    more = -len(bias) % LANES  # channels of zeros, since other numbers of channels are slow
    first = (
        np.pad(kernel / 128, ((0, 0), (0, 0), (0, 1), (0, more))),
        np.pad(bias, (0, more)),
        np.pad(slopes.ravel(), (0, more)),
    )
    return [*first, np.pad(following, ((0, 0), (0, 0), (0, more), (0, 0))), *rest]


def package_folder() -> Path:
    """Return the folder of the package's weights, without importing the package, which imports TensorFlow."""
    found = importlib.util.find_spec("mtcnn")
    if found is None or found.origin is None:
        raise ModelError(
            "expected the package mtcnn 1.0, whose weights find the faces, it is not installed: run `pip install mtcnn`"
        )
    return Path(found.origin).resolve().parent / "assets" / "weights"


def verified(net: MtcnnNet) -> bytes:
    """Return the bytes of the package's file of weights; raise ModelError where the file is not the known one."""
    path = package_folder() / net.file
    data = path.read_bytes() if path.is_file() else b""
    found = hashlib.sha256(data).hexdigest()
    if found != net.sha256:
        raise ModelError(
            f"expected {path.name} of mtcnn 1.0 (sha256 {net.sha256[:16]}...), "
            f"found {found[:16] if data else 'no file'}: run `pip install --force-reinstall mtcnn`"
        )
    return data


def _head(rest: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Join all heads as one dense layer: (kernel, bias).

    The last head has two classes. It becomes their difference, whose sigmoid is the softmax of the two.
    """
    kernels, biases = [*rest[::2]], [*rest[1::2]]
    kernels[-1], biases[-1] = kernels[-1][..., 1:] - kernels[-1][..., :1], biases[-1][1:] - biases[-1][:1]
    return np.concatenate(kernels, axis=-1), np.concatenate(biases)


# graphs ---------------------------------------------------------------------


def in_openvino(net: MtcnnNet, arrays: Sequence[np.ndarray], shape: Sequence[int]) -> openvino.Model:
    """Build the network for one input shape (n, h, w, 4)."""
    import openvino as ov
    from openvino import opset13 as op

    def dense(x: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
        """Add a matrix product, or a convolution of an HWIO kernel."""
        if kernel.ndim == 2:
            product = op.matmul(x, op.constant(kernel), transpose_a=False, transpose_b=False)
            return op.add(product, op.constant(bias))
        turned = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        return op.add(
            op.convolution(x, op.constant(turned), [1, 1], [0, 0], [0, 0], [1, 1]),
            op.constant(bias.reshape(1, -1, 1, 1)),
        )

    def turned(x: Any, *axes: int) -> Any:
        return op.transpose(x, op.constant(np.array(axes)))

    def activated(x: Any, slopes: np.ndarray) -> Any:
        """Add PReLU as x + (slope - 1) x min(x, 0): OpenVINO's own, fused with the convolution, is slower."""
        factors = op.constant((slopes.ravel() - 1).reshape(1, -1, *[1] * (len(x.shape) - 2)))
        return op.add(x, op.multiply(op.minimum(x, op.constant(np.float32(0))), factors))

    photo = op.parameter(shape, np.float32, name="photo")
    inputs, weights = [photo], list(arrays)
    x = turned(photo, 0, 3, 1, 2)
    for layer in net.layers:
        match layer.split():
            case ["conv" | "dense"]:
                kernel, bias, slopes = weights.pop(0), weights.pop(0), weights.pop(0)
                x = activated(dense(x, kernel, bias), slopes)
            case ["gaps"]:
                inputs.append(op.parameter([shape[0], shape[1] - 2, shape[2] - 2, 1], np.float32, name="gaps"))
                x = op.subtract(x, turned(inputs[-1], 0, 3, 1, 2))
            case ["pool", size, edge]:
                auto_pad = "same_upper" if edge == "same" else "valid"
                x = op.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [int(size)] * 2, auto_pad=auto_pad).output(0)
            case ["flatten"]:
                x = op.reshape(turned(x, 0, 3, 2, 1), op.constant(np.array([shape[0], -1])), special_zero=False)
    x = dense(x, *_head(weights))
    return ov.Model([turned(x, 0, 2, 3, 1) if len(x.shape) == 4 else x], inputs, net.file)


def in_tensorflow(net: MtcnnNet, arrays: Sequence[np.ndarray], shape: Sequence[int]) -> Any:
    """Build the same network as a compiled TensorFlow function of (photo[, gaps])."""
    import tensorflow as tf

    def dense(x: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
        return (x @ kernel if kernel.ndim == 2 else tf.nn.conv2d(x, kernel, 1, "VALID")) + bias

    def run(photo: Any, *gaps: Any) -> Any:
        x, weights = photo, list(arrays)
        for layer in net.layers:
            match layer.split():
                case ["conv" | "dense"]:
                    kernel, bias, slopes = weights.pop(0), weights.pop(0), weights.pop(0)
                    x = dense(x, kernel, bias)
                    x = tf.maximum(x, 0.0) + tf.minimum(x, 0.0) * slopes.ravel()
                case ["gaps"]:
                    x = x - gaps[0]
                case ["pool", size, edge]:
                    x = tf.nn.max_pool2d(x, int(size), 2, edge.upper())
                case ["flatten"]:
                    x = tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (shape[0], -1))
        return dense(x, *_head(weights))

    signature = [tf.TensorSpec(shape, tf.float32)]
    if "gaps" in net.layers:
        signature.append(tf.TensorSpec((shape[0], shape[1] - 2, shape[2] - 2, 1), tf.float32))
    return tf.function(run, input_signature=signature, autograph=False)
