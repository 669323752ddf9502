"""Crops -> unit vectors: OpenVINO on CPUs, TensorFlow on GPUs, one interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from facegallery.embedder.compute import Compute
from facegallery.embedder.machine import cores
from facegallery.embedder.network import int8
from facegallery.embedder.network.compiled_cache import CompiledCache
from facegallery.embedder.network.engines import OpenvinoEngine, choose, filled_up, in_batches
from facegallery.embedder.network.int8 import FLOAT, Quantisation
from facegallery.embedder.network.preprocess import seen, unit
from facegallery.embedder.spec import Part
from facegallery.embedder.weights.store import Model, stored_file

if TYPE_CHECKING:
    import openvino

BATCH = 8  # as fast as 32 on CPUs, and little is lost on a few faces
Network = Callable[
    ..., np.ndarray
]  # uint8 (n, 160, 160, 3), and another zoom than its own -> float32 (n, d) of any length
_loading = Lock()


def on_openvino(
    arrays: Mapping[str, np.ndarray], part: Part, precision: str, quantisation: Quantisation = FLOAT, batch: int = BATCH
) -> Network:
    """A network on the CPU. quantisation: what 'int8' needs."""
    from facegallery.embedder.network.openvino_network import build

    engine = OpenvinoEngine(lambda: build(arrays, batch, quantisation), "f32" if precision == "int8" else precision)

    def run(crops: np.ndarray, zoom: float = part.zoom) -> np.ndarray:
        filled = filled_up(crops, batch)
        batches = [(seen(filled[i : i + batch], part, zoom),) for i in range(0, len(filled), batch)]
        return np.concatenate(engine(batches))[: len(crops)]

    return run


class Embedder:
    """uint8 (n, 160, 160, 3) -> float32 (n, d) of unit length, by the model's contract; several threads may use it at once."""

    def __init__(self, model: Model, compute: Compute = Compute(), few: bool = False, batch: int = BATCH):  # noqa: B008
        """Reads no weights yet, and can be pickled: what is sent are the settings.

        'auto' takes int8 where it was measured for this model and found good; raises InputError for 'int8' where it was not measured.
        few: for a handful of crops: ready sooner, at a lower rate; 'auto' is not int8 then, which takes longest to get ready.
        batch: crops that a CPU takes at a time; the last of them are filled up, at the price of crops.
        """
        self.compute = choose(compute)
        if compute.precision == "auto" and not few and not self.compute.on_gpu and int8.advised(model.spec.parts):
            self.compute = replace(self.compute, precision="int8")
        package = "tensorflow" if self.compute.on_gpu else "openvino"
        self.spec = replace(model.spec, runtime=f"{package} {version(package)}", precision=self.compute.precision)
        self._quantisations = [
            int8.read(p).quantisation if self.compute.precision == "int8" else FLOAT for p in model.spec.parts
        ]
        self._model, self._few, self._batch, self._networks = model, few, batch, list[Network]()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_networks": []}

    def load(self) -> Embedder:
        """Loads and verifies the weights, once; raises ModelError where they are not what the contract names."""
        if self._networks:  # it does not wait for what another one loads
            return self
        with _loading:
            if not self._networks:
                on_cpu = self._few_on_cpu if self._few and self.compute.precision != "int8" else self._on_cpu
                make = self._on_gpu if self.compute.on_gpu else on_cpu
                self._networks = [make(self._model, i, part) for i, part in enumerate(self.spec.parts)]
        return self

    def _on_cpu(self, model: Model, i: int, part: Part) -> Network:
        return on_openvino(model.arrays(i), part, self.compute.precision, self._quantisations[i], self._batch)

    def _few_on_cpu(self, model: Model, i: int, part: Part) -> Network:
        """One crop after the other, each on all cores, by a network that is kept compiled."""

        def lay() -> openvino.Model:
            from facegallery.embedder.network.openvino_network import build  # not needed where the network is kept

            return build(model.arrays(i), 1)

        with ThreadPoolExecutor(1) as thread:
            verified = thread.submit(model.verify, i)
            kept = CompiledCache(stored_file(part).parent, f"one-{self.compute.precision}", part.sha256)
            engine = OpenvinoEngine(lay, self.compute.precision, 1, kept)
            verified.result()

        def run(crops: np.ndarray, zoom: float = part.zoom) -> np.ndarray:
            several = filled_up(crops, 2)  # NumPy sums a single row in another order
            return in_batches(engine, (seen(several, part, zoom)[: len(crops)],), 1)

        return run

    def _on_gpu(self, model: Model, i: int, part: Part) -> Network:
        from facegallery.embedder.network import runtime_tensorflow

        return runtime_tensorflow.compiled(model.arrays(i), part, self.compute.device)

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """Batches have one fixed shape, the last one filled up, so that a crop's vector does not depend on its neighbours' number."""
        if not len(crops):
            return np.empty((0, self.spec.dimension), np.float32)
        self.load()
        each = zip(self._networks, self.spec.parts, strict=True)
        weighted = [part.weight * self._averaged(network, part, crops) for network, part in each]
        return unit(np.concatenate(weighted, axis=1)).astype(np.float32)

    def _averaged(self, network: Network, part: Part, crops: np.ndarray) -> np.ndarray:
        """One network's unit vectors (n, d) of crops, over its views."""
        views = [
            unit(network(crops[:, :, ::-1] if mirrored else crops, zoom)) for zoom, mirrored in self.spec.views(part)
        ]
        return views[0] if len(views) == 1 else unit(np.sum(views, axis=0))

    @property
    def where(self) -> str:
        """One line: what runs where."""
        return f"{self.spec.model_name} on {self.compute.device} ({self.spec.runtime}, {self.compute.precision}, {cores()} cores)"
