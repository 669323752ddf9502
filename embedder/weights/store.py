"""Open, verify and store models by the hashes of their weights."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from facegallery.embedder.errors import InputError, ModelError
from facegallery.embedder.files import drop_stale_temporaries, make_folder, sync_folder, temporary_beside, write_atomic
from facegallery.embedder.network.shapes import check_size
from facegallery.embedder.spec import FACENET, FaceSpec, Part, box_at
from facegallery.embedder.weights import formats
from facegallery.embedder.weights.folder import (
    fetched_by,
    missing,
    part_file,
    read_spec,
    sha256_of,
    stored_file,
    stored_specs,
)
from facegallery.embedder.weights.formats import Arrays
from facegallery.embedder.weights.known import COMPOSED, KNOWN, SEEN

Weights = Mapping[str, np.ndarray] | bytes  # arrays, or an ONNX file


@dataclass(frozen=True)
class Model:
    """A contract and the files of its networks' weights."""

    spec: FaceSpec
    files: tuple[Path, ...]

    def with_views(self, which: str) -> Model:
        """Return the model with more views of each crop, as `FaceSpec.with_views`."""
        return replace(self, spec=self.spec.with_views(which))

    def arrays(self, i: int) -> Arrays:
        """Load the arrays of network `i`, which must not be an ONNX file.

        Raise ModelError unless the file's hash is the contract's.
        """
        if self.spec.parts[i].network == "onnx":
            raise ModelError(
                f"expected weights as arrays, {self.spec.parts[i].name} is an ONNX file: give another model"
            )
        return self._checked(i, self.file_bytes(i))

    def file_bytes(self, i: int) -> bytes:
        """Return the file of network `i`; raise ModelError unless its hash is the contract's."""
        check_size(self.files[i])
        data = self.files[i].read_bytes()
        self._check(i, hashlib.sha256(data).hexdigest())
        return data

    def weights(self, i: int) -> Weights:
        """Return what a runtime builds network `i` from: an ONNX file's bytes, otherwise arrays.

        Raise ModelError as `arrays`.
        """
        return self.file_bytes(i) if self.spec.parts[i].network == "onnx" else self.arrays(i)

    def _checked(self, i: int, data: bytes) -> Arrays:
        """Parse a file whose hash is the contract's; raise ModelError unless the arrays are the network's.

        The hash proves nothing about the content, since anybody can write a contract.
        """
        part = self.spec.parts[i]
        if part.network == "sface":
            return formats.parse_sface(data, self.files[i])
        arrays = formats.parse_safetensors(data, self.files[i])
        if (found := arrays["Bottleneck/kernel"].shape[-1]) != part.dimension:
            raise ModelError(
                f"expected weights {part.name} of dimension {part.dimension}, {self.files[i]} has {found}: "
                "get the model again"
            )
        return arrays

    def check_ours(self, purpose: str) -> None:
        """Raise InputError where a network is an ONNX file, whose layers are not known. purpose: such as 'train'."""
        for part in self.spec.parts:
            if part.network == "onnx":
                raise InputError(
                    f"expected SFace or FaceNet to {purpose}, {part.name} is another network ({part.network}): "
                    "take sface, msceleb, casia, duo, trio or a model trained from these"
                )

    def verify(self, i: int) -> None:
        """Raise ModelError unless the hash of network `i`'s file is the contract's."""
        self._check(i, sha256_of(self.files[i]))

    def _check(self, i: int, found: str) -> None:
        part = self.spec.parts[i]
        if found != part.sha256:
            raise ModelError(
                f"expected weights {part.name} with sha256 {part.sha256[:16]}..., {self.files[i]} has {found[:16]}...: "
                f"the file is damaged or was changed; delete it, then {_remedy(part)}"
            )


# opening --------------------------------------------------------------------


def open_model(reference: str) -> Model:
    """Open a model by a known name, a folder, an imported name, or a sha256 (16 or more digits).

    Several joined by '+' are one model, each with the weight of its vectors after a colon: 'sface+msceleb:0.7'. Raise
    ModelError, naming the command that gets the model, where it is missing.
    """
    folder = Path(reference)
    if "+" in reference and not folder.exists():
        return _joined(reference)
    names = COMPOSED.get(reference, {reference: 1.0})
    if all(name in KNOWN for name in names):
        seen = SEEN.get(reference, {})
        parts = [replace(KNOWN[name].part, weight=names[name], **seen.get(name, {})) for name in names]
        return open_spec(FaceSpec.of(*parts))
    if (folder / "spec.json").is_file():
        return open_spec(read_spec(folder / "spec.json"), folder)
    specs = [*(FaceSpec.of(k.part) for k in KNOWN.values() if k.sha256), *stored_specs()]
    found = {s.parts[0].sha256: s for s in reversed(specs) if _is_called(s.parts[0], reference)}
    if len(found) > 1:
        hashes = ", ".join(sorted(sha256[:16] for sha256 in found))
        raise ModelError(
            f"expected one model called {reference!r}, {len(found)} are stored ({hashes}): "
            "give one of these hashes instead"
        )
    for spec in found.values():
        return open_spec(spec)
    if folder.exists():
        raise ModelError(
            f"expected a model's folder with spec.json, {reference} has none: give what `train --out` wrote"
        )
    known = ", ".join([*KNOWN, *COMPOSED])
    raise ModelError(
        f"expected a model ({known}, a folder, an imported name or a sha256), received {reference!r}: "
        "see `weights list`"
    )


def _joined(reference: str) -> Model:
    """Open several models as one, by their references and weights."""
    parts: list[Part] = []
    files: list[Path] = []
    for one in reference.split("+"):
        name, weight = _name_and_weight(one)
        model = open_model(name)
        length = math.sqrt(sum(part.weight**2 for part in model.spec.parts))
        parts += [replace(part, weight=round(weight * part.weight / length, 6)) for part in model.spec.parts]
        files += model.files
    if len({part.sha256 for part in parts}) < len(parts):
        raise ModelError(f"expected different networks, {reference!r} has one of them twice: leave one out")
    return Model(FaceSpec.of(*parts), tuple(files))


def _name_and_weight(text: str) -> tuple[str, float]:
    """Return ('msceleb', 0.7) for 'msceleb:0.7', and the weight 1 where none is given."""
    name, colon, weight = text.rpartition(":")
    if not colon:
        return text, 1.0
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not (name and 0 < value <= 100):
        raise ModelError(f"expected NAME:WEIGHT with a weight above 0 and up to 100, received {text!r}")
    return name, value


def _is_called(part: Part, reference: str) -> bool:
    return reference == part.name or (len(reference) >= 16 and part.sha256.startswith(reference))


def open_spec(spec: FaceSpec, folder: Path | None = None) -> Model:
    """Open the model of a contract; look for its weights in `folder`, then among the stored ones.

    Raise ModelError where they are missing.
    """
    files = []
    for part in spec.parts:
        places = ([part_file(folder, part)] if folder else []) + [stored_file(part)]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise missing(f"{part.name} (sha256 {part.sha256})", _remedy(part))
        files.append(found)
    return Model(spec, tuple(files))


def _remedy(part: Part) -> str:
    if part.name in KNOWN:
        return fetched_by(part.name)
    made = f"finetuned from {part.parent[:16]}..." if part.parent else "imported"
    return f"they were {made}: give the model's folder with --model, or make it again"


# storing --------------------------------------------------------------------


def store_part(
    arrays: Arrays,
    name: str,
    standardisation: str,
    parent: str | None = None,
    zoom: float = 1.0,
    pinned: str | None = None,
) -> Part:
    """Write FaceNet's weights under their own hash in data/models; return the network.

    parent: sha256 of the weights that these were finetuned from. pinned: as for `store_arrays`.
    """
    return store_arrays(arrays, Part(name, "", 0, standardisation, parent, zoom, crop=box_at(zoom)), pinned)


def store_arrays(arrays: Arrays, part: Part, pinned: str | None = None) -> Part:
    """Write weights under their own hash in data/models; return `part` with this hash and the weights' dimension.

    pinned: the expected sha256; raise ModelError for another.
    """
    data, digest = _serialised(arrays, part.name, pinned)
    dimension = arrays["Bottleneck/kernel"].shape[-1] if part.network == FACENET else part.dimension
    part = replace(part, sha256=digest, dimension=int(dimension))
    write_part(part, data)
    return part


def _serialised(arrays: Arrays, name: str, pinned: str | None) -> tuple[bytes, str]:
    """Return the safetensors file and its hash; raise ModelError where another hash is pinned."""
    from safetensors.numpy import save

    data = save(arrays)
    digest = hashlib.sha256(data).hexdigest()
    if pinned and digest != pinned:
        raise ModelError(
            f"expected the converted {name} to have sha256 {pinned}, it has {digest}: report this as a fault"
        )
    return data, digest


def write_part(part: Part, data: bytes) -> None:
    """Write a network's file under its hash, which is that of the bytes, and its contract beside it."""
    drop_stale_temporaries(make_folder(stored_file(part).parent))
    write_atomic(stored_file(part), data)
    write_atomic(stored_file(part).parent / "spec.json", FaceSpec.of(part).to_json().encode())


def write_model(out: Path, spec: FaceSpec) -> None:
    """Write `out/spec.json` and link (or copy) the stored weights beside it; other files of `out` stay."""
    make_folder(out)
    for part in spec.parts:
        target, source = part_file(out, part), stored_file(part)
        temporary = temporary_beside(target)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    sync_folder(out)
    write_atomic(out / "spec.json", spec.to_json().encode())


# verifying ------------------------------------------------------------------


def is_sound(part: Part) -> bool:
    """Whether the file of stored weights exists and has its hash."""
    return stored_file(part).is_file() and sha256_of(stored_file(part)) == part.sha256


def verify() -> list[tuple[Part, bool]]:
    """Return every stored network, and whether its file has its hash."""
    return [(spec.parts[0], is_sound(spec.parts[0])) for spec in stored_specs()]
