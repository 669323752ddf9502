"""Build an index and look after it as a whole."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.errors import DataError
from facegallery.embedder.photos.understood import understand
from facegallery.indexer import opening
from facegallery.indexer.store import outputs
from facegallery.indexer.store.reader import check_name, index_folder
from facegallery.indexer.upkeep import transfer
from facegallery.indexer.upkeep.compact import compact_and_drop
from facegallery.indexer.upkeep.info import info as info_of
from facegallery.indexer.upkeep.verify import Verified
from facegallery.indexer.upkeep.verify import verify as verify_gallery
from facegallery.workflows.photos import Say, quietly, say_understood
from facegallery.workflows.probes import indexes_root, open_store

if TYPE_CHECKING:
    from facegallery.embedder.pipeline import OnProgress


def build_index(
    vectors: Path,
    name: str,
    split: str | None,
    centre: bool,
    replace_old: bool,
    readmit: bool = False,
    encrypt: bool = False,
    recall: float | None = None,
    memory: int | None = None,
    say: Say = quietly,
) -> dict[str, Any]:
    """A gallery and its index from a data set of vectors; the report, with its notes and a line of text."""
    from facegallery.indexer.build import Selection, build

    folder = index_folder(indexes_root(), name)
    understood = understand(Selection(_open_vectors(vectors), split).labels(), "such as")
    say_understood(understood, say)
    report = build(vectors, folder, split, centre, replace_old, readmit, encrypt, recall, memory)
    return asdict(report) | {"notes": report.notes, "text": report.text, "understood": understood.result()}


def _open_vectors(vectors: Path) -> DataSet:
    """The data set that an index is built from; raise DataError where the folder is none, or holds photos."""
    from facegallery.embedder.photos.folders import Walk
    from facegallery.embedder.photos.sniff import has_photo_suffix

    try:
        return DataSet(vectors)
    except DataError:
        photos = (
            has_photo_suffix(str(vectors))
            if Path(vectors).is_file()
            else next(iter(Walk(Path(vectors))), None) is not None
        )
        if photos:
            raise DataError(
                f"expected vectors, {vectors}: these are photos: run `embed {vectors} --model M --out VECTORS` and give VECTORS"
            ) from None
        raise


def info(name: str) -> dict[str, Any]:
    """What an index holds and how it stands."""
    with open_store(name) as gallery:
        return info_of(gallery)


def verify(name: str) -> Verified:
    """Reads everything; damaged derived files are made anew where the folder can be written."""
    folder = index_folder(indexes_root(), name)
    with opening.open_store(folder, write=os.access(folder, os.W_OK)) as gallery:
        return verify_gallery(gallery)


def compact(name: str, keep_undo: float | None, on_progress: OnProgress = lambda done, total: None) -> dict[str, Any]:
    """A new generation; before it, changes older than `keep_undo` seconds are dropped from the log."""
    with open_store(name, write=True) as gallery:
        dropped = compact_and_drop(gallery, keep_undo, on_progress)
        return {"index": name, "generation": gallery.generation, "faces": gallery.faces, "dropped": dropped}


def backup(name: str, path: Path) -> transfer.TransferSummary:
    with open_store(name) as gallery:
        done = transfer.backup(gallery, path)
        outputs.note(gallery.folder, "backup", path)
        return done


def restore(path: Path, name: str, replace_old: bool, readmit: bool = False) -> transfer.TransferSummary:
    return transfer.restore(path, index_folder(indexes_root(), check_name(name)), replace=replace_old, readmit=readmit)


def export(name: str, folder: Path, crops: bool) -> transfer.TransferSummary:
    with open_store(name) as gallery:
        outputs.note(gallery.folder, "export", folder)
        return transfer.export(gallery, folder, crops=crops)
