"""Give a gallery another model, from its stored crops."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facegallery.embedder.compute import Compute
from facegallery.embedder.faces import align as crops_of
from facegallery.embedder.pipeline import OnProgress
from facegallery.embedder.replaceable import check_replaceable, write_own
from facegallery.indexer.store import outputs
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep import switch
from facegallery.workflows.photos import Say, load_embedder
from facegallery.workflows.probes import open_store

if TYPE_CHECKING:
    from facegallery.embedder.weights.store import Model


def reembed(
    name: str,
    reference: str,
    views: str,
    report: Path | None,
    do_switch: bool,
    compute: Compute,
    on_progress: OnProgress,
    say: Say,
) -> tuple[dict[str, Any], str]:
    """Vectors by another model beside the gallery's own, the report of what changes, and the switch; stopped anywhere, it goes on."""
    from facegallery.embedder.weights.store import open_model

    if report is not None:
        check_replaceable(report, "comparison")
    model = open_model(reference).with_views(views)
    with open_store(name, write=True) as gallery:
        switch.prepare(gallery, model.spec.with_crop(gallery.spec))
        _embed_missing(gallery, model, compute, on_progress, say)
        comparison = switch.compare(gallery)
        if report is not None:
            write_own(report, "comparison", json.dumps(asdict(comparison), ensure_ascii=False, indent=1).encode())
            outputs.note(gallery.folder, "report", report)
        if do_switch:
            _embed_missing(gallery, model, compute, on_progress, say)  # of faces that came meanwhile
            switch.switch(gallery)
    text = comparison.text + (
        f"; {name} answers with {comparison.after} now" if do_switch else "; nothing is switched yet"
    )
    return asdict(comparison) | {"switched": do_switch}, text


def _embed_missing(gallery: Store, model: Model, compute: Compute, on_progress: OnProgress, say: Say) -> None:
    total = switch.missing(gallery)
    if not total:
        return
    embedder, done = load_embedder(model, compute, say), 0
    for block in switch.pending(gallery):
        crops = np.stack([crops_of.plain(png, gallery.spec.crop) for _, png in block])
        switch.store_vectors(gallery, [id for id, _ in block], embedder(crops))
        done += len(block)
        on_progress(done, total)
