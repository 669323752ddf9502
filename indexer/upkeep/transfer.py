"""Moving a gallery to and from files: backups while it is in use, and data sets of its current content."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import operator
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from facegallery.embedder.dataset.people import write_people
from facegallery.embedder.dataset.row import Entry, to_table
from facegallery.embedder.dataset.writer import DataSetWriter, WriterOptions, check_is_ours
from facegallery.embedder.errors import DataError, GalleryError, InputError, from_os_error
from facegallery.embedder.files import (
    drop_stale_temporaries,
    held,
    locked,
    make_folder,
    place,
    sync_folder,
    temporary_beside,
)
from facegallery.indexer.derived.derive import derive, tidy
from facegallery.indexer.opening import create_store
from facegallery.indexer.store import forgotten, lists
from facegallery.indexer.store.database import CIPHER, CIPHER_FILE, FILE, PLAIN, remove_file
from facegallery.indexer.store.errors import Damaged, damaged
from facegallery.indexer.store.forgotten import Forgotten
from facegallery.indexer.store.photos import named_by
from facegallery.indexer.store.reader import check_name, name_key
from facegallery.indexer.store.store import Store, versions
from facegallery.indexer.store.totals import LATER_TABLES
from facegallery.indexer.upkeep.verify import problems

# each row comes after the rows that it refers to
TABLES = ("people", "faces", "vectors", "crops", "other_vectors", "log", "trash", *LATER_TABLES)


@dataclass
class TransferSummary:
    """What a backup, a restore or an export moved."""

    folder: str
    faces: int
    people: int
    forgotten: int = 0  # not restored, because they were forgotten since
    without_crop: int = 0  # exported without a crop, though crops were asked for


# backups --------------------------------------------------------------------


def backup(store: Store, path: Path) -> TransferSummary:
    """Write one file with everything of the newest commit, encrypted as the gallery is.

    Readers and writers continue meanwhile. Raises InputError where the file exists.
    """
    path = Path(path)
    there = InputError(
        f"expected a new file for the backup, {path} exists: choose another name, nothing is overwritten"
    )
    try:
        drop_stale_temporaries(make_folder(path.parent))
        if os.path.lexists(path):
            raise there
        temporary = temporary_beside(path)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            with held(temporary):
                store.execute("VACUUM INTO ?", (str(temporary),))
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
                faces, people = _counts(store, temporary)
                place(temporary, path)
            sync_folder(path.parent)
        finally:
            for leftover in (temporary, temporary.with_name(f"{temporary.name}-journal")):
                leftover.unlink(missing_ok=True)
    except FileExistsError:
        raise there from None
    except OSError as error:
        raise from_os_error(error) from None
    return TransferSummary(str(path), faces, people)


def _counts(store: Store, copy: Path) -> tuple[int, int]:
    """Return how many faces and people a copy holds: the gallery may have changed since."""
    store.execute("ATTACH ? AS copy", (str(copy),))
    try:
        ((faces, people),) = store.execute(
            "SELECT (SELECT count(*) FROM copy.faces), (SELECT count(DISTINCT person) FROM copy.faces)"
        )
        return faces, people
    finally:
        store.execute("DETACH copy")


def restore(path: Path, folder: Path, *, replace: bool = False, readmit: bool = False) -> TransferSummary:
    """Restore the index `folder` from a backup, in one transaction.

    replace: replace an existing index. readmit: also restore people who were forgotten since the backup, from this or a
    renamed index; otherwise they stay forgotten.

    Raises DataError where the file is not a backup. Raises GalleryError where the index exists without `replace`, is
    another index, or the list of forgotten people is lost.
    """
    folder, path = Path(folder), Path(path)
    check_name(folder.name)
    if (folder / FILE).exists() and not replace:
        with Store(folder, writable=False) as there:
            if there.generation:
                raise GalleryError(
                    f"expected a new name, {folder.name} exists: choose another --name, or --replace it by its backup"
                )
    try:
        with contextlib.ExitStack() as stack:
            source = _opened(path, folder, stack)
            kin = _kin(source, folder)
            stack.enter_context(forgotten.locked(folder, *kin))
            try:
                return _restore(source, path, folder, kin, readmit=readmit)
            except Damaged:  # the index, not the backup
                if not replace:
                    raise
                lists.begin(folder, readmit=readmit, encrypted=source.encrypted)
                remove_file(folder)
                return _restore(source, path, folder, kin, readmit=readmit)
    except OSError as error:
        raise from_os_error(error) from None


def _kin(source: Store, folder: Path) -> list[Path]:
    """Return the other indexes of the root that the backup may be of: they share its salt, or do not tell theirs."""
    salts = source.forgotten().salts
    names = {forgotten.name_of(salt) for salt in salts}

    def is_kin(other: Path, listed: forgotten.Forgotten | forgotten.Unreadable) -> bool:
        if not isinstance(listed, forgotten.Unreadable):
            return bool(listed.salts & salts)
        sealed = forgotten.salt_names(other)
        return sealed is None or bool(sealed & names)

    others = ((folder.parent / name, listed) for name, listed in lists.lists(folder.parent) if name != folder.name)
    return [other for other, listed in others if is_kin(other, listed)]


def _restore(source: Store, path: Path, folder: Path, kin: Sequence[Path], *, readmit: bool) -> TransferSummary:
    if not (folder / FILE).exists() or not (folder / FILE).stat().st_size:
        lists.begin(folder, readmit=readmit, encrypted=source.encrypted)
    salts = source.forgotten().salts
    known = [lists.recover(other, readmit=readmit).of_salts(salts) for other in kin]
    with create_store(folder, encrypt=source.encrypted) as target:
        if target.encrypted != source.encrypted:
            raise GalleryError(
                f"expected both to be encrypted or neither, {path} and {folder.name} differ: choose another --name"
            )
        if target.generation and target.fact("salt") != source.fact("salt"):
            raise GalleryError(f"expected a backup of {folder.name}, {path} is of another index: choose another --name")
        with target.changing_forgotten():
            if target.generation:
                here = target.forgotten()
            else:
                here = lists.begin(folder, readmit=readmit, encrypted=target.encrypted)
            left_out = _copy(source, target, functools.reduce(operator.or_, known, here), readmit=readmit)
            derive(target)
        tidy(target)
        return TransferSummary(str(folder), target.faces, target.people, left_out)


def _opened(path: Path, inside: Path, stack: contextlib.ExitStack) -> Store:
    """Open a copy of a backup as a sound gallery of this version.

    The copy is in the folder of the index, where any later writer deletes it.
    """
    stack.callback(_drop_empty_folder, inside)
    drop_stale_temporaries(make_folder(inside))
    drop_stale_temporaries(path.parent)  # what a backup left there when the power failed
    folder = temporary_beside(inside / "restore")
    folder.mkdir(mode=0o700)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    stack.enter_context(held(folder))
    try:
        with open(path, "rb") as file:
            plain = file.read(len(PLAIN)) == PLAIN
        shutil.copyfile(path, folder / FILE)
    except FileNotFoundError:
        raise DataError(f"expected a backup, {path} does not exist: check the path") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(folder / FILE)) from None
    if not plain:
        (folder / CIPHER_FILE).write_text(f"{CIPHER}\n")
    try:
        store = stack.enter_context(Store(folder, writable=True))
        store.check_version()
        with store.writing():  # migrates the copy
            if not store.generation:
                raise DataError(f"expected a backup of an index, {path} holds none: check the path")
        with store.reading():
            for line in problems(store):
                raise damaged(path, line)
        return store
    except GalleryError as error:
        line = str(error).replace(str(folder / FILE), str(path)).replace(folder.name, path.name)
        if isinstance(error, Damaged):
            line = f"expected a sound backup, {path} is damaged or is no backup ({line[:200]}): use another file"
        raise DataError(line if plain else f"{line}; or {path.name} is no backup") from None


def _drop_empty_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _copy(source: Store, target: Store, known: Forgotten, *, readmit: bool) -> int:
    """Copy everything except people in `known` who were forgotten since; return how many faces stay forgotten."""
    before = source.forgotten()
    generation = target.generation
    target.clear()
    for table in TABLES:
        rows = source.rows(f"SELECT * FROM {table}")
        for first in rows:
            insert = f"INSERT INTO {table} VALUES ({','.join('?' * len(first))})"
            target.execute(insert, first)
            target.execute_many(insert, rows)
    for key, value in source.execute(
        "SELECT key, value FROM meta WHERE key NOT IN ('report', 'forgetting', 'forgotten', 'forgotten_list')"
    ):
        target.set_fact(key, value)
    target.set_fact("generation", max(generation, source.generation))
    since = known - before
    left_out = _drop_forgotten(target, since) if since and not readmit else 0
    target.set_forgotten((before | known).without(_texts_of(target) if readmit and since else ()))
    return left_out


def _texts_of(store: Store) -> set[str]:
    """Return the face_ids of all enrolled people, and their names as they are hashed."""
    pairs = store.rows("SELECT face_id, name FROM faces JOIN people ON people.id = person")
    return {text for face_id, name in pairs for text in (face_id, name_key(name))}


def _drop_forgotten(store: Store, since: Forgotten) -> int:
    """Delete each face, enrolled or removed, that is on the list by its id or its person's name; return how many."""
    pairs = store.execute(
        "SELECT face_id, name FROM faces JOIN people ON people.id = person UNION SELECT face_id, identity FROM trash "
        "UNION SELECT face_id, '' FROM unnamed"
    )
    names = {name for name in {name for _, name in pairs} if since.holds(name_key(name))}
    face_ids = {face_id for face_id, name in pairs if name in names or since.holds(face_id)}
    store.drop_faces(face_ids)
    store.unreject([said for said in store.rejections() if said.face_id in face_ids or said.identity in names])
    # the log, too, has names and removed faces of the forgotten: it cannot be kept
    store.drop_log(math.inf)
    is_named = named_by(lambda part: since.holds(name_key(part)))
    store.drop_named(is_named)
    store.set_syncs({folder: kept for folder, kept in store.syncs().items() if not is_named(folder)})
    return len(face_ids)


# data sets ------------------------------------------------------------------


def export(store: Store, out: Path, *, crops: bool = False) -> TransferSummary:
    """Write the gallery as a data set: corrected names, vectors, and with `crops` the stored crops.

    Unnamed faces are rows without an identity; persons' ids, notes and metadata are in a file beside the rows. The same
    call again writes what has changed since. Waits for another process that writes to the folder.
    """
    check_is_ours(out)
    with locked(make_folder(out)), store.reading():
        by_image: dict[str, list[tuple[int, bytes]]] = {}
        for id, image, stored in store.rows("SELECT id, image, checksum FROM faces ORDER BY id"):
            by_image.setdefault(image, []).append((id, stored))
        unnamed: dict[str, list[str]] = {}
        for face in store.unnamed_faces():
            unnamed.setdefault(face.image, []).append(face.face_id)
        images = dict.fromkeys([*by_image, *unnamed])
        entries = [_entry(image, by_image.get(image, []), unnamed.get(image, [])) for image in images]
        spec, extra = store.spec, store.columns
        settings = WriterOptions(tuple(extra), prune=True)
        writer = DataSetWriter(out, spec, {"command": "export", "crops kept": crops}, entries, settings)
        for shard, inputs in writer.pending():
            began = time.monotonic()
            rows = store.table_rows([id for one in inputs for id, _ in by_image.get(one.path, [])], crops=crops)
            for row in store.unnamed_rows(id for one in inputs for id in unnamed.get(one.path, [])).values():
                rows.append(row if crops else replace(row, crop=None))
            for row in rows:
                row.split = "gallery"  # instead of the split that it was added from
            writer.write(shard, to_table(rows, spec, extra), time.monotonic() - began, versions())
        write_people(out, ((name, asdict(record)) for name, record in store.records()))
        ((without,),) = store.execute("SELECT count(*) FROM faces WHERE id NOT IN (SELECT id FROM crops)")
        return TransferSummary(str(out), store.faces, store.people, without_crop=without if crops else 0)


def _entry(image: str, faces: list[tuple[int, bytes]], unnamed: list[str]) -> Entry:
    """Return the plan's entry of a photo; a number that changes with its faces stands where a photo has its time."""
    texts = b"".join([*(stored for _, stored in faces), *map(str.encode, unnamed)])
    mark = int.from_bytes(hashlib.blake2b(texts, digest_size=7).digest(), "little")
    return Entry(image, len(faces) + len(unnamed), mark)
