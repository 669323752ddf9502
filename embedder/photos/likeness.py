"""Tell whether two photos show the same picture, or nearly the same scene, from a small copy of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 64  # pixels of a thumbnail's side
CELLS = 8  # on each side of a thumbnail
COARSE = 4  # thumbnail pixels, on each side, that become one where scenes are compared
MOST_SIDE = 1024  # pixels of the longer side of the copy that sharpness is measured on, times two at most
FLAT = 3.0  # standard deviation of a thumbnail, in levels, below which nothing can be told of it
NOISE = 1.0  # variance, in levels squared, that no explanation of a thumbnail is asked for
BLOCK = 64  # photos that are compared with all others at once
PAIRS = 256  # pairs whose thumbnails are compared at once
HASHED = 1024  # thumbnails that are hashed at once


@dataclass(frozen=True)
class Look:
    """What is kept of a photo's pixels to compare it.

    thumbnail: grey, uint8 (SIDE, SIDE), the photo squeezed to a square. colour: the means of red - green and blue -
    green, in levels. sharpness: the variance of the Laplacian of a copy with a longer side of 1,024 to 2,047 pixels, or
    of the photo where it is smaller.
    """

    width: int
    height: int
    thumbnail: np.ndarray
    colour: tuple[float, float]
    sharpness: float


def look(pixels: np.ndarray) -> Look:
    """Return the look of a photo. pixels: uint8 RGB (h, w, 3), upright."""
    image = Image.fromarray(pixels)
    width, height = image.size
    if (factor := max(width, height) // MOST_SIDE) > 1:
        image = image.reduce(factor)
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    red, green, blue = np.asarray(small, np.float32).mean(axis=(0, 1)).tolist()
    return Look(
        width,
        height,
        np.asarray(small.convert("L")),
        (red - green, blue - green),
        _sharpness(np.asarray(image.convert("L"), np.float32)),
    )


def _sharpness(grey: np.ndarray) -> float:
    """Return the variance of the Laplacian of float32 (h, w); 0 where a side has fewer than three pixels."""
    if min(grey.shape) < 3:
        return 0.0
    middle = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle).var())


def is_flat(thumbnail: np.ndarray) -> bool:
    """Whether a thumbnail, uint8 (s, s), shows too little to be compared with others, as a white page does."""
    return float(thumbnail.std()) < FLAT


def hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Return the perceptual hashes, uint64 (n,), of thumbnails, uint8 (n, s, s).

    Each bit says whether one of the 64 lowest frequencies of the discrete cosine transform that vary in both directions
    is above the median of these.
    """
    from scipy.fft import dctn  # takes a quarter of a second

    found = [np.empty(0, np.uint64)]
    for start in range(0, len(thumbnails), HASHED):
        waves = dctn(thumbnails[start : start + HASHED].astype(np.float32), axes=(1, 2))[:, 1:9, 1:9].reshape(-1, 64)
        bits = waves > np.median(waves, axis=1, keepdims=True)
        found.append(np.packbits(bits, axis=1).view(np.uint64)[:, 0])
    return np.concatenate(found)


def near(hashed: np.ndarray, rows: np.ndarray, others: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs (i, j), int64 (m,) each, of a row and another whose hashes differ in at most `most` bits.

    hashed: uint64 (n,). rows, others: places in it, rising; only pairs of a row and a later other are returned, by
    rows. Each row is compared with each other, exactly.
    """
    bits = np.bitwise_count(hashed[rows][:, None] ^ hashed[others][None, :])
    first, second = np.nonzero(bits <= most)
    i, j = rows[first], others[second]
    return i[i < j], j[i < j]


def likeness(thumbnails: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return how alike pairs of thumbnails are where they differ most, float32 (m,), at most 1.

    One thumbnail is explained by the other, moved and enlarged a little, with another brightness and contrast: a linear
    fit on its grey and its slopes. The likeness is 1 less what is left in the worst of 8 x 8 cells, as a share of the
    whole variance; of both directions the lower. A closed eye is such a cell. thumbnails: uint8 (n, s, s). pairs:
    places in it, int64 (m,) each.
    """

    def of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        rest = _unexplained(a, b)
        cells = (rest**2).reshape(len(rest), CELLS, SIDE // CELLS, CELLS, SIDE // CELLS).mean(axis=(2, 4))
        return 1 - (cells.max(axis=(1, 2)) + NOISE) / (b.var(axis=(1, 2)) + NOISE)

    return _of_both(of, thumbnails, pairs, 1)


def scene_likeness(thumbnails: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return how alike the scenes of pairs of thumbnails are, float32 (m,), at most 1.

    As `likeness`, but of 16 x 16 pixels, which forgives larger movements, and as a whole: R squared of the fit.
    """

    def of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return 1 - (_unexplained(a, b).var(axis=(1, 2)) + NOISE) / (b.var(axis=(1, 2)) + NOISE)

    return _of_both(of, thumbnails, pairs, COARSE)


def _of_both(
    of: Callable[[np.ndarray, np.ndarray], np.ndarray],
    thumbnails: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    size: int,
) -> np.ndarray:
    """Return the lower of both directions, from the means of squares of `size` pixels, a few pairs at a time."""
    found = [np.empty(0, np.float32)]
    for start in range(0, len(pairs[0]), PAIRS):
        a, b = (_pooled(thumbnails[side[start : start + PAIRS]], size) for side in pairs)
        found.append(np.minimum(of(a, b), of(b, a)).astype(np.float32))
    return np.concatenate(found)


def _pooled(thumbnails: np.ndarray, size: int) -> np.ndarray:
    """Return the means of squares of `size` pixels: uint8 (m, s, s) -> float32 (m, s / size, s / size)."""
    m, side, _ = thumbnails.shape
    squares = thumbnails.astype(np.float32).reshape(m, side // size, size, side // size, size)
    return squares.mean(axis=(2, 4))


def _unexplained(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return what of b, float32 (m, s, s), a does not explain to first order, float32 (m, s, s)."""
    m, side, _ = a.shape
    down, right = np.gradient(a, axis=(1, 2))
    place = np.linspace(-1, 1, side, dtype=np.float32)
    parts = [a, right, down, right * place, down * place[:, None]]  # contrast, two shifts, two scales
    x = np.stack(parts, axis=1).reshape(m, len(parts), -1)  # (m, 5, s * s)
    x -= x.mean(axis=2, keepdims=True)
    y = b.reshape(m, 1, -1) - b.mean(axis=(1, 2)).reshape(m, 1, 1)
    within = x @ x.transpose(0, 2, 1) / side**2 + NOISE * np.eye(len(parts), dtype=np.float32)  # (m, 5, 5)
    between = x @ y.transpose(0, 2, 1) / side**2  # (m, 5, 1)
    return (y - np.linalg.solve(within, between).transpose(0, 2, 1) @ x).reshape(b.shape)


def blocks(n: int) -> Iterator[np.ndarray]:
    """Yield the numbers up to n in blocks of BLOCK: int64 (BLOCK,), the last one shorter."""
    for start in range(0, n, BLOCK):
        yield np.arange(start, min(start + BLOCK, n))
