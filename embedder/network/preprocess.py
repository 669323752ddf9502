"""Prepare crops for a network, and normalise its output to unit vectors, with NumPy alone."""

from __future__ import annotations

import numpy as np

from facegallery.embedder.spec import Part

ALONG = {1: "nhwc,hk->nkwc", 2: "nhwc,wk->nhkc"}  # einsum of crops and a matrix that resamples rows, or columns


def standardise(crops: np.ndarray, how: str, mean: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Standardise crops as in training: uint8 (n, h, w, 3) -> float32.

    fixed: (x - 127.5) / 128. per_image: each crop to mean 0 and deviation 1, the deviation at least 1 / sqrt(size)
    (facenet's `prewhiten`). affine: (x - mean) / scale.
    """
    x = crops.astype(np.float32, order="C")
    if how == "affine":
        if (mean, scale) != (0, 1):
            x -= mean
            x /= scale
        return x
    if how == "fixed":
        x -= 127.5
        x /= 128.0
        return x
    flat = x.reshape(len(x), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.einsum("ij,ij->i", flat, flat) / flat.shape[1])
    flat *= (1 / np.maximum(deviation, 1 / np.sqrt(flat.shape[1])))[:, None]
    return x


def middle(crops: np.ndarray, zoom: float) -> np.ndarray:
    """Enlarge the middle 1 / zoom of each crop to its full size (bilinear): uint8 (n, s, s, 3) -> float32.

    With zoom 1, return the crops themselves.
    """
    if zoom == 1:
        return crops
    low, share = sampling(crops.shape[1], zoom)
    x = crops.astype(np.float32)
    x = x[:, low] + (x[:, low + 1] - x[:, low]) * share[:, None, None]
    return x[:, :, low] + (x[:, :, low + 1] - x[:, :, low]) * share[:, None]


def sampling(size: int, zoom: float) -> tuple[np.ndarray, np.ndarray]:
    """Return, for the pixels of an enlarged middle, the pixel before each and the share of the next one, float32.

    Pixel centres lie at half numbers.
    """
    at = (np.arange(size) + 0.5 - size / 2) / zoom + size / 2 - 0.5
    low = np.minimum(at.astype(np.intp), size - 2)
    return low, (at - low).astype(np.float32)


def seen(crops: np.ndarray, part: Part, zoom: float | None = None) -> np.ndarray:
    """Prepare crops for a network: uint8 (n, s, s, 3) -> standardised float32.

    zoom: instead of the network's own enlargement.
    """
    return standardise(middle(crops, zoom or part.enlargement), part.standardisation, part.mean, part.scale)


def unit(x: np.ndarray) -> np.ndarray:
    """Scale rows to length 1: float (n, d) -> float64 (n, d)."""
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-10)
