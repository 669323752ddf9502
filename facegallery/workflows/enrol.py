"""Enrol photos and vectors in a gallery."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from facegallery import results
from facegallery.embedder.dataset.dataset import is_data_set
from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import InputError
from facegallery.embedder.faces import align as crops_of
from facegallery.embedder.faces.names import FOLDERS
from facegallery.embedder.names import person_name, spelling_notes
from facegallery.embedder.photos.understood import Understood, understand
from facegallery.embedder.progress import Progress, unseen
from facegallery.embedder.spec import FaceSpec
from facegallery.indexer.build import ENROLLED
from facegallery.indexer.search.searcher import checked
from facegallery.indexer.store import lists
from facegallery.indexer.store.log import new_command
from facegallery.indexer.store.rows import Added
from facegallery.indexer.store.store import Store
from facegallery.indexer.suspects import Looked, look
from facegallery.workflows.adding import Adding, AddOptions, Batch, check_model, listed
from facegallery.workflows.given import GivenVectors
from facegallery.workflows.inputs import PhotoInputs, PhotoItem, as_list, sources_of
from facegallery.workflows.review import OFF, STANDARD, Review
from facegallery.workflows.session import Where, session_of

UNNAMED = "{} are kept without a person: `facegallery group {}` groups them, `facegallery suggest {}` says whom to name"
FORGOTTEN = "faces that were forgotten were left out: only readmit (--readmit) enrols them again"
JUST_ADDED = f"{ENROLLED} WHERE face_id IN (SELECT value FROM log, json_each(detail, '$.faces') WHERE command = ?)"


def add(
    where: Where,
    photos: PhotoInputs,
    options: AddOptions = AddOptions(),  # noqa: B008
    *,
    progress: Progress = unseen,
) -> results.Added:
    """Enrol photos, or the rows of data sets of vectors; what is enrolled already is not even embedded again."""
    photos = as_list(photos)
    options = replace(options, identity=None if options.identity is None else person_name(options.identity))
    options.check()
    with session_of(where) as session:
        sources = _sources(photos, options)
        with session.store(write=True) as store:
            before, command, done, left = store.people, new_command(), Added(), Counter[str]()
            understood, review = [], Review(store, options.review)
            for source in sources:
                adding = Adding(session, store, options, command, done, left, review)
                if isinstance(source, Path):
                    understood.append(adding.vectors(source))
                else:
                    understood.append(adding.photos(source, progress))
            if not done.command:
                store.add(())  # for the log
            _note_sources(store, photos)
            left.update(review.refused)
            return _result(store, done, left, understood[0], before, review)


def _sources(photos: PhotoInputs, options: AddOptions) -> list[Path | Batch]:
    """What is to be added: data sets as paths, and between them all photos that follow each other as one batch."""
    if isinstance(photos, str | os.PathLike):
        return [path if is_data_set(path := Path(photos)) else listed(path, options)]
    if options.table or options.level is not None:
        raise InputError("expected the path of a folder for a CSV of metadata or a level, received several photos")
    sources: list[Path | Batch] = []
    for source in sources_of(photos):
        if isinstance(source, Path) and is_data_set(source):
            sources.append(source)
            continue
        batch = listed(source, options) if isinstance(source, Path) else _given(source, options)
        if sources and isinstance(last := sources[-1], Batch):
            last.items += batch.items
            last.labels += batch.labels
            last.notes += batch.notes
        else:
            sources.append(batch)
    return sources or [Batch()]


def _given(items: list[PhotoItem], options: AddOptions) -> Batch:
    if options.identity is None and options.names_from == FOLDERS:
        raise InputError(
            "expected whose face single photos show, received photos alone: give identity, or a folder of people"
        )
    return Batch(items, [(item.entry.path, None) for item in items])


def add_vectors(where: Where, given: GivenVectors, *, readmit: bool = False) -> results.Added:
    """Enrol vectors that were made elsewhere, by the gallery's model."""
    with session_of(where) as session, session.store(write=True) as store:
        before = store.people
        checked(given.vectors, store.spec.dimension)
        rows = given.rows()
        done = store.add(rows, readmit=readmit)
        understood = understand(((row.image, row.identity) for row in rows), "such as", by_folders=False)
        return _result(store, done, Counter(), understood, before, Review(store, STANDARD))


def enrol(
    store: Store, row: Row, spec: FaceSpec, identity: str, *, readmit: bool = False, command: str | None = None
) -> Added:
    """Enrol one face of a photo, with its pixels, under a name; its crop is kept where the gallery keeps crops.

    command: of an earlier enrolment that `undo` takes back together with this one. spec: the contract that the row was
    made by; raises Replaced where the gallery has another one by now.
    """
    check_model(store, spec)
    png = crops_of.to_png(row.pixels, row.region) if store.keeps_crops and row.pixels is not None else None
    return store.add([replace(row, identity=identity, crop=png, pixels=None)], readmit=readmit, command=command)


def _note_sources(store: Store, photos: PhotoInputs) -> None:
    """Note what fed the gallery, so that a receipt of `forget` can name it: of single files in a list their folders."""
    if isinstance(photos, str | os.PathLike):
        paths = {str(Path(photos).resolve())}
    else:
        given = photos if isinstance(photos, list) else []
        files = [Path(one) for one in given if isinstance(one, str | os.PathLike)]
        paths = {str((path if path.is_dir() else path.parent).resolve()) for path in files}
    with store.writing():
        known = json.loads(store.fact("sources") or "[]")
        if new := sorted(paths - set(known)):
            store.set_fact("sources", json.dumps([*known, *new]))


def _result(
    store: Store, done: Added, left: Counter[str], understood: Understood, before: int, review: Review
) -> results.Added:
    faces, people = store.faces, store.people
    names = [name for name, _ in store.list_people()] if people > before else []
    elsewhere = lists.elsewhere(store.folder, store.rows(JUST_ADDED, (done.command,))) if done.added else []
    looked = look(store, done.face_ids) if done.face_ids and review.kind != OFF else Looked()
    review.look_for_copies(done.face_ids, skipped=looked.skipped is not None)
    spellings = spelling_notes([], names)  # a second for a million names
    unnamed = UNNAMED.format(f"{done.unnamed} faces", store.folder.name, store.folder.name)
    missing = [note for n, note in ((done.unnamed, unnamed), (done.forgotten, FORGOTTEN)) if n]
    unsure = done.unsure_notes if review.kind != OFF else []
    conflicts = [
        f"face {c.face_id} ({c.image}) is {c.kept}'s already and was not added as {c.refused}'s" for c in done.conflicts
    ]
    return results.Added(
        index=store.folder.name,
        added=done.added,
        again=done.again,
        unnamed=done.unnamed,
        forgotten=done.forgotten,
        conflicts=tuple(done.conflicts),
        face_ids=tuple(done.face_ids),
        unsure=tuple(done.unsure),
        command=done.command,
        left_out={why: n for why, n in left.items() if n},
        faces=faces,
        people=people,
        understood=understood,
        suspects=tuple(looked.suspects),
        reviewed=tuple(review.found),
        notes=(*missing, *conflicts, *spellings, *elsewhere, *unsure, *looked.notes(store.folder.name), *review.notes),
    )
