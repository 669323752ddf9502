"""Keep what int8 needs beside a network's weights, and the gate that says whether a network may run in int8.

data/models/<first 16 hex>/int8.json       the weights' sha256, ranges and shifts, the gate's figures, their sha256
network/quantised/<first 16 hex>.json.gz   the same of known weights, which comes with the package
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from facegallery.embedder.errors import FaceGalleryError, InputError, ModelError
from facegallery.embedder.files import make_folder, write_atomic
from facegallery.embedder.network.engines import has_vnni
from facegallery.embedder.spec import Part
from facegallery.embedder.weights.folder import stored_file

VERSION = 2  # version of the graph and of the preprocessing that the ranges are for
LEAST_MEAN, LEAST = 0.999, 0.98  # least cosine to float32, in the mean and of each crop
MOST_LOST = 0.0015  # most loss of top-1


@dataclass(frozen=True)
class Quantisation:
    """What int8 needs beside the weights, by layer.

    ranges: the largest output of a ReLU, or the largest input of a convolution of SFace once its channels are scaled;
    larger values are clipped. spans: the least and the largest input of each channel, from which SFace's are scaled.
    shifts: added to a convolution's biases, to make up for the rounding of its weights.
    """

    ranges: Mapping[str, float] = field(default_factory=dict)
    shifts: Mapping[str, Sequence[float]] = field(default_factory=dict)
    spans: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)


FLOAT = Quantisation()


@dataclass(frozen=True)
class Gate:
    """Figures of int8 beside float32, on crops that were not used for the ranges.

    probes: crops whose nearest other crop should be of the same person; 0 where too few people have two crops.
    right_f32, right_int8: for how many probes it is.
    """

    crops: int
    mean_cosine: float
    least_cosine: float
    probes: int
    right_f32: int
    right_int8: int

    @property
    def passed(self) -> bool:
        """Whether the network may run in int8."""
        return (
            self.mean_cosine >= LEAST_MEAN
            and self.least_cosine >= LEAST
            and self.right_f32 - self.right_int8 <= MOST_LOST * self.probes
        )

    @property
    def text(self) -> str:
        """The figures as one line for the user."""
        cosines = (
            f"cosine to float32 {self.mean_cosine:.5f} in the mean, {self.least_cosine:.4f} at least, "
            f"over {self.crops} crops"
        )
        top1 = f"top-1 {self.right_int8} of {self.probes}, in float32 {self.right_f32}"
        verdict = (
            "passed, --precision auto takes int8 on CPUs with VNNI"
            if self.passed
            else "not passed, --precision auto does not take int8"
        )
        return f"{cosines}; {top1 if self.probes else 'top-1 not judged: too few people with two crops'}; {verdict}"


@dataclass(frozen=True)
class Export:
    """The content of int8.json. weights: sha256."""

    weights: str
    quantisation: Quantisation
    gate: Gate
    version: int = VERSION


def file_of(part: Part) -> Path:
    """Return the path of a network's int8.json."""
    return stored_file(part).parent / "int8.json"


def packaged(part: Part) -> Traversable:
    """Return the int8 export that comes with the package; there is one of known weights."""
    return resources.files(__package__) / "quantised" / f"{part.sha256[:16]}.json.gz"


def write(part: Part, quantisation: Quantisation, gate: Gate) -> None:
    """Write the int8 export of a network; replace an earlier one."""
    fields = asdict(Export(part.sha256, quantisation, gate))
    make_folder(file_of(part).parent)
    write_atomic(file_of(part), json.dumps(fields | {"sha256": _digest(fields)}).encode())


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read(part: Part) -> Export:
    """Return the int8 export of a network: the user's own, else the one that comes with the package.

    Raise InputError where there is none for these weights, ModelError where it was damaged or edited.
    """
    path, remedy = file_of(part), "run `weights quantise MODEL CROPS`, or leave --precision out"
    try:
        fields = json.loads(path.read_bytes() if path.exists() else gzip.decompress(packaged(part).read_bytes()))
        sound = fields.pop("sha256") == _digest(fields)
        export = Export(
            **fields | {"quantisation": Quantisation(**fields["quantisation"]), "gate": Gate(**fields["gate"])}
        )
    except FileNotFoundError:
        raise InputError(
            f"expected an int8 export of {part.name} ({part.sha256[:16]}), there is none: {remedy}"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise ModelError(f"expected an int8 export as it was written, {path} was damaged or changed: {remedy}")
    if (export.weights, export.version) != (part.sha256, VERSION):
        raise InputError(
            f"expected an int8 export of {part.name} ({part.sha256[:16]}), "
            f"{path} is of other weights or an older version: {remedy}"
        )
    return export


def advised(parts: Sequence[Part]) -> bool:
    """Whether this CPU is fast in int8, and the user quantised every network, which passed its gate.

    In floating point a photo has the same vector alone and among many, which an export of the package does not change.
    """
    try:
        return has_vnni() and all(file_of(part).exists() and read(part).gate.passed for part in parts)
    except FaceGalleryError:
        return False
