"""The checksums that the rows of gallery.db carry."""

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
    """16 bytes over the fields, each with its length before it, so that no two lists of fields run into one."""
    parts = [field if isinstance(field, bytes) else repr(field).encode() for field in fields]
    return hashlib.blake2b(
        b"".join([len(part).to_bytes(8, "little") + part for part in parts]), digest_size=16
    ).digest()


def chained(start: bytes, lines: Iterable[tuple]) -> bytes:
    """A checksum over a list that only grows: of `start`, the one before, and what came since."""
    for line in lines:
        start = checksum(start, *line)
    return start


def face_checksum(identity: str | None, columns: Sequence[Any]) -> bytes:
    """Over whose face it is and FACE_COLUMNS; the vector and the crop carry their own, over the face's id and their bytes."""
    return checksum(identity, *columns)
