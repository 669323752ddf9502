"""The face contract: what made a vector, and whether two vectors may be compared."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from embedder.errors import DataError, InputError

INPUT_SIZE = 160
VIEWS = "plain", "mirror", "margins", "all"  # of one crop, whose vectors are averaged
STANDARDISATIONS = ("fixed", "per_image")
SHA256 = re.compile("[0-9a-f]{64}")
MOST_PARTS, MOST_DIMENSIONS, MOST_PIXELS, LONGEST_TEXT = 16, 65536, 4096, 1024  # of a contract that is read


def margin_of(text: str) -> tuple[float, bool]:
    """(value, whether it is pixels) of a margin such as "0.25" or "32px"."""
    pixels = text.endswith("px")
    try:
        value = float(text.removesuffix("px"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= (1000 if pixels else 4):
        raise InputError(f"expected a margin such as 0.25 (a share of the box, up to 4) or 32px, received {text!r}")
    return value, pixels


def canonical_margin(text: str) -> str:
    """One spelling a margin, so that .25 and 0.250 have one fingerprint."""
    value, pixels = margin_of(text)
    return f"{value:g}px" if pixels else f"{value:g}"


@dataclass(frozen=True)
class Part:
    """One network of a model."""

    name: str
    sha256: str  # of the safetensors file
    dimension: int
    standardisation: str  # fixed: (x - 127.5) / 128; per_image: whitening of each crop
    parent: str | None = None  # sha256 of the weights that this was finetuned from
    zoom: float = 1.0  # the network sees the middle 1 / zoom of the crop, each way
    weight: float = 1.0  # of its unit vector beside those of the model's other networks

    def __post_init__(self) -> None:
        if not 1 <= self.zoom <= 4:
            raise InputError(f"expected a zoom of 1 to 4, received {self.zoom}")
        if not 0 < self.weight <= 100:
            raise InputError(f"expected a weight above 0 and up to 100, received {self.weight}")


@dataclass(frozen=True)
class CropRule:
    """Which face of a photo, and which pixels around it."""

    margin: str = "0.25"  # share of the box, or pixels: "32px"
    face: str = "largest-central"
    size: int = INPUT_SIZE
    border: int = 0  # pixels kept beyond `size` on each side, for training's jitter
    no_face: str = "skip"  # or "whole": the whole photo is the crop, as the homework did

    def __post_init__(self) -> None:
        margin_of(self.margin)
        if not 0 <= self.border <= self.size:
            raise InputError(f"expected a border of 0 to {self.size} pixels, received {self.border}")


@dataclass(frozen=True)
class FaceSpec:
    """What made a vector. Without parts it describes crops; with several, vectors are their weighted unit-length concatenation.

    `detector`, `runtime` and `precision` are recorded, and may differ between vectors that are compared.
    """

    parts: tuple[Part, ...] = ()
    crop: CropRule = CropRule()
    colour: str = "RGB"
    flip: bool = False  # the mirror image's vector is added before the length is made 1
    margins: bool = False  # so is that of the crop seen with half the zoom, where a network zooms
    detector: dict[str, Any] = field(default_factory=dict)
    runtime: str = ""
    precision: str = ""

    @property
    def dimension(self) -> int:
        return sum(p.dimension for p in self.parts)

    def views(self, part: Part) -> list[tuple[float, bool]]:
        """(zoom, mirrored): how a network sees each crop; the unit vectors are added."""
        zooms = [part.zoom, (1 + part.zoom) / 2] if self.margins and part.zoom > 1 else [part.zoom]
        return [(zoom, mirrored) for zoom in zooms for mirrored in ((False, True) if self.flip else (False,))]

    def with_views(self, which: str) -> FaceSpec:
        """This contract with more views of each crop, one of VIEWS; raises InputError for margins where no network zooms."""
        if which == "margins" and not any(part.zoom > 1 for part in self.parts):
            raise InputError(f"expected a model that zooms for --views margins, {self.model_name} sees whole crops: take plain or mirror")
        return replace(self, flip=self.flip or which in ("mirror", "all"), margins=self.margins or which in ("margins", "all"))

    @property
    def fingerprint(self) -> str:
        """16 hex digits over exactly what changes a vector's meaning."""
        text = json.dumps(self.meaning(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def meaning(self) -> dict[str, Any]:
        """The fields that the fingerprint covers, flat, in words that an error can name."""
        fields: dict[str, Any] = {
            "number of networks": len(self.parts),
            "input size": self.crop.size,
            "margin": self.crop.margin,
            "which face": self.crop.face,
            "colour order": self.colour,
            "flip averaging": self.flip,
        }
        if self.margins:
            fields["margins averaging"] = True
        for i, part in enumerate(self.parts):
            fields[f"weights {i}"] = part.sha256
            fields[f"dimension {i}"] = part.dimension
            fields[f"standardisation {i}"] = part.standardisation
            for name in ("zoom", "weight"):  # contracts from before there were these keep their fingerprint
                if getattr(part, name) != 1:
                    fields[f"{name} {i}"] = getattr(part, name)
        return fields

    def difference(self, other: FaceSpec) -> str | None:
        """The first field in which two contracts differ, as 'margin: 0.25 and 32px', or None."""
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
    def model_name(self) -> str:
        return "+".join(p.name for p in self.parts) or "no model"

    def with_crop(self, crops: FaceSpec) -> FaceSpec:
        """This model's contract on crops that already exist."""
        return replace(self, crop=crops.crop, colour=crops.colour, detector=crops.detector)

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"fingerprint": self.fingerprint}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> FaceSpec:
        """Read `to_json`; raises DataError where the text was damaged or edited."""
        try:
            given = json.loads(text)
            fingerprint = given.pop("fingerprint")
            given["parts"] = tuple(_checked(Part(**p)) for p in given["parts"])
            given["crop"] = _checked(CropRule(**given["crop"]))
            spec = _checked(cls(**given))
            _check_sizes(spec)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, InputError) as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise DataError(f"expected a face contract (JSON), received something else ({reason}); make the file again") from None
        if spec.fingerprint != fingerprint:
            raise DataError(f"the face contract says fingerprint {fingerprint} but its fields give {spec.fingerprint}; make the file again")
        return spec


def _checked(part: Any) -> Any:
    """A dataclass made from JSON, as it is; raises ValueError where a field is of another type than its default or annotation says."""
    kinds: dict[str, tuple[type, ...]] = {
        "str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "str | None": (str, type(None)),
        "dict[str, Any]": (dict,), "tuple[Part, ...]": (tuple,), "CropRule": (CropRule,),
    }  # fmt: skip
    for member in fields(part):
        value, wanted = getattr(part, member.name), kinds[str(member.type)]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ValueError(f"{member.name} is {str(value)[:40]!r}")
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise ValueError(f"{member.name} has {len(value)} characters")
    return part


def _check_sizes(spec: FaceSpec) -> None:
    """Raises ValueError where a network, crop or detector could not be made."""
    detector = (spec.detector.get("min_face", 1), spec.detector.get("max_side", 64))
    sizes = [("size", spec.crop.size, MOST_PIXELS), *(("dimension", part.dimension, MOST_DIMENSIONS) for part in spec.parts)]
    sizes += [(name, value, 1 << 20) for name, value in zip(("min_face", "max_side"), detector, strict=True)]
    for name, value, most in sizes:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ValueError(f"{name} is {str(value)[:40]}, expected 1 to {most}")
    for part in spec.parts:
        if not SHA256.fullmatch(part.sha256) or part.standardisation not in STANDARDISATIONS:
            raise ValueError(f"the network {part.name[:40]!r} has sha256 {part.sha256[:64]!r}, {part.standardisation[:40]!r}")
    if len(spec.parts) > MOST_PARTS:
        raise ValueError(f"{len(spec.parts)} networks, expected {MOST_PARTS} at most")
