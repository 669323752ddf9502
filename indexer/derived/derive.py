"""Files derived from gallery.db: INDEX/built-<generation>/ with the FAISS index, the owners and a report with hashes.

A folder is complete and on disk before the commit that names its generation; the gallery keeps the hash of the report.
Changes since a build are read from gallery.db: faces with a higher id, and the lines of its table `changed`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facegallery.embedder.errors import DataError, FaceGalleryError, system_faults
from facegallery.embedder.files import (
    TEMPORARY,
    drop_stale_temporaries,
    held,
    is_temporary,
    sync_folder,
    temporary_beside,
    temporary_prefix,
    write_atomic,
)
from facegallery.embedder.progress import Progress, unseen
from facegallery.indexer.derived import flat
from facegallery.indexer.derived.choose import Choice, choose, wish_of
from facegallery.indexer.store.database import LINK
from facegallery.indexer.store.reader import Faces
from facegallery.indexer.store.store import Store, versions

REPORT, OWNERS, CODES = "report.json", "owners.npy", "candidates.faiss"
BUILDING = "-built"  # ending of the name of an unfinished folder
FLAT = 1e-6  # a vector this close to the mean has no direction of its own
HASHED_AT_OPEN = 64 << 20  # larger files are checked by size when opened, and by hash by `verify`
# A writer rebuilds when more than LEAST faces and more than this share of the built ones were added, or removed, since
# the last build. 5 % more faces slow a query by 5 %, and opening an index of a million takes some 0.4 s; see
# docs/explanation/how-it-works.md. Codes are so fast that 2 % more faces, compared one by one, double a query's time.
LEAST, ADDED_SHARE, ADDED_SHARE_OF_CODES, REMOVED_SHARE = 1000, 0.05, 0.02, 0.10

log = logging.getLogger(__name__)


def built_folder(folder: Path, generation: int) -> Path:
    """Return the folder of a generation."""
    return folder / f"built-{generation}"


def centred(x: np.ndarray, mean: np.ndarray | None) -> np.ndarray:
    """Return (x - mean) at unit length, float32 (n, d), zeros where x is the mean; x itself without a mean."""
    if mean is None:
        return x
    moved = x.astype(np.float64) - mean
    norms = np.sqrt(np.sum(moved * moved, axis=1, keepdims=True))
    return np.where(norms > FLAT, moved / np.maximum(norms, FLAT), 0).astype(np.float32)


def make_index(store: Faces) -> Any:
    """Return the exact FAISS index of all faces, with `faces.id` as id; raises Damaged naming a changed face."""
    import faiss

    store.check_owners()
    index = faiss.IndexIDMap(faiss.IndexFlatIP(store.spec.dimension))
    mean = store.mean
    for ids, xb in store.vectors():
        index.add_with_ids(centred(xb, mean), ids)
    return index


def check_centring(store: Faces) -> None:
    """Raise DataError where a face is the mean itself, so that centring leaves it no direction."""
    mean = store.mean
    if mean is not None and not all(centred(xb, mean).any(axis=1).all() for _, xb in store.vectors()):
        raise DataError(
            "expected faces that differ from their mean for --centre, received one that equals it: "
            "build without --centre"
        )


# writing --------------------------------------------------------------------


@system_faults()
def compact(store: Store, on_progress: Progress = unseen) -> bool:
    """Build the next generation beside the current one, and swap; writers wait only for the swap.

    on_progress: receives the number of written faces, and of all faces. Returns False where another process swapped
    meanwhile. An encrypted gallery has no derived files: its searchers read it from gallery.db.
    """
    with store.reading():
        generation, position = store.generation, position_of(store)
        temporary = None if store.encrypted else _write(store, generation + 1, on_progress)
    try:
        with _held(temporary), store.writing():
            if store.generation != generation:
                return False
            adopt(store, temporary, position)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    tidy(store)
    return True


@system_faults()
def derive(store: Store) -> None:
    """Build the next generation from the rows of the open transaction, to be committed with them."""
    temporary = None if store.encrypted else _write(store, store.generation + 1)
    try:
        with _held(temporary):
            adopt(store, temporary, position_of(store))
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _held(temporary: Path | None) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if temporary is None else held(temporary)


class Position(NamedTuple):
    """Extent of a snapshot."""

    newest: int  # id of the newest face
    seq: int  # of the newest line of `changed`
    faces: int


def position_of(store: Faces) -> Position:
    """Return the extent of the open snapshot."""
    sql = (
        "SELECT (SELECT coalesce(max(id), 0) FROM faces), (SELECT coalesce(max(seq), 0) FROM changed), "
        "(SELECT count(*) FROM faces)"
    )
    return Position(*store.execute(sql)[0])


def adopt(store: Store, temporary: Path | None, position: Position) -> None:
    """Make a finished folder the next generation, within a transaction of `writing`.

    position: the extent of the rows that the folder was made from.
    """
    generation = store.generation + 1
    if temporary is not None:
        folder = built_folder(store.folder, generation)
        if folder.exists():  # of a process that died before its commit: no other process is between these lines
            shutil.rmtree(folder)
        store.set_fact("report", hashlib.sha256((temporary / REPORT).read_bytes()).hexdigest())
        os.rename(temporary, folder)
        sync_folder(store.folder)
    store.set_fact("generation", generation)
    store.set_fact("built_to", position.newest)
    store.set_fact("built", position.faces)
    store.execute("DELETE FROM changed WHERE seq <= ?", (position.seq,))
    store.set_fact("changes", store.chain_of_changes())


def _write(store: Store, generation: int, on_progress: Progress = unseen) -> Path:
    """Write a folder with all derived files of the snapshot; it is on disk when this returns."""
    drop_stale_temporaries(store.folder)
    folder = store.folder / f"{temporary_prefix()}{uuid.uuid4().hex}{BUILDING}"  # one for each thread
    folder.mkdir(mode=0o700)
    try:
        with held(folder):
            ids, owners = store.owners()
            files = {
                LINK: _write_file(folder / LINK, lambda sink: _write_exact(store, len(ids), sink, on_progress)),
                OWNERS: _write_file(folder / OWNERS, lambda sink: sink(_npy(np.stack([ids, owners])))),
            }
            choice = choose(folder / LINK, len(ids), store.spec.dimension, owners, wish_of(store))
            if choice.index is not None:
                files[CODES] = _write_file(folder / CODES, lambda sink: _write_codes(choice, sink))
            write_atomic(folder / REPORT, json.dumps(_report(store, generation, choice, files), indent=1).encode())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _report(store: Faces, generation: int, choice: Choice, files: dict[str, Any]) -> dict[str, Any]:
    spec = store.spec
    return {
        "generation": generation,
        **choice.report(),
        "n": store.faces,
        "d": spec.dimension,
        "people": store.people,
        "centred": store.mean is not None,
        "fingerprint": spec.fingerprint,
        "files": files,
        "versions": versions(),
    }


class Sink:
    """Receiver of bytes for a file and its hash.

    It keeps a disk error until the writing library has returned.
    """

    def __init__(self, file: Any):
        self.file, self.hash, self.bytes = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def __call__(self, data: bytes) -> None:
        try:
            if self.error is None:
                self.hash.update(data)
                self.file.write(data)
                self.bytes += len(data)
        except OSError as error:
            self.error = error


def _write_file(path: Path, write: Callable[[Sink], None]) -> dict[str, Any]:
    """Write a new file, on disk when this returns; return its size and sha256."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            sink = Sink(file)
            write(sink)
            if sink.error:
                raise sink.error
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    return {"bytes": sink.bytes, "sha256": sink.hash.hexdigest()}


def _write_exact(store: Faces, n: int, sink: Sink, on_progress: Progress) -> None:
    store.check_owners()
    mean, done = store.mean, 0

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal done
        for ids, xb in store.vectors():
            yield ids, centred(xb, mean)
            done += len(ids)
            on_progress(done, n)

    flat.write(sink, n, store.spec.dimension, blocks())


def _write_codes(choice: Choice, sink: Sink) -> None:
    import faiss

    faiss.write_index(choice.index, faiss.PyCallbackIOWriter(sink))  # type: ignore[attr-defined]


def _npy(array: np.ndarray) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@system_faults()
def tidy(store: Store) -> None:
    """Point index.faiss at the committed generation, and delete all others."""
    with store.writing():  # so that no other process is between its rename and its commit
        folder, current = store.folder, built_folder(store.folder, store.generation)
        target = f"{current.name}/{LINK}"
        if store.encrypted:
            (folder / LINK).unlink(missing_ok=True)
        elif not (folder / LINK).is_symlink() or os.readlink(folder / LINK) != target:
            temporary = temporary_beside(folder / LINK)
            temporary.symlink_to(target)
            os.replace(temporary, folder / LINK)
            sync_folder(folder)
        for other in folder.glob("built-*"):
            if other != current or store.encrypted:
                shutil.rmtree(other) if other.is_dir() and not other.is_symlink() else other.unlink()
        drop_stale_temporaries(folder)
        sync_folder(folder)  # so that forgotten faces do not return after a crash


def is_building(store: Faces) -> bool:
    """Return whether a process is writing the next generation, perhaps from an older state."""
    return any(is_temporary(path.name) for path in store.folder.glob(f"{TEMPORARY}*{BUILDING}"))


# when -----------------------------------------------------------------------


def behind(store: Faces) -> tuple[int, int, int]:
    """Return (faces built, faces added since, lines of `changed` since) of the current generation; reads no vectors."""
    built, built_to = store.fact("built") or 0, store.fact("built_to") or 0
    ((added,),) = store.execute("SELECT count(*) FROM faces WHERE id > ?", (built_to,))
    ((changed,),) = store.execute("SELECT count(*) FROM changed")
    return built, added, changed


def is_due(store: Faces) -> bool:
    """Return whether changes since the last build slow queries more than allowed, or derived files are damaged."""
    built, added, changed = behind(store)
    if store.encrypted:
        return changed > max(LEAST, REMOVED_SHARE * store.faces)
    report = read_report(store)
    share = ADDED_SHARE_OF_CODES if report is not None and report["kind"] == "compressed" else ADDED_SHARE
    return (
        added > max(LEAST, share * built)
        or changed > max(LEAST, REMOVED_SHARE * built)
        or bool(_unsound(store, report, 0))
    )


def compact_if_due(store: Store) -> bool:
    """Rebuild after a commit where a rebuild is due; a full disk only postpones it. Returns whether it was rebuilt."""
    if store.generation == 0 or not is_due(store):
        return False
    try:
        return compact(store)
    except FaceGalleryError as error:
        log.warning("the change is saved, but the index could not be rebuilt: %s", error)
        return False


# reading --------------------------------------------------------------------


def read_report(store: Faces) -> dict[str, Any] | None:
    """Read report.json of the current generation; None where it is missing, damaged or another gallery's."""
    try:
        data = (built_folder(store.folder, store.generation) / REPORT).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return json.loads(data) if hashlib.sha256(data).hexdigest() == store.fact("report") else None


def unsound(store: Faces, hash_up_to: float = math.inf) -> list[Path]:
    """Return the derived files of the current generation that are missing or changed, by size or hash.

    hash_up_to: hash files up to this size only. Codes are hashed whatever their size, unless it is 0: FAISS follows
    their row numbers wherever they point.
    """
    return [] if store.encrypted else _unsound(store, read_report(store), hash_up_to)


def _unsound(store: Faces, report: dict[str, Any] | None, hash_up_to: float) -> list[Path]:
    folder = built_folder(store.folder, store.generation)
    if report is None:
        return [folder / REPORT]
    limits = {CODES: math.inf if hash_up_to else 0}
    return [
        folder / name
        for name, wanted in report["files"].items()
        if not _is_as_written(folder / name, wanted, limits.get(name, hash_up_to))
    ]


def _is_as_written(path: Path, wanted: dict[str, Any], hash_up_to: float) -> bool:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size != wanted["bytes"]:
            return False
        return wanted["bytes"] > hash_up_to or hashlib.file_digest(file, "sha256").hexdigest() == wanted["sha256"]
    return False


def gallery_mean(store: Store, table: str = "vectors") -> bytes:
    """Return the mean of all vectors, float64 (d,), as the fact `mean` stores it."""
    total, n = np.float64(0), 0
    for ids, xb in store.vectors(table=table):
        total, n = total + xb.sum(axis=0, dtype=np.float64), n + len(ids)
    return (total / n).astype("<f8").tobytes()
