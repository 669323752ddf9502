"""Opening and creating the gallery of an index, with what is due before its first use and after its changes."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from facegallery.embedder.errors import GalleryError
from facegallery.indexer.derived.derive import compact_if_due
from facegallery.indexer.store.database import CIPHER_FILE, FILE, LINK, create_file, environment_key, no_key
from facegallery.indexer.store.errors import Damaged
from facegallery.indexer.store.migrations import READABLE
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep.pending import finish_pending


def open_store(folder: str | Path, *, write: bool = False, key: bytes | None = None) -> Store:
    """Open a finished gallery; the caller closes it, or uses it as a context manager.

    write: open for changes. A gallery older than `migrations.READABLE` is migrated first, and an unfinished `forget` is
    finished. Raises GalleryError where there is no index, it is damaged, or a newer version made it.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise missing(folder)
    store = Store(folder, writable=write, key=key, after_commit=keep_fast)
    try:
        store.check_version()
        if 0 < store.version < READABLE:
            _migrate_elsewhere(store)
        if store.generation == 0:
            raise missing(folder)
        finish_pending(store)
        if write:
            store.sync_forgotten()
    except BaseException:
        store.close()
        raise
    return store


def create_store(folder: str | Path, *, encrypt: bool = False, key: bytes | None = None) -> Store:
    """Open the gallery of a folder for writing; a missing one is created, empty until the first commit."""
    folder = Path(folder)
    if encrypt and not (key or environment_key()):
        raise no_key(folder)
    create_file(folder, encrypt=encrypt)
    store = Store(folder, writable=True, key=key, after_commit=keep_fast)
    try:
        store.check_version()
    except BaseException:
        store.close()
        raise
    return store


def _migrate_elsewhere(store: Store) -> None:
    """Migrate through a second connection that can write."""
    with Store(store.folder, writable=True, key=store.key) as other:
        with other.writing():
            pass
        compact_if_due(other)


def keep_fast(store: Store) -> None:
    """Rebuild after a commit where a rebuild is due, and finish a `forget` that waited for it."""
    if compact_if_due(store):
        finish_pending(store)


def missing(folder: Path) -> GalleryError:
    """Return the error for a folder without a finished gallery."""
    if os.path.lexists(folder / LINK):
        return Damaged(
            f"expected people in {folder / FILE}, it is missing or empty: "
            "make the index again with `build-index --replace`"
        )
    others = [path.parent for path in folder.parent.glob(f"[!_]*/{FILE}") if path.parent != folder]
    names = sorted(other.name for other in others if os.path.lexists(other / LINK) or (other / CIPHER_FILE).exists())
    near = get_close_matches(folder.name, names, 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    known = f"; there are {', '.join(names[:10])}" if names else ""
    root = os.environ.get("FACEGALLERY_INDEXES")
    setting = f"FACEGALLERY_INDEXES is {root}" if root else "FACEGALLERY_INDEXES is not set"
    return GalleryError(
        f"expected an index in {folder.absolute()} ({setting}), there is none: run `build-index VECTORS --name "
        f"{folder.name}` or `add {folder.name} PHOTOS --create`{meant}{known}"
    )
