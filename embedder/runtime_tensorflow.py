"""Crops -> unit vectors on TensorFlow: the reference, what is trained, and what runs on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from embedder import network
from embedder.engines import TensorflowEngine, in_batches
from embedder.spec import INPUT_SIZE

BATCH = 32


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


def compiled(arrays: Mapping[str, np.ndarray], standardisation: str, device: str) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 (n, 160, 160, 3) -> float32 (n, d), of any length, in batches of one fixed shape."""
    with tf.device(device):
        net = network.load(dict(arrays))

    @tf.function(input_signature=[tf.TensorSpec((BATCH, INPUT_SIZE, INPUT_SIZE, 3), tf.uint8)])
    def run(crops: tf.Tensor) -> tf.Tensor:
        return net(standardise(crops, standardisation), training=False)

    engine = TensorflowEngine(run, device)
    return lambda crops: in_batches(engine, (crops,), BATCH)
