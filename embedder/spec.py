"""Define the face contract: what made a vector, and whether two vectors may be compared."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from dataclasses import fields as fields_of
from types import NoneType
from typing import Any

from facegallery.embedder.errors import DataError, InputError, reason

Types = type | tuple[type, ...]
SPEC_KEY = "facegallery.spec"  # metadata key of files, whose value is a contract as JSON
INPUT_SIZE = 160  # pixels
WINDOW = 192  # pixels of the longest side of a window
VIEWS = "plain", "mirror", "margins", "all"  # sets of views of a crop; the vectors of the views are averaged
STANDARDISATIONS = ("fixed", "per_image", "affine")
BOXED = ("box", "close")  # what a network sees: the box with its margin; its middle, before the photo's edge cuts it
CROPS = (*BOXED, "arcface")  # or five points moved to ArcFace's template
COLOURS = ("RGB", "BGR")
FACENET = "inception_resnet_v1"
NETWORKS = (FACENET, "sface", "onnx")  # architectures, or a file that holds its own

MOST_JSON = 1 << 20  # bytes
MOST_SIDE = 4096  # pixels of a crop
MOST_TEXT, MOST_PARTS, MOST_DIMENSION = 500, 16, 1 << 16


def margin_of(text: str) -> tuple[float, bool]:
    """Parse a margin such as "0.25" or "32px"; return (value, whether the value is pixels). Raise InputError."""
    pixels = text.endswith("px")
    try:
        value = float(text.removesuffix("px"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= (1000 if pixels else 4):
        raise InputError(f"expected a margin such as 0.25 (a share of the box, up to 4) or 32px, received {text!r}")
    return value, pixels


def canonical_margin(text: str) -> str:
    """Return the canonical spelling of a margin, so that .25 and 0.250 have one fingerprint."""
    value, pixels = margin_of(text)
    return f"{value:g}px" if pixels else f"{value:g}"


@dataclass(frozen=True)
class Part:
    """One network of a model."""

    name: str
    sha256: str  # hash of the weights' file
    dimension: int
    standardisation: str  # fixed: (x - 127.5) / 128; per_image: whitening of each crop; affine: (x - mean) / scale
    parent: str | None = None  # sha256 of the weights that these were finetuned from
    zoom: float = 1.0  # the network sees the middle 1 / zoom of the box with its margin
    weight: float = 1.0  # factor of the network's unit vector where a model has several networks
    network: str = FACENET  # the architecture
    crop: str = "box"  # one of CROPS
    size: int = INPUT_SIZE  # pixels of what the network sees
    colour: str = "RGB"
    mean: float = 0.0  # of the standardisation `affine`
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.network not in NETWORKS or self.crop not in CROPS or self.colour not in COLOURS:
            raise InputError(
                f"expected a network of {', '.join(NETWORKS)}, crops of {', '.join(CROPS)} and colours of "
                f"{', '.join(COLOURS)}, received {self.network[:50]!r}, {self.crop[:50]!r} and {self.colour[:50]!r}"
            )
        if not 8 <= self.size <= MOST_SIDE:
            raise InputError(f"expected an input of 8 to {MOST_SIDE} pixels, received {self.size}")
        if not (math.isfinite(self.mean) and math.isfinite(self.scale) and self.scale):
            raise InputError(f"expected a finite mean and scale, the scale not 0, received {self.mean}, {self.scale}")
        if not 1 <= self.zoom <= 4:
            raise InputError(f"expected a zoom of 1 to 4, received {self.zoom}")
        if not 0 < self.weight <= 100:
            raise InputError(f"expected a weight above 0 and up to 100, received {self.weight}")

    def enlarged(self, zoom: float) -> float:
        """Return how many times the middle of a crop is enlarged before the network sees it at this zoom."""
        return zoom if self.crop == "box" else 1.0

    @property
    def enlargement(self) -> float:
        """How many times the middle of a crop is enlarged before the network sees it."""
        return self.enlarged(self.zoom)

    def closer(self, zoom: float) -> float:
        """Return how many times smaller the box is cut than it is with its margin, at this zoom."""
        return zoom if self.crop == "close" else 1.0


def box_at(zoom: float) -> str:
    """Return the kind of crop, one of BOXED, for a network that sees boxes at this zoom."""
    return "box" if zoom == 1 else "close"


@dataclass(frozen=True)
class CropRule:
    """Which face of a photo to crop, and which pixels around the face are stored.

    A crop is the face's box with its margin, stretched to a square of `size` pixels and a border. A window holds the
    same and what a template of five points needs, in the photo's own proportions: the photo's own pixels, or a smaller
    copy whose longest side has `window` pixels. Networks of both kinds can see a face in a window.
    """

    margin: str = "0.25"  # share of the box, or pixels: "32px"
    face: str = "largest-central"
    size: int = INPUT_SIZE
    border: int = 0  # pixels kept beyond `size` on each side, for jitter in training
    no_face: str = "skip"  # or "whole": a photo without a face is its own crop, as in the homework
    window: int = 0  # pixels of a window's longest side; 0 for crops

    def __post_init__(self) -> None:
        margin_of(self.margin)
        if self.window and not (self.size <= self.window <= MOST_SIDE and self.border == 0):
            raise InputError(
                f"expected a window of {self.size} to {MOST_SIDE} pixels without a border, received {self.window}"
            )
        if not 0 <= self.border <= self.size:
            raise InputError(f"expected a border of 0 to {self.size} pixels, received {self.border}")


@dataclass(frozen=True)
class FaceSpec:
    """The contract of a vector: the networks, crop rule and views that made it.

    Without parts the contract describes crops. With several parts, a vector is the unit-length concatenation of the
    parts' weighted unit vectors. `detector`, `runtime` and `precision` are recorded, and may differ between vectors
    that are compared.
    """

    parts: tuple[Part, ...] = ()
    crop: CropRule = CropRule()
    colour: str = "RGB"
    flip: bool = False  # the vector of the mirror image is added before the length is made 1
    margins: bool = False  # the vector of the crop at half the zoom is added, too, where a network zooms
    detector: dict[str, Any] = field(default_factory=dict)
    runtime: str = ""
    precision: str = ""

    @classmethod
    def of(cls, *parts: Part) -> FaceSpec:
        """Return the contract of these networks on photos: windows are stored where a network sees points."""
        spec = cls(parts=parts)
        return replace(spec, crop=CropRule(window=WINDOW)) if spec.sees_points else spec

    @property
    def dimension(self) -> int:
        """The length of a vector: the sum over the parts."""
        return sum(p.dimension for p in self.parts)

    def views(self, part: Part) -> list[tuple[float, bool]]:
        """Return (zoom, mirrored) of each view in which a network sees a crop; the unit vectors are added."""
        zooms = [part.zoom, (1 + part.zoom) / 2] if self.margins and part.zoom > 1 else [part.zoom]
        return [(zoom, mirrored) for zoom in zooms for mirrored in ((False, True) if self.flip else (False,))]

    def with_views(self, which: str) -> FaceSpec:
        """Return this contract with more views of each crop, one of VIEWS.

        Raise InputError for margins where no network zooms.
        """
        if which == "margins" and not any(part.zoom > 1 for part in self.parts):
            raise InputError(
                f"expected a model that zooms for --views margins, {self.model_name} sees whole crops: "
                "take plain or mirror"
            )
        return replace(
            self, flip=self.flip or which in ("mirror", "all"), margins=self.margins or which in ("margins", "all")
        )

    @property
    def fingerprint(self) -> str:
        """16 hex digits over exactly the fields that change a vector's meaning."""
        text = json.dumps(self.meaning(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def meaning(self) -> dict[str, Any]:
        """Return the fields that the fingerprint covers, flat, by names that an error can show."""
        fields: dict[str, Any] = {"number of networks": len(self.parts)}
        for i, part in enumerate(self.parts):
            fields[f"weights {i}"] = part.sha256
            fields[f"dimension {i}"] = part.dimension
            fields[f"standardisation {i}"] = part.standardisation
            for name, usual in LATER_MEANINGS.items():  # contracts of versions without these keep their fingerprint
                if (value := getattr(part, name)) != usual:
                    fields[f"{name} {i}"] = value
        if not self.parts or any(part.crop in BOXED for part in self.parts):
            fields |= {"input size": self.crop.size, "margin": self.crop.margin}
        fields |= {"which face": self.crop.face, "colour order": self.colour, "flip averaging": self.flip}
        if self.margins:
            fields["margins averaging"] = True
        return fields

    def difference(self, other: FaceSpec) -> str | None:
        """Return the first field in which two contracts differ, as 'margin: 0.25 and 32px', or None."""
        mine, theirs = self.meaning(), other.meaning()
        for key in [*mine, *(k for k in theirs if k not in mine)]:
            a, b = mine.get(key), theirs.get(key)
            if a != b:
                if key.startswith("weights"):
                    i = int(key.split()[1])
                    a, b = self._weights_name(i), other._weights_name(i)
                return f"{key}: {a} and {b}"
        return None

    def _weights_name(self, i: int) -> str:
        return f"{self.parts[i].name} ({self.parts[i].sha256[:16]})" if i < len(self.parts) else "none"

    @property
    def sees_points(self) -> bool:
        """Whether a network sees faces by their five points, so that windows are stored instead of crops."""
        return any(part.crop not in BOXED for part in self.parts)

    @property
    def model_name(self) -> str:
        """The names of the parts, joined by '+'; 'no model' for crops."""
        return "+".join(p.name for p in self.parts) or "no model"

    def seeing_as(self, made: FaceSpec) -> FaceSpec:
        """Return this contract with the kind of box, `box` or `close`, of another one where nothing else differs."""
        pairs = list(zip(self.parts, made.parts, strict=False))
        same = all(
            (one.sha256, one.zoom) == (other.sha256, other.zoom)
            and (one.crop == other.crop or {one.crop, other.crop} == {*BOXED})
            for one, other in pairs
        )
        if not same or len(self.parts) != len(made.parts):
            return self
        return replace(self, parts=tuple(replace(one, crop=other.crop) for one, other in pairs))

    def with_crop(self, crops: FaceSpec) -> FaceSpec:
        """Return this model's contract on existing crops; raise InputError as `check_turned` does."""
        self.check_turned(crops.detector)
        return replace(self, crop=crops.crop, colour=crops.colour, detector=crops.detector)

    def check_turned(self, detector: Mapping[str, Any]) -> None:
        """Raise InputError where a detector finds turned faces and a network sees boxes, in which they lie sideways."""
        boxed = [part.name for part in self.parts if part.crop in BOXED]
        if detector.get("turned") and boxed:
            raise InputError(
                f"expected a model that sees faces by their points for --turned, {boxed[0]} sees boxes: take sface, "
                "or turn the photos yourself"
            )

    def to_json(self) -> str:
        """Return the contract with its fingerprint as JSON."""
        return json.dumps(asdict(self) | {"fingerprint": self.fingerprint}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> FaceSpec:
        """Parse the JSON of `to_json`; raise DataError for damaged, edited or foreign text."""
        if len(text) > MOST_JSON:
            raise DataError(
                f"expected a face contract of at most {MOST_JSON:,} bytes, received {len(text):,}: make the file again"
            )
        try:
            fields = json.loads(text)
            fingerprint = fields.pop("fingerprint")
            fields["parts"] = tuple(_part(p) for p in fields["parts"])
            fields["crop"] = CropRule(**_typed(fields["crop"], CROP_TYPES, "crop"))
            spec = cls(**_typed(fields, SPEC_TYPES, "contract"))
            _check_pixels(spec)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InputError) as error:
            raise DataError(
                f"expected a face contract (JSON), received something else ({reason(error, 200)}): make the file again"
            ) from None
        if spec.fingerprint != fingerprint:
            raise DataError(
                f"expected a face contract with the fingerprint {spec.fingerprint} of its fields, "
                f"received {str(fingerprint)[:32]}: make the file again"
            )
        return spec


PART_TYPES: dict[str, Types] = {
    "name": str,
    "sha256": str,
    "dimension": int,
    "standardisation": str,
    "parent": (str, NoneType),
    "zoom": (int, float),
    "weight": (int, float),
    "network": str,
    "crop": str,
    "size": int,
    "colour": str,
    "mean": (int, float),
    "scale": (int, float),
}
LATER_MEANINGS = {
    field.name: field.default
    for field in fields_of(Part)
    if field.name in ("zoom", "weight", "crop", "size", "colour", "mean", "scale")
}
CROP_TYPES: dict[str, Types] = {
    "margin": str,
    "face": str,
    "size": int,
    "border": int,
    "no_face": str,
    "window": int,
}
SPEC_TYPES: dict[str, Types] = {
    "parts": tuple,
    "crop": CropRule,
    "colour": str,
    "flip": bool,
    "margins": bool,
    "detector": dict,
    "runtime": str,
    "precision": str,
}


def _part(fields: Any) -> Part:
    """Build a part from the fields of a file; raise ValueError or TypeError for values that no model has."""
    part = Part(**_typed(fields, PART_TYPES, "part"))
    if not all(re.fullmatch(r"[0-9a-f]{64}", hash) for hash in (part.sha256, *([part.parent] if part.parent else []))):
        raise ValueError("a sha256 has 64 hex digits")
    if not 0 < part.dimension <= MOST_DIMENSION or part.standardisation not in STANDARDISATIONS:
        raise ValueError(
            f"a network of dimension {part.dimension} with the standardisation {part.standardisation[:20]!r}"
        )
    return part


def _check_pixels(spec: FaceSpec) -> None:
    """Raise ValueError where a size is outside of what crops and detectors have."""
    detector = {name: spec.detector.get(name, 1) for name in ("min_face", "max_side")}
    for name, value, most in (
        ("size", spec.crop.size, MOST_SIDE),
        *((name, value, 1 << 20) for name, value in detector.items()),
    ):
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"{name} is {str(value)[:40]}, of 1 to {most}")


def _typed(fields: Any, types: Mapping[str, Types], what: str) -> dict[str, Any]:
    """Return the fields; raise ValueError where one has the wrong type or is too long."""
    for name, value in dict(fields).items():
        if isinstance(value, bool) is not (types.get(name) is bool) or not isinstance(value, types.get(name, object)):
            raise ValueError(f"{name[:50]} of the {what} is a {type(value).__name__}")
        if isinstance(value, (str, tuple)) and len(value) > (MOST_TEXT if isinstance(value, str) else MOST_PARTS):
            raise ValueError(f"{name[:50]} of the {what} has a length of {len(value):,}")
    return fields
