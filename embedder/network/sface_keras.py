"""Build SFace as a Keras model, the twin of `sface_network`, for GPUs."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from facegallery.embedder.network.sface_layers import EPSILON, HALVING, LAST_EPSILON, LAYERS, NORM, SIDE, shapes


def build() -> keras.Model:
    """Return the network without weights: float32 RGB of 0 to 255, (n, 112, 112, 3) -> float32 (n, 128)."""
    faces = keras.Input((SIDE, SIDE, 3), name="faces")
    x = layers.Rescaling(1.0, name="input")(faces)  # its numbers are set by `load`

    def block(x: keras.KerasTensor, name: str, channels: int, size: int, stride: int = 1) -> keras.KerasTensor:
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x) if size > 1 else x
        if name.endswith("_dw"):
            x = layers.DepthwiseConv2D(size, stride, use_bias=False, name=f"{name}_conv2d")(x)
        else:
            x = layers.Conv2D(channels, size, stride, use_bias=False, name=f"{name}_conv2d")(x)
        x = layers.BatchNormalization(epsilon=EPSILON, name=f"{name}_batchnorm")(x)
        return layers.PReLU(shared_axes=[1, 2], name=f"{name}_relu")(x)

    wanted = shapes()
    x = block(x, "conv_1", wanted["conv_1_conv2d_weight"][0], 3)
    for i in range(2, LAYERS + 1):
        x = block(x, f"conv_{i}_dw", 0, 3, 2 if i in HALVING else 1)
        x = block(x, f"conv_{i}", wanted[f"conv_{i}_conv2d_weight"][0], 1)
    x = layers.BatchNormalization(epsilon=LAST_EPSILON, name="bn1")(x)
    x = layers.Flatten(name="flat")(layers.Permute((3, 1, 2), name="channels_first")(x))
    x = layers.Dense(wanted["pre_fc1_bias"][0], name="pre_fc1")(x)
    return keras.Model(faces, layers.BatchNormalization(epsilon=LAST_EPSILON, name="fc1")(x), name="sface")


def load(arrays: Mapping[str, np.ndarray]) -> keras.Model:
    """Return the network with the weights of `sface_layers.shapes`."""
    net = build()
    mean, scale = (float(arrays[f"scalar_op{i}"][0]) for i in (1, 2))
    net.get_layer("input").scale, net.get_layer("input").offset = scale, -mean * scale
    for layer in net.layers:
        if layer.weights:
            layer.set_weights(_weights_of(layer, arrays))
    return net


def _weights_of(layer: keras.Layer, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    name = layer.name
    match layer:
        case layers.DepthwiseConv2D():
            return [arrays[f"{name}_weight"].transpose(2, 3, 0, 1)]
        case layers.Conv2D():
            return [arrays[f"{name}_weight"].transpose(2, 3, 1, 0)]
        case layers.PReLU():
            return [arrays[f"{name}_gamma"].reshape(1, 1, -1)]
        case layers.Dense():
            return [arrays[f"{name}_weight"].T, arrays[f"{name}_bias"]]
    return [arrays[f"{name}_{part}"] for part in NORM]
