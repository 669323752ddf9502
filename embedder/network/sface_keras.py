"""Build SFace as a Keras model, the twin of `sface_network`, for training and GPUs."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from facegallery.embedder.network.keras_network import MOMENTUM
from facegallery.embedder.network.sface_layers import (
    EPSILON,
    HALVING,
    LAST_EPSILON,
    LAYERS,
    SIDE,
    shapes,
    standardisation,
)

NAMES = {"kernel": "weight", "alpha": "gamma", "moving_variance": "moving_var"}  # of Keras' variables, in the arrays
KERAS = {"depthwise": (2, 3, 0, 1), "convolution": (2, 3, 1, 0), "dense": (1, 0)}  # of the arrays' axes, in Keras
STORED = {"depthwise": (2, 3, 0, 1), "convolution": (3, 2, 0, 1), "dense": (1, 0)}  # of Keras' axes, in the arrays


def build() -> keras.Model:
    """Return the network without weights: float32 RGB of 0 to 255, (n, 112, 112, 3) -> float32 (n, 128)."""
    faces = keras.Input((SIDE, SIDE, 3), name="faces")
    x = layers.Rescaling(1.0, name="input")(faces)  # its numbers are set by `load`

    def norm(x: keras.KerasTensor, name: str, epsilon: float) -> keras.KerasTensor:
        return layers.BatchNormalization(momentum=MOMENTUM, epsilon=epsilon, name=name)(x)

    def block(x: keras.KerasTensor, name: str, channels: int, size: int, stride: int = 1) -> keras.KerasTensor:
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x) if size > 1 else x
        if name.endswith("_dw"):
            x = layers.DepthwiseConv2D(size, stride, use_bias=False, name=f"{name}_conv2d")(x)
        else:
            x = layers.Conv2D(channels, size, stride, use_bias=False, name=f"{name}_conv2d")(x)
        x = norm(x, f"{name}_batchnorm", EPSILON)
        return layers.PReLU(shared_axes=[1, 2], name=f"{name}_relu")(x)

    wanted = shapes()
    x = block(x, "conv_1", wanted["conv_1_conv2d_weight"][0], 3)
    for i in range(2, LAYERS + 1):
        x = block(x, f"conv_{i}_dw", 0, 3, 2 if i in HALVING else 1)
        x = block(x, f"conv_{i}", wanted[f"conv_{i}_conv2d_weight"][0], 1)
    x = norm(x, "bn1", LAST_EPSILON)
    x = layers.Flatten(name="flat")(layers.Permute((3, 1, 2), name="channels_first")(x))
    x = layers.Dense(wanted["pre_fc1_bias"][0], name="pre_fc1")(x)
    return keras.Model(faces, norm(x, "fc1", LAST_EPSILON), name="sface")


def load(arrays: Mapping[str, np.ndarray]) -> keras.Model:
    """Return the network with the weights of `sface_layers.shapes`."""
    net = build()
    mean, scale = map(float, standardisation(arrays))
    net.get_layer("input").scale, net.get_layer("input").offset = scale, -mean * scale
    set_weights(net, arrays)
    return net


def variables_by_name(model: keras.Model) -> dict[str, keras.Variable]:
    """Return every weight by the name of its array, such as 'pre_fc1_weight' or 'bn1_moving_var'."""
    return {
        f"{layer.name}_{NAMES.get(v.name, v.name)}": v
        for layer in model.layers
        for v in layer.weights
        if v.dtype == "float32"
    }


def set_weights(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Set every weight by the name of its array."""
    for name, variable in variables_by_name(model).items():
        variable.assign(_turned(arrays[name], name, KERAS).reshape(variable.shape))


def as_array(name: str, value: np.ndarray) -> np.ndarray:
    """Return a variable's value as the array of that name holds it."""
    return np.ascontiguousarray(_turned(value, name, STORED).reshape(shapes()[name]))


def _turned(x: np.ndarray, name: str, axes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    kind = "depthwise" if name.endswith("_dw_conv2d_weight") else "convolution" if x.ndim == 4 else "dense"
    return x.transpose(axes[kind]) if name.endswith("_weight") else x
