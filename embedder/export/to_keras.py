"""Export a model as a Keras 3 file of Keras' own layers, which `keras.saving.load_model` opens without this package."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from facegallery.embedder.network import keras_network, sface_keras
from facegallery.embedder.network.preprocess import ALONG
from facegallery.embedder.spec import FACENET, SPEC_KEY


class KerasFormat:
    """Builds layers of one functional model; the methods are those of `export.Format`."""

    def __init__(self) -> None:
        self._faces: list[Any] = []

    def faces(self, name: str, size: int) -> Any:
        self._faces.append(layers.Input((size, size, 3), dtype="uint8", name=name))
        return self._faces[-1]

    def along(self, crops: Any, matrix: np.ndarray, axis: int) -> Any:
        layer = layers.EinsumDense(ALONG[axis], list(crops.shape[1:]))
        x = layer(layers.Rescaling(1.0)(crops))
        layer.set_weights([matrix])
        return x

    def affine(self, crops: Any, mean: float, scale: float) -> Any:
        return layers.Rescaling(1 / scale, -mean / scale)(crops)

    def per_image(self, crops: Any) -> Any:
        # The least variance is added here, where `preprocess` takes the larger one: they differ only on a blank crop.
        least = 1 / float(np.prod(crops.shape[1:]))
        return layers.LayerNormalization(axis=(1, 2, 3), epsilon=least, center=False, scale=False)(
            layers.Rescaling(1.0)(crops)
        )

    def network(self, kind: str, arrays: Mapping[str, np.ndarray], name: str) -> Callable[[Any], Any]:
        net = (keras_network if kind == FACENET else sface_keras).load(arrays)
        net.name = name
        return net

    def mirror(self, crops: Any) -> Any:
        return keras.ops.flip(crops, axis=2)

    def add(self, a: Any, b: Any) -> Any:
        return layers.Add()([a, b])

    def scale(self, x: Any, factor: float) -> Any:
        return layers.Rescaling(factor)(x)

    def join(self, vectors: list[Any]) -> Any:
        return layers.Concatenate()(vectors)

    def unit(self, x: Any) -> Any:
        return layers.UnitNormalization()(x)

    def save(self, vectors: Any, contract: str, path: Path) -> None:
        keras.Model(self._faces if len(self._faces) > 1 else self._faces[0], vectors, name="facegallery").save(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{SPEC_KEY}.json", contract)
