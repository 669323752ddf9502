"""Find the folders and files of stored weights.

data/models/<first 16 hex>/   <first 16 hex>.safetensors (or .onnx) and spec.json, compiled networks (`compiled_cache`),
                              what the trial of an ONNX network found (`onnx_check`), and salted hashes of the people
                              that the weights were trained on (`trained_on`)
MODEL/                        what `train --out MODEL` wrote: spec.json, hard links to its parts, and those hashes
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from facegallery.embedder.errors import DataError, ModelError
from facegallery.embedder.spec import MOST_JSON, FaceSpec, Part


def data_root() -> Path:
    """Return the folder FACEGALLERY_DATA, or `data/` under the working folder."""
    return Path(os.environ.get("FACEGALLERY_DATA", "data"))


def models_folder() -> Path:
    """Return the folder of stored weights."""
    return data_root() / "models"


def fetched_by(name: str) -> str:
    """Return what to do where pinned weights are missing, or not those that were fetched."""
    return f"run `facegallery weights fetch {name}`, or set FACEGALLERY_DATA to the folder whose models/ has them"


def missing(what: str, remedy: str) -> ModelError:
    """Return the error for weights that are not among the stored ones."""
    return ModelError(f"expected weights {what} in {models_folder().absolute()}, they are not there: {remedy}")


def part_file(folder: Path, part: Part) -> Path:
    """Return the path of a network's weights in a model's folder."""
    suffix = ".onnx" if part.network == "onnx" else ".safetensors"
    return folder / f"{part.sha256[:16]}{suffix}"


def stored_file(part: Part) -> Path:
    """Return the path of a network's weights among the stored ones."""
    return part_file(models_folder() / part.sha256[:16], part)


def stored_specs() -> Iterator[FaceSpec]:
    """Yield the contracts of all stored networks."""
    for path in sorted(models_folder().glob("*/spec.json")):
        yield read_spec(path)


def read_spec(path: Path) -> FaceSpec:
    """Read the contract of a model's folder, which may come from elsewhere; raise ModelError for another file."""
    try:
        with open(path, "rb") as file:
            return FaceSpec.from_json(file.read(MOST_JSON + 1))
    except DataError as error:
        raise ModelError(f"{error} ({path})") from None


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
