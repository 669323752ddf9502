"""Try an ONNX network in a process of its own, since a hostile file may end the process or fill the memory.

Run as `facegallery.embedder.weights.onnx_process SETTINGS`, with the file as standard input: it writes a `Finding` as
JSON to standard output, or the reason for a refusal, as JSON, to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from facegallery.embedder.errors import ModelError
from facegallery.embedder.faces.samples import samples
from facegallery.embedder.network import onnx_network
from facegallery.embedder.network.engines import OpenvinoEngine
from facegallery.embedder.network.preprocess import standardise, unit
from facegallery.embedder.weights import onnx_border
from facegallery.embedder.weights.onnx_check import Finding, Trial
from facegallery.embedder.weights.reader_process import answer

FACES = 8  # also the faces of a batch
FLOATS = "f32", "f16", "bf16", "f64"  # types of numbers, as OpenVINO calls them
SAME = 0.99999  # least cosine of a face's vectors alone and in a batch
ALL_ALIKE = 0.999999  # cosine from which two faces count as having one vector


def tried(data: bytes, settings: Mapping[str, Any]) -> Finding:
    """Read a network and run it on faces; raise ModelError where it is refused."""
    name, trial = settings["name"], Trial(**settings["trial"])
    onnx_border.check(data, name)
    graph = onnx_network.read(data, name)
    _check_numbers(graph.input().get_element_type().get_type_name(), trial, name)
    layout = onnx_network.layout_of(graph, name)
    side = trial.side or onnx_network.stated_side(graph, layout, name) or onnx_network.USUAL_SIDE
    one = onnx_network.build(data, name, side, 1)
    faces, pictures = samples(FACES, side, Path(settings["photos"]))
    x = standardise(faces, "affine", trial.mean, trial.scale)
    alone = _alone(one, x, name)
    return Finding(side, alone.shape[1], _is_same_together(data, name, x, alone), pictures)


def _check_numbers(kind: str, trial: Trial, name: str) -> None:
    """Raise ModelError where the input has numbers that what is fed cannot be converted to."""
    if kind not in (*FLOATS, "u8"):
        raise ModelError(f"expected an input of float or uint8 numbers, {name} takes {kind}: not a face network")
    if kind == "u8" and (trial.mean, trial.scale) != (0, 1):
        raise ModelError(f"expected --mean 0 --scale 1 for {name}, which takes uint8, received others: give these")


def _alone(graph: Any, x: np.ndarray, name: str) -> np.ndarray:
    """Return the vectors of faces one by one, float32 (n, d); raise ModelError unless they can be compared."""
    try:
        engine = OpenvinoEngine(lambda: graph, "f32", 1)
        first, again = (np.concatenate(engine([(x[i : i + 1],) for i in range(len(x))])) for _ in range(2))
    except Exception as error:  # OpenVINO's own classes have no common one
        reason = onnx_network.why(error)
        raise ModelError(f"expected an ONNX network that OpenVINO runs, {name} is none ({reason})") from None
    if not np.isfinite(first).all():
        raise ModelError(
            f"expected finite numbers, {name} gives NaN or infinite ones for faces: see --mean and --scale"
        )
    if not np.array_equal(first, again):
        raise ModelError(f"expected the same vector for the same face, {name} gives others each time: export it again")
    cosines = unit(first) @ unit(first).T
    if not (np.linalg.norm(first, axis=1) > 0).all() or cosines.min() > ALL_ALIKE:
        raise ModelError(
            f"expected different vectors for different faces, {name} gives one for all: see --mean and --scale"
        )
    return first


def _is_same_together(data: bytes, name: str, x: np.ndarray, alone: np.ndarray) -> bool:
    """Whether each face of a batch has the vector that it has alone, whatever else is in the batch."""
    try:
        engine = OpenvinoEngine(lambda: onnx_network.build(data, name, x.shape[1], len(x)), "f32", 1)
        even = np.arange(len(x))[:, None, None, None] % 2 == 0
        batches = x, np.where(even, x, 0).astype(np.float32), np.where(even, 0, x).astype(np.float32)
        whole, evens, odds = engine([(batch,) for batch in batches])
    except Exception:  # a batch of 1 is burnt in
        return False
    found = np.stack([whole, np.where(even[:, :, 0, 0], evens, odds)])
    if not np.isfinite(found).all():
        return False
    return bool((np.stack([unit(rows) for rows in found]) * unit(alone)).sum(-1).min() >= SAME)


def main() -> int:
    """Answer on standard output and return an exit code."""
    settings = json.loads(sys.argv[1])
    return answer(lambda: json.dumps(asdict(tried(sys.stdin.buffer.read(), settings))).encode(), Path(settings["name"]))


if __name__ == "__main__":
    os._exit(main())
