"""Verifying an index: no row of gallery.db is missing, each row has its checksum, each derived file its hash."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from facegallery.embedder.errors import GalleryError
from facegallery.indexer.derived.derive import compact, unsound
from facegallery.indexer.store.checksums import checksum
from facegallery.indexer.store.errors import Damaged
from facegallery.indexer.store.kinds import Counts
from facegallery.indexer.store.migrations import COUNTED
from facegallery.indexer.store.store import Store
from facegallery.indexer.store.totals import SINCE, count

PROBLEMS = 20  # shown
OF_STORE = (Store.unnamed_problems, Store.person_problems)


@dataclass
class Verified:
    """Result of `verify`. rebuilt: derived files that were damaged. notes: what could not be checked."""

    index: str
    faces: int
    people: int
    problems: list[str] = field(default_factory=list)
    rebuilt: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The lines as one text."""
        return "\n".join(self.lines)

    @property
    def lines(self) -> list[str]:
        """Lines for the terminal."""
        lines = [f"damaged: {line}" for line in self.problems[:PROBLEMS]]
        if len(self.problems) > PROBLEMS:
            lines.append(f"and {len(self.problems) - PROBLEMS} more")
        lines += [f"was damaged and is rebuilt: {path}" for path in self.rebuilt]
        lines += [f"not checked: {line}" for line in self.notes]
        return [
            *lines,
            f"{self.index}: {self.faces} faces of {self.people} people, {'DAMAGED' if self.problems else 'sound'}",
        ]


def verify(store: Store) -> Verified:
    """Read and check everything.

    Damaged derived files are rebuilt where gallery.db is sound and the folder is writable.
    """
    with store.reading():
        done = Verified(store.folder.name, store.faces, store.people, list(problems(store)), notes=list(_notes(store)))
        damaged = [str(path) for path in unsound(store)]
    if not damaged:
        return done
    if done.problems or not store.writable:
        done.problems += [f"{path} (derived from gallery.db)" for path in damaged]
        return done
    if compact(store) and not unsound(store):
        done.rebuilt = damaged
    else:
        done.problems += damaged
    return done


def problems(store: Store) -> Iterator[str]:
    """Yield a line for each thing that is not as it was written, in the open snapshot."""
    for (line,) in store.execute("PRAGMA integrity_check(20)"):
        if line != "ok":
            yield f"{store.path}: {line}"
    for check in (
        _facts,
        _totals,
        _owners,
        _lists,
        _rows,
        _other_vectors,
        _trash,
        Store.unnamed_problems,
        Store.photo_problems,
        Store.person_problems,
    ):
        try:
            yield from check(store)
        except GalleryError as error:
            yield str(error)


def _facts(store: Store) -> Iterator[str]:
    for key, value, stored in store.execute("SELECT key, value, checksum FROM meta"):
        if checksum(key, value) != stored:
            yield f"{store.path}: the entry {key!r} was changed"
    for key in ("spec", "generation", "salt", "inputs", "build", "built", "built_to"):
        store.needed_fact(key)


def _notes(store: Store) -> Iterator[str]:
    """Yield what cannot be checked of an index that an older version made."""
    if store.version < COUNTED:
        yield "whether another program deleted rows; this is checked from the next change of the index on"
    elif (since := store.fact(SINCE)) is not None:
        day = time.strftime("%Y-%m-%d", time.gmtime(since))
        yield f"whether another program deleted rows before {day}, when an older version made the index"


def _totals(store: Store) -> Iterator[str]:
    """Yield missing and surplus rows, and counts of columns' values that do not fit the faces."""
    if store.version < COUNTED:
        return
    for line in store.totals.differences(count(store)):
        yield f"{store.path}: {line}"
    if store.kinds != Counts.over(store.rows("SELECT extra FROM faces")):
        yield f"{store.path}: the kinds of its columns do not fit its faces"


def _owners(store: Store) -> Iterator[str]:
    store.check_owners()
    store.check_counter()
    for sql, what in [
        (
            "SELECT name FROM people WHERE NOT EXISTS (SELECT 1 FROM faces WHERE person = people.id)",
            "a person without a face",
        ),
        ("SELECT id FROM vectors WHERE id NOT IN (SELECT id FROM faces)", "a vector without a face"),
        ("SELECT id FROM crops WHERE id NOT IN (SELECT id FROM faces)", "a crop without a face"),
        (
            "SELECT id FROM other_vectors WHERE id NOT IN (SELECT id FROM faces)",
            "another model's vector without a face",
        ),
    ]:
        if store.execute(f"{sql} LIMIT 1"):
            yield f"{store.path}: {what}"


def _lists(store: Store) -> Iterator[str]:
    store.changes(0, b"")
    store.forgotten_hashes()
    store.check_log()
    yield from ()


def _rows(store: Store) -> Iterator[str]:
    """Check every face with its vector and crop; a damaged face does not hide the others."""
    last = 0
    while ids := [id for (id,) in store.execute("SELECT id FROM faces WHERE id > ? ORDER BY id LIMIT 1024", (last,))]:
        if max(ids) <= last:  # out of order: `integrity_check` reports it
            return
        last = max(ids)
        try:
            store.table_rows(ids)
        except Damaged:
            for id in ids:
                try:
                    store.table_rows([id])
                except Damaged as error:
                    yield str(error)


def _other_vectors(store: Store) -> Iterator[str]:
    for id, vector, stored in store.rows("SELECT id, vector, checksum FROM other_vectors"):
        if checksum(id, vector) != stored:
            yield f"{store.path}: another model's vector of face number {id} was changed"


def _trash(store: Store) -> Iterator[str]:
    for line in store.lines():
        store.removed_by(line.id)
    if store.execute("SELECT 1 FROM trash WHERE line NOT IN (SELECT id FROM log)"):
        yield f"{store.path}: a removed face without its line in the log"
