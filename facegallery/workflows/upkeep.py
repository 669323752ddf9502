"""Build an index and look after it as a whole."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from facegallery import results
from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.photos.understood import Understood, understand
from facegallery.embedder.progress import Progress, unseen
from facegallery.indexer.build import BuildOptions, Report, build
from facegallery.indexer.selection import Selection
from facegallery.indexer.store import outputs
from facegallery.indexer.store.reader import index_folder
from facegallery.indexer.upkeep import transfer
from facegallery.indexer.upkeep.compact import compact_and_drop
from facegallery.indexer.upkeep.info import info as info_of
from facegallery.indexer.upkeep.verify import Verified
from facegallery.indexer.upkeep.verify import verify as verify_gallery
from facegallery.workflows.photos import log_understood
from facegallery.workflows.probes import indexes_root
from facegallery.workflows.session import Where, session_of


@dataclass(frozen=True)
class IndexBuilt:
    """What `build_index` did."""

    report: Report
    understood: Understood  # whose the vectors are

    def result(self) -> dict[str, Any]:
        """As `build-index --json` prints it."""
        report = self.report
        return asdict(report) | {"notes": report.notes, "text": report.text, "understood": self.understood.result()}


def build_index(vectors: Path, name: str, options: BuildOptions = BuildOptions()) -> IndexBuilt:  # noqa: B008
    """Build a gallery and its index from a data set of vectors."""
    folder = index_folder(indexes_root(), name)
    selection = Selection(_open_vectors(vectors), options.split)
    understood = understand(selection.labels(), "such as")
    log_understood(understood)
    return IndexBuilt(build(selection, folder, options), understood)


def _open_vectors(vectors: Path) -> DataSet:
    """The data set that an index is built from; raise DataError where the folder is none, or holds photos."""
    from facegallery.embedder.photos.folders import Walk
    from facegallery.embedder.photos.sniff import has_photo_suffix

    try:
        return DataSet(vectors)
    except DataError:
        is_file = Path(vectors).is_file()
        if has_photo_suffix(str(vectors)) if is_file else next(iter(Walk(Path(vectors))), None) is not None:
            raise DataError(
                f"expected vectors, {vectors}: these are photos: run `embed {vectors} --model M --out VECTORS` and "
                "give VECTORS"
            ) from None
        raise


def check_one(**given: object) -> None:
    """Raise InputError where not exactly one of these is given."""
    if sum(value is not None for value in given.values()) != 1:
        raise InputError(f"expected one of {', '.join(given)}, received none or several: give one")


def info(where: Where) -> results.GalleryInfo:
    """Return what an index holds and how it stands."""
    with session_of(where) as session, session.store() as store:
        found = info_of(store)
    return results.GalleryInfo(**found | {"columns": tuple(found["columns"])})


def verify(where: Where) -> Verified:
    """Read everything; make damaged derived files anew where the folder can be written."""
    with session_of(where) as session, session.store(write=os.access(session.folder, os.W_OK)) as store:
        return verify_gallery(store)


def compact(where: Where, *, keep_undo: float | None = None, progress: Progress = unseen) -> results.Compacted:
    """Build a new generation; before that, drop changes older than `keep_undo` seconds from the log."""
    with session_of(where) as session, session.store(write=True) as store:
        dropped = compact_and_drop(store, keep_undo, progress)
        return results.Compacted(session.name, store.generation, store.faces, dropped)


def backup(where: Where, path: Path) -> transfer.TransferSummary:
    """Write everything of an index to one file."""
    with session_of(where) as session, session.store() as store:
        done = transfer.backup(store, path)
        outputs.note(store.folder, "backup", path)
        return done


def restore(path: Path, name: str, *, replace: bool = False, readmit: bool = False) -> transfer.TransferSummary:
    """Make an index from the file of a backup."""
    return transfer.restore(path, index_folder(indexes_root(), name), replace=replace, readmit=readmit)


def export(where: Where, folder: Path, *, crops: bool = False) -> transfer.TransferSummary:
    """Write an index as it is now as a data set."""
    with session_of(where) as session, session.store() as store:
        outputs.note(store.folder, "export", folder)
        return transfer.export(store, folder, crops=crops)
