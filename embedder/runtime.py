"""Crops -> unit vectors: OpenVINO on CPUs, TensorFlow on GPUs, one interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version

import numpy as np

from embedder.compute import Compute, cores
from embedder.engines import OpenvinoEngine, filled_up, in_batches
from embedder.spec import Part
from embedder.weights import Model

BATCH = 8  # as fast as 32 on CPUs, and little is lost on a few faces
Network = Callable[[np.ndarray], np.ndarray]


def standardise(crops: np.ndarray, how: str) -> np.ndarray:
    """uint8 (n, h, w, 3) -> float32, as the weights were trained.

    fixed: (x - 127.5) / 128. per_image: each crop to mean 0 and deviation 1, the deviation at least 1 / sqrt(size)
    (facenet's `prewhiten`).
    """
    x = crops.astype(np.float32)
    if how == "fixed":
        x -= 127.5
        x /= 128.0
        return x
    flat = x.reshape(len(x), -1)
    flat -= flat.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    deviation = np.sqrt(np.einsum("ij,ij->i", flat, flat) / flat.shape[1])
    flat /= np.maximum(deviation, 1 / np.sqrt(flat.shape[1]))[:, None]
    return x


def unit(x: np.ndarray) -> np.ndarray:
    """float (n, d) -> rows of length 1, float64."""
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-10)


class Embedder:
    """uint8 (n, 160, 160, 3) -> float32 (n, d) of unit length, by the model's contract; several threads may use it at once."""

    def __init__(self, model: Model, compute: Compute = Compute()):  # noqa: B008
        """Loads and verifies the weights; raises ModelError where they are not what the contract names."""
        self.compute = compute.chosen()
        package = "tensorflow" if self.compute.on_gpu else "openvino"
        self.spec = replace(model.spec, runtime=f"{package} {version(package)}", precision=self.compute.precision)
        make = self._on_gpu if self.compute.on_gpu else self._on_cpu
        self._networks = [make(part, model.arrays(i)) for i, part in enumerate(model.spec.parts)]

    def _on_cpu(self, part: Part, arrays: dict[str, np.ndarray]) -> Network:
        from embedder import network_openvino

        engine = OpenvinoEngine(network_openvino.build(arrays, BATCH), self.compute.precision)
        return lambda crops: in_batches(engine, (standardise(filled_up(crops, BATCH), part.standardisation),), BATCH)[: len(crops)]

    def _on_gpu(self, part: Part, arrays: dict[str, np.ndarray]) -> Network:
        from embedder import runtime_tensorflow

        return runtime_tensorflow.compiled(arrays, part.standardisation, self.compute.device)

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """Batches have one fixed shape, the last one filled up, so that a crop's vector does not depend on its neighbours' number."""
        if not len(crops):
            return np.empty((0, self.spec.dimension), np.float32)
        vectors = [unit(network(crops)) for network in self._networks]
        if self.spec.flip:
            vectors = [unit(x + unit(network(crops[:, :, ::-1]))) for x, network in zip(vectors, self._networks, strict=True)]
        return unit(np.concatenate(vectors, axis=1)).astype(np.float32)

    @property
    def where(self) -> str:
        """One line: what runs where."""
        return f"{self.spec.model_name} on {self.compute.device} ({self.spec.runtime}, {self.compute.precision}, {cores()} cores)"
