"""Inception-ResNet-v1 in Keras 3: what is trained, and what runs on a GPU."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from facegallery.embedder.errors import ModelError
from facegallery.embedder.network import architecture
from facegallery.embedder.network.architecture import EPSILON, is_folded
from facegallery.embedder.network.shapes import check_shapes
from facegallery.embedder.spec import INPUT_SIZE

MOMENTUM = 0.995


class _KerasBuilder:
    """Keras layers; `folded` ones have biases where the live ones have batch norm."""

    def __init__(self, dimension: int, folded: bool):
        self._dimension, self._folded = dimension, folded

    def _norm(self, x, name):
        return layers.BatchNormalization(epsilon=EPSILON, momentum=MOMENTUM, scale=False, name=f"{name}_BatchNorm")(x)

    def conv(self, x, filters, kernel, name, strides=1, padding="same"):
        x = layers.Conv2D(filters, kernel, strides, padding, use_bias=self._folded, name=name)(x)
        return layers.ReLU(name=f"{name}_ReLU")(x if self._folded else self._norm(x, name))

    def max_pool(self, x, name):
        return layers.MaxPooling2D(3, 2, name=name)(x)

    def concatenate(self, branches, name):
        return layers.Concatenate(name=name)(branches)

    def residual(self, x, up, scale, relu, prefix):
        up = layers.Conv2D(x.shape[-1], 1, name=f"{prefix}_Conv2d_1x1")(up)
        x = layers.Add(name=f"{prefix}_Add")([x, layers.Rescaling(scale, name=f"{prefix}_Scale")(up)])
        return layers.ReLU(name=f"{prefix}_ReLU")(x) if relu else x

    def bottleneck(self, x):
        x = layers.GlobalAveragePooling2D(name="AvgPool")(x)  # (n, 1792)
        return self._norm(layers.Dense(self._dimension, use_bias=False, name="Bottleneck")(x), "Bottleneck")


def build(dimension: int, folded: bool = False) -> keras.Model:
    """The network without weights: float32 (n, 160, 160, 3), standardised -> float32 (n, dimension).

    folded: batch norm is part of the convolutions' weights and biases (all but the bottleneck's).
    """
    inputs = layers.Input((INPUT_SIZE, INPUT_SIZE, 3), name="crops")
    return keras.Model(inputs, architecture.lay(_KerasBuilder(dimension, folded), inputs), name="inception_resnet_v1")


def variables_by_name(model: keras.Model) -> dict[str, keras.Variable]:
    """Every weight as 'layer/kernel', 'layer_BatchNorm/beta' ..."""
    return {f"{layer.name}/{v.name}": v for layer in model.layers for v in layer.weights if v.dtype == "float32"}


def set_weights(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Loads every weight by name; raises ModelError where one is missing, left over, of another shape or not finite."""
    variables = variables_by_name(model)
    for what, names in (
        ("misses", variables.keys() - arrays.keys()),
        ("has unknown", arrays.keys() - variables.keys()),
    ):
        if names:
            raise ModelError(
                f"expected the {len(variables)} arrays of Inception-ResNet-v1, the file {what} {sorted(names)[0]!r}: not these weights"
            )
    for name, variable in variables.items():
        if tuple(variable.shape) != arrays[name].shape:
            raise ModelError(
                f"expected {name} of shape {tuple(variable.shape)}, received {arrays[name].shape}: not these weights"
            )
        if not np.isfinite(arrays[name]).all():
            raise ModelError(
                f"expected finite numbers, received NaN or infinity in {name}: fetch or train the model again"
            )
        variable.assign(arrays[name])


def get_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """The opposite of `set_weights`: float32 copies by name."""
    return {name: v.numpy() for name, v in variables_by_name(model).items()}


def load(arrays: dict[str, np.ndarray]) -> keras.Model:
    """The network that fits these weights, loaded; raises ModelError where they are of something else."""
    check_shapes((name, array.shape) for name, array in arrays.items())
    model = build(arrays["Bottleneck/kernel"].shape[-1], is_folded(arrays))
    set_weights(model, arrays)
    return model
