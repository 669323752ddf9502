"""Run SFace as training does: TensorFlow operations over the Keras model's variables, in float32.

bfloat16 would take half as long again on CPUs, where depthwise convolutions gain nothing from it.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from facegallery.embedder.network import sface_keras
from facegallery.embedder.network.sface_layers import DIMENSION, HALVING, LAST_EPSILON, LAYERS, norm
from facegallery.trainer.forward import KEPT, Drop

CUT = 13  # the maps are what this layer's depthwise convolution makes
LAYERS_OF = {
    "head": (),
    "bottleneck": ("pre_fc1", "fc1"),
    "upper": (f"conv_{CUT}_conv2d", f"conv_{CUT}_batchnorm", f"conv_{CUT}_relu", "conv_14", "bn1", "pre_fc1", "fc1"),
    "all": ("",),
}
SOLVED_FROM, KEEPS_DIMENSION = "head", True  # from the prelogits: the bottleneck's input has 50,176 numbers
load, set_weights = sface_keras.load, sface_keras.set_weights
variables_by_name, as_array = sface_keras.variables_by_name, sface_keras.as_array


def dimension(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the length of the vectors of these weights."""
    return DIMENSION


class _Layers:
    """Runs the layers of the network.

    live: normalise by the batch and move the statistics; otherwise batch norm is folded into the kernels, which costs
    nothing.
    """

    def __init__(self, model: keras.Model, *, live: bool = False):
        self._layers, self._live = {layer.name: layer for layer in model.layers}, live

    def norm(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """Normalise over all but the last axis."""
        if self._live:
            return self._layers[name](x, training=True)
        factor, bias = self._folded(name)
        return x * factor + bias

    def _folded(self, name: str) -> tuple[tf.Tensor, tf.Tensor]:
        norm = self._layers[name]
        factor = norm.gamma.value * tf.math.rsqrt(norm.moving_variance.value + norm.epsilon)
        return factor, norm.beta.value - norm.moving_mean.value * factor

    def block(self, x: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
        """Run a convolution, batch norm and PReLU."""
        kernel, norm = self._layers[f"{name}_conv2d"].kernel.value, f"{name}_batchnorm"
        depthwise = name.endswith("_dw")
        if self._live:
            x = self.norm(_convolved(x, kernel, stride, depthwise=depthwise), norm)
        else:
            factor, bias = self._folded(norm)
            kernel = kernel * (factor[:, None] if depthwise else factor)
            x = tf.nn.bias_add(_convolved(x, kernel, stride, depthwise=depthwise), bias)
        return tf.maximum(x, 0.0) + self._layers[f"{name}_relu"].alpha.value * tf.minimum(x, 0.0)

    def pair(self, x: tf.Tensor, i: int, *, upper: bool = True, lower: bool = True) -> tf.Tensor:
        """Run the depthwise convolution i (`lower`), and the pointwise one on it (`upper`)."""
        if lower:
            x = self.block(x, f"conv_{i}_dw", 2 if i in HALVING else 1)
        return self.block(x, f"conv_{i}") if upper else x

    def lower(self, x: tf.Tensor) -> tf.Tensor:
        rescaling = self._layers["input"]
        x = self.block(x * rescaling.scale + rescaling.offset, "conv_1")
        for i in range(2, CUT):
            x = self.pair(x, i)
        return self.pair(x, CUT, upper=False)

    def flat(self, maps: tf.Tensor) -> tf.Tensor:
        """Run the layers from the maps to the bottleneck's input, (n, 50176)."""
        x = self.pair(tf.cast(maps, tf.float32), CUT, lower=False)
        for i in range(CUT + 1, LAYERS + 1):
            x = self.pair(x, i)
        x = tf.transpose(self.norm(x, "bn1"), [0, 3, 1, 2])
        return tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]])

    def bottleneck(self, features: tf.Tensor) -> tf.Tensor:
        dense = self._layers["pre_fc1"]
        return self.norm(tf.matmul(tf.cast(features, tf.float32), dense.kernel.value) + dense.bias.value, "fc1")


def _convolved(x: tf.Tensor, kernel: tf.Tensor, stride: int, *, depthwise: bool) -> tf.Tensor:
    """Convolve with zeros around; the kernel of a pointwise convolution needs none."""
    pad = kernel.shape[0] // 2
    if pad:  # TensorFlow's own padding is another where the stride is 2
        x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    if depthwise:
        return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "VALID")
    return tf.nn.conv2d(x, kernel, stride, "VALID")


def maps(model: keras.Model, x: tf.Tensor, precision: str) -> tf.Tensor:
    """Run the lower layers in inference mode: float32 (n, 112, 112, 3) of 0..255 -> maps (n, 7, 7, 512)."""
    return _Layers(model).lower(x)


def pooled(model: keras.Model, maps: tf.Tensor, precision: str) -> tf.Tensor:
    """Run the upper layers in inference mode up to the bottleneck's input: maps -> (n, 50176).

    It is float32, or float16 in 'bf16'.
    """
    return tf.cast(_Layers(model).flat(maps), KEPT[precision])


def upper(model: keras.Model, maps: tf.Tensor, precision: str, drop: Drop) -> tf.Tensor:
    """Run the upper layers in inference mode: maps -> prelogits float32 (n, 128).

    drop: applied before the bottleneck.
    """
    layers = _Layers(model)
    return layers.bottleneck(drop(layers.flat(maps)))


def bottleneck(model: keras.Model, features: tf.Tensor) -> tf.Tensor:
    """Run the bottleneck in inference mode: (n, 50176) -> prelogits float32 (n, 128)."""
    return _Layers(model).bottleneck(features)


def prelogits(model: keras.Model, x: tf.Tensor, precision: str, drop: Drop, *, live: bool) -> tf.Tensor:
    """Run the whole network: float32 (n, 112, 112, 3) of 0..255 -> prelogits float32 (n, 128).

    drop: applied before the bottleneck. live: normalise by the batch and move the statistics.
    """
    layers = _Layers(model, live=live)
    return layers.bottleneck(drop(layers.flat(layers.lower(x))))


def solved(arrays: Mapping[str, np.ndarray], kernel: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """Return the bottleneck's arrays that apply a linear map after it: y -> y kernel + bias, kernel (128, 128)."""
    factor, shift = norm(arrays, "fc1", LAST_EPSILON)
    ones = np.ones(DIMENSION, np.float32)
    offset = arrays["pre_fc1_bias"] * factor + shift
    turned = kernel.T.astype(np.float64)
    return {
        "pre_fc1_weight": (turned * factor @ arrays["pre_fc1_weight"].astype(np.float64)).astype(np.float32),
        "pre_fc1_bias": 0 * ones,
        "fc1_gamma": ones,
        "fc1_beta": (turned @ offset + bias).astype(np.float32),
        "fc1_moving_mean": 0 * ones,
        "fc1_moving_var": ones * np.float32(1 - LAST_EPSILON),
    }
