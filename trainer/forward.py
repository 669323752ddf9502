"""The network as training runs it: TensorFlow operations over the Keras model's variables, in float32 or bfloat16.

In bfloat16 the convolutions' inputs, kernels and gradients are rounded to it and their sums are not; variables, standardisation,
batch norm's statistics, the bottleneck and all that follows stay float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from facegallery.embedder.network import architecture
from facegallery.embedder.network.architecture import EPSILON

DTYPES = {"f32": tf.float32, "bf16": tf.bfloat16}


class _StepBuilder:
    """live: batch norm by the batch, moving its statistics; else it is multiplied into kernel and bias, and costs nothing."""

    def __init__(self, model: keras.Model, dtype: tf.DType, live: bool, drop: Callable[[tf.Tensor], tf.Tensor]):
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
        kernel: int | tuple[int, int],
        name: str,
        strides: int = 1,
        padding: str = "same",
    ):
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

    def residual(self, x: tf.Tensor, up: tf.Tensor, scale: float, relu: bool, prefix: str) -> tf.Tensor:
        layer = self._layers[f"{prefix}_Conv2d_1x1"]
        x += self._convolution(up, scale * layer.kernel.value, scale * layer.bias.value)
        return tf.nn.relu(x) if relu else x

    def bottleneck(self, x: tf.Tensor) -> tf.Tensor:
        return bottleneck(self._model, self._drop(_averaged(x)), self._live)


class _PoolingBuilder(_StepBuilder):
    """Stops before the bottleneck."""

    def bottleneck(self, x: tf.Tensor) -> tf.Tensor:
        return _averaged(x)


def _averaged(x: tf.Tensor) -> tf.Tensor:
    """(n, h, w, channels) -> float32 (n, channels)."""
    return tf.reduce_mean(tf.cast(x, tf.float32), [1, 2])


def maps(model: keras.Model, x: tf.Tensor, precision: str) -> tf.Tensor:
    """float32 (n, 160, 160, 3), standardised -> what the lower layers give in inference mode: (n, 8, 8, 896)."""
    dtype = DTYPES[precision]
    return architecture.lower(_StepBuilder(model, dtype, False, _whole), tf.cast(x, dtype))


def pooled(model: keras.Model, maps: tf.Tensor, precision: str) -> tf.Tensor:
    """On from there to what the bottleneck is given: float32 (n, channels)."""
    dtype = DTYPES[precision]
    return architecture.upper(_PoolingBuilder(model, dtype, False, _whole), tf.cast(maps, dtype))


def upper(model: keras.Model, maps: tf.Tensor, precision: str, drop: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """From what `maps` gives to float32 (n, d); `drop` before the bottleneck."""
    dtype = DTYPES[precision]
    return architecture.upper(_StepBuilder(model, dtype, False, drop), tf.cast(maps, dtype))


def bottleneck(model: keras.Model, features: tf.Tensor, live: bool = False) -> tf.Tensor:
    """What `pooled` gives -> float32 (n, d). live: batch norm by the batch, moving its statistics."""
    return model.get_layer("Bottleneck_BatchNorm")(model.get_layer("Bottleneck")(features), training=live)


def prelogits(
    model: keras.Model, x: tf.Tensor, precision: str, live: bool, drop: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """float32 (n, 160, 160, 3), standardised -> float32 (n, d), computed in 'f32' or 'bf16'; `drop` before the bottleneck."""
    dtype = DTYPES[precision]
    return architecture.lay(_StepBuilder(model, dtype, live, drop), tf.cast(x, dtype))


def _whole(x: tf.Tensor) -> tf.Tensor:
    """Drops nothing."""
    return x
