"""Checksums that the rows of gallery.db carry."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

FACE_COLUMNS = (
    "id",
    "face_id",
    "image",
    "image_sha256",
    "split",
    "face",
    "box",
    "landmarks",
    "confidence",
    "sharpness",
    "extra",
)
SALT_BYTES = 32


def checksum(*fields: object) -> bytes:
    """Hash the fields to 16 bytes; each field is preceded by its length, so that different lists never hash alike."""
    parts: list[bytes] = []
    for field in fields:
        part = field if isinstance(field, bytes) else repr(field).encode()
        parts += (len(part).to_bytes(8, "little"), part)
    return hashlib.blake2b(b"".join(parts), digest_size=16).digest()


def chained(start: bytes, lines: Iterable[tuple]) -> bytes:
    """Extend the checksum `start` of a growing list by the lines that were added since."""
    for line in lines:
        start = checksum(start, *line)
    return start


def face_checksum(identity: str | None, columns: Sequence[Any]) -> bytes:
    """Hash the person's name and the FACE_COLUMNS of a face.

    The vector and the crop have checksums of their own, over the id of the face and their bytes.
    """
    return checksum(identity, *columns)
