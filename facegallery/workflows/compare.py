"""Compare the faces of two photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.photos.listing import list_photos
from facegallery.embedder.pipeline import Options, PhotoStage
from facegallery.indexer.search.searcher import Searcher, exact_scores
from facegallery.indexer.store.reader import index_folder
from facegallery.workflows.photos import Say, make_detector, make_embedder
from facegallery.workflows.probes import Probe, ProbeReader, indexes_root


def compare(
    first: Path, second: Path, model: str | None, name: str | None, compute: Compute, say: Say
) -> dict[str, Any]:
    """Cosine of the faces of two photos, each the largest, most central one; says where a photo has others.

    Raises InputError for what is no single photo, DataError where a photo has no face.
    """
    photos = first, second
    _check_single(photos)
    found = (
        _probes_by_index(name, model, photos, compute, say) if name else _probes_by_model(model, photos, compute, say)
    )
    for path, probe in zip(photos, found, strict=True):
        if probe.rows[0].vector is None:
            why = f" ({probe.why})" if probe.why else ""
            raise DataError(f"expected a face in {path}, its outcome is {probe.outcome}{why}: choose another photo")
        if probe.others:
            say(f"{path} has {probe.others + 1} faces: the largest, most central one is compared")
    a, b = (np.asarray(probe.rows[0].vector, np.float32) for probe in found)
    faces = [
        {"image": str(path), "box": probe.rows[0].box, "others": probe.others}
        for path, probe in zip(photos, found, strict=True)
    ]
    return {"score": float(exact_scores(a, b[None])[0]), "faces": faces}


def _check_single(photos: Sequence[Path]) -> None:
    """Raise InputError for a folder or a CSV, which may stand for any number of photos."""
    for path in photos:
        if path.is_dir() or path.suffix.lower() == ".csv":
            what = "folder" if path.is_dir() else "CSV"
            raise InputError(f"expected two photos, {path} is a {what}: give the photos themselves")


def _probes_by_index(name: str, model: str | None, photos: Sequence[Path], compute: Compute, say: Say) -> list[Probe]:
    with Searcher(index_folder(indexes_root(), name)) as searcher:
        reader = ProbeReader(searcher, model, compute, True, say)
        return [next(reader.read(photo)) for photo in photos]


def _probes_by_model(model: str | None, photos: Sequence[Path], compute: Compute, say: Say) -> list[Probe]:
    from facegallery.embedder.photos.decoder import Decoder

    embedder = make_embedder(model or "msceleb", compute, "plain", say, few=True)
    stage, probes = (
        PhotoStage(embedder.spec, make_detector({}, embedder.compute), embedder, Options(keep_crops=False)),
        [],
    )
    with Decoder() as decoder:
        for path in photos:
            (entry,) = list_photos(path).entries
            ((photo, rows),) = stage.rows(decoder.stream(path.parent, [entry.path]), {entry.path: entry})
            probes.append(Probe(photo.name, rows, photo.why, max(0, photo.faces - len(rows))))
    return probes
