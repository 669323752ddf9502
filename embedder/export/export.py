"""A model as one file for other programs: uint8 RGB crops (n, 160, 160, 3) -> float32 unit vectors (n, d), n as it comes.

Standardisation, the averaging of views and the joining of several networks are inside, so that nobody can leave them out, and so is the contract.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from facegallery.embedder.errors import InputError, SystemFault
from facegallery.embedder.files import drop_stale_temporaries, make_folder, place, sync_folder, temporary_folder
from facegallery.embedder.network.preprocess import sampling
from facegallery.embedder.spec import INPUT_SIZE, Part
from facegallery.embedder.weights.store import Model


class Format(Protocol):
    """The operations around the networks; x and crops are whatever they pass on."""

    crops: Any

    def along(self, crops: Any, matrix: np.ndarray, axis: int) -> Any:
        """float32: the image's rows (axis 1) or columns (axis 2) as sums of those of the crops, by float32 (from, to)."""
        ...

    def standardise(self, crops: Any, how: str) -> Any: ...

    def network(self, arrays: Mapping[str, np.ndarray], name: str) -> Callable[[Any], Any]:
        """Standardised crops -> vectors of any length; `name` is its own in the file."""
        ...

    def mirror(self, crops: Any) -> Any: ...

    def add(self, a: Any, b: Any) -> Any: ...

    def scale(self, x: Any, factor: float) -> Any: ...

    def join(self, vectors: list[Any]) -> Any: ...

    def unit(self, x: Any) -> Any: ...

    def save(self, vectors: Any, contract: str, path: Path) -> None: ...


def export(model: Model, path: Path) -> list[Path]:
    """Writes the file, or the pair of them that OpenVINO has; raises InputError where the suffix is no format or one of them is there."""
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    for file in files:
        if os.path.lexists(file):
            raise _is_there(file)
    make = _format_of(path)
    vectors = lay(make, model)
    drop_stale_temporaries(make_folder(path.parent))
    with temporary_folder(path.parent) as scratch:
        make.save(vectors, model.spec.to_json(), scratch / path.name)
        _place(scratch, files)
    sync_folder(path.parent)
    return files


def _place(scratch: Path, files: list[Path]) -> None:
    """Give the files their names, the one that names the other last; all of them, or none where something has one of the names by now."""
    placed: list[Path] = []
    for file in reversed(files):
        os.chmod(scratch / file.name, 0o600)
        try:
            place(scratch / file.name, file)
        except FileExistsError:
            for other in placed:
                other.unlink()
            raise _is_there(file) from None
        placed.append(file)


def _is_there(file: Path) -> InputError:
    return InputError(f"expected --out as a new file, {file} is there: choose another name, nothing is overwritten")


def _format_of(path: Path) -> Format:
    try:
        match path.suffix:
            case ".onnx":
                from facegallery.embedder.export.to_onnx import OnnxFormat

                return OnnxFormat()
            case ".xml":
                from facegallery.embedder.export.to_openvino import OpenvinoFormat

                return OpenvinoFormat()
            case ".keras":
                from facegallery.embedder.network.quiet import import_tensorflow

                import_tensorflow()
                from facegallery.embedder.export.to_keras import KerasFormat

                return KerasFormat()
    except ModuleNotFoundError as error:
        if error.name == "onnx":
            raise SystemFault("expected the package onnx, it is not installed: run `pip install onnx`") from None
        raise
    raise InputError(
        f"expected --out as .onnx, .xml (OpenVINO) or .keras, received {path.name}: end it with one of these"
    )


def lay(make: Format, model: Model) -> Any:
    """The model's unit vectors of `make.crops`, as `runtime.Embedder` makes them."""
    vectors = []
    for i, part in enumerate(model.spec.parts):
        network = make.network(model.arrays(i), f"network_{i}")
        views = [
            make.unit(network(_seen(make, make.mirror(make.crops) if mirrored else make.crops, part, zoom)))
            for zoom, mirrored in model.spec.views(part)
        ]
        x = views[0] if len(views) == 1 else make.unit(reduce(make.add, views))
        vectors.append(x if part.weight == 1 else make.scale(x, part.weight))
    return vectors[0] if len(vectors) == 1 else make.unit(make.join(vectors))


def _seen(make: Format, crops: Any, part: Part, zoom: float) -> Any:
    """What a network is given of crops, as `runtime.seen`."""
    if zoom != 1:
        low, share = sampling(INPUT_SIZE, zoom)
        matrix, place = np.zeros((INPUT_SIZE, INPUT_SIZE), np.float32), np.arange(INPUT_SIZE)
        matrix[low, place], matrix[low + 1, place] = 1 - share, share
        crops = make.along(make.along(crops, matrix, 1), matrix, 2)
    return make.standardise(crops, part.standardisation)
