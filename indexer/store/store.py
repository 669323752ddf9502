"""The verbs that change a gallery, each one transaction, and the log by which they are taken back.

INDEX/gallery.db                SQLite, write-ahead log: the truth
INDEX/built-<generation>/       what `facegallery.indexer.derived.derive` made from it
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import GalleryError, InputError
from facegallery.embedder.names import person_name
from facegallery.indexer.store import forgotten
from facegallery.indexer.store.checksums import FACE_COLUMNS, checksum
from facegallery.indexer.store.log import Change, LogEntry
from facegallery.indexer.store.reader import AMONG, FACES
from facegallery.indexer.store.rows import Added, Rows


class Store(Rows):
    """A gallery of faces: what it holds, and the verbs that change it. Every verb is one transaction, on disk when it returns."""

    def __init__(
        self,
        folder: Path,
        writable: bool,
        key: bytes | None = None,
        after_commit: Callable[[Store], None] = lambda store: None,
    ):
        """after_commit: called when a verb has changed who is enrolled, for an index that may need a rebuild. See `facegallery.indexer.opening`."""
        self._after_commit = after_commit
        super().__init__(folder, writable, key)

    def another(self, write: bool = False) -> Store:
        """A second connection to the same file."""
        return Store(self.folder, write, self.key, self._after_commit)

    # verbs

    def add(self, rows: Iterable[Row], readmit: bool = False, command: str | None = None) -> Added:
        """Enrols faces that have an identity and a vector, float32 (d,), in one transaction.

        A face that is enrolled already stays as it is; under another name that is a conflict. Faces that were forgotten are
        refused unless `readmit`. Changes of one `command` are taken back together; without a `command` the log gets a line even where
        nothing was added, so that `undo` takes back no earlier change instead. Names are kept in their one spelling. Raises DataError
        for a row whose name `facegallery.embedder.names.person_name` refuses, or a vector of another size or length.
        """
        with self.changing_forgotten() if readmit else self.writing():
            done, face_ids = self.enrol(map(_named, rows), readmit)
            if face_ids or command is None:
                line = self._log("add", {"faces": face_ids}, command)
                done.command = line.command if face_ids else None
        self._after_commit(self)
        return done

    def remove(self, identity: str | None = None, face_id: str | None = None, image: str | None = None) -> Change:
        """Takes a person's faces out, or one face, or those of one photo; `undo` brings them back. Raises GalleryError where there is none."""
        with self.writing():
            faces = self.find(identity, face_id, image)
            line = self._log(
                "remove", {"faces": [f["face_id"] for f in faces], "people": sorted({f["identity"] for f in faces})}
            )
            self._to_trash(faces, line.id)
            self.drop([f["id"] for f in faces])
        self._after_commit(self)
        return Change("remove", len(faces), tuple(sorted({face["identity"] for face in faces})), line.command)

    def rename(self, old: str, new: str) -> Change:
        """Gives a person another name. Raises GalleryError where nobody is called `old`, or somebody `new`."""
        new = person_name(new)
        with self.writing():
            old = self.spelled(old)
            faces = self.find(old)
            if old == new:
                self._log("rename", {"old": new, "new": new})
                return Change("rename", 0, (new,))
            if self.enrolled([new]):
                raise GalleryError(
                    f"expected a name that nobody has, {new!r} is enrolled: use `merge` if they are one person"
                )
            line = self._log("rename", {"old": old, "new": new})
            self._rename(old, new)
        return Change("rename", len(faces), (old, new), line.command)

    def merge(self, source: str, into: str) -> Change:
        """Gives all faces of one person to another. Raises GalleryError where either is not enrolled, InputError where they are one."""
        with self.writing():
            source, into = self.spelled(source), self.spelled(into)
            self.person_id(into)
            if source == into:
                raise InputError(f"expected two people to merge, received {source!r} twice: name another")
            faces = self.find(source)
            line = self._move_logged("merge", faces, into)
        self._after_commit(self)
        return Change("merge", len(faces), (source, into), line.command)

    def split(self, face_ids: Sequence[str], to: str) -> Change:
        """Gives chosen faces to another person, enrolled already or new. Raises GalleryError for a face that is not here."""
        with self.writing():
            to = to if self._is_called(to) else person_name(to)
            faces = [face for face_id in dict.fromkeys(face_ids) for face in self.find(face_id=face_id)]
            moved = [face for face in faces if face["identity"] != to]
            line = self._move_logged("split", moved, to)
        self._after_commit(self)
        return Change("split", len(moved), line.change.people, line.command if moved else None)

    def undo(self, command: str | None = None) -> list[Change]:
        """Take back the last command, all of its changes, newest first; one that changed nothing is taken back as that.

        command: take back only this one; commands after it that changed nothing do not count. Raises GalleryError where there is nothing
        to undo, or the last command that changed something is another than `command`.
        """
        undone = []
        with self.writing():
            self.check_log()
            lines = self._last_lines(command)
            for line in lines:
                undone.append(replace(line.change, people=line.change.people or self._people_of(line)))
                self._take_back(line)
                self.execute("DELETE FROM trash WHERE line=?", (line.id,))
                self.execute("DELETE FROM log WHERE id=?", (line.id,))
            self.seal_log()
        self._after_commit(self)
        return undone

    def _last_lines(self, command: str | None) -> list[LogEntry]:
        """The lines of the last command, newest first; where `command` is given, of the last one that changed something."""
        newest = self.rows("SELECT id, command, time, verb, detail, checksum FROM log ORDER BY id DESC")
        last = next((line for line in map(self._line, newest) if command is None or not line.is_empty), None)
        if last is None:
            raise GalleryError(
                f"expected a change of {self.folder.name} to take back, its log is empty: there is nothing to undo"
            )
        if command not in (None, last.command):
            raise GalleryError(
                f"expected the last change of {self.folder.name} to be the one to take back, another was made since: see `list --log`"
            )
        sql = "SELECT id, command, time, verb, detail, checksum FROM log WHERE command = ? ORDER BY id DESC"
        return list(map(self._line, self.execute(sql, (last.command,))))

    def _people_of(self, line: LogEntry) -> tuple[str, ...]:
        """Under whose names the faces of a line are enrolled now."""
        return tuple(sorted(set(self.known(line.detail.get("faces", ())).values())))

    # what verbs are made of, each within a transaction of `writing`

    def _move_logged(self, verb: str, faces: Sequence[Mapping[str, Any]], to: str) -> LogEntry:
        line = self._log(verb, {"from": {f["face_id"]: f["identity"] for f in faces}, "to": to})
        if faces:
            self._move(faces, to)
        return line

    def _to_trash(self, faces: Sequence[Mapping[str, Any]], line: int) -> None:
        fingerprint = self.spec.fingerprint
        for face in faces:
            ((vector, stored),) = self.execute("SELECT vector, checksum FROM vectors WHERE id=?", (face["id"],)) or [
                (None, None)
            ]
            if checksum(face["id"], vector) != stored:
                raise self._changed(face["face_id"], face["image"])
            png = self.crop_of(face["id"], face["face_id"], face["image"])
            values = (line, fingerprint, face["identity"], *(face[name] for name in FACE_COLUMNS[1:]), vector, png)
            self.execute(
                f"INSERT INTO trash VALUES ({','.join('?' * (len(values) + 1))})", (*values, checksum(*values))
            )

    def _from_trash(self, line: int) -> list[Row]:
        removed = self.removed_by(line)
        if any(fingerprint != self.spec.fingerprint for fingerprint, _ in removed):
            raise GalleryError(
                f"expected removed faces of the model that {self.folder.name} uses now, they were removed before it was changed: switch back "
                "with `reembed` first"
            )
        return [row for _, row in removed]

    def _take_back(self, line: LogEntry) -> None:
        match line.verb, line.detail:
            case _ if line.is_empty:
                pass
            case "add", {"faces": face_ids}:
                self.drop(
                    [
                        id
                        for (id,) in self.execute(
                            f"SELECT id FROM faces WHERE face_id {AMONG}", (json.dumps(face_ids),)
                        )
                    ]
                )
            case "remove", _:
                self.enrol(self._from_trash(line.id))
            case "rename", {"old": old, "new": new} if self.enrolled([new]):
                if self._is_called(old):
                    raise GalleryError(
                        f"expected nobody called {old!r}, somebody is now: `compact --keep-undo 0s` drops what cannot be undone"
                    )
                self._rename(new, old)
            case "merge" | "split", {"from": came_from}:
                found = self.execute(f"{FACES} WHERE face_id {AMONG} ORDER BY faces.id", (json.dumps(list(came_from)),))
                faces = list(map(self._columns, found))
                for name in dict.fromkeys(came_from[face["face_id"]] for face in faces):
                    self._move([face for face in faces if came_from[face["face_id"]] == name], name)

    # the log

    def _log(self, verb: str, detail: dict[str, Any], command: str | None = None) -> LogEntry:
        command, now, text = command or new_command(), time.time(), json.dumps(detail, ensure_ascii=False)
        sql = "INSERT INTO log(command, time, verb, detail, checksum) VALUES (?, ?, ?, ?, ?) RETURNING id"
        ((id,),) = self.execute(sql, (command, now, verb, text, checksum(command, now, verb, text)))
        self.seal_log()
        return LogEntry(id, command, now, verb, detail)

    def seal_log(self) -> None:
        """Notes which line is the newest, after lines came or went."""
        self.set_fact("log", self.newest_line())

    def rewrite_line(self, line: LogEntry, detail: dict[str, Any]) -> None:
        """Puts another detail in the place of a log line's own."""
        text = json.dumps(detail, ensure_ascii=False)
        stored = checksum(line.command, line.time, line.verb, text)
        self.execute("UPDATE log SET detail=?, checksum=? WHERE id=?", (text, stored, line.id))

    def drop_log(self, before: float) -> int:
        """Drops lines older than `before` (seconds since 1970) and the faces removed by them; returns how many lines."""
        old = (before,)
        self.execute("DELETE FROM trash WHERE line IN (SELECT id FROM log WHERE time < ?)", old)
        dropped = len(self.execute("DELETE FROM log WHERE time < ? RETURNING id", old))
        self.seal_log()
        return dropped

    def clear(self) -> None:
        """Takes everyone out, within a transaction of `writing`; ids go on from where they were, and what was forgotten stays so."""
        kept = "'salt', 'generation', 'forgetting', 'forgotten', 'forgotten_list', 'recall', 'memory', 'totals'"
        with self.recounting():
            for table in ("crops", "vectors", "other_vectors", "trash", "log", "changed", "faces", "people"):
                self.execute(f"DELETE FROM {table}")
            self.execute(f"DELETE FROM meta WHERE key NOT IN ({kept})")

    # who was forgotten

    @contextlib.contextmanager
    def changing_forgotten(self) -> Iterator[None]:
        """`writing`, for changes of who was forgotten: the list's file is on disk before the commit. Raises Replaced where another process
        has put a new gallery.db here since this one was opened."""
        key = self.key if self.encrypted else None
        with forgotten.locked(self.folder):
            self.check_same_file()
            with self.writing():
                self._take_from_file()
                yield
                forgotten.write(self.folder, self.forgotten(), key)

    def _take_from_file(self) -> None:
        """Whom only the file holds, since a crash came before the commit; a damaged file is written anew from this list."""
        with contextlib.suppress(forgotten.Unreadable):
            listed = forgotten.read(self.folder, self.key)
            if listed is not None and self.fact("salt") is not None and self.forgotten() | listed != self.forgotten():
                self.set_forgotten(self.forgotten() | listed)

    def sync_forgotten(self) -> None:
        """Makes the list and its file say the same: an older version kept no file, and a crash may have left more in it."""
        with contextlib.suppress(forgotten.Unreadable):
            if forgotten.read(self.folder, self.key) == self.forgotten():
                return
        if os.access(self.folder.parent, os.W_OK):
            with self.changing_forgotten():
                pass


def new_command() -> str:
    """A mark for the changes that are taken back together."""
    return uuid.uuid4().hex


def _named(row: Row) -> Row:
    """The row with its person's name in the one spelling; raises DataError where it cannot be a name."""
    name = person_name(row.identity or "")
    return row if name == row.identity else replace(row, identity=name)


def versions() -> dict[str, str]:
    """Of what the files were made with."""
    import faiss

    return {
        "python": sys.version.split()[0],
        "apsw": apsw.apsw_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "faiss": faiss.__version__,
        "numpy": np.__version__,
    }
