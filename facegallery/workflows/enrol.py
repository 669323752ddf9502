"""Enrol photos and vectors in a gallery."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from facegallery.embedder.compute import Compute
from facegallery.embedder.dataset.dataset import DataSet, is_data_set
from facegallery.embedder.dataset.row import Entry, Row
from facegallery.embedder.errors import InputError
from facegallery.embedder.faces import align as crops_of
from facegallery.embedder.names import person_name, spelling_notes
from facegallery.embedder.photos.listing import Listing, list_photos
from facegallery.embedder.photos.understood import Understood, understand
from facegallery.embedder.pipeline import OnProgress, hash_of
from facegallery.embedder.spec import FaceSpec
from facegallery.indexer.build import ENROLLED, Selection
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store import lists
from facegallery.indexer.store.errors import Replaced
from facegallery.indexer.store.forgotten import Forgotten
from facegallery.indexer.store.rows import Added
from facegallery.indexer.store.store import Store, new_command
from facegallery.indexer.suspects import Looked, look
from facegallery.workflows.photos import Say, say_understood
from facegallery.workflows.probes import PROBE_BATCH, ProbeReader, default_split, open_store

JUST_ADDED = f"{ENROLLED} WHERE face_id IN (SELECT value FROM log, json_each(detail, '$.faces') WHERE command = ?)"


def add(
    name: str,
    source: Path,
    identity: str | None,
    split: str | None,
    metadata: Path | None,
    readmit: bool,
    model: str | None,
    compute: Compute,
    on_progress: OnProgress,
    say: Say,
    level: int | None = None,
) -> dict[str, Any]:
    """Enrols photos, or the rows of a data set of vectors; what is enrolled already is left as it is, unembedded.

    level: which folder names the person, as `facegallery.embedder.photos.folders.labels_of` has it.
    """
    identity = None if identity is None else person_name(identity)
    if level is not None and identity is not None:
        raise InputError("expected --identity or --identity-level, received both: give one")
    with open_store(name, write=True) as gallery:
        before = gallery.people
        if source.is_dir() and is_data_set(source):
            if metadata or level is not None:
                raise InputError(
                    "expected photos for --metadata and --identity-level, received vectors: give those options to `embed`"
                )
            selection = Selection(DataSet(source), split, named=identity is None)
            understood = _understood(selection.labels(), "such as", identity)
            say_understood(understood, say)
            done, left = _add_vectors(gallery, selection, identity, readmit, model, compute, say)
        else:
            listing = _of_split(list_photos(source, metadata, level), split)
            understood = _understood(
                [(e.path, e.identity) for e in listing.entries], listing.source, identity, listing.by_folders
            )
            for line in listing.notes:
                say(line)
            say_understood(understood, say)
            done, left = _add_photos(gallery, listing, identity, readmit, model, compute, on_progress, say)
        _note_source(gallery, source)
        faces, people = gallery.faces, gallery.people
        names = [name for name, _ in gallery.list_people()] if people > before else []
        elsewhere = lists.elsewhere(gallery.folder, gallery.rows(JUST_ADDED, (done.command,))) if done.added else []
        looked = look(gallery, done.face_ids) if done.face_ids else Looked()
    spellings = spelling_notes([], names)  # a second for a million names, which other writers need not wait for
    notes = (
        [
            f"face {c.face_id} ({c.image}) is {c.kept}'s already and was not added as {c.refused}'s"
            for c in done.conflicts
        ]
        + spellings
        + elsewhere
        + done.unsure_notes
        + looked.notes(name)
    )
    why = {"known already": done.again, "forgotten": done.forgotten, "another person's": len(done.conflicts), **left}
    text = f"{name}: {done.added} faces added, now {faces} of {people} people" + "".join(
        f"; {n} {what}" for what, n in why.items() if n
    )
    return {
        "index": name,
        **asdict(done),
        "left_out": left,
        "faces": faces,
        "people": people,
        "understood": understood.result(),
        "suspects": [asdict(suspect) for suspect in looked.suspects],
        "notes": notes,
        "text": text,
    }


def _understood(
    pairs: Iterable[tuple[str, str | None]], source: str, identity: str | None, by_folders: bool = True
) -> Understood:
    """Whose the faces to add are; all one person's where an identity is given."""
    if identity is None:
        return understand(pairs, source, by_folders=by_folders)
    return understand(((path.rpartition("/")[2], identity) for path, _ in pairs), "by --identity,", by_folders=False)


def _of_split(listing: Listing, split: str | None) -> Listing:
    """Its photos of a split; of `gallery` where there are such, unless one is given."""
    split = split or default_split({e.split for e in listing.entries}, "gallery")
    return replace(listing, entries=[e for e in listing.entries if split is None or e.split == split])


def _add_vectors(
    gallery: Store,
    selection: Selection,
    identity: str | None,
    readmit: bool,
    model: str | None,
    compute: Compute,
    say: Say,
) -> tuple[Added, dict[str, int]]:
    with Searcher(gallery.folder) as searcher:
        ProbeReader(searcher, model, compute, True, say).check_spec(selection.spec)
    rows = (row if identity is None else replace(row, identity=identity) for row in selection)
    done = gallery.add(rows, readmit=readmit)
    return done, {why: n for why, n in selection.left_out.items() if n}


def _add_photos(
    gallery: Store,
    listing: Listing,
    identity: str | None,
    readmit: bool,
    model: str | None,
    compute: Compute,
    on_progress: OnProgress,
    say: Say,
) -> tuple[Added, dict[str, int]]:
    entries = [e if identity is None else replace(e, identity=identity) for e in listing.entries]
    left: Counter[str] = Counter({"without a name": sum(not e.identity for e in entries)})
    new, total = _unknown(gallery, Listing(listing.root, [e for e in entries if e.identity]), readmit)
    command = new_command()
    if new:
        with Searcher(gallery.folder) as searcher:
            reader = ProbeReader(searcher, model, compute, True, say, keep_crops=gallery.keeps_crops)
            probes = reader.of_photos(Listing(listing.root, new))
            asked = 0
            while batch := list(islice(probes, PROBE_BATCH)):
                rows = [row for probe in batch for row in probe.rows]
                left.update(row.outcome for row in rows if row.vector is None)
                _join(
                    total,
                    gallery.add((row for row in rows if row.vector is not None), readmit=readmit, command=command),
                )
                asked += len(batch)
                on_progress(asked, len(new))
    if not total.added:
        gallery.add(())  # for the log
    return total, {why: n for why, n in left.items() if n}


def enrol(gallery: Store, row: Row, spec: FaceSpec, identity: str, readmit: bool) -> Added:
    """One face of a photo, with its pixels, under a name; its crop is kept where the gallery keeps crops.

    spec: the contract that the row was made by; raises Replaced where the gallery has another one by now.
    """
    if gallery.spec.fingerprint != spec.fingerprint:
        raise Replaced(
            f"expected a vector of the model that {gallery.folder.name} has now, it was changed meanwhile: send the photo again"
        )
    png = crops_of.to_png(row.pixels) if gallery.keeps_crops and row.pixels is not None else None
    return gallery.add([replace(row, identity=identity, crop=png, pixels=None)], readmit=readmit)


def _join(total: Added, part: Added) -> None:
    total.added, total.again, total.forgotten = (
        total.added + part.added,
        total.again + part.again,
        total.forgotten + part.forgotten,
    )
    total.command = total.command or part.command
    total.conflicts += part.conflicts
    total.face_ids += part.face_ids
    total.unsure += part.unsure


def _unknown(gallery: Store, listing: Listing, readmit: bool) -> tuple[list[Entry], Added]:
    """The photos whose bytes the gallery does not know, and what it knows of the others."""
    done, new = Added(), []
    listed = Forgotten() if readmit else gallery.forgotten()
    rows = ((entry, _photo_row(listing.root, entry)) for entry in listing.entries)
    while block := list(islice(rows, PROBE_BATCH)):
        face_ids = [row.face_id for _, row in block if row is not None]
        known, refused = gallery.known(face_ids), listed.refused(face_ids)
        for entry, row in block:
            if row is None or row.face_id not in known | dict.fromkeys(refused):
                new.append(entry)
            elif row.face_id in refused:
                done.forgotten += 1
            else:
                done.count_known(row, known[row.face_id])
    return new, done


def _photo_row(root: Path, entry: Entry) -> Row | None:
    """The first face of a photo, by the hash of its bytes; None where they cannot be read."""
    sha256 = hash_of(root, entry)
    return None if sha256 is None else Row(entry.path, "ok", sha256, entry.identity, face=0)


def _note_source(gallery: Store, source: Path) -> None:
    """So that a receipt of `forget` can name what fed the gallery."""
    with gallery.writing():
        sources = json.loads(gallery.fact("sources") or "[]")
        if (path := str(source.resolve())) not in sources:
            gallery.set_fact("sources", json.dumps([*sources, path]))
