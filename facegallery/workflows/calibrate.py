"""Fit the score from which a hit counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facegallery import results
from facegallery.embedder.errors import DataError, InputError
from facegallery.indexer.calibrate import Calibration, Enrolled, OwnScores, fit
from facegallery.indexer.derived.derive import position_of
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store.store import Store
from facegallery.workflows.networks import ReadOptions
from facegallery.workflows.probes import (
    PROBE_BATCH,
    ProbeReader,
    Question,
    answered,
    default_split,
    enrolled_notes,
    splits_of,
)
from facegallery.workflows.session import Where, session_of

NOBODY = OwnScores(np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.int64))
OWN_SAMPLES = 5000  # enrolled faces that a calibration asks at most


@dataclass(frozen=True)
class CalibrationOptions:
    """What a calibration is fitted to."""

    fpir: float = 0.01  # share of strangers that may be taken for somebody
    probes: tuple[Path, ...] = ()  # photos or vectors of enrolled people and of strangers
    split: str | None = None  # rows of the probes; `probe` where there are such, else all
    seed: int = 0  # draws the enrolled faces that are asked, of a large gallery
    strangers_alone: bool = False  # fit on the strangers among the probes, and not on enrolled people


def calibrate(where: Where, options: CalibrationOptions = CalibrationOptions()) -> results.Calibrated:  # noqa: B008
    """Fit the score from which a hit counts, and keep it in the gallery.

    Raises InputError for strangers alone without probes, DataError where there is nobody to fit it on.
    """
    if options.strangers_alone and not options.probes:
        raise InputError("expected --probes with --strangers-alone, received none: give photos of strangers")
    with session_of(where) as session, session.store(write=True) as store:
        searcher = session.searcher
        own = NOBODY if options.strangers_alone else _own_samples(store, searcher, options.seed)
        strangers, genuine, notes = _held_out(searcher, session.reader(ReadOptions(one_face=True)), options)
        with store.reading():
            now = Enrolled(store.people, store.faces, store.spec.fingerprint, position_of(store).newest)
        done = fit(own, strangers, options.fpir, now, genuine)
        with store.writing():
            store.set_fact("calibration", done.to_json())
        return _result(session.name, done, notes)


def _result(name: str, done: Calibration, notes: list[str]) -> results.Calibrated:
    return results.Calibrated(
        index=name,
        fpir=done.fpir,
        threshold=done.threshold,
        interval=done.interval(),
        samples=done.n,
        held_out=done.held_out,
        exceeding=done.exceeding,
        design_effect=done.effect,
        detection=done.detection,
        genuine=done.genuine,
        people=done.people,
        weak=done.weak,
        chance_limit=done.chance_limit,
        holds_for=done.holds_for,
        warnings=(*done.warnings, *notes),
    )


def _own_samples(store: Store, searcher: Searcher, seed: int) -> OwnScores:
    """Ask enrolled faces of all other people."""
    with store.reading():
        ids, owners = store.owners()
        if len(ids) > OWN_SAMPLES:
            chosen = np.sort(np.random.default_rng(seed).choice(len(ids), OWN_SAMPLES, replace=False))
            ids, owners = ids[chosen], owners[chosen]
        faces = store.fetch(ids)
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
    searcher: Searcher, reader: ProbeReader, options: CalibrationOptions
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Ask held-out probes.

    Returns the best score of each stranger, and the true person's of each probe of an enrolled person (-inf where
    another came first), float32 each. Probes that are enrolled faces themselves count as neither: the notes say
    how many.
    """
    strangers: list[float] = []
    genuine: list[float] = []
    enrolled, asked = 0, 0
    for source in options.probes:
        wanted, before = options.split or default_split(splits_of(source), "probe"), asked
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
            place = f"{source}, split {wanted}" if wanted else source
            raise DataError(f"expected probes with a face in {place}, found none: check --probes and --split")
    return np.array(strangers, np.float32), np.array(genuine, np.float32), enrolled_notes(enrolled, asked)
