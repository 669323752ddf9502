"""Give pictures of faces on which a network is tried before it is accepted: AT&T's photos, or drawn ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SEED = 0


def samples(n: int, size: int, photos: Path) -> tuple[np.ndarray, str]:
    """Return n pictures, uint8 RGB (n, size, size, 3), and what they are.

    photos: the folder of AT&T's photos; where it does not hold n people, pictures are drawn.
    """
    files = sorted(photos.glob("s*/1.pgm"))[:n]
    if len(files) < n:
        return drawn(n, size), f"{n} drawn faces"
    return np.stack([_middle(file, size) for file in files]), f"{n} faces of {photos}"


def _middle(file: Path, size: int) -> np.ndarray:
    """Return the middle square of a photo that shows little but a face, uint8 RGB (size, size, 3)."""
    with Image.open(file, formats=["PPM"]) as photo:
        side = min(photo.size)
        left, top = (photo.width - side) // 2, (photo.height - side) // 2
        box = (left, top, left + side, top + side)
        return np.asarray(photo.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=box))


def drawn(n: int, size: int) -> np.ndarray:
    """Draw n different pictures, uint8 RGB (n, size, size, 3), with the light and dark places of faces."""
    draw = np.random.default_rng(SEED)
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]

    def spot(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        return np.exp(-(((x - cx) / rx) ** 2) - ((y - cy) / ry) ** 2)

    faces = []
    for _ in range(n):
        wide, low = draw.uniform(0.15, 0.2), draw.uniform(0.42, 0.5)
        light = 0.5 * spot(0.5, 0.55, draw.uniform(0.4, 0.55), draw.uniform(0.5, 0.65))
        light += 0.15 * (draw.uniform(-1, 1) * x + draw.uniform(-1, 1) * y)
        for side in (-1, 1):
            light -= draw.uniform(0.2, 0.35) * spot(0.5 + side * wide, low, 0.07, 0.04)
        light += 0.1 * spot(0.5, 0.64, 0.05, 0.1)
        light -= draw.uniform(0.15, 0.3) * spot(0.5, draw.uniform(0.8, 0.85), draw.uniform(0.12, 0.2), 0.03)
        skin = np.array([1.0, draw.uniform(0.7, 0.9), draw.uniform(0.55, 0.8)])
        faces.append((0.3 + light)[..., None] * skin * draw.uniform(0.6, 1.2))
    return np.rint(np.clip(faces, 0, 1) * 255).astype(np.uint8)
