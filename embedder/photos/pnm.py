"""Read PBM, PGM and PPM, binary and plain, of any highest value."""

from __future__ import annotations

import re

import numpy as np

from facegallery.embedder.outcomes import UNREADABLE
from facegallery.embedder.photos.bounds import MOST_HEADER, MOST_MISSING, check_size
from facegallery.embedder.photos.kinds import PhotoRefused

MOST_PER_VALUE = 16  # bytes of a value in a plain PNM, with blanks and comments
_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
_HEADER = re.compile(rb"P([1-6])" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,9})")
_HIGHEST = re.compile(_SPACE + rb"(\d{1,5})")


def read_pnm(data: bytes, most: int) -> np.ndarray:
    """Decode a PNM to uint8 (h, w) or (h, w, 3); missing rows at the end are 0. Raise PhotoRefused."""
    head = data[:MOST_HEADER]
    match = _HEADER.match(head)
    if match is None:
        raise PhotoRefused(UNREADABLE, f"a PNM without width and height in its first {MOST_HEADER:,} bytes")
    kind, width, height = (int(group) for group in match.groups())
    check_size(width, height, most)
    end, highest = match.end(), 1
    if kind not in (1, 4):
        if (scale := _HIGHEST.match(head, end)) is None or not 0 < int(scale[1]) < 65536:
            raise PhotoRefused(UNREADABLE, "a PNM whose highest value is not from 1 to 65,535")
        end, highest = scale.end(), int(scale[1])
    shape = (height, width, 3) if kind in (3, 6) else (height, width)
    body = memoryview(data)[end + 1 :]
    if kind < 4 and len(body) > MOST_PER_VALUE * int(np.prod(shape)) + MOST_HEADER:
        raise PhotoRefused(UNREADABLE, "a plain PNM of more text than its values take")
    if kind in (1, 4):
        return np.where(_bits(body, kind, shape), np.uint8(0), np.uint8(255))
    if kind > 4:
        dtype = np.dtype(">u2" if highest > 255 else np.uint8)
        values = _whole(np.frombuffer(body, dtype, len(body) // dtype.itemsize), shape)
    else:
        values = _whole(np.fromstring(_text(body), np.int64, sep=" "), shape)
    if highest == 255 and kind > 4:
        return values
    table = np.rint(np.arange(highest + 1) / highest * 255).astype(np.uint8)
    return table[np.clip(values, 0, highest)]


def _bits(body: memoryview, kind: int, shape: tuple[int, ...]) -> np.ndarray:
    if kind == 4:
        rows = _whole(np.frombuffer(body, np.uint8), (shape[0], (shape[1] + 7) // 8))
        return np.unpackbits(rows, axis=1)[:, : shape[1]]
    digits = np.frombuffer(_text(body).translate(None, b" \t\r\n\v\f"), np.uint8)
    return _whole(digits, shape) == ord("1")


def _text(body: memoryview) -> bytes:
    return re.sub(rb"#[^\r\n]*", b"", bytes(body))


def _whole(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Reshape the values, with zeros for the last few that are missing; raise PhotoRefused where too many are."""
    size = int(np.prod(shape))
    missing = max(0, size - len(values))
    if missing > MOST_MISSING * size:
        raise PhotoRefused(UNREADABLE, f"cut, {missing:,} of {size:,} values are missing")
    if missing:
        values = np.concatenate([values, np.zeros(missing, values.dtype)])
    return values[:size].reshape(shape)
