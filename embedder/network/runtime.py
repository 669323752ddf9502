"""Embed crops as unit vectors, on OpenVINO (CPUs) or TensorFlow (GPUs), by one interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from importlib.metadata import version
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from facegallery.embedder.compute import AUTO, Compute
from facegallery.embedder.errors import InputError
from facegallery.embedder.faces.picture import FacePicture, plain_crop, seen_by
from facegallery.embedder.machine import cores
from facegallery.embedder.network import int8
from facegallery.embedder.network.compiled_cache import CompiledCache
from facegallery.embedder.network.engines import OpenvinoEngine, choose, filled_up, in_batches
from facegallery.embedder.network.int8 import FLOAT, Quantisation
from facegallery.embedder.network.preprocess import seen, unit
from facegallery.embedder.spec import BOXED, CropRule, FaceSpec, Part
from facegallery.embedder.weights import onnx_check
from facegallery.embedder.weights.folder import stored_file
from facegallery.embedder.weights.store import Model, Weights

if TYPE_CHECKING:
    import openvino

BATCH = 8  # as fast as 32 on CPUs, and cheaper for a few faces
TELLING = "sface"  # the network whose vectors are shorter the less a face shows
Network = Callable[..., np.ndarray]  # uint8 (n, s, s, 3)[, zoom instead of its own] -> float32 (n, d), any length
_loading = Lock()


def graph_of(part: Part, weights: Weights, batch: int, quantisation: Quantisation = FLOAT) -> openvino.Model:
    """Build the OpenVINO graph of a network. quantisation: what 'int8' needs."""
    if isinstance(weights, bytes):
        from facegallery.embedder.network import onnx_network

        return onnx_network.build(weights, part.name, part.size, batch)
    if part.network == "sface":
        from facegallery.embedder.network import sface_network

        return sface_network.build(weights, batch, quantisation)
    from facegallery.embedder.network import openvino_network

    return openvino_network.build(weights, batch, quantisation)


def on_openvino(
    weights: Weights, part: Part, precision: str, quantisation: Quantisation = FLOAT, batch: int = BATCH
) -> Network:
    """Compile a network for the CPU. quantisation: as for `graph_of`."""
    engine = OpenvinoEngine(
        lambda: graph_of(part, weights, batch, quantisation), "f32" if precision == "int8" else precision
    )

    def run(crops: np.ndarray, zoom: float = part.enlargement) -> np.ndarray:
        filled = filled_up(crops, batch)
        batches = [(seen(filled[i : i + batch], part, zoom),) for i in range(0, len(filled), batch)]
        return np.concatenate(engine(batches))[: len(crops)]

    return run


class Embedder:
    """Embeds faces by a model's contract: pictures of n faces -> float32 (n, d) of unit length.

    Several threads may call it at once. spec: the contract, with runtime and precision.
    """

    def __init__(self, model: Model, compute: Compute = AUTO, *, few: bool = False, batch: int = BATCH):
        """Store the settings; no weights are loaded yet, so that the embedder can be pickled.

        The precision 'auto' becomes int8 where the model passed its gate; 'int8' raises InputError where the model was
        not measured. few: prepare for a handful of crops, ready sooner at a lower rate; 'auto' is then not int8, which
        takes longest to prepare. batch: crops that a CPU takes at a time; a last incomplete batch costs as much as a
        full one.
        """
        self.compute = _device_of(model.spec.parts, compute)
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

    def seeing_as(self, made: FaceSpec) -> Embedder:
        """Return an embedder for which networks see faces as `FaceSpec.seeing_as`."""
        spec = self.spec.seeing_as(made)
        if spec == self.spec:
            return self
        other = copy(self)
        other.spec, other._networks = spec, []
        return other

    def load(self) -> Embedder:
        """Load and verify the weights, once; raise ModelError where they are not those of the contract."""
        if self._networks:  # loaded: do not wait for another embedder that loads
            return self
        with _loading:
            if not self._networks:
                on_cpu = self._few_on_cpu if self._few and self.compute.precision != "int8" else self._on_cpu
                make = self._on_gpu if self.compute.on_gpu else on_cpu
                self._networks = [make(self._model, i, part) for i, part in enumerate(self.spec.parts)]
        return self

    def _on_cpu(self, model: Model, i: int, part: Part) -> Network:
        batch = self._batch if _is_batched(model, i, part) else 1
        return on_openvino(model.weights(i), part, self.compute.precision, self._quantisations[i], batch)

    def _few_on_cpu(self, model: Model, i: int, part: Part) -> Network:
        """Load a network that embeds crop by crop, each on all cores, from the cache of compiled networks."""

        def lay() -> openvino.Model:  # not needed where the network is kept
            return graph_of(part, model.weights(i), 1)

        _is_batched(model, i, part)
        with ThreadPoolExecutor(1) as thread:
            verified = thread.submit(model.verify, i)
            kept = CompiledCache(stored_file(part).parent, f"one-{self.compute.precision}", _origin(part))
            engine = OpenvinoEngine(lay, self.compute.precision, 1, kept)
            verified.result()

        def run(crops: np.ndarray, zoom: float = part.enlargement) -> np.ndarray:
            several = filled_up(crops, 2)  # since NumPy sums a single row in another order
            return in_batches(engine, (seen(several, part, zoom)[: len(crops)],), 1)

        return run

    def _on_gpu(self, model: Model, i: int, part: Part) -> Network:
        from facegallery.embedder.network import runtime_tensorflow

        return runtime_tensorflow.compiled(model.arrays(i), part, self.compute.device)

    def __call__(self, faces: np.ndarray | Sequence[FacePicture], rule: CropRule | None = None) -> np.ndarray:
        """Embed faces.

        faces: pictures as `rule` stores them, that of the contract unless given; or crops without a border, uint8 (n,
        size, size, 3), from which only networks that see boxes get what they need. Batches have one fixed shape, and
        the last one is padded, so that a face's vector does not depend on how many others there are.
        """
        return self.measured(faces, rule)[0]

    def measured(
        self, faces: np.ndarray | Sequence[FacePicture], rule: CropRule | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Embed faces, and return what SFace's vectors tell of them, too.

        Returns vectors float32 (n, d) of unit length, and float32 (n,): the lengths of SFace's vectors before they are
        scaled, the mean over its views; None for a model without SFace itself.
        """
        if not len(faces):
            return np.empty((0, self.spec.dimension), np.float32), None
        self.load()
        sight = _Sight(faces, rule or self.spec.crop)
        weighted, strengths = [], None
        for network, part in zip(self._networks, self.spec.parts, strict=True):
            vectors, lengths = self._averaged(network, part, sight)
            weighted.append(part.weight * vectors)
            strengths = lengths.astype(np.float32) if part.name == TELLING and part.parent is None else strengths
        return unit(np.concatenate(weighted, axis=1)).astype(np.float32), strengths

    def _averaged(self, network: Network, part: Part, sight: _Sight) -> tuple[np.ndarray, np.ndarray]:
        """Return one network's unit vectors (n, d) of what it sees, averaged over its views, and their lengths (n,)."""
        views, lengths = [], []
        for zoom, mirrored in self.spec.views(part):
            crops = sight.of(part, zoom)
            found = network(crops[:, :, ::-1] if mirrored else crops, part.enlarged(zoom))
            views.append(unit(found))
            lengths.append(np.linalg.norm(found.astype(np.float64), axis=1))
        return views[0] if len(views) == 1 else unit(np.sum(views, axis=0)), np.mean(lengths, axis=0)

    @property
    def where(self) -> str:
        """What runs where, as one line for the user."""
        how = f"{self.spec.runtime}, {self.compute.precision}, {cores()} cores"
        return f"{self.spec.model_name} on {self.compute.device} ({how})"


def _device_of(parts: Sequence[Part], compute: Compute) -> Compute:
    """Return the device and precision for these networks; raise InputError where one does not run there."""
    on_cpu = next((part.name for part in parts if part.network == "onnx"), None)
    if on_cpu and compute.precision == "int8":
        raise InputError(f"expected --precision auto, f32 or bf16 for {on_cpu}, received int8: leave it out")
    if on_cpu and compute.device == "auto":
        compute = replace(compute, device="cpu")
    chosen = choose(compute)
    if on_cpu and chosen.on_gpu:
        raise InputError(f"expected a CPU for {on_cpu}, an ONNX network runs on the CPU only: take --device cpu")
    return chosen


def _is_batched(model: Model, i: int, part: Part) -> bool:
    """Whether a network takes several faces at once; raise ModelError for an ONNX network that fails its trial."""
    if part.network != "onnx":
        return True
    return onnx_check.ensure(part, str(model.files[i]), lambda: model.file_bytes(i)).together


def _origin(part: Part) -> str:
    """Return what a graph is made from, beside the code."""
    return f"{part.sha256} {part.size}" if part.network == "onnx" else part.sha256


class _Sight:
    """What networks see of faces; what several of them see is cut once."""

    def __init__(self, faces: np.ndarray | Sequence[FacePicture], rule: CropRule):
        self._crops = faces if isinstance(faces, np.ndarray) else None
        self._faces = [plain_crop(crop) for crop in faces] if isinstance(faces, np.ndarray) else faces
        self._rule = CropRule() if isinstance(faces, np.ndarray) else rule
        self._cut: dict[tuple[str, int, str, float], np.ndarray] = {}

    def of(self, part: Part, zoom: float) -> np.ndarray:
        """Return what a network sees, uint8 (n, size, size, 3). zoom: of close crops."""
        if self._crops is not None and part.crop not in BOXED:
            raise InputError(f"expected faces with their points for {part.name}, received crops alone: give the photos")
        key = part.crop, part.size, part.colour, part.closer(zoom)
        if key not in self._cut:
            self._cut[key] = seen_by(part, self._faces, self._rule, zoom)
        return self._cut[key]
