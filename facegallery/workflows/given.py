"""Vectors that were made elsewhere, as rows that a gallery enrols."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import InputError

VECTOR = b"facegallery vector 1\0"  # begins what is hashed of a vector that is given without its photo


@dataclass(frozen=True)
class GivenVectors:
    """Vectors that were made elsewhere, float32 (n, d), and what is known of each."""

    vectors: np.ndarray
    identity: str | Sequence[str]  # of all, or of each
    images: Sequence[str] | None = None
    metadata: Sequence[Mapping[str, object]] | None = None

    def rows(self) -> list[Row]:
        """Return a row for each vector; its face's id is made of its bytes.

        Raises InputError where there are more or fewer of the rest than vectors.
        """
        n = len(self.vectors)
        names = [self.identity] * n if isinstance(self.identity, str) else list(self.identity)
        columns = [{}] * n if self.metadata is None else list(self.metadata)
        hashes = [hashlib.sha256(VECTOR + x.astype("<f4").tobytes()).hexdigest() for x in self.vectors]
        images = [f"vector-{one[:16]}" for one in hashes] if self.images is None else list(self.images)
        if not len(names) == len(columns) == len(images) == n:
            raise InputError(
                f"expected an identity, an image and metadata for each of {n} vectors, received {len(names)}, "
                f"{len(images)} and {len(columns)}: give as many"
            )
        return [
            Row(image, "ok", sha256, name, face=0, vector=x, extra=_texts(extra))
            for image, sha256, name, x, extra in zip(images, hashes, names, self.vectors, columns, strict=True)
        ]


def _texts(columns: Mapping[str, object]) -> dict[str, str]:
    return {str(name): str(value) for name, value in columns.items() if value is not None}
