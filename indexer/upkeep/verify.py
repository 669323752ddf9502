"""Check that an index is what was written: that no row of gallery.db is missing, each row by its checksum, each derived file by its hash."""

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

PROBLEMS = 20  # that are spelt out


@dataclass
class Verified:
    """What was looked at, what is wrong with the truth, which derived files were wrong and are made anew, and what could not be checked."""

    index: str
    faces: int
    people: int
    problems: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def lines(self) -> list[str]:
        lines = [f"damaged: {line}" for line in self.problems[:PROBLEMS]]
        if len(self.problems) > PROBLEMS:
            lines.append(f"and {len(self.problems) - PROBLEMS} more")
        lines += [f"was damaged and is made anew: {path}" for path in self.mended]
        lines += [f"not checked: {line}" for line in self.notes]
        return [
            *lines,
            f"{self.index}: {self.faces} faces of {self.people} people, {'DAMAGED' if self.problems else 'sound'}",
        ]


def verify(gallery: Store) -> Verified:
    """Reads everything; derived files that are damaged are made again where the truth is sound and the folder can be written."""
    with gallery.reading():
        done = Verified(
            gallery.folder.name, gallery.faces, gallery.people, list(problems(gallery)), notes=list(_notes(gallery))
        )
        spoilt = [str(path) for path in unsound(gallery)]
    if not spoilt:
        return done
    if done.problems or not gallery.writable:
        done.problems += [f"{path} (derived from gallery.db)" for path in spoilt]
        return done
    if compact(gallery) and not unsound(gallery):
        done.mended = spoilt
    else:
        done.problems += spoilt
    return done


def problems(gallery: Store) -> Iterator[str]:
    """A line for each thing that is not as it was written, in the snapshot that is open."""
    for (line,) in gallery.execute("PRAGMA integrity_check(20)"):
        if line != "ok":
            yield f"{gallery.path}: {line}"
    for check in (_facts, _totals, _owners, _lists, _rows, _other_vectors, _trash):
        try:
            yield from check(gallery)
        except GalleryError as error:
            yield str(error)


def _facts(gallery: Store) -> Iterator[str]:
    for key, value, stored in gallery.execute("SELECT key, value, checksum FROM meta"):
        if checksum(key, value) != stored:
            yield f"{gallery.path}: the entry {key!r} was changed"
    for key in ("spec", "generation", "salt", "inputs", "build", "built", "built_to"):
        gallery.needed_fact(key)


def _notes(gallery: Store) -> Iterator[str]:
    """What an index that an older version made does not tell."""
    if gallery.version < COUNTED:
        yield "whether another program deleted rows; this is checked from the next change of the index on"
    elif (since := gallery.fact(SINCE)) is not None:
        yield f"whether another program deleted rows before {time.strftime('%Y-%m-%d', time.gmtime(since))}, when an older version made the index"


def _totals(gallery: Store) -> Iterator[str]:
    """Rows that are missing or too many, and counts of columns' values that do not fit the faces."""
    if gallery.version < COUNTED:
        return
    for line in gallery.totals.differences(count(gallery)):
        yield f"{gallery.path}: {line}"
    if gallery.kinds != Counts.over(gallery.rows("SELECT extra FROM faces")):
        yield f"{gallery.path}: the kinds of its columns do not fit its faces"


def _owners(gallery: Store) -> Iterator[str]:
    gallery.check_owners()
    gallery.check_counter()
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
        if gallery.execute(f"{sql} LIMIT 1"):
            yield f"{gallery.path}: {what}"


def _lists(gallery: Store) -> Iterator[str]:
    gallery.changes(0, b"")
    gallery.forgotten_hashes()
    gallery.check_log()
    yield from ()


def _rows(gallery: Store) -> Iterator[str]:
    """Every face with its vector and crop; one that is wrong does not hide the others."""
    last = 0
    while ids := [id for (id,) in gallery.execute("SELECT id FROM faces WHERE id > ? ORDER BY id LIMIT 1024", (last,))]:
        if max(ids) <= last:  # out of order, which `integrity_check` names
            return
        last = max(ids)
        try:
            gallery.table_rows(ids)
        except Damaged:
            for id in ids:
                try:
                    gallery.table_rows([id])
                except Damaged as error:
                    yield str(error)


def _other_vectors(gallery: Store) -> Iterator[str]:
    for id, vector, stored in gallery.rows("SELECT id, vector, checksum FROM other_vectors"):
        if checksum(id, vector) != stored:
            yield f"{gallery.path}: another model's vector of face number {id} was changed"


def _trash(gallery: Store) -> Iterator[str]:
    for line in gallery.lines():
        gallery.removed_by(line.id)
    if gallery.execute("SELECT 1 FROM trash WHERE line NOT IN (SELECT id FROM log)"):
        yield f"{gallery.path}: a removed face without its line in the log"
