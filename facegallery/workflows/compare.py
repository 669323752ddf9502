"""Compare the faces of two photos."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from facegallery import results
from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import DataError
from facegallery.indexer.search.searcher import Searcher, exact_scores
from facegallery.workflows.inputs import PhotoInput, PhotoItem, two_photos
from facegallery.workflows.networks import Networks, ReadOptions
from facegallery.workflows.photos import ANYWHERE
from facegallery.workflows.probes import Probe
from facegallery.workflows.session import Where, session_of

ONE_FACE = ReadOptions(one_face=True)
log = logging.getLogger(__name__)


@contextmanager
def networks_of(model: str, compute: Compute = ANYWHERE) -> Iterator[Networks]:
    """Open the networks of a model for a block."""
    from facegallery.embedder.weights.store import open_model

    networks = Networks(lambda: open_model(model), {}, compute)
    try:
        yield networks
    finally:
        networks.close()


def compare(first: PhotoInput, second: PhotoInput, networks: Networks) -> results.Compared:
    """Compare the largest, most central faces of two photos; log where a photo has others.

    Raises InputError for what is no single photo, DataError where a photo has no face.
    """
    items = two_photos(first, second)
    probes = [Probe(p.name, rows, p.why, p.faces - len(rows)) for _, p, rows in networks.rows(items, ONE_FACE)]
    return _compared(_names((first, second), items), probes, None)


def compare_in(where: Where, first: PhotoInput, second: PhotoInput) -> results.Compared:
    """Compare two faces as `compare` does, by the model and the crops of a gallery, and against its threshold."""
    items = two_photos(first, second)
    with session_of(where) as session:
        probes = list(session.reader(ONE_FACE).of_photos(items))
        return _compared(_names((first, second), items), probes, _threshold(session.searcher))


def _names(photos: Sequence[PhotoInput], items: Sequence[PhotoItem]) -> list[str]:
    """What to call the photos: by their paths, as they are given."""
    named = zip(photos, items, strict=True)
    return [str(photo) if isinstance(photo, str | os.PathLike) else item.entry.path for photo, item in named]


def _threshold(searcher: Searcher) -> float | None:
    """The score from which a hit counts; None where the gallery has no calibration of its own model."""
    calibration, _ = searcher.calibration()
    if calibration is None or calibration.fingerprint != searcher.spec.fingerprint:
        return None
    return calibration.threshold


def _compared(names: Sequence[str], probes: Sequence[Probe], threshold: float | None) -> results.Compared:
    for name, probe in zip(names, probes, strict=True):
        if probe.rows[0].vector is None:
            why = f" ({probe.why})" if probe.why else ""
            raise DataError(f"expected a face in {name}, its outcome is {probe.outcome}{why}: choose another photo")
        if probe.others > 0:
            log.info(f"{name} has {probe.others + 1} faces: the largest, most central one is compared")
    a, b = (np.asarray(probe.rows[0].vector, np.float32) for probe in probes)
    first, second = (_face(name, probe) for name, probe in zip(names, probes, strict=True))
    return results.Compared(float(exact_scores(a, b[None])[0]), (first, second), threshold)


def _face(name: str, probe: Probe) -> results.ComparedFace:
    row = probe.rows[0]
    return results.ComparedFace(
        face=max(row.face, 0),
        face_id=row.face_id,
        box=results.box_of(row.box),
        confidence=row.confidence,
        others=max(0, probe.others),
        image=name,
    )
