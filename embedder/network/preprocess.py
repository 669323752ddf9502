"""What a network is given of crops, and unit vectors from what it gives: NumPy alone."""

from __future__ import annotations

import numpy as np

from facegallery.embedder.spec import Part


def standardise(crops: np.ndarray, how: str) -> np.ndarray:
    """uint8 (n, h, w, 3) -> float32, as the weights were trained.

    fixed: (x - 127.5) / 128. per_image: each crop to mean 0 and deviation 1, the deviation at least 1 / sqrt(size)
    (facenet's `prewhiten`).
    """
    x = crops.astype(np.float32, order="C")
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
    """uint8 (n, s, s, 3) -> the middle 1 / zoom of each, made s x s again (bilinear): float32, or the crops themselves for a zoom of 1."""
    if zoom == 1:
        return crops
    low, share = sampling(crops.shape[1], zoom)
    x = crops.astype(np.float32)
    x = x[:, low] + (x[:, low + 1] - x[:, low]) * share[:, None, None]
    return x[:, :, low] + (x[:, :, low + 1] - x[:, :, low]) * share[:, None]


def sampling(size: int, zoom: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of a middle lie: the pixel before each, and float32 how far towards the next; pixel centres at half numbers."""
    at = (np.arange(size) + 0.5 - size / 2) / zoom + size / 2 - 0.5
    low = np.minimum(at.astype(np.intp), size - 2)
    return low, (at - low).astype(np.float32)


def seen(crops: np.ndarray, part: Part, zoom: float | None = None) -> np.ndarray:
    """uint8 (n, s, s, 3) -> float32: what a network is given of crops; another zoom than its own may be given."""
    return standardise(middle(crops, zoom or part.zoom), part.standardisation)


def unit(x: np.ndarray) -> np.ndarray:
    """float (n, d) -> rows of length 1, float64."""
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-10)
