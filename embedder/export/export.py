"""Export a model as one file for other programs: uint8 RGB pictures of n faces -> float32 unit vectors (n, d).

Networks that see boxes take `crops`, (n, 160, 160, 3), or `close`, the same from the middle 1 / zoom of the box with
its margin, cut before the photo's edge; networks that see faces moved to the template of five points take `aligned`,
(n, 112, 112, 3). A model of several kinds takes several. The file takes any n. It holds the standardisation, the
averaging of views, the joining of several networks, and the contract, so that nobody can leave them out.
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
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.embedder.weights.store import Model

# by what a network sees: the name of the file's input
INPUTS = {"box": "crops", "close": "close", "arcface": "aligned"}


class Format(Protocol):
    """The operations around the networks in one file format, on its tensors."""

    def faces(self, name: str, size: int) -> Any:
        """Return the input of that name, uint8 (n, size, size, 3); there is one of each name."""
        ...

    def along(self, crops: Any, matrix: np.ndarray, axis: int) -> Any:
        """Resample rows (axis 1) or columns (axis 2) of crops by a float32 matrix (from, to); the result is float32."""
        ...

    def affine(self, crops: Any, mean: float, scale: float) -> Any:
        """Standardise crops as (x - mean) / scale; the result is float32."""
        ...

    def per_image(self, crops: Any) -> Any:
        """Standardise each crop to mean 0 and deviation 1, as `preprocess.standardise`; the result is float32."""
        ...

    def network(self, kind: str, arrays: Mapping[str, np.ndarray], name: str) -> Callable[[Any], Any]:
        """Return the function from standardised crops to vectors of any length.

        kind: the architecture. name: the network's in the file.
        """
        ...

    def mirror(self, crops: Any) -> Any:
        """Mirror crops, left to right."""
        ...

    def add(self, a: Any, b: Any) -> Any:
        """Add two tensors."""
        ...

    def scale(self, x: Any, factor: float) -> Any:
        """Multiply a tensor by a number."""
        ...

    def join(self, vectors: list[Any]) -> Any:
        """Concatenate vectors (n, d_i) to (n, sum of d_i)."""
        ...

    def unit(self, x: Any) -> Any:
        """Scale vectors to length 1."""
        ...

    def save(self, vectors: Any, contract: str, path: Path) -> None:
        """Write the file, with the contract as JSON in its metadata."""
        ...


def export(model: Model, path: Path) -> list[Path]:
    """Write a model as .onnx, .keras or OpenVINO's .xml and .bin, by the suffix of `path`; return the files.

    Raise InputError for another suffix, for networks that are ONNX files already, and where a file exists; nothing is
    overwritten.
    """
    _check(model)
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


def inputs_of(spec: FaceSpec) -> dict[str, int]:
    """Return the side in pixels of each input by its name."""
    return {INPUTS[part.crop]: part.size for part in spec.parts}


def _check(model: Model) -> None:
    model.check_ours("export")
    if len({zoom for part in model.spec.parts if part.crop == "close" for zoom, _ in model.spec.views(part)}) > 1:
        raise InputError(
            f"expected one zoom of close crops to export, {model.spec.model_name} sees several: take --views plain or "
            "mirror, and networks of one zoom"
        )
    for part in model.spec.parts:
        if part.colour != "RGB" or part.size != inputs_of(model.spec)[INPUTS[part.crop]]:
            raise InputError(
                f"expected networks that see RGB at one size to export, {part.name} sees {part.colour} at {part.size} "
                "pixels: take another model"
            )


def _place(scratch: Path, files: list[Path]) -> None:
    """Rename the temporary files to their names, all or none; the file that names the other comes last."""
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
    """Build the model's unit vectors of its inputs, as `runtime.Embedder` computes them."""
    faces = {name: make.faces(name, size) for name, size in inputs_of(model.spec).items()}
    vectors = []
    for i, part in enumerate(model.spec.parts):
        network = make.network(part.network, model.arrays(i), f"network_{i}")
        crops = faces[INPUTS[part.crop]]
        views = [
            make.unit(network(_seen(make, make.mirror(crops) if mirrored else crops, part, part.enlarged(zoom))))
            for zoom, mirrored in model.spec.views(part)
        ]
        x = views[0] if len(views) == 1 else make.unit(reduce(make.add, views))
        vectors.append(x if part.weight == 1 else make.scale(x, part.weight))
    return vectors[0] if len(vectors) == 1 else make.unit(make.join(vectors))


def _seen(make: Format, crops: Any, part: Part, zoom: float) -> Any:
    """Prepare crops for a network, as `preprocess.seen`."""
    if zoom != 1:
        low, share = sampling(part.size, zoom)
        matrix, place = np.zeros((part.size, part.size), np.float32), np.arange(part.size)
        matrix[low, place], matrix[low + 1, place] = 1 - share, share
        crops = make.along(make.along(crops, matrix, 1), matrix, 2)
    if part.standardisation == "per_image":
        return make.per_image(crops)
    return make.affine(crops, *((127.5, 128.0) if part.standardisation == "fixed" else (part.mean, part.scale)))
