"""Crops and networks that tests make themselves."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facegallery.embedder.dataset.row import Entry, Row, to_table
from facegallery.embedder.dataset.writer import DataSetWriter, WriterOptions
from facegallery.embedder.network import architecture
from facegallery.embedder.network.architecture import Builder
from facegallery.embedder.spec import CropRule, FaceSpec


def picture(person: int, photo: int, side: int = 160) -> np.ndarray:
    """uint8 (side, side, 3): a smooth pattern of the person's, a little changed in each photo."""
    base = np.random.default_rng([7, person]).integers(0, 256, (5, 5, 3)).astype(np.float32)
    base += np.random.default_rng([8, person, photo]).normal(0, 18, base.shape)
    small = Image.fromarray(np.clip(base, 0, 255).astype(np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "png", compress_level=1)
    return sink.getvalue()


def row(person: int, photo: int, split: str | None = None, side: int = 160, **changes) -> Row:
    """One usable face; `changes` replace fields."""
    fields = {
        "image": f"{person}/{photo}.png",
        "outcome": "ok",
        "image_sha256": f"{person:032x}{photo:032x}",
        "identity": f"person {person:03d}",
        "split": split,
        "face": 0,
        "crop": png(picture(person, photo, side)),
    }
    return Row(**fields | changes)


def write(folder: Path, rows: Iterable[Row], border: int = 0, per_shard: int = 16) -> Path:
    """A finished data set of crops."""
    rows = list(rows)
    spec = FaceSpec(crop=CropRule(border=border))
    writer = DataSetWriter(folder, spec, {}, [Entry(r.image, 1, 1) for r in rows], WriterOptions(per_shard=per_shard))
    by_image = {r.image: r for r in rows}
    for shard, entries in writer.pending():
        writer.write(shard, to_table([by_image[e.path] for e in entries], spec), 0.0, {})
    return folder


def tiny(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Replace the layers of `architecture` by a tiny network with every operation. put: a monkeypatch's setattr."""
    put(architecture, "lower", tiny_lower)
    put(architecture, "upper", tiny_upper)


def tiny_lower(make: Builder, x: Any) -> Any:
    return make.max_pool(make.conv(x, 8, 8, "Conv2d_1a_3x3", 8, "valid"), "MaxPool_3a_3x3")  # (n, 9, 9, 8)


def tiny_upper(make: Builder, x: Any) -> Any:
    branches = [make.conv(x, 8, 3, f"Mixed_7a_Branch_{i}", 2, "valid") for i in range(2)]  # (n, 4, 4, 8)
    x = make.concatenate(branches, "Mixed_7a_Concatenate")
    return make.bottleneck(make.residual(x, x, 0.5, "Block8_1", relu=True))


def random_arrays(dimension: int = 8, folded: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of whatever `architecture.lay` lays, by seed."""
    import keras

    from facegallery.embedder.network import keras_network

    keras.utils.set_random_seed(seed)
    return keras_network.get_weights(keras_network.build(dimension, folded=folded))


def said(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """Return the messages of this package, without those of TensorFlow. level: the least level of a message."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("facegallery") and r.levelno >= level]
