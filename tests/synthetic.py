"""Data sets of made-up unit vectors, and the answers that plain NumPy gives for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facegallery.embedder.dataset.checks import png_head
from facegallery.embedder.dataset.row import Entry, Row, to_table
from facegallery.embedder.dataset.writer import DataSetWriter, WriterOptions
from facegallery.embedder.spec import FaceSpec, Part

D = 16


def spec(d: int = D, **changes) -> FaceSpec:
    return FaceSpec(parts=(Part("made-up", "ab" * 32, d, "fixed"),), **changes)


def unit(x: np.ndarray) -> np.ndarray:
    """float32, rows of length 1."""
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def vectors(people: int, photos: int, d: int = D, seed: int = 0) -> np.ndarray:
    """float32 (people * photos, d): the photos of a person lie near one another."""
    rng = np.random.default_rng(seed)
    return unit(np.repeat(rng.normal(size=(people, d)), photos, axis=0) + 0.4 * rng.normal(size=(people * photos, d)))


def row(
    image: str,
    identity: str | None,
    vector: np.ndarray | None,
    split: str | None = None,
    outcome: str = "ok",
    **changes,
) -> Row:
    """One face; its bytes are known by its image's name unless `image_sha256` says otherwise."""
    fields = {
        "image_sha256": f"sha of {image}",
        "face": 0 if vector is not None else -1,
        "box": [1, 2, 30, 40.5],
    } | changes
    return Row(image, outcome, identity=identity, vector=vector, split=split, **fields)


def png(data: bytes) -> bytes:
    """What begins as a crop of 160 x 160 does, and is none: these data sets are never decoded."""
    return png_head(160) + data


def rows(people: int, photos: int, split: str | None = None, d: int = D, seed: int = 0) -> list[Row]:
    xb = vectors(people, photos, d, seed)
    return [
        row(f"{split or 'all'}/p{i // photos}/{i % photos}.jpg", f"person {i // photos}", x, split)
        for i, x in enumerate(xb)
    ]


def write(
    folder: Path, rows: Sequence[Row], contract: FaceSpec | None = None, extra: Sequence[str] = (), per_shard: int = 64
) -> Path:
    """A finished data set of the rows, in their order."""
    contract = contract or spec()
    by_path: dict[str, list[Row]] = {}
    for r in rows:
        by_path.setdefault(r.image, []).append(r)
    writer = DataSetWriter(
        folder, contract, {}, [Entry(path, 1, 0) for path in by_path], WriterOptions(tuple(extra), per_shard)
    )
    for shard, entries in writer.pending():
        table = to_table([r for e in entries for r in by_path[e.path]], contract, extra)
        writer.write(shard, table, 0.0, {})
    return folder


def nearest(
    rows: Sequence[Row], q: np.ndarray, k: int, faces: bool = False, centre: bool = False
) -> list[tuple[str, float, str]]:
    """(identity, score, face_id) of the k best people or faces by plain float64 loops; ties by face_id."""
    xb = np.stack([r.vector for r in rows]).astype(np.float64)
    q = q.astype(np.float64)
    if centre:
        mean = xb.mean(axis=0)
        xb, q = xb - mean, q - mean
        xb, q = xb / np.linalg.norm(xb, axis=1, keepdims=True), q / np.linalg.norm(q)
    ranked = sorted((-np.float32(np.dot(x, q)), r.face_id, r.identity) for x, r in zip(xb, rows, strict=True))
    answers, seen = [], set()
    for score, face_id, identity in ranked:
        key = face_id if faces else identity
        if key not in seen and len(answers) < k:
            seen.add(key)
            answers.append((identity, -float(score), face_id))
    return answers
