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


def face_rows(photos: dict[tuple[int, int], np.ndarray], rule: CropRule) -> list[Row]:
    """The faces of photos of people, (person, photo) -> uint8 RGB, as `rule` stores them, with box and landmarks."""
    from facegallery.embedder.faces import align, picture
    from facegallery.embedder.faces.mtcnn import MtcnnDetector

    rows = []
    for (person, number), photo, faces in zip(
        photos, photos.values(), MtcnnDetector()([*photos.values()]), strict=True
    ):
        face = align.order_faces(faces, photo.shape[1], photo.shape[0])[0]
        stored = align.to_png(*picture.take(photo, face.box, face.landmarks, rule))
        rows.append(row(person, number, crop=stored, box=face.box, landmarks=face.landmarks))
    return rows


def write(folder: Path, rows: Iterable[Row], border: int = 0, per_shard: int = 16, window: int = 0) -> Path:
    """A finished data set of crops, or of windows."""
    rows = list(rows)
    spec = FaceSpec(crop=CropRule(border=border, window=window))
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


def tiny_sface(put: Callable[[Any, str, Any], None] = setattr) -> dict[str, np.ndarray]:
    """Give SFace few channels, and return weights by chance. put: a monkeypatch's setattr."""
    from facegallery.embedder.network import sface_layers

    put(sface_layers, "CHANNELS", (8,) * 13)
    chance = np.random.default_rng(0)
    arrays = {"scalar_op1": np.array([127.5], np.float32), "scalar_op2": np.array([1 / 128], np.float32)}
    for name, shape in sface_layers.shapes().items():
        if name.endswith(("_gamma", "_moving_var")):
            values = chance.uniform(0.5, 1.5, shape) * (0.25 if name.endswith("_relu_gamma") else 1)
        else:
            values = chance.normal(0, 1 / np.sqrt(max(1, np.prod(shape[1:]))), shape)
        arrays.setdefault(name, values.astype(np.float32))
    return arrays


def arrays_of(model: Any) -> dict[str, np.ndarray]:
    """Copies of a network's weights by name."""
    from facegallery.embedder.network import keras_network

    return {name: v.numpy() for name, v in keras_network.variables_by_name(model).items()}


def random_arrays(dimension: int = 8, folded: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of whatever `architecture.lay` lays, by seed."""
    import keras

    from facegallery.embedder.network import keras_network

    keras.utils.set_random_seed(seed)
    return arrays_of(keras_network.build(dimension, folded=folded))


def said(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """Return the messages of this package, without those of TensorFlow. level: the least level of a message."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("facegallery") and r.levelno >= level]
