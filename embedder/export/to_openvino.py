"""Export a model as OpenVINO's .xml and .bin, float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from facegallery.embedder.network import openvino_network, sface_network
from facegallery.embedder.network.preprocess import ALONG
from facegallery.embedder.spec import FACENET, SPEC_KEY

IMAGE = np.array([1, 2, 3])  # axes


class OpenvinoFormat:
    """Builds nodes of one graph; the methods are those of `export.Format`."""

    def __init__(self) -> None:
        self._faces: list[Any] = []

    def faces(self, name: str, size: int) -> Any:
        self._faces.append(op.parameter([-1, size, size, 3], np.uint8, name=name))
        return self._faces[-1]

    def along(self, crops: Any, matrix: np.ndarray, axis: int) -> Any:
        return op.einsum([op.convert(crops, np.float32), op.constant(matrix)], ALONG[axis])

    def affine(self, crops: Any, mean: float, scale: float) -> Any:
        return op.divide(op.subtract(op.convert(crops, np.float32), np.float32(mean)), np.float32(scale))

    def per_image(self, crops: Any) -> Any:
        least = 1 / np.sqrt(np.prod([crops.get_output_partial_shape(0)[axis].get_length() for axis in IMAGE]))
        x = op.convert(crops, np.float32)
        x = op.subtract(x, op.reduce_mean(x, IMAGE, keep_dims=True))
        deviation = op.sqrt(op.reduce_mean(op.multiply(x, x), IMAGE, keep_dims=True))
        return op.divide(x, op.maximum(deviation, np.float32(least)))

    def network(self, kind: str, arrays: Mapping[str, np.ndarray], name: str) -> Callable[[Any], Any]:
        append = openvino_network.append if kind == FACENET else sface_network.append
        return lambda x: append(arrays, x)

    def mirror(self, crops: Any) -> Any:
        return op.slice(crops, [-1], [np.iinfo(np.int32).min], [-1], [2])

    def add(self, a: Any, b: Any) -> Any:
        return op.add(a, b)

    def scale(self, x: Any, factor: float) -> Any:
        return op.multiply(x, np.float32(factor))

    def join(self, vectors: list[Any]) -> Any:
        return op.concat(vectors, 1)

    def unit(self, x: Any) -> Any:
        return op.divide(x, op.maximum(op.reduce_l2(x, np.array([1]), keep_dims=True), np.float32(1e-10)))

    def save(self, vectors: Any, contract: str, path: Path) -> None:
        vectors.output(0).set_names({"vectors"})
        graph = ov.Model([vectors], self._faces, "facegallery")
        graph.set_rt_info(contract, [SPEC_KEY])
        ov.save_model(graph, path, compress_to_fp16=False)
