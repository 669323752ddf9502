"""Build Inception-ResNet-v1 in Keras 3, which training and GPUs run, and load and read its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import KerasTensor, layers

from facegallery.embedder.errors import ModelError
from facegallery.embedder.network import architecture
from facegallery.embedder.network.architecture import EPSILON, Kernel, is_folded
from facegallery.embedder.network.shapes import check_shapes
from facegallery.embedder.spec import INPUT_SIZE

MOMENTUM = 0.995  # of the moving statistics of batch norm


class _KerasBuilder:
    """Builds Keras layers; `folded` ones have biases where live ones have batch norm."""

    def __init__(self, dimension: int, *, folded: bool):
        self._dimension, self._folded = dimension, folded

    def _norm(self, x: KerasTensor, name: str) -> KerasTensor:
        return layers.BatchNormalization(epsilon=EPSILON, momentum=MOMENTUM, scale=False, name=f"{name}_BatchNorm")(x)

    def conv(
        self, x: KerasTensor, filters: int, kernel: Kernel, name: str, strides: int = 1, padding: str = "same"
    ) -> KerasTensor:
        x = layers.Conv2D(filters, kernel, strides, padding, use_bias=self._folded, name=name)(x)
        return layers.ReLU(name=f"{name}_ReLU")(x if self._folded else self._norm(x, name))

    def max_pool(self, x: KerasTensor, name: str) -> KerasTensor:
        return layers.MaxPooling2D(3, 2, name=name)(x)

    def concatenate(self, branches: Sequence[KerasTensor], name: str) -> KerasTensor:
        return layers.Concatenate(name=name)(branches)

    def residual(self, x: KerasTensor, up: KerasTensor, scale: float, prefix: str, *, relu: bool) -> KerasTensor:
        up = layers.Conv2D(x.shape[-1], 1, name=f"{prefix}_Conv2d_1x1")(up)
        x = layers.Add(name=f"{prefix}_Add")([x, layers.Rescaling(scale, name=f"{prefix}_Scale")(up)])
        return layers.ReLU(name=f"{prefix}_ReLU")(x) if relu else x

    def bottleneck(self, x: KerasTensor) -> KerasTensor:
        x = layers.GlobalAveragePooling2D(name="AvgPool")(x)  # (n, 1792)
        return self._norm(layers.Dense(self._dimension, use_bias=False, name="Bottleneck")(x), "Bottleneck")


def build(dimension: int, *, folded: bool = False) -> keras.Model:
    """Build the network without weights: standardised float32 (n, 160, 160, 3) -> float32 (n, dimension).

    folded: batch norm, but for the bottleneck's, is part of the convolutions' weights and biases.
    """
    inputs = layers.Input((INPUT_SIZE, INPUT_SIZE, 3), name="crops")
    outputs = architecture.lay(_KerasBuilder(dimension, folded=folded), inputs)
    return keras.Model(inputs, outputs, name="inception_resnet_v1")


def variables_by_name(model: keras.Model) -> dict[str, keras.Variable]:
    """Return every weight by its name, such as 'layer/kernel' or 'layer_BatchNorm/beta'."""
    return {f"{layer.name}/{v.name}": v for layer in model.layers for v in layer.weights if v.dtype == "float32"}


def set_weights(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Set every weight by its name.

    Raise ModelError where an array is missing, unknown, of another shape or not finite.
    """
    variables = variables_by_name(model)
    for what, names in (
        ("misses", variables.keys() - arrays.keys()),
        ("has unknown", arrays.keys() - variables.keys()),
    ):
        if names:
            raise ModelError(
                f"expected the {len(variables)} arrays of Inception-ResNet-v1, the file {what} {sorted(names)[0]!r}: "
                "not these weights"
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


def load(arrays: Mapping[str, np.ndarray]) -> keras.Model:
    """Build the network for these weights and set them; raise ModelError for weights of another network."""
    check_shapes((name, array.shape) for name, array in arrays.items())
    model = build(arrays["Bottleneck/kernel"].shape[-1], folded=is_folded(arrays))
    set_weights(model, arrays)
    return model
