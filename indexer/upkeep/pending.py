"""A `forget` that could not finish, and how it is finished later."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from facegallery.indexer.derived.derive import is_building, tidy
from facegallery.indexer.store.database import Database
from facegallery.indexer.store.errors import Busy, guarded
from facegallery.indexer.store.store import Store

PENDING = "forgetting"  # the fact that a `forget` is unfinished
CUT_WAIT_MS = 2000  # for readers of an older state


def finish_pending(store: Database, wait_ms: int = 0) -> bool:
    """Finish a `forget` that a reader or a crash held up; return False where it still has to wait.

    `open_store` calls it. wait_ms: how long to wait for readers and writers.
    """
    if store.fact(PENDING) is None:
        return True
    if not os.access(store.folder, os.W_OK):
        return False
    with Store(store.folder, writable=True, key=store.key) as writer:
        writer.connection.set_busy_timeout(wait_ms)
        try:
            tidy(writer)
            if is_building(writer) or not cut(writer):
                return False
            with writer.writing():
                writer.set_fact(PENDING, None)
            cut(writer)
        except Busy:
            return False
    return True


def cut(store: Database) -> bool:
    """Move the write-ahead log into the file and empty it; return False while a reader of an older state holds it."""
    try:
        with guarded(store.path):
            store.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except Busy:
        return False
    wal = Path(f"{store.path}-wal")
    return not wal.exists() or wal.stat().st_size == 0
