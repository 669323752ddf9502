"""Compacting: building the next generation of an index when its owner asks for it."""

from __future__ import annotations

import time

from facegallery.embedder.progress import Progress, unseen
from facegallery.indexer.derived.derive import compact
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep.pending import finish_pending
from facegallery.indexer.upkeep.switch import drop_other


def compact_and_drop(store: Store, keep_undo: float | None = None, on_progress: Progress = unseen) -> int:
    """Build the next generation beside the current one; return the number of deleted log lines.

    keep_undo: first delete what `undo` and the way back to another model need, where it is older than this many
    seconds. on_progress: receives the number of written faces, and of all faces.
    """
    dropped = 0
    if keep_undo is not None:
        with store.writing():
            before = time.time() - keep_undo
            dropped = store.drop_log(before)
            if (store.fact("switched") or before) < before:
                drop_other(store)
    compact(store, on_progress)
    finish_pending(store)
    return dropped
