"""Run Inception-ResNet-v1 as training does: TensorFlow operations over the Keras model's variables.

They run in float32 or bfloat16.

In bfloat16 the inputs, kernels and gradients of convolutions are rounded and their sums are not. Variables,
standardisation, batch norm's statistics, the bottleneck and all that follows stay float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from facegallery.embedder.network import architecture, keras_network
from facegallery.embedder.network.architecture import EPSILON, Kernel

DTYPES = {"f32": tf.float32, "bf16": tf.bfloat16}
KEPT = {"f32": tf.float32, "bf16": tf.float16}  # type of kept maps, by the precision of the network
Drop = Callable[[tf.Tensor], tf.Tensor]
LAYERS_OF = {"head": (), "bottleneck": ("Bottleneck",), "upper": architecture.UPPER, "all": ("",)}
SOLVED_FROM, KEEPS_DIMENSION = "bottleneck", False  # solved from the pooled maps, as wide as the teacher's vectors
load, set_weights = keras_network.load, keras_network.set_weights
variables_by_name = keras_network.variables_by_name


def as_array(name: str, value: np.ndarray) -> np.ndarray:
    """Return a variable's value as the array of that name holds it."""
    return value


def dimension(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the length of the vectors of these weights."""
    return int(arrays["Bottleneck/kernel"].shape[-1])


class _StepBuilder:
    """Runs the operations of the network.

    live: normalise by the batch and move the statistics; otherwise batch norm is folded into kernel and bias, which
    costs nothing. drop: applied before the bottleneck.
    """

    def __init__(self, model: keras.Model, dtype: tf.DType, drop: Drop, *, live: bool):
        self._model, self._layers = model, {layer.name: layer for layer in model.layers}
        self._dtype, self._live, self._drop = dtype, live, drop

    def _convolution(
        self, x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, strides: int = 1, padding: str = "valid"
    ) -> tf.Tensor:
        x = tf.nn.conv2d(x, tf.cast(kernel, self._dtype), strides, padding.upper())
        return x if bias is None else tf.nn.bias_add(x, tf.cast(bias, self._dtype))

    def conv(
        self,
        x: tf.Tensor,
        filters: int,
        kernel: Kernel,
        name: str,
        strides: int = 1,
        padding: str = "same",
    ) -> tf.Tensor:
        layer, norm = self._layers[name], self._layers.get(f"{name}_BatchNorm")
        if norm is None:
            return tf.nn.relu(self._convolution(x, layer.kernel.value, layer.bias.value, strides, padding))
        if self._live:
            x = self._convolution(x, layer.kernel.value, None, strides, padding)
            return tf.nn.relu(tf.cast(norm(tf.cast(x, tf.float32), training=True), self._dtype))
        factor = tf.math.rsqrt(norm.moving_variance.value + EPSILON)
        bias = norm.beta.value - norm.moving_mean.value * factor
        return tf.nn.relu(self._convolution(x, layer.kernel.value * factor, bias, strides, padding))

    def max_pool(self, x: tf.Tensor, name: str) -> tf.Tensor:
        return tf.nn.max_pool2d(x, 3, 2, "VALID")

    def concatenate(self, branches: Sequence[tf.Tensor], name: str) -> tf.Tensor:
        return tf.concat(branches, 3)

    def residual(self, x: tf.Tensor, up: tf.Tensor, scale: float, prefix: str, *, relu: bool) -> tf.Tensor:
        layer = self._layers[f"{prefix}_Conv2d_1x1"]
        x += self._convolution(up, scale * layer.kernel.value, scale * layer.bias.value)
        return tf.nn.relu(x) if relu else x

    def bottleneck(self, x: tf.Tensor) -> tf.Tensor:
        return bottleneck(self._model, self._drop(_averaged(x)), live=self._live)


class _PoolingBuilder(_StepBuilder):
    """Stops before the bottleneck."""

    def bottleneck(self, x: tf.Tensor) -> tf.Tensor:
        return _averaged(x)


def _averaged(x: tf.Tensor) -> tf.Tensor:
    """Return the mean over the places: (n, h, w, channels) -> float32 (n, channels)."""
    return tf.reduce_mean(tf.cast(x, tf.float32), [1, 2])


def maps(model: keras.Model, x: tf.Tensor, precision: str) -> tf.Tensor:
    """Run the lower layers in inference mode: standardised float32 (n, 160, 160, 3) -> maps (n, 8, 8, 896)."""
    dtype = DTYPES[precision]
    return architecture.lower(_StepBuilder(model, dtype, _whole, live=False), tf.cast(x, dtype))


def pooled(model: keras.Model, maps: tf.Tensor, precision: str) -> tf.Tensor:
    """Run the upper layers in inference mode up to the bottleneck's input: maps -> float32 (n, channels)."""
    dtype = DTYPES[precision]
    return architecture.upper(_PoolingBuilder(model, dtype, _whole, live=False), tf.cast(maps, dtype))


def upper(model: keras.Model, maps: tf.Tensor, precision: str, drop: Drop) -> tf.Tensor:
    """Run the upper layers in inference mode: maps -> prelogits float32 (n, d). drop: applied before the bottleneck."""
    dtype = DTYPES[precision]
    return architecture.upper(_StepBuilder(model, dtype, drop, live=False), tf.cast(maps, dtype))


def bottleneck(model: keras.Model, features: tf.Tensor, *, live: bool = False) -> tf.Tensor:
    """Run the bottleneck: float32 (n, channels) -> prelogits float32 (n, d).

    live: normalise by the batch and move the statistics.
    """
    return model.get_layer("Bottleneck_BatchNorm")(model.get_layer("Bottleneck")(features), training=live)


def prelogits(model: keras.Model, x: tf.Tensor, precision: str, drop: Drop, *, live: bool) -> tf.Tensor:
    """Run the whole network: standardised float32 (n, 160, 160, 3) -> prelogits float32 (n, d).

    precision: 'f32' or 'bf16'. drop: applied before the bottleneck. live: normalise by the batch and move the
    statistics.
    """
    dtype = DTYPES[precision]
    return architecture.lay(_StepBuilder(model, dtype, drop, live=live), tf.cast(x, dtype))


def solved(arrays: Mapping[str, np.ndarray], kernel: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of a bottleneck that is this linear map: float32 (channels, d) and (d,)."""
    zeros = np.zeros_like(bias)
    return {
        "Bottleneck/kernel": kernel,
        "Bottleneck_BatchNorm/beta": bias,
        "Bottleneck_BatchNorm/moving_mean": zeros,
        "Bottleneck_BatchNorm/moving_variance": zeros + np.float32(1 - EPSILON),
    }


def _whole(x: tf.Tensor) -> tf.Tensor:
    """Drop nothing."""
    return x
