"""Prepare crops and run networks on TensorFlow: the reference, for training and for GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import tensorflow as tf

from facegallery.embedder.network import keras_network, sface_keras
from facegallery.embedder.network.engines import TensorflowEngine, in_batches
from facegallery.embedder.network.preprocess import sampling
from facegallery.embedder.spec import Part

BATCH = 32


def standardise(crops: tf.Tensor, how: str, mean: float = 0.0, scale: float = 1.0) -> tf.Tensor:
    """Standardise crops, uint8 or float (n, h, w, 3) in 0..255, as `preprocess.standardise`."""
    x = tf.cast(crops, tf.float32)
    if how == "affine":
        return (x - mean) / scale
    if how == "fixed":
        return (x - 127.5) / 128.0
    means, variance = tf.nn.moments(x, axes=[1, 2, 3], keepdims=True)
    size = tf.cast(tf.reduce_prod(tf.shape(x)[1:]), tf.float32)
    return (x - means) / tf.maximum(tf.sqrt(variance), tf.math.rsqrt(size))


def middle(crops: tf.Tensor, zoom: float) -> tf.Tensor:
    """Enlarge the middle of crops, uint8 or float (n, s, s, 3), as `preprocess.middle`."""
    if zoom == 1:
        return crops
    x = tf.cast(crops, tf.float32)
    low, share = sampling(crops.shape[1], zoom)
    for axis, shares in ((1, share[:, None, None]), (2, share[:, None])):
        before = tf.gather(x, low, axis=axis)
        x = before + (tf.gather(x, low + 1, axis=axis) - before) * shares
    return x


def seen(crops: tf.Tensor, part: Part, zoom: float | None = None) -> tf.Tensor:
    """Prepare crops, uint8 or float (n, s, s, 3) in 0..255, for a network, as `preprocess.seen`."""
    return standardise(middle(crops, zoom or part.enlargement), part.standardisation, part.mean, part.scale)


def compiled(arrays: Mapping[str, np.ndarray], part: Part, device: str) -> Callable[..., np.ndarray]:
    """Return a `runtime.Network` on a device, such as 'GPU:0', that runs in batches of one fixed shape."""
    with tf.device(device):
        net = sface_keras.load(arrays) if part.network == "sface" else keras_network.load(dict(arrays))

    @cache
    def engine(zoom: float) -> TensorflowEngine:
        @tf.function(input_signature=[tf.TensorSpec((BATCH, part.size, part.size, 3), tf.uint8)])
        def run(crops: tf.Tensor) -> tf.Tensor:
            return net(seen(crops, part, zoom), training=False)

        return TensorflowEngine(run, device)

    return lambda crops, zoom=part.enlargement: in_batches(engine(zoom), (crops,), BATCH)
