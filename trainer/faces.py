"""Hold the faces that are trained on, and make of each what a network sees, with a border."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from facegallery.embedder.errors import DataError
from facegallery.embedder.faces import picture
from facegallery.embedder.faces.align import to_png
from facegallery.embedder.faces.picture import FacePicture
from facegallery.embedder.spec import CropRule, Part

TOGETHER = 256  # faces that are decoded at once
BORDER = 8  # a crop that is made for training has one pixel of border on each side for so many of its own


@dataclass(frozen=True)
class TrainingCrops:
    """What one network sees of faces, with the person of each.

    pngs: PNG bytes (n,). labels: int32 (n,), the number of each crop's person in `people`. size: pixels of a crop's
    side. border: pixels beyond it on each side.
    """

    pngs: tf.Tensor
    labels: np.ndarray
    people: tuple[str, ...]
    size: int
    border: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """Pixels of a crop's side, the border included."""
        return self.size + 2 * self.border

    def numbered(self) -> TrainingCrops:
        """Return the crops, each labelled with its own number."""
        return replace(self, labels=np.arange(len(self), dtype=np.int32))


@dataclass(frozen=True)
class Place:
    """Where a face lies in its photo: its box and landmarks as rows have them, None where they are not known."""

    face_id: str
    box: Sequence[float] | None
    landmarks: Sequence[float] | None


@dataclass(frozen=True)
class TrainingFaces:
    """Faces as a data set stores them, with the person of each.

    pngs: PNG bytes (n,). places: of each. rule: how they are stored. labels: int32 (n,), the number of each face's
    person in `people`. digest: of faces and people.
    """

    pngs: tf.Tensor
    places: tuple[Place, ...]
    rule: CropRule
    labels: np.ndarray
    people: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of_rows(cls, rows: Sequence[dict[str, Any]], rule: CropRule) -> TrainingFaces:
        """Return the faces of rows of a data set; raise DataError where one's picture is not as `rule` stores it."""
        people = tuple(sorted({row["identity"] for row in rows}))
        number = {name: i for i, name in enumerate(people)}
        digest = hashlib.sha256(str(rule.border).encode())
        for row in rows:
            _check_png(row["crop"], rule, row["face_id"])
            where = f"{row['box']} {row['landmarks']}".encode() if rule.window else b""
            for content in (row["crop"], row["identity"].encode(), *([where] if where else [])):
                digest.update(hashlib.sha256(content).digest())
        places = tuple(Place(row["face_id"], row["box"], row["landmarks"]) for row in rows)
        labels = np.array([number[row["identity"]] for row in rows], np.int32)
        return cls(tf.constant([row["crop"] for row in rows]), places, rule, labels, people, digest.hexdigest())

    def pictures(self) -> Iterator[list[FacePicture]]:
        """Yield what is stored of every face, in order, up to TOGETHER at once."""
        for i in range(0, len(self), TOGETHER):
            pairs = zip(self.pngs[i : i + TOGETHER].numpy(), self.places[i : i + TOGETHER], strict=True)
            yield [
                picture.read(png, place.box, place.landmarks, self.rule, f"face {place.face_id}")
                for png, place in pairs
            ]

    def seen_by(self, part: Part) -> TrainingCrops:
        """Return what a network sees of the faces, with a border.

        Crops of boxes have the border with which they are stored, others a border of a BORDER-th of their size.
        """
        if self._are_crops_of(part):
            return TrainingCrops(self.pngs, self.labels, self.people, part.size, self.rule.border)
        border = part.size // BORDER
        pngs = [
            to_png(picture.with_border(part, face, self.rule, border)) for block in self.pictures() for face in block
        ]
        return TrainingCrops(tf.constant(pngs), self.labels, self.people, part.size, border)

    def _are_crops_of(self, part: Part) -> bool:
        same = (part.crop, part.size, part.colour) == ("box", self.rule.size, "RGB")
        return same and not self.rule.window


def _check_png(data: bytes, rule: CropRule, face: str) -> None:
    """Raise DataError unless the header is that of a PNG of the size that `rule` stores."""
    size = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    side = rule.window or rule.size + 2 * rule.border
    fits = max(size) <= side if rule.window else size == (side, side)
    if data[:8] != b"\x89PNG\r\n\x1a\n" or not fits:
        raise DataError(
            f"expected a PNG of {'at most ' if rule.window else ''}{side} x {side}, the crop of face {face} is not: "
            "align the photos again"
        )
