"""Fit the score from which a hit counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import DataError
from facegallery.indexer.calibrate import Enrolled, OwnScores, fit
from facegallery.indexer.derived.derive import position_of
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store.store import Store
from facegallery.workflows.photos import Say
from facegallery.workflows.probes import (
    PROBE_BATCH,
    ProbeReader,
    Question,
    answered,
    default_split,
    enrolled_notes,
    open_store,
    splits_of,
)

OWN_SAMPLES = 5000  # enrolled faces that a calibration asks at most


def calibrate(
    name: str,
    fpir: float,
    sources: Sequence[Path],
    split: str | None,
    model: str | None,
    seed: int,
    compute: Compute,
    say: Say,
) -> dict[str, Any]:
    """Fits the score from which a hit counts, and keeps it in the gallery."""
    with open_store(name, write=True) as gallery, Searcher(gallery.folder) as searcher:
        own = _own_samples(gallery, searcher, seed)
        reader = ProbeReader(searcher, model, compute, True, say)
        strangers, genuine, notes = _held_out(searcher, reader, sources, split)
        with gallery.reading():
            newest = position_of(gallery).newest
            now = Enrolled(gallery.people, gallery.faces, gallery.spec.fingerprint, newest)
        done = fit(own, strangers, fpir, now, genuine)
        with gallery.writing():
            gallery.set_fact("calibration", done.to_json())
    low, high = done.interval()
    text = (
        f"{name}: a hit counts from a score of {done.threshold:.4f}; of strangers, {done.exceeding} of {done.n} reach it: in the long run "
        f"{low:.2%} to {high:.2%} (95 %), asked for {fpir:.2%}"
    )
    if done.detection:
        share, least, most = done.detection
        text += f"; {share:.1%} ({least:.1%} to {most:.1%}) of {done.genuine} probes of enrolled people are identified"
    return {
        "index": name,
        "fpir": fpir,
        "threshold": done.threshold,
        "interval": [low, high],
        "samples": done.n,
        "held_out": done.held_out,
        "exceeding": done.exceeding,
        "design_effect": done.effect,
        "detection": done.detection,
        "people": done.people,
        "text": text,
        "weak": done.weak,
        "chance_limit": done.chance_limit,
        "warnings": [*done.warnings, *notes],
    }


def _own_samples(gallery: Store, searcher: Searcher, seed: int) -> OwnScores:
    """Enrolled faces asked of all other people: the best score float32 (n,), whose each is and whom it resembles most, int64 (n,)."""
    with gallery.reading():
        ids, owners = gallery.owners()
        if len(ids) > OWN_SAMPLES:
            chosen = np.sort(np.random.default_rng(seed).choice(len(ids), OWN_SAMPLES, replace=False))
            ids, owners = ids[chosen], owners[chosen]
        faces = gallery.fetch(ids)
    numbers: dict[str, int] = {}
    scores, people, nearest = [], [], []
    for block in _blocks(ids.tolist()):
        found = searcher.search(np.stack([faces[id].vector for id in block]), k=2)
        for id, hits in zip(block, found, strict=True):
            own = faces[id].identity
            if other := next((hit for hit in hits if hit.identity != own), None):
                scores.append(other.score)
                people.append(numbers.setdefault(own, len(numbers)))
                nearest.append(numbers.setdefault(other.identity, len(numbers)))
    return OwnScores(np.array(scores, np.float32), np.array(people, np.int64), np.array(nearest, np.int64))


def _blocks(ids: list[int]) -> Iterator[list[int]]:
    return (ids[i : i + PROBE_BATCH] for i in range(0, len(ids), PROBE_BATCH))


def _held_out(
    searcher: Searcher, reader: ProbeReader, sources: Sequence[Path], split: str | None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Of held-out probes: the best score of each stranger, and of each enrolled person's the true person's (-inf where another came first).

    Probes that are enrolled faces themselves count as neither; the last part says how many there are.
    """
    strangers: list[float] = []
    genuine: list[float] = []
    enrolled, asked = 0, 0
    for source in sources:
        wanted, before = split or default_split(splits_of(source), "probe"), asked
        for probe, (hits, *_) in answered(searcher, reader.read(source, wanted), Question(k=1)):
            if not hits:
                continue
            asked += 1
            if searcher.store.known([probe.rows[0].face_id]):
                enrolled += 1
                continue
            truth = searcher.store.spelled(probe.rows[0].identity or "")
            if not truth or not searcher.store.enrolled([truth]):
                strangers.append(hits[0].score)
            else:
                genuine.append(hits[0].score if hits[0].identity == truth else -np.inf)
        if asked == before:
            where = f"{source}, split {wanted}" if wanted else source
            raise DataError(f"expected probes with a face in {where}, found none: check --probes and --split")
    return np.array(strangers, np.float32), np.array(genuine, np.float32), enrolled_notes(enrolled, asked)
