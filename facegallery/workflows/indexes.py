"""List the indexes of the root folder, make one, and delete one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from facegallery.embedder.dataset.dataset import DataSet, is_data_set
from facegallery.embedder.errors import FaceGalleryError, GalleryError, system_faults
from facegallery.embedder.files import drop_stale_temporaries, is_temporary, sync_folder, temporary_beside
from facegallery.indexer import opening
from facegallery.indexer.build import create
from facegallery.indexer.store import forgotten, lists, outputs
from facegallery.indexer.store.database import CIPHER_FILE, FILE, LINK, environment_key
from facegallery.indexer.store.reader import NAME, index_folder
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep.traces import files_below, size_of
from facegallery.workflows.photos import DEFAULT_MODEL, make_detector, model_spec
from facegallery.workflows.probes import gallery_folder, indexes_root
from facegallery.workflows.session import GallerySession

OURS = re.compile(rf"{re.escape(FILE)}(-wal|-shm|-journal)?|{re.escape(LINK)}|{CIPHER_FILE}|built-\d+")
SHOWN = 5  # files of somebody else that an error names


@dataclass(frozen=True)
class IndexEntry:
    """One index of the root folder, or why nothing can be said about it."""

    index: str
    people: int | None
    faces: int | None
    model: str | None
    bytes: int  # on disk
    encrypted: bool
    problem: str | None  # one line: damaged, locked, of a newer version, ...


@dataclass(frozen=True)
class DeletedIndex:
    """What `delete_index` removed, and what it left beside the index."""

    index: str
    folder: str
    bytes: int
    forgotten: str | None  # the file that lists who was forgotten, which stays; None where nobody was
    written: tuple[str, ...]  # files written with people of the index, which stay: hits, reports, backups, ...
    receipts: tuple[str, ...]  # of `forget`, which stay


def list_indexes() -> list[IndexEntry]:
    """Describe the indexes under FACEGALLERY_INDEXES, or `indexes/`, by name."""
    root = indexes_root()
    return [describe(root / name) for name in sorted(_names(root))]


def _names(root: Path) -> Iterator[str]:
    if not root.is_dir():
        return
    with system_faults():
        for path in root.iterdir():
            if NAME.fullmatch(path.name) and lists.was_there(path):
                yield path.name


def describe(folder: Path) -> IndexEntry:
    """Describe the index in a folder; what keeps it from being opened becomes `problem`."""
    size, encrypted = sum(map(size_of, files_below(folder))), (folder / CIPHER_FILE).exists()
    try:
        with opening.open_store(folder) as store, store.reading():
            return IndexEntry(
                folder.name, store.people, store.faces, store.spec.model_name, size, encrypted, problem=None
            )
    except (FaceGalleryError, OSError) as error:
        return IndexEntry(folder.name, None, None, None, size, encrypted, str(error))


def index_to_delete(name: str) -> IndexEntry:
    """Describe the index called `name`, which can be deleted.

    Raises GalleryError where there is none, it is a link, or its folder holds anything else.
    """
    return describe(_folder_to_delete(name))


def _folder_to_delete(name: str) -> Path:
    """Return the folder of an index; first remove what a stopped deletion left in the root."""
    folder = index_folder(indexes_root(), name)
    if folder.parent.is_dir():
        drop_stale_temporaries(folder.parent)
    _check_ours(folder)
    return folder


def _check_ours(folder: Path) -> None:
    if folder.is_symlink():
        raise GalleryError(
            f"expected an index in {folder.absolute()}, it is a link to {os.readlink(folder)}: remove the link, and "
            "delete the index where it lies"
        )
    if not folder.is_dir():
        raise opening.missing(folder)
    if not lists.was_there(folder):
        raise GalleryError(f"expected an index in {folder.absolute()}, the folder holds none: nothing was deleted")
    with system_faults():
        foreign = sorted(path.name for path in folder.iterdir() if not _is_ours(path))
    if foreign:
        names = ", ".join(map(repr, foreign[:SHOWN])) + (" and more" if len(foreign) > SHOWN else "")
        raise GalleryError(
            f"expected nothing but an index in {folder.absolute()}, it holds {names}, too: move that elsewhere; "
            "nothing was deleted"
        )


def _is_ours(path: Path) -> bool:
    return OURS.fullmatch(path.name) is not None or is_temporary(path.name)


def delete_index(name: str, *, readmit: bool = False) -> DeletedIndex:
    """Delete the whole folder of an index; the list of the forgotten stays beside it, for an index of the same name.

    The folder disappears at once: a stopped deletion leaves a temporary folder, which the next one removes. Links in
    it are removed, never followed. readmit: delete even where nobody can say who was forgotten. Raises GalleryError as
    `index_to_delete`, Unreadable without `readmit` where neither gallery.db nor the list can be read, Busy where
    another process changes the list.
    """
    folder = _folder_to_delete(name)
    with system_faults(), forgotten.locked(folder):
        _keep_forgotten(folder, readmit=readmit)
        size = sum(map(size_of, files_below(folder)))
        away = temporary_beside(folder)
        os.rename(folder, away)
        sync_folder(folder.parent)
        shutil.rmtree(away)
    return DeletedIndex(
        index=name,
        folder=str(folder.absolute()),
        bytes=size,
        forgotten=str(forgotten.list_path(folder).absolute()) if _is_anybody_forgotten(folder) else None,
        written=tuple(sorted(output.path for output in outputs.read(folder) if os.path.lexists(output.path))),
        receipts=tuple(sorted(str(path.absolute()) for path in folder.parent.glob(f"{name}-forgotten-*.json"))),
    )


def _is_anybody_forgotten(folder: Path) -> bool:
    try:
        return bool(forgotten.read(folder))
    except forgotten.Unreadable:
        return True


def _keep_forgotten(folder: Path, *, readmit: bool) -> None:
    """Write all that the index knows of who was forgotten to the list beside it."""
    try:
        known = lists.recover(folder)
    except forgotten.Unreadable:
        if not readmit:
            raise
        return  # the file, whatever it holds, stays
    if known.salts:
        encrypted = (folder / CIPHER_FILE).exists()
        forgotten.write(folder, known, environment_key() if encrypted else None)


def create_gallery(where: str | Path, model: str = DEFAULT_MODEL, *, encrypt: bool = False) -> Path:
    """Make a gallery without people for the vectors of a model, and return its folder; `add` fills it.

    Raises ModelError where the model is not stored, GalleryError where a gallery is there.
    """
    folder = gallery_folder(where)
    create(folder, replace(model_spec(model), detector=make_detector({}).record), encrypt=encrypt)
    return folder


def ensure_gallery(where: str | Path, model: str | None = None, *, encrypt: bool = False) -> None:
    """Make a gallery as `create_gallery` does where there is none.

    Raises GalleryError where one is there for the vectors of another model than the one given.
    """
    if not (gallery_folder(where) / FILE).exists():
        create_gallery(where, model or DEFAULT_MODEL, encrypt=encrypt)
    elif model is not None:
        _check_model(where, model)


def _check_model(where: str | Path, model: str) -> None:
    """Raise GalleryError where a gallery is for the vectors of another model."""
    from facegallery.embedder.weights.store import open_model

    with GallerySession(where) as session, session.store() as store:
        spec, wanted = store.spec, open_model(model).spec
    wanted = replace(wanted, flip=spec.flip, margins=spec.margins).seeing_as(spec).with_crop(spec)
    if difference := spec.difference(wanted):
        raise GalleryError(
            f"expected a gallery of the model {model} in {gallery_folder(where)}, it has another one, "
            f"{spec.model_name} ({difference}): leave the model out, or choose another name"
        )


@contextlib.contextmanager
def begun(name: str, source: Path, model: str | None) -> Iterator[None]:
    """Begin the index called `name` where it is not there; delete it again where the block fails before a face is in.

    Vectors name their own model; for photos it is `model`, a known name or a folder, sface unless given. Raises
    GalleryError where the index is there for the vectors of another model than the one given.
    """
    folder = index_folder(indexes_root(), name)
    if _is_finished(folder):
        if model is not None:
            _check_model(name, model)
        yield
        return
    if is_data_set(source) and (spec := DataSet(source).spec).dimension:
        create(folder, spec)
    else:
        create_gallery(name, model or DEFAULT_MODEL)
    try:
        yield
    except Exception:
        if describe(folder).faces == 0:
            delete_index(name)
        raise


def _is_finished(folder: Path) -> bool:
    """Whether an index is there, sound or not; one whose making was stopped is not."""
    if not (folder / FILE).is_file():
        return lists.was_there(folder)
    try:
        with Store(folder, writable=False) as store:
            return store.generation > 0
    except FaceGalleryError:
        return True  # whoever opens it learns why it cannot be opened
