"""Export a model as OpenVINO's .xml and .bin, float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from facegallery.embedder.network.openvino_network import append
from facegallery.embedder.network.preprocess import ALONG
from facegallery.embedder.spec import INPUT_SIZE, SPEC_KEY

IMAGE = np.array([1, 2, 3])  # axes


class OpenvinoFormat:
    """Builds nodes of one graph; the methods are those of `export.Format`."""

    def __init__(self) -> None:
        self.crops = op.parameter([-1, INPUT_SIZE, INPUT_SIZE, 3], np.uint8, name="crops")

    def along(self, crops: Any, matrix: np.ndarray, axis: int) -> Any:
        return op.einsum([op.convert(crops, np.float32), op.constant(matrix)], ALONG[axis])

    def standardise(self, crops: Any, how: str) -> Any:
        x = op.convert(crops, np.float32)
        if how == "fixed":
            return op.divide(op.subtract(x, np.float32(127.5)), np.float32(128))
        x = op.subtract(x, op.reduce_mean(x, IMAGE, keep_dims=True))
        deviation = op.sqrt(op.reduce_mean(op.multiply(x, x), IMAGE, keep_dims=True))
        return op.divide(x, op.maximum(deviation, np.float32(1 / np.sqrt(INPUT_SIZE * INPUT_SIZE * 3))))

    def network(self, arrays: Mapping[str, np.ndarray], name: str) -> Callable[[Any], Any]:
        return lambda x: append(arrays, x)

    def mirror(self, crops: Any) -> Any:
        return op.slice(crops, [-1], [-INPUT_SIZE - 1], [-1], [2])

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
        graph = ov.Model([vectors], [self.crops], "facegallery")
        graph.set_rt_info(contract, [SPEC_KEY])
        ov.save_model(graph, path, compress_to_fp16=False)
