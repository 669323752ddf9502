"""Accept an ONNX network after a trial in a process of its own, and keep what the trial found beside the weights.

data/models/<first 16 hex>/onnx.json   what was tried, by which OpenVINO, and what came of it; may be deleted
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from facegallery.embedder.errors import ModelError, SystemFault
from facegallery.embedder.files import make_folder, write_atomic
from facegallery.embedder.spec import Part
from facegallery.embedder.weights.folder import data_root, stored_file
from facegallery.embedder.weights.reader_process import run_apart

NOTE = "onnx.json"
MOST_NOTE = 1 << 16  # bytes


@dataclass(frozen=True)
class Trial:
    """How a network is fed. side: pixels; None for what the file states."""

    side: int | None
    mean: float
    scale: float


@dataclass(frozen=True)
class Finding:
    """What a trial found. together: whether faces of a batch have the vectors that each has alone."""

    side: int
    dimension: int
    together: bool
    pictures: str


def check(data: bytes, name: str, trial: Trial) -> Finding:
    """Read and run a network in another process, on faces alone and in batches.

    data: the file. name: of the file, for messages. Raise ModelError where the network is refused, crashes, takes too
    long, or gives other vectors the second time, for other faces beside one, none that are finite, or one for all.
    """
    settings = json.dumps({"name": name, "photos": str(data_root() / "att"), "trial": asdict(trial)})
    try:
        return Finding(**json.loads(run_apart("facegallery.embedder.weights.onnx_process", settings, data=data)))
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"expected an ONNX network that can be run, {name} cannot ({error}): export it again"
        ) from None


def ensure(part: Part, name: str, read: Callable[[], bytes]) -> Finding:
    """Return what the trial of a network found; try it first where this OpenVINO has not tried it as it is fed.

    read: returns the file, whose hash is the contract's. Raise ModelError where it is refused, or has another dimension
    than the contract.
    """
    finding = _noted(part)
    if finding is None:
        finding = check(read(), name, Trial(part.size, part.mean, part.scale))
        note(part, finding)
    if finding.dimension != part.dimension:
        raise ModelError(
            f"expected weights {part.name} of dimension {part.dimension}, {name} has {finding.dimension}: "
            "get the model again"
        )
    return finding


def note(part: Part, finding: Finding) -> None:
    """Keep what a trial found; do nothing where there is no room or no permission."""
    path = stored_file(part).parent / NOTE
    try:
        make_folder(path.parent)
        write_atomic(path, json.dumps({"tried": _tried(part), "finding": asdict(finding)}).encode())
    except (OSError, SystemFault):
        return


def _noted(part: Part) -> Finding | None:
    try:
        with open(stored_file(part).parent / NOTE, "rb") as file:
            fields = json.loads(file.read(MOST_NOTE))
        return Finding(**fields["finding"]) if fields["tried"] == _tried(part) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _tried(part: Part) -> dict[str, Any]:
    """Return what a trial is for: the weights, how they are fed, and the library that runs them."""
    return {
        "sha256": part.sha256,
        "side": part.size,
        "mean": part.mean,
        "scale": part.scale,
        "openvino": version("openvino"),
    }
