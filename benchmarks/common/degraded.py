"""Degrade photos in known ways, the way and its strength by the hash of the photo's name."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image, ImageFilter

# blur: sigma in sides of the face's box; small: pixels of the box; jpeg: Pillow's quality; dark: share of the light,
# with noise of 3 levels; turned: degrees
WAYS: dict[str, tuple[float, ...]] = {
    "blur": (0.03, 0.05, 0.08),
    "small": (40, 28, 20),
    "jpeg": (15, 8, 4),
    "dark": (0.3, 0.15, 0.07),
    "turned": (30, 60, 90),
}
NOISE = 3.0


def number_of(text: str) -> int:
    """Return a number made of a text: the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def way_of(image: str) -> tuple[str, float]:
    """Return how a photo is degraded, and how strongly."""
    number = number_of(f"degraded {image}")
    way = list(WAYS)[number % len(WAYS)]
    return way, WAYS[way][number // len(WAYS) % len(WAYS[way])]


def degrade(photo: Image.Image, image: str, side: float) -> Image.Image:
    """Return a degraded copy of a photo. side: of the face's box, in pixels."""
    way, strength = way_of(image)
    if way == "blur":
        return photo.filter(ImageFilter.GaussianBlur(strength * side))
    if way == "small":
        factor = min(1.0, strength / side)
        return photo.resize((max(1, round(photo.width * factor)), max(1, round(photo.height * factor))), Image.BICUBIC)
    if way == "jpeg":
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=int(strength))
        return Image.open(io.BytesIO(file.getvalue())).convert("RGB")
    if way == "dark":
        rng = np.random.default_rng(number_of(image))
        light = np.asarray(photo, np.float32) * strength
        return Image.fromarray(np.clip(np.round(light + rng.normal(0, NOISE, light.shape)), 0, 255).astype(np.uint8))
    return photo.rotate(strength, Image.BICUBIC)
