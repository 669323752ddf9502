"""Inception-ResNet-v1 in Keras 3 (Szegedy et al. 2016, as in davidsandberg/facenet): (n, 160, 160, 3) -> (n, d).

Layer names are those of the Keras 2 files of facenet, so that weights load by name. The output is the bottleneck's,
before the length is made 1.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from embedder.errors import ModelError
from embedder.spec import INPUT_SIZE

EPSILON, MOMENTUM = 1e-3, 0.995

# kind -> its branches, each a list of (filters, kernel, name)
BLOCKS: dict[str, list[list[tuple]]] = {
    "Block35": [
        [(32, 1, "Conv2d_1x1")],
        [(32, 1, "Conv2d_0a_1x1"), (32, 3, "Conv2d_0b_3x3")],
        [(32, 1, "Conv2d_0a_1x1"), (32, 3, "Conv2d_0b_3x3"), (32, 3, "Conv2d_0c_3x3")],
    ],
    "Block17": [
        [(128, 1, "Conv2d_1x1")],
        [(128, 1, "Conv2d_0a_1x1"), (128, (1, 7), "Conv2d_0b_1x7"), (128, (7, 1), "Conv2d_0c_7x1")],
    ],
    "Block8": [
        [(192, 1, "Conv2d_1x1")],
        [(192, 1, "Conv2d_0a_1x1"), (192, (1, 3), "Conv2d_0b_1x3"), (192, (3, 1), "Conv2d_0c_3x1")],
    ],
}
# kind -> its branches beside the max pooling; the last convolution of each has stride 2
REDUCTIONS: dict[str, list[list[tuple]]] = {
    "Mixed_6a": [
        [(384, 3, "Conv2d_1a_3x3")],
        [(192, 1, "Conv2d_0a_1x1"), (192, 3, "Conv2d_0b_3x3"), (256, 3, "Conv2d_1a_3x3")],
    ],
    "Mixed_7a": [
        [(256, 1, "Conv2d_0a_1x1"), (384, 3, "Conv2d_1a_3x3")],
        [(256, 1, "Conv2d_0a_1x1"), (256, 3, "Conv2d_1a_3x3")],
        [(256, 1, "Conv2d_0a_1x1"), (256, 3, "Conv2d_0b_3x3"), (256, 3, "Conv2d_1a_3x3")],
    ],
}


class _Builder:
    """The pieces of the network; `folded` has biases where the live one has batch norm."""

    def __init__(self, folded: bool):
        self.folded = folded

    def norm(self, x, name):
        return layers.BatchNormalization(epsilon=EPSILON, momentum=MOMENTUM, scale=False, name=f"{name}_BatchNorm")(x)

    def conv(self, x, filters, kernel, name, strides=1, padding="same"):
        x = layers.Conv2D(filters, kernel, strides, padding, use_bias=self.folded, name=name)(x)
        return layers.ReLU(name=f"{name}_ReLU")(x if self.folded else self.norm(x, name))

    def block(self, x, kind, index, scale, relu=True):
        prefix = f"{kind}_{index}"
        branches = []
        for b, steps in enumerate(BLOCKS[kind]):
            y = x
            for filters, kernel, name in steps:
                y = self.conv(y, filters, kernel, f"{prefix}_Branch_{b}_{name}")
            branches.append(y)
        up = layers.Concatenate(name=f"{prefix}_Concatenate")(branches)
        up = layers.Conv2D(x.shape[-1], 1, name=f"{prefix}_Conv2d_1x1")(up)
        x = layers.Add(name=f"{prefix}_Add")([x, layers.Rescaling(scale, name=f"{prefix}_Scale")(up)])
        return layers.ReLU(name=f"{prefix}_ReLU")(x) if relu else x

    def reduction(self, x, kind):
        branches = []
        for b, steps in enumerate(REDUCTIONS[kind]):
            y = x
            for filters, kernel, name in steps[:-1]:
                y = self.conv(y, filters, kernel, f"{kind}_Branch_{b}_{name}")
            filters, kernel, name = steps[-1]
            branches.append(self.conv(y, filters, kernel, f"{kind}_Branch_{b}_{name}", 2, "valid"))
        branches.append(layers.MaxPooling2D(3, 2, name=f"{kind}_MaxPool")(x))
        return layers.Concatenate(name=f"{kind}_Concatenate")(branches)


def build(dimension: int, folded: bool = False) -> keras.Model:
    """The network without weights: float32 (n, 160, 160, 3), standardised -> float32 (n, dimension).

    folded: batch norm is part of the convolutions' weights and biases (all but the bottleneck's).
    """
    make = _Builder(folded)
    inputs = layers.Input((INPUT_SIZE, INPUT_SIZE, 3), name="crops")
    x = make.conv(inputs, 32, 3, "Conv2d_1a_3x3", 2, "valid")  # (n, 79, 79, 32)
    x = make.conv(x, 32, 3, "Conv2d_2a_3x3", 1, "valid")  # (n, 77, 77, 32)
    x = make.conv(x, 64, 3, "Conv2d_2b_3x3")  # (n, 77, 77, 64)
    x = layers.MaxPooling2D(3, 2, name="MaxPool_3a_3x3")(x)  # (n, 38, 38, 64)
    x = make.conv(x, 80, 1, "Conv2d_3b_1x1", 1, "valid")  # (n, 38, 38, 80)
    x = make.conv(x, 192, 3, "Conv2d_4a_3x3", 1, "valid")  # (n, 36, 36, 192)
    x = make.conv(x, 256, 3, "Conv2d_4b_3x3", 2, "valid")  # (n, 17, 17, 256)
    for i in range(1, 6):
        x = make.block(x, "Block35", i, 0.17)
    x = make.reduction(x, "Mixed_6a")  # (n, 8, 8, 896)
    for i in range(1, 11):
        x = make.block(x, "Block17", i, 0.10)
    x = make.reduction(x, "Mixed_7a")  # (n, 3, 3, 1792)
    for i in range(1, 6):
        x = make.block(x, "Block8", i, 0.20)
    x = make.block(x, "Block8", 6, 1.0, relu=False)
    x = layers.GlobalAveragePooling2D(name="AvgPool")(x)  # (n, 1792)
    x = layers.Dense(dimension, use_bias=False, name="Bottleneck")(x)  # (n, d)
    return keras.Model(inputs, make.norm(x, "Bottleneck"), name="inception_resnet_v1")


def is_folded(arrays: dict[str, np.ndarray]) -> bool:
    """Whether these weights have batch norm inside the convolutions."""
    return "Conv2d_1a_3x3/bias" in arrays


def variables_by_name(model: keras.Model) -> dict[str, keras.Variable]:
    """Every weight as 'layer/kernel', 'layer_BatchNorm/beta' ..."""
    return {f"{layer.name}/{v.name}": v for layer in model.layers for v in layer.weights if v.dtype == "float32"}


def set_weights(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Loads every weight by name; raises ModelError where one is missing, left over, of another shape or not finite."""
    variables = variables_by_name(model)
    for what, names in (("misses", variables.keys() - arrays.keys()), ("has unknown", arrays.keys() - variables.keys())):
        if names:
            raise ModelError(
                f"expected the {len(variables)} arrays of Inception-ResNet-v1, the file {what} {sorted(names)[0]!r}: not these weights"
            )
    for name, variable in variables.items():
        if tuple(variable.shape) != arrays[name].shape:
            raise ModelError(f"expected {name} of shape {tuple(variable.shape)}, received {arrays[name].shape}: not these weights")
        if not np.isfinite(arrays[name]).all():
            raise ModelError(f"expected finite numbers, received NaN or infinity in {name}: fetch or train the model again")
        variable.assign(arrays[name])


def get_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """The opposite of `set_weights`: float32 copies by name."""
    return {name: v.numpy() for name, v in variables_by_name(model).items()}


def load(arrays: dict[str, np.ndarray]) -> keras.Model:
    """The network that fits these weights, loaded; raises ModelError where they are of something else."""
    if "Bottleneck/kernel" not in arrays:
        raise ModelError("expected the weights of Inception-ResNet-v1, received none named 'Bottleneck/kernel': not these weights")
    model = build(arrays["Bottleneck/kernel"].shape[-1], is_folded(arrays))
    set_weights(model, arrays)
    return model
