"""Compute what a distilled network learns: other networks' vectors of the crops (Hinton, Vinyals, Dean 2015).

The teachers' unit vectors are joined, so that a student learns in one pass what several teachers know. No names are
needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import DataError
from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.embedder.weights import store
from facegallery.trainer.faces import TrainingFaces

ITSELF = "itself"
BLOCK = 4096  # photos whose features are in memory as float64
LEAST_PHOTOS = 100  # photos from which a linear map is solved


def vectors(name: str, part: Part, faces: TrainingFaces, compute: Compute) -> np.ndarray:
    """Return a teacher's vectors, float32 (n, d) of unit length, mirror images averaged in.

    name: 'itself' (the network before training) or any model, which sees the faces by its own rule. Raise ModelError
    where weights are missing.
    """
    model = store.open_spec(FaceSpec(parts=(part,))) if name == ITSELF else store.open_model(name)
    embed = Embedder(replace(model, spec=replace(model.spec, flip=True)), compute)
    return np.concatenate([embed(block, faces.rule) for block in faces.pictures()])


def side_by_side(answers: Sequence[np.ndarray]) -> np.ndarray:
    """Join the vectors of several teachers of the same photos, each with equal weight: float32 (n, d) of unit length.

    Raise DataError for fewer than LEAST_PHOTOS.
    """
    if len(answers[0]) < LEAST_PHOTOS:
        raise DataError(
            f"expected {LEAST_PHOTOS} crops or more to learn from a teacher, received {len(answers[0])}: "
            "align more photos"
        )
    return unit(np.concatenate(answers, axis=1)).astype(np.float32)


def projected(vectors: np.ndarray, dimension: int) -> np.ndarray:
    """Return vectors (n, d) in so many dimensions, float32 (n, dimension) of unit length.

    They keep the directions that hold most of the vectors' squares, so that cosines change least; vectors that have no
    more dimensions get zeros.
    """
    missing = dimension - vectors.shape[1]
    if missing >= 0:
        return np.pad(vectors, ((0, 0), (0, missing)))
    _, axes = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)
    return unit(vectors @ axes[:, : -dimension - 1 : -1]).astype(np.float32)


def sha256s(networks: Sequence[str]) -> list[str]:
    """Return the sha256 of the teachers' weights, except the network's own."""
    found = []
    for name in networks:
        if name != ITSELF:
            found += [part.sha256 for part in store.open_model(name).spec.parts]
    return found


def solve(views: Sequence[np.ndarray], targets: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Solve the linear map from features to targets by least squares: float32 kernel (m, d) and bias (d,).

    views: features (n, m) of each view. targets: (n, d). ridge: relative to the number of rows. The solution is ridge
    regression on features of mean 0 and deviation 1.
    """
    mean, deviation = views[0].mean(axis=0, dtype=np.float64), views[0].std(axis=0, dtype=np.float64) + 1e-3
    centre = targets.mean(axis=0, dtype=np.float64)
    moments, products = np.zeros((len(mean),) * 2), np.zeros((len(mean), targets.shape[1]))
    for view in views:
        for i in range(0, len(view), BLOCK):
            x = (view[i : i + BLOCK] - mean) / deviation
            moments += x.T @ x
            products += x.T @ (targets[i : i + BLOCK] - centre)
    n = len(views) * len(targets)
    kernel = np.linalg.solve(moments + ridge * n * np.eye(len(mean)), products) / deviation[:, None]
    return kernel.astype(np.float32), (centre - mean @ kernel).astype(np.float32)
