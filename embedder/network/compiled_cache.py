"""Keep compiled networks beside their weights, so that a process that embeds one photo need not compile them again.

data/models/<16 hex of the weights>/<kind>.blob   two sha256 in hex, of origin and body; then OpenVINO's format
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facegallery.embedder.files import drop_stale_temporaries, make_folder, write_atomic

if TYPE_CHECKING:
    import openvino

Network = tuple["openvino.CompiledModel", "np.ndarray | None"]  # with the memory of its weights, which must outlive it
FOLDER = Path(__file__).parent
MAKERS = tuple(  # files that build graphs, or the format of the cache
    FOLDER / name
    for name in (
        "architecture.py",
        "compiled_cache.py",
        "onnx_network.py",
        "openvino_network.py",
        "sface_int8.py",
        "sface_layers.py",
        "sface_network.py",
        "../faces/mtcnn_nets.py",
        "../faces/pyramid.py",
        "../faces/yunet_net.py",
    )
)
HEAD = 128  # bytes


@dataclass(frozen=True)
class CompiledCache:
    """Where a compiled network is kept.

    folder: a folder of `data/models`, never a model's own, which may come from elsewhere. kind: tells the networks of a
    folder apart. weights: the sha256 of the weights, and whatever else determines the graph.
    """

    folder: Path
    kind: str
    weights: str

    @property
    def path(self) -> Path:
        """The file of the network."""
        return self.folder / f"{self.kind}.blob"

    def read(self, core: openvino.Core, settings: dict[str, Any]) -> Network | None:
        """Return the network that this OpenVINO compiled on such a CPU from these weights, or None.

        None means that there is no file, or a damaged one, or one that somebody else could have written.
        """
        import openvino

        try:
            if not _own(self.path):
                return None
            data = np.memmap(self.path, np.uint8, "c")
            body = data[HEAD:]
            if data[:HEAD].tobytes() != self._head(core, settings, body):
                return None
            return core.import_model(openvino.Tensor(body, shared_memory=True), "CPU", settings), body
        except (OSError, ValueError, RuntimeError):
            return None

    def write(self, core: openvino.Core, settings: dict[str, Any], network: openvino.CompiledModel) -> None:
        """Replace the kept network; do nothing where there is no room or no permission."""
        try:
            body = network.export_model().getvalue()
            drop_stale_temporaries(make_folder(self.folder))
            write_atomic(self.path, self._head(core, settings, body) + body)
        except (OSError, RuntimeError):
            return

    def _head(self, core: openvino.Core, settings: dict[str, Any], body: Any) -> bytes:
        made_by = {"weights": self.weights, "settings": settings, "machine": _machine(core), "makers": _makers()}
        key = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()
        return (key + hashlib.sha256(body).hexdigest()).encode()


def compiled(
    core: openvino.Core, graph: Callable[[], openvino.Model], settings: dict[str, Any], kept: CompiledCache | None
) -> Network:
    """Return the network of a graph, from the cache where it is kept; otherwise compile the graph and keep it."""
    if kept is not None and (found := kept.read(core, settings)) is not None:
        return found
    network = core.compile_model(graph(), "CPU", settings)
    if kept is not None:
        kept.write(core, settings, network)
    return network, None


def _own(path: Path) -> bool:
    """Whether no other user could have written a file."""
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


@lru_cache
def _makers() -> str:
    """Return the sha256 of the code that builds graphs, since other code makes other networks."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in MAKERS)).hexdigest()


@lru_cache
def _machine(core: openvino.Core) -> list[str]:
    """Return OpenVINO's version and what tells one type of CPU from another."""
    import openvino

    found = [openvino.get_version(), core.get_property("CPU", "FULL_DEVICE_NAME")]
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            found += [
                line
                for line in file.read(1 << 14).split("\n\n")[0].splitlines()
                if line.startswith(("flags", "Features", "model"))
            ]
    except OSError:
        found.append(str(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")))
    return found
