"""Compute what a distilled network learns: other networks' vectors of the crops (Hinton, Vinyals, Dean 2015).

The teachers' unit vectors are joined, so that a student learns in one pass what several teachers know. No names are
needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import DataError
from facegallery.embedder.network.architecture import EPSILON
from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.embedder.weights import store
from facegallery.trainer.batches import TrainingCrops, canvases

ITSELF, SFACE = "itself", "sface"
BLOCK = 4096  # photos whose features are in memory as float64
LEAST_PHOTOS = 100  # photos from which a linear map of about 1,800 features is solved


def vectors(name: str, part: Part, photos: TrainingCrops, compute: Compute) -> tuple[np.ndarray, np.ndarray]:
    """Return a teacher's vectors, float32 (n, d) of unit length, and whether each photo has one (n,).

    Mirror images are averaged in. name: 'itself' (the network before training), 'sface' or a known model. Raise
    ModelError where weights are missing.
    """
    of_crops = _teacher(name, part, photos.border, compute)
    answers = [of_crops(block) for block in canvases(photos)]
    return np.concatenate([x for x, _ in answers]), np.concatenate([found for _, found in answers])


def side_by_side(answers: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Join the answers of several teachers about the same photos, each with equal weight.

    Return float32 (n, d) of unit length, and whether all teachers have a vector (n,). Raise DataError where they have
    fewer than LEAST_PHOTOS.
    """
    usable = np.logical_and.reduce([found for _, found in answers])
    if usable.sum() < LEAST_PHOTOS:
        raise DataError(
            f"expected {LEAST_PHOTOS} crops or more that a teacher finds a face on, received {usable.sum()}: "
            "align more photos"
        )
    return unit(np.concatenate([x for x, _ in answers], axis=1)).astype(np.float32), usable


def _teacher(
    name: str, part: Part, border: int, compute: Compute
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the function from crops with their border to unit vectors (n, d) and found (n,)."""
    if name == SFACE:
        from facegallery.embedder.faces.sface import SFace

        return SFace(compute)
    spec = FaceSpec(parts=(part,)) if name == ITSELF else store.open_model(name).spec
    embed = Embedder(store.open_spec(replace(spec, flip=True)), compute)

    def of_centres(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inner = slice(border, block.shape[1] - border)
        return embed(block[:, inner, inner]), np.ones(len(block), bool)

    return of_centres


def sha256s(networks: Sequence[str]) -> list[str]:
    """Return the sha256 of the teachers' weights, except the network's own."""
    found = []
    for name in networks:
        if name != ITSELF:
            found += [part.sha256 for part in store.open_model(name).spec.parts]
    return found


def solve(views: Sequence[np.ndarray], targets: np.ndarray, ridge: float) -> dict[str, np.ndarray]:
    """Solve the bottleneck that maps features to targets by least squares.

    views: features (n, m) of each view. targets: (n, d). ridge: relative to the number of rows. Return
    `Bottleneck/kernel` (m, d) and its batch norm. The solution is ridge regression on features of mean 0 and deviation
    1.
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
    zeros = np.zeros(targets.shape[1], np.float32)
    return {
        "Bottleneck/kernel": kernel.astype(np.float32),
        "Bottleneck_BatchNorm/beta": (centre - mean @ kernel).astype(np.float32),
        "Bottleneck_BatchNorm/moving_mean": zeros,
        "Bottleneck_BatchNorm/moving_variance": zeros + np.float32(1 - EPSILON),
    }
