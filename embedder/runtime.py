"""Crops -> unit vectors, on TensorFlow: one compiled function a network, of one fixed batch shape."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import tensorflow as tf

from embedder import network
from embedder.errors import SystemFault
from embedder.spec import INPUT_SIZE, Part
from embedder.weights import Model

BATCH = 32


def choose_device(device: str) -> str:
    """'auto', 'cpu' or 'gpu' -> 'CPU:0' or 'GPU:0'; raises SystemFault for a GPU that is not there."""
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    if device == "gpu" and not has_gpu:
        raise SystemFault("expected a GPU for --device gpu, TensorFlow sees none: install the extra `gpu`, or use --device cpu")
    return "GPU:0" if has_gpu and device != "cpu" else "CPU:0"


def standardise(crops: tf.Tensor, how: str) -> tf.Tensor:
    """uint8 or float (n, h, w, 3) in 0..255 -> float32, as the weights were trained.

    fixed: (x - 127.5) / 128. per_image: each crop to mean 0 and deviation 1, the deviation at least 1 / sqrt(size)
    (facenet's `prewhiten`).
    """
    x = tf.cast(crops, tf.float32)
    if how == "fixed":
        return (x - 127.5) / 128.0
    mean, variance = tf.nn.moments(x, axes=[1, 2, 3], keepdims=True)
    size = tf.cast(tf.reduce_prod(tf.shape(x)[1:]), tf.float32)
    return (x - mean) / tf.maximum(tf.sqrt(variance), tf.math.rsqrt(size))


def unit(x: tf.Tensor) -> tf.Tensor:
    """Rows of length 1."""
    return tf.math.l2_normalize(x, axis=1, epsilon=1e-20)


class Embedder:
    """uint8 (n, 160, 160, 3) -> float32 (n, d) of unit length, by the model's contract."""

    def __init__(self, model: Model, device: str = "auto"):
        """Loads and verifies the weights; raises ModelError where they are not what the contract names."""
        self.device = choose_device(device)
        self.spec = replace(model.spec, runtime=f"tensorflow {tf.__version__}", precision="float32")
        with tf.device(self.device):
            self._networks = [self._compile(part, model.arrays(i)) for i, part in enumerate(model.spec.parts)]

    def _compile(self, part: Part, arrays: dict[str, np.ndarray]) -> tf.types.experimental.PolymorphicFunction:
        net = network.load(arrays)
        signature = [tf.TensorSpec((BATCH, INPUT_SIZE, INPUT_SIZE, 3), tf.uint8)]

        @tf.function(input_signature=signature)
        def run(crops: tf.Tensor) -> tf.Tensor:
            vectors = unit(net(standardise(crops, part.standardisation), training=False))
            if not self.spec.flip:
                return vectors
            return unit(vectors + unit(net(standardise(crops[:, :, ::-1], part.standardisation), training=False)))

        return run

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """Batches of one fixed shape, the last one padded, so that a crop's vector does not depend on its neighbours' number."""
        blocks = [self._batch(crops[i : i + BATCH]) for i in range(0, len(crops), BATCH)]
        return np.concatenate(blocks) if blocks else np.empty((0, self.spec.dimension), np.float32)

    def _batch(self, crops: np.ndarray) -> np.ndarray:
        padded = np.zeros((BATCH, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
        padded[: len(crops)] = crops
        with tf.device(self.device):
            parts = [run(padded).numpy()[: len(crops)] for run in self._networks]
        vectors = np.concatenate(parts, axis=1).astype(np.float64)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    @property
    def where(self) -> str:
        """One line: what runs where."""
        threads = os.cpu_count()
        return f"{self.spec.model_name} on {self.device} (TensorFlow {tf.__version__}, float32, {threads} cores)"
