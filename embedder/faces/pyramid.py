"""Lay out photos for a cascade: pyramids of copies on canvases for the first network, patches for the others.

The copies of falling size are cut into pieces, which are packed side by side on canvases of one fixed size.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import as_strided
from PIL import Image
from scipy.sparse import csr_matrix, vstack

CELL, STRIDE = 12, 2  # pixels that one answer of the first network sees, and between two answers
OVERLAP = CELL - STRIDE
SCALE_FACTOR = 0.709
GAP = 1e4  # subtracted from a response that saw pixels beyond its piece
CENTRE = 128  # subtracted from all pixels: networks in bf16 err half as much on numbers about zero
GREY = 127.5 - CENTRE
CACHED, STRIPE = 4 << 20, 32  # most bytes of a photo that is narrowed at once; rows at a time of a larger photo


@dataclass(frozen=True)
class Piece:
    """A part of a level that lies on a canvas. photo, level: numbers; the other fields: pixels of the level."""

    photo: int
    level: int
    scale: float
    top: int
    left: int
    height: int
    width: int

    @property
    def answers(self) -> tuple[int, int]:
        """How many rows and columns of answers the network gives for the piece."""
        return -(-(self.height - 2) // STRIDE) - 4, -(-(self.width - 2) // STRIDE) - 4


@dataclass
class Canvases:
    """The canvases of a batch of photos.

    pixels: float32 (n, s, s, 4), with any content between the pieces. gaps: float32 (n, s - 2, s - 2, 1), GAP where a
    piece ends at an odd place. where: canvas, top and left of each piece.
    """

    pixels: np.ndarray
    gaps: np.ndarray
    pieces: list[Piece]
    where: list[tuple[int, int, int]]


def scales(height: int, width: int, min_face: int) -> list[float]:
    """Return the sizes at which a photo is searched, as shares; in the first, `min_face` pixels fill a cell."""
    n = round(-((np.log(min(height, width) / CELL) / np.log(SCALE_FACTOR)) + 1))
    return [CELL / min_face * SCALE_FACTOR**i for i in range(n)]


class Memory(threading.local):
    """Arrays that each thread uses again, since allocating memory takes longer than writing to it."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def room(self, name: str, n: int, *shape: int) -> np.ndarray:
        """Return a float32 array (n, *shape) of any finite content."""
        if name not in self._arrays or len(self._arrays[name]) < n:
            self._arrays[name] = np.zeros((n, *shape), np.float32)
        return self._arrays[name][:n]


def centred(photo: np.ndarray) -> np.ndarray:
    """Subtract CENTRE: uint8 RGB (h, w, 3) -> int8 (h, w, 4).

    A pixel is one machine word; its fourth byte has no meaning.
    """
    words = np.frombuffer(Image.fromarray(photo).tobytes("raw", "RGBX"), np.uint32) ^ np.uint32(0x80808080)
    return words.view(np.int8).reshape(*photo.shape[:2], 4)


def lay_out(photos: Sequence[np.ndarray], min_face: int, side: int, memory: Memory) -> Canvases:
    """Lay out all levels of photos, int8 (h, w, 4) each, on canvases of `side` pixels."""
    levels = [_levels(photo, scales(photo.shape[0], photo.shape[1], min_face)) for photo in photos]
    pieces = [
        Piece(i, j, scale, top, left, height, width)
        for i, of_photo in enumerate(levels)
        for j, (scale, pixels) in enumerate(of_photo)
        for top, height in _cuts(pixels.shape[0], side)
        for left, width in _cuts(pixels.shape[1], side)
    ]
    where, n = pack([(piece.height, piece.width) for piece in pieces], side)
    canvases = Canvases(
        memory.room("pixels", n, side, side, 4), memory.room("gaps", n, side - 2, side - 2, 1), pieces, where
    )
    canvases.gaps[:] = 0
    for piece, (canvas, top, left) in zip(pieces, where, strict=True):
        bottom, right = top + piece.height, left + piece.width
        pixels = levels[piece.photo][piece.level][1]
        canvases.pixels[canvas, top:bottom, left:right] = pixels[piece.top :, piece.left :][
            : piece.height, : piece.width
        ]
        if piece.height % 2:
            canvases.gaps[canvas, bottom - 2 : bottom - 1, left:right] = GAP
        if piece.width % 2:
            canvases.gaps[canvas, top:bottom, right - 2 : right - 1] = GAP
    return canvases


def _levels(photo: np.ndarray, shares: Sequence[float]) -> list[tuple[float, np.ndarray]]:
    """Return (scale, float32 (h, w, 4)) of each size; a pixel is the mean of the area that it covers."""
    height, width = photo.shape[:2]
    widths = [int(width * share) for share in shares]
    if not shares:
        return []
    across, words = _areas(width, tuple(widths)), photo.view(np.uint32)[..., 0]
    columns = [np.empty((height, w), np.complex128) for w in widths]  # four float32 of a pixel as one number
    step = height if height * sum(widths) * 16 <= CACHED else STRIPE
    for top in range(0, height, step):
        turned = np.ascontiguousarray(words[top : top + step].T).view(np.int8).astype(np.float32)
        narrowed = np.split((across @ turned).view(np.complex128), np.cumsum(widths)[:-1])
        for of_level, pixels in zip(columns, narrowed, strict=True):
            of_level[top : top + step] = pixels.T
    found = []
    for share, w, of_level in zip(shares, widths, columns, strict=True):
        h = int(height * share)
        found.append((share, (_areas(height, (h,)) @ of_level.view(np.float32)).reshape(h, w, 4)))
    return found


@lru_cache(512)
def _areas(n: int, sizes: tuple[int, ...]) -> csr_matrix:
    """Return the matrix (sum of sizes, n) that takes, for each size m, the means over m equal parts of n numbers."""
    return vstack([_area(n, m) for m in sizes]).tocsr()


def _area(n: int, m: int) -> csr_matrix:
    edges = np.union1d(np.arange(m + 1) * (n / m), np.arange(n + 1.0))
    middles, lengths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    part = np.minimum((middles * (m / n)).astype(int), m - 1)
    return csr_matrix(((lengths * (m / n)).astype(np.float32), (part, np.minimum(middles.astype(int), n - 1))), (m, n))


def _cuts(n: int, side: int) -> Iterable[tuple[int, int]]:
    """Return (start, length) of the parts of a side of n pixels; two parts overlap by what one answer sees."""
    starts = range(0, max(n - OVERLAP, 1), side - OVERLAP)
    return [(start, min(side, n - start)) for start in starts]


def pack(sizes: Sequence[tuple[int, int]], side: int) -> tuple[list[tuple[int, int, int]], int]:
    """Pack rectangles (height, width) on canvases, shelf by shelf, tallest first.

    Return (canvas, top, left) of each rectangle, all even, and the number of canvases.
    """
    where: list[tuple[int, int, int]] = [(0, 0, 0)] * len(sizes)
    shelves: list[list[int]] = []  # canvas, top, height, used width
    used: list[int] = []  # height of each canvas
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i], reverse=True):
        height, width = (n + n % 2 for n in sizes[i])
        fitting = [shelf for shelf in shelves if shelf[2] >= height and shelf[3] + width <= side]
        shelf = min(fitting, key=lambda shelf: shelf[2], default=None)
        if shelf is None:
            canvas = next((c for c, top in enumerate(used) if top + height <= side), len(used))
            used += [0] * (canvas == len(used))
            shelf = [canvas, used[canvas], height, 0]
            used[canvas] += height
            shelves.append(shelf)
        where[i] = shelf[0], shelf[1], shelf[3]
        shelf[3] += width
    return where, len(used)


def windows(canvases: Canvases, cells: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return what single answers of the first network see: pixels (m, 12, 12, 4) and gaps (m, 10, 10, 1).

    cells: int (m,) each: canvases, rows and columns of the answers.
    """

    def cut(array: np.ndarray, size: int) -> np.ndarray:
        canvas, y, x, channel = array.strides
        shape = len(array), *((n - size) // STRIDE + 1 for n in array.shape[1:3]), size, size, array.shape[3]
        return as_strided(array, shape, (canvas, STRIDE * y, STRIDE * x, y, x, channel))[cells]

    return cut(canvases.pixels, CELL), cut(canvases.gaps, CELL - 2)


def patches(photo: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """Sample patches of a photo: int8 (h, w, 4), boxes float (m, 4) x0 y0 x1 y1 -> float32 (m, size, size, 4).

    Samples are bilinear on the grid of `tf.image.crop_and_resize`, and grey outside of the photo.
    """
    height, width = photo.shape[:2]
    top, down, rows = _samples(boxes[:, 1], boxes[:, 3], height, size)
    left, across, columns = _samples(boxes[:, 0], boxes[:, 2], width, size)
    words, at = np.ascontiguousarray(photo).view(np.uint32).ravel(), top[:, :, None] * width + left[:, None, :]
    across, down = np.repeat(across, 4, axis=1)[:, None, :], down[:, :, None]

    def pixels(step: int) -> np.ndarray:
        """Return the pixels `step` behind `at`; a pixel beyond the photo's edge, whose share is 0, may be any."""
        return words[step:].take(at, mode="clip").view(np.int8).astype(np.float32)

    found = _mixed(_mixed(pixels(0), pixels(1), across), _mixed(pixels(width), pixels(width + 1), across), down)
    found = found.reshape(len(boxes), size, size, 4)
    cut = np.flatnonzero(~(rows.all(axis=1) & columns.all(axis=1)))
    found[cut] = np.where((rows[cut, :, None] & columns[cut, None, :])[..., None], found[cut], np.float32(GREY))
    return found


def _samples(start: np.ndarray, end: np.ndarray, n: int, size: int) -> tuple[np.ndarray, ...]:
    """Locate samples along a side of n pixels.

    Return, (m, size) each: int, the pixel before a sample; float32, the share of the pixel after it; bool, whether the
    sample is inside.
    """
    share = (n - 1) / n
    at = (start[:, None] + (end - start)[:, None] * np.linspace(0, 1, size)) * share
    inside = (at >= 0) & (at <= n - 1)
    at = at.clip(0, n - 1)
    before = at.astype(np.int64)
    return before, (at - before).astype(np.float32), inside


def _mixed(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return first + (second - first) x share; overwrite `second` with it."""
    second -= first
    second *= share
    second += first
    return second
