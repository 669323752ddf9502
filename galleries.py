"""What is done to a gallery as a whole, photos and models included: for the command line and a server alike."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedder import align as crops_of
from embedder import trained_on
from embedder.compute import Compute
from embedder.errors import DataError, InputError
from embedder.listing import Listing, list_photos
from embedder.names import person_name, spelling, spelling_notes
from embedder.pipeline import OnProgress, Options, PhotoStage, hash_of
from embedder.redact import IsDoomed, count_rows, drop_rows
from embedder.replaceable import check_replaceable, write_own
from embedder.row import Entry, Row
from embedder.spec import FaceSpec
from embedder.table import DataSet, is_data_set
from embedder.text import unescaped
from embedder.understood import Understood, understand
from indexer import forget as forgetting
from indexer import forgotten, outputs, switch, transfer
from indexer.build import ENROLLED, Selection
from indexer.calibrate import fit
from indexer.database import Replaced
from indexer.derive import position_of
from indexer.faces import check_name, index_folder, normal
from indexer.forgotten import Forgotten
from indexer.gallery import Added, Gallery, new_command
from indexer.search import Searcher, exact_scores
from indexer.suspects import Looked, look
from indexer.traces import Traces
from indexer.verify import Verified
from workflows import (
    PROBE_BATCH,
    Probe,
    ProbeReader,
    Question,
    Say,
    answered,
    default_split,
    enrolled_notes,
    indexes_root,
    load_embedder,
    make_detector,
    make_embedder,
    open_gallery,
    say_understood,
    splits_of,
)  # fmt: skip

if TYPE_CHECKING:
    from embedder.weights import Model

JUST_ADDED = f"{ENROLLED} WHERE face_id IN (SELECT value FROM log, json_each(detail, '$.faces') WHERE command = ?)"
OWN_SAMPLES = 5000  # enrolled faces that a calibration asks at most


def info(name: str) -> dict[str, Any]:
    """What an index holds and how it stands."""
    with open_gallery(name) as gallery:
        return gallery.info()


# add ------------------------------------------------------------------------


def add(name: str, source: Path, identity: str | None, split: str | None, metadata: Path | None, readmit: bool, model: str | None,
        compute: Compute, on_progress: OnProgress, say: Say, level: int | None = None) -> dict[str, Any]:  # fmt: skip
    """Enrols photos, or the rows of a data set of vectors; what is enrolled already is left as it is, unembedded.

    level: which folder names the person, as `embedder.folders.labels_of` has it.
    """
    identity = None if identity is None else person_name(identity)
    if level is not None and identity is not None:
        raise InputError("expected --identity or --identity-level, received both: give one")
    with open_gallery(name, write=True) as gallery:
        before = gallery.people
        if source.is_dir() and is_data_set(source):
            if metadata or level is not None:
                raise InputError("expected photos for --metadata and --identity-level, received vectors: give those options to `embed`")
            selection = Selection(DataSet(source), split, named=identity is None)
            understood = _understood(selection.labels(), "such as", identity)
            say_understood(understood, say)
            done, left = _add_vectors(gallery, selection, identity, readmit, model, compute, say)
        else:
            listing = _of_split(list_photos(source, metadata, level), split)
            understood = _understood([(e.path, e.identity) for e in listing.entries], listing.source, identity, listing.by_folders)
            for line in listing.notes:
                say(line)
            say_understood(understood, say)
            done, left = _add_photos(gallery, listing, identity, readmit, model, compute, on_progress, say)
        _note_source(gallery, source)
        faces, people = gallery.faces, gallery.people
        names = [name for name, _ in gallery.list_people()] if people > before else []
        elsewhere = forgotten.elsewhere(gallery.folder, gallery.rows(JUST_ADDED, (done.command,))) if done.added else []
        looked = look(gallery, done.face_ids) if done.face_ids else Looked()
    spellings = spelling_notes([], names)  # a second for a million names, which other writers need not wait for
    notes = (
        [f"face {c.face_id} ({c.image}) is {c.kept}'s already and was not added as {c.refused}'s" for c in done.conflicts]
        + spellings
        + elsewhere
        + done.unsure_notes
        + looked.notes(name)
    )
    why = {"known already": done.again, "forgotten": done.forgotten, "another person's": len(done.conflicts), **left}
    text = f"{name}: {done.added} faces added, now {faces} of {people} people" + "".join(f"; {n} {what}" for what, n in why.items() if n)
    return {
        "index": name, **asdict(done), "left_out": left, "faces": faces, "people": people, "understood": understood.result(),
        "suspects": [asdict(suspect) for suspect in looked.suspects], "notes": notes, "text": text,
    }  # fmt: skip


def _understood(pairs: Iterable[tuple[str, str | None]], source: str, identity: str | None, by_folders: bool = True) -> Understood:
    """Whose the faces to add are; all one person's where an identity is given."""
    if identity is None:
        return understand(pairs, source, by_folders)
    return understand(((path.rpartition("/")[2], identity) for path, _ in pairs), "by --identity,", False)


def _of_split(listing: Listing, split: str | None) -> Listing:
    """Its photos of a split; of `gallery` where there are such, unless one is given."""
    split = split or default_split({e.split for e in listing.entries}, "gallery")
    return replace(listing, entries=[e for e in listing.entries if split is None or e.split == split])


def _add_vectors(gallery: Gallery, selection: Selection, identity: str | None, readmit: bool, model: str | None, compute: Compute,
                 say: Say) -> tuple[Added, dict[str, int]]:  # fmt: skip
    with Searcher(gallery.folder) as searcher:
        ProbeReader(searcher, model, compute, True, say).check_spec(selection.spec)
    rows = (row if identity is None else replace(row, identity=identity) for row in selection)
    done = gallery.add(rows, readmit)
    return done, {why: n for why, n in selection.left_out.items() if n}


def _add_photos(gallery: Gallery, listing: Listing, identity: str | None, readmit: bool, model: str | None,
                compute: Compute, on_progress: OnProgress, say: Say) -> tuple[Added, dict[str, int]]:  # fmt: skip
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
                _join(total, gallery.add((row for row in rows if row.vector is not None), readmit, command))
                asked += len(batch)
                on_progress(asked, len(new))
    if not total.added:
        gallery.add(())  # for the log
    return total, {why: n for why, n in left.items() if n}


def enrol(gallery: Gallery, row: Row, spec: FaceSpec, identity: str, readmit: bool) -> Added:
    """One face of a photo, with its pixels, under a name; its crop is kept where the gallery keeps crops.

    spec: the contract that the row was made by; raises Replaced where the gallery has another one by now.
    """
    if gallery.spec.fingerprint != spec.fingerprint:
        raise Replaced(f"expected a vector of the model that {gallery.folder.name} has now, it was changed meanwhile: send the photo again")
    png = crops_of.to_png(row.pixels) if gallery.keeps_crops and row.pixels is not None else None
    return gallery.add([replace(row, identity=identity, crop=png, pixels=None)], readmit)


def _join(total: Added, part: Added) -> None:
    total.added, total.again, total.forgotten = total.added + part.added, total.again + part.again, total.forgotten + part.forgotten
    total.command = total.command or part.command
    total.conflicts += part.conflicts
    total.face_ids += part.face_ids
    total.unsure += part.unsure


def _unknown(gallery: Gallery, listing: Listing, readmit: bool) -> tuple[list[Entry], Added]:
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
                done.tell(row, known[row.face_id])
    return new, done


def _photo_row(root: Path, entry: Entry) -> Row | None:
    """The first face of a photo, by the hash of its bytes; None where they cannot be read."""
    sha256 = hash_of(root, entry)
    return None if sha256 is None else Row(entry.path, "ok", sha256, entry.identity, face=0)


def _note_source(gallery: Gallery, source: Path) -> None:
    """So that a receipt of `forget` can name what fed the gallery."""
    with gallery.writing():
        sources = json.loads(gallery.fact("sources") or "[]")
        if (path := str(source.resolve())) not in sources:
            gallery.set_fact("sources", json.dumps([*sources, path]))


# one to one -----------------------------------------------------------------


def compare(first: Path, second: Path, model: str | None, name: str | None, compute: Compute, say: Say) -> dict[str, Any]:
    """Cosine of the faces of two photos, each the largest, most central one; says where a photo has others.

    Raises InputError for what is no single photo, DataError where a photo has no face.
    """
    photos = first, second
    _check_single(photos)
    found = _probes_by_index(name, model, photos, compute, say) if name else _probes_by_model(model, photos, compute, say)
    for path, probe in zip(photos, found, strict=True):
        if probe.rows[0].vector is None:
            why = f" ({probe.why})" if probe.why else ""
            raise DataError(f"expected a face in {path}, its outcome is {probe.outcome}{why}: choose another photo")
        if probe.others:
            say(f"{path} has {probe.others + 1} faces: the largest, most central one is compared")
    a, b = (np.asarray(probe.rows[0].vector, np.float32) for probe in found)
    faces = [{"image": str(path), "box": probe.rows[0].box, "others": probe.others} for path, probe in zip(photos, found, strict=True)]
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
    from embedder.decoder import Decoder

    embedder = make_embedder(model or "msceleb", compute, "plain", say, few=True)
    stage, probes = PhotoStage(embedder.spec, make_detector({}, embedder.compute), embedder, Options(keep_crops=False)), []
    with Decoder() as decoder:
        for path in photos:
            (entry,) = list_photos(path).entries
            ((photo, rows),) = stage.rows(decoder.stream(path.parent, [entry.path]), {entry.path: entry})
            probes.append(Probe(photo.name, rows, photo.why, max(0, photo.faces - len(rows))))
    return probes


# another model --------------------------------------------------------------


def reembed(name: str, reference: str, views: str, report: Path | None, do_switch: bool, compute: Compute, on_progress: OnProgress,
            say: Say) -> tuple[dict[str, Any], str]:  # fmt: skip
    """Vectors by another model beside the gallery's own, the report of what changes, and the switch; stopped anywhere, it goes on."""
    from embedder.weights import open_model

    if report is not None:
        check_replaceable(report, "comparison")
    model = open_model(reference).with_views(views)
    with open_gallery(name, write=True) as gallery:
        switch.prepare(gallery, model.spec.with_crop(gallery.spec))
        _embed_missing(gallery, model, compute, on_progress, say)
        comparison = switch.compare(gallery)
        if report is not None:
            write_own(report, "comparison", json.dumps(asdict(comparison), ensure_ascii=False, indent=1).encode())
            outputs.note(gallery.folder, "report", report)
        if do_switch:
            _embed_missing(gallery, model, compute, on_progress, say)  # of faces that came meanwhile
            switch.switch(gallery)
    text = comparison.text + (f"; {name} answers with {comparison.after} now" if do_switch else "; nothing is switched yet")
    return asdict(comparison) | {"switched": do_switch}, text


def _embed_missing(gallery: Gallery, model: Model, compute: Compute, on_progress: OnProgress, say: Say) -> None:
    total = switch.missing(gallery)
    if not total:
        return
    embedder, done = load_embedder(model, compute, say), 0
    for block in switch.pending(gallery):
        crops = np.stack([crops_of.plain(png, gallery.spec.crop) for _, png in block])
        switch.store(gallery, [id for id, _ in block], embedder(crops))
        done += len(block)
        on_progress(done, total)


# unknown --------------------------------------------------------------------


def calibrate(name: str, fpir: float, sources: Sequence[Path], split: str | None, model: str | None, seed: int, compute: Compute,
              say: Say) -> dict[str, Any]:  # fmt: skip
    """Fits the score from which a hit counts, and keeps it in the gallery."""
    with open_gallery(name, write=True) as gallery, Searcher(gallery.folder) as searcher:
        own = _own_samples(gallery, searcher, seed)
        reader = ProbeReader(searcher, model, compute, True, say)
        strangers, genuine, notes = _held_out(searcher, reader, sources, split)
        with gallery.reading():
            now = gallery.people, gallery.faces, gallery.spec.fingerprint
            newest = position_of(gallery).newest
        done = fit(*own, strangers, fpir, *now, genuine, newest)
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
        "index": name, "fpir": fpir, "threshold": done.threshold, "interval": [low, high], "samples": done.n, "held_out": done.held_out,
        "exceeding": done.exceeding, "design_effect": done.effect, "detection": done.detection, "people": done.people, "text": text,
        "weak": done.weak, "chance_limit": done.chance_limit, "warnings": [*done.warnings, *notes],
    }  # fmt: skip


def _own_samples(gallery: Gallery, searcher: Searcher, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    return np.array(scores, np.float32), np.array(people, np.int64), np.array(nearest, np.int64)


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
            if searcher.gallery.known([probe.rows[0].face_id]):
                enrolled += 1
                continue
            truth = searcher.gallery.spelled(probe.rows[0].identity or "")
            if not truth or not searcher.gallery.enrolled([truth]):
                strangers.append(hits[0].score)
            else:
                genuine.append(hits[0].score if hits[0].identity == truth else -np.inf)
        if asked == before:
            where = f"{source}, split {wanted}" if wanted else source
            raise DataError(f"expected probes with a face in {where}, found none: check --probes and --split")
    return np.array(strangers, np.float32), np.array(genuine, np.float32), enrolled_notes(enrolled, asked)


# looking after --------------------------------------------------------------


def verify(name: str) -> Verified:
    """Reads everything; damaged derived files are made anew where the folder can be written."""
    folder = index_folder(indexes_root(), name)
    with Gallery.open(folder, write=os.access(folder, os.W_OK)) as gallery:
        return gallery.verify()


def compact(name: str, keep_undo: float | None, on_progress: OnProgress = lambda done, total: None) -> dict[str, Any]:
    """A new generation; before it, changes older than `keep_undo` seconds are dropped from the log."""
    with open_gallery(name, write=True) as gallery:
        dropped = gallery.compact(keep_undo, on_progress)
        return {"index": name, "generation": gallery.generation, "faces": gallery.faces, "dropped": dropped}


def backup(name: str, path: Path) -> transfer.Moved:
    with open_gallery(name) as gallery:
        done = gallery.backup(path)
        outputs.note(gallery.folder, "backup", path)
        return done


def restore(path: Path, name: str, replace_old: bool, readmit: bool = False) -> transfer.Moved:
    return transfer.restore(path, index_folder(indexes_root(), check_name(name)), replace_old, readmit)


def export(name: str, folder: Path, crops: bool) -> transfer.Moved:
    with open_gallery(name) as gallery:
        outputs.note(gallery.folder, "export", folder)
        return gallery.export(folder, crops)


# forget ---------------------------------------------------------------------


def forget(name: str, identity: str, also: Sequence[Path], receipt: Path | None, say: Say) -> tuple[forgetting.Receipt, Path]:
    """Takes a person out of an index, and of data sets, for good; returns the receipt and where it lies."""
    for folder in also:
        DataSet(folder)  # raises before anything is done
    if receipt is not None:
        check_replaceable(receipt, "receipt")
    models = trained_on.stored()
    with open_gallery(name, write=True) as gallery:
        traces = forgetting.forget(gallery, _as_spelt(gallery, identity))
        for face_id in forgetting.earlier_ids(gallery, traces):
            traces.add_face(face_id, [], None)
        finished = forgetting.finish_pending(gallery, forgetting.CUT_WAIT_MS)
        cleaned = {str(folder): drop_rows(folder, _doomed(gallery, traces)) for folder in also}
        done = forgetting.receipt_of(gallery, traces, cleaned, not finished)
        done.not_cleaned += [
            f"model {part.name} ({part.sha256[:16]}): finetuned, or its best epoch chosen, on this person"
            for part, trainings in models
            if any(trained_on.known(traces.names, trainings))
        ]
    text = done.to_json().encode()
    path = receipt or indexes_root() / f"{name}-forgotten-{done.time.replace(':', '')}-{hashlib.sha256(text).hexdigest()[:8]}.json"
    write_own(path, "receipt", text)
    return done, path


def _as_spelt(gallery: Gallery, identity: str) -> str:
    """The name that the user means: this one where it is known, else the one that is written so where it cannot be printed."""
    if forgetting.is_known(gallery, identity):
        return identity
    plain = unescaped(identity)
    return plain if plain != identity and forgetting.is_known(gallery, plain) else identity


def _doomed(gallery: Gallery, traces: Traces) -> IsDoomed:
    """What goes from data sets: all faces that were ever forgotten, and the person's names where nobody else has them by now."""
    listed = gallery.forgotten()

    @functools.cache
    def is_named(identity: str) -> bool:
        return traces.is_named(identity) and (normal(identity) in traces.names or not gallery.enrolled([identity]))

    def is_doomed(face: str | None, identity: str | None) -> bool:
        return (face is not None and listed.holds(face)) or (identity is not None and is_named(identity))

    return is_doomed


def verify_forgotten(name: str, receipt: Path, identity: str | None) -> dict[str, int]:
    """How often what a receipt's ids, and a name, stand for is found in each file of the index, and in how many rows of data sets."""
    done = forgetting.Receipt.read(receipt)
    with open_gallery(name, write=True) as gallery:
        found, ids = forgetting.look_again(gallery, done, identity), set(done.face_ids)
        for folder in forgetting.folders_of(done, identity):
            found[str(folder)] = count_rows(
                folder, lambda face, who: face in ids or (who is not None and identity is not None and spelling(who) == spelling(identity))
            )
    return found
