"""Decide which files a command may replace: only those that this program wrote, recognised by their content."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from facegallery.embedder.errors import InputError
from facegallery.embedder.files import place, write_atomic
from facegallery.embedder.photos.region_writer import MARKS

SIGN = "facegallery"  # stands in PNG's Software, JPEG's comment, the page's generator, Parquet's metadata, ...
HEAD = 1 << 16  # bytes at the start or end of a file that are searched for the sign
MOST_JSON = 256 << 20  # bytes of the largest JSON document that is recognised
PICTURES = (".png", ".jpg", ".jpeg")
NOUNS = {
    "picture": "a picture",
    "predictions": "predictions",
    "hits": "a hits file",
    "page": "a report page",
    "receipt": "a receipt",
    "comparison": "a comparison",
    "sidecar": "a sidecar",
}


def check_replaceable(path: Path, kind: str) -> None:
    """Raise InputError where `path` exists and is neither empty nor a file of this kind by this program.

    kind: picture, predictions, hits, page, receipt, comparison or sidecar.
    """
    try:
        size = path.stat().st_size
        if path.is_file() and (not size or IS_OURS[kind](path, size)):
            return
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        pass  # a file that cannot be read is not recognised
    raise InputError(
        f"expected a new file, or {NOUNS[kind]} that this program wrote, {path} is something else: "
        "choose another name, or delete it if an earlier version wrote it; nothing was replaced"
    )


def place_own(temporary: Path, path: Path, kind: str) -> None:
    """Rename a finished temporary to `path`; raise InputError, as `check_replaceable`, for a new file there."""
    try:
        place(temporary, path)
    except FileExistsError:
        check_replaceable(path, kind)
        os.replace(temporary, path)


def write_own(path: Path, kind: str, data: bytes) -> None:
    """Write a file of a kind atomically; raise InputError as `check_replaceable`."""
    write_atomic(path, data, partial(place_own, kind=kind))


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD)


def _tail(path: Path, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, size - HEAD))
        return file.read(HEAD)


def _is_picture(path: Path, size: int) -> bool:
    head = _head(path)
    png, jpeg = b"tEXtSoftware\0" + SIGN.encode(), b"\xff\xfe" + (2 + len(SIGN)).to_bytes(2, "big") + SIGN.encode()
    return (head.startswith(b"\x89PNG") and png in head) or (head.startswith(b"\xff\xd8") and jpeg in head)


def _is_predictions(path: Path, size: int) -> bool:
    return re.search(rb"(^|\n)top1 [01]\.\d{4}\ntop5 [01]\.\d{4}\n$", _tail(path, size)) is not None


def _is_hits(path: Path, size: int) -> bool:
    tail = _tail(path, size)
    return tail.endswith(b"PAR1") and all(name in tail for name in (b"hit_identity", b"hit_face_id", b"hit_image"))


def _is_page(path: Path, size: int) -> bool:
    return f'<meta name="generator" content="{SIGN}">'.encode() in _head(path)


def _is_sidecar(path: Path, size: int) -> bool:
    head = _head(path)
    return all(mark.encode() in head for mark in MARKS)


def _has_keys(*keys: str) -> Callable[[Path, int], bool]:
    def check(path: Path, size: int) -> bool:
        try:
            found = json.loads(path.read_bytes()) if size <= MOST_JSON else None
        except (ValueError, RecursionError):
            return False
        return isinstance(found, dict) and found.keys() >= set(keys)

    return check


IS_OURS: dict[str, Callable[[Path, int], bool]] = {
    "picture": _is_picture,
    "predictions": _is_predictions,
    "hits": _is_hits,
    "page": _is_page,
    "sidecar": _is_sidecar,
    "receipt": _has_keys("index", "time", "face_ids", "pending", "not_cleaned"),
    "comparison": _has_keys("index", "before", "after", "right_before", "right_after", "differently"),
}
