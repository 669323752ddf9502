"""Changing a gallery: each method is one transaction, and the log lets `undo` revert it.

INDEX/gallery.db                SQLite, write-ahead log: the truth
INDEX/built-<generation>/       made from it by `facegallery.indexer.derived.derive`
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import GalleryError, InputError
from facegallery.embedder.names import person_name
from facegallery.indexer.store import forgotten
from facegallery.indexer.store.log import LOG, Change, LogEntry, new_command
from facegallery.indexer.store.photos import PhotoRow
from facegallery.indexer.store.reader import AMONG, BLOCK, FACES
from facegallery.indexer.store.resync import Resync, Resyncing
from facegallery.indexer.store.rows import Added
from facegallery.indexer.store.totals import LATER_TABLES
from facegallery.indexer.store.unnamed import Arrangement, Place, Rejection


class Store(Resyncing):
    """A gallery on disk, gallery.db, and the methods that change it; each change is on disk when its method returns."""

    def __init__(
        self,
        folder: Path,
        *,
        writable: bool,
        key: bytes | None = None,
        after_commit: Callable[[Store], None] = lambda store: None,
    ):
        """Open the file of an index.

        writable: open for changes. key: of an encrypted index; by default from the environment. after_commit: called
        when a method has changed who is enrolled, since the index may need a rebuild; see
        `facegallery.indexer.opening`.
        """
        self._after_commit = after_commit
        super().__init__(folder, writable=writable, key=key)

    def another(self, *, write: bool = False) -> Store:
        """Open a second connection to the same file."""
        return Store(self.folder, writable=write, key=self.key, after_commit=self._after_commit)

    # changes

    def add(self, rows: Iterable[Row], *, readmit: bool = False, command: str | None = None) -> Added:
        """Enrol faces that have an identity and a vector, float32 (d,), in one transaction.

        A face that is already enrolled stays unchanged; under another name it is a conflict. Forgotten faces are
        refused unless `readmit`. Names are stored in the spelling of `facegallery.embedder.names`.

        command: an id that several changes share, so that `undo` reverts them together. Without it the log gets a line
        even where nothing was added, so that `undo` does not revert an earlier change instead.

        Raises DataError for a name that `person_name` refuses, or a vector of another size or length.
        """
        with self.changing_forgotten() if readmit else self.writing():
            kept: dict[str, Place] = {}
            done, face_ids = self.enrol(self._unkept(map(_named, rows), kept), readmit=readmit)
            if kept:
                command = command or new_command()
                self._put_logged("name", kept, command=command)
                done.added, done.face_ids = done.added + len(kept), [*done.face_ids, *kept]
            if face_ids or command is None:
                command = self._log("add", {"faces": face_ids}, command).command
            done.command = command if done.face_ids else None
        self._after_commit(self)
        return done

    def _unkept(self, rows: Iterable[Row], kept: dict[str, Place]) -> Iterator[Row]:
        """Yield rows of faces that are not kept as unnamed ones; put those that are, with their person, into `kept`."""
        rows = iter(rows)
        while block := list(islice(rows, BLOCK)):
            there = self.kept(row.face_id for row in block)
            kept.update({row.face_id: Place(row.identity) for row in block if row.face_id in there})
            yield from (row for row in block if row.face_id not in there)

    def add_unnamed(self, rows: Sequence[Row], *, command: str | None = None) -> list[str]:
        """Keep faces that have a vector, float32 (d,), and no person, in one transaction; return their face_ids.

        Faces that are enrolled, kept already, or forgotten are left out. command: as for `add`.
        """
        with self.writing():
            face_ids = self.keep(rows)
            if face_ids:
                self._log("add", {"faces": [], "unnamed": face_ids}, command)
        return face_ids

    def arrange(self, verb: str, wanted: Arrangement, to: str | Iterable[str] | None = None) -> Change:
        """Move faces to a person, into groups or out of them, and note what the user said of them; in one transaction.

        to: the person, or people, for the log. Raises Unknown for a face that is not here.
        """
        with self.writing():
            people = to if to is None or isinstance(to, str) else list(to)
            line = self._put_logged(verb, self.unmoved(wanted), wanted.rejections, people)
        self._after_commit(self)
        return line.change

    def remove(self, identity: str | None = None, face_id: str | None = None, image: str | None = None) -> Change:
        """Remove a person's faces, one face, or the faces of one photo; `undo` restores them.

        Raises Unknown where there is no such face.
        """
        with self.writing():
            faces = self.find(identity, face_id, image)
            people = sorted({face["identity"] for face in faces})
            line = self._log("remove", {"faces": [face["face_id"] for face in faces], "people": people})
            self._to_trash(faces, line.id)
            self.drop([f["id"] for f in faces], line.id)
        self._after_commit(self)
        return Change("remove", len(faces), tuple(people), line.command)

    def resync(self, wanted: Resync, *, command: str | None = None) -> Change:
        """Give changed, moved and gone photos the faces and paths that they have now, in one transaction.

        command: as for `add`.
        """
        with self.writing():
            said, places = self.said_again(wanted), self.places(wanted.drop)
            line = self._log("sync", self._detail(wanted, places, said), command)
            self._resync(wanted, line.id, said)
        self._after_commit(self)
        return line.change

    def note_photos(self, photos: Iterable[PhotoRow]) -> None:
        """Note which photos were looked at, in one transaction; each replaces what was noted of its path."""
        with self.writing():
            self.put_photos(photos)

    def rename(self, old: str, new: str) -> Change:
        """Rename a person; raises Unknown where nobody is called `old`, GalleryError where somebody is called `new`."""
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
        """Give all faces of one person to another, who keeps their id, note and metadata and gets what they lack.

        Raises Unknown where one of them is not enrolled, InputError where both are the same person, or their notes or
        metadata are too much for one.
        """
        with self.writing():
            source, into = self.spelled(source), self.spelled(into)
            self.person_id(into)
            if source == into:
                raise InputError(f"expected two people to merge, received {source!r} twice: name another")
            faces, records = self.find(source), self.persons([source, into])
            line = self._move_logged("merge", faces, into)
            if (joined := records[into].joined(records[source])) != records[into]:
                self._set_logged(into, records[into], joined, line.command)
            said = [one._replace(identity=into) for one in self.rejections() if one.identity == source]
            if said:
                self._put_logged("reject", {}, said, command=line.command)
        self._after_commit(self)
        return Change("merge", len(faces), (source, into), line.command)

    def split(self, face_ids: Sequence[str], to: str) -> Change:
        """Give chosen faces to another person, enrolled or new; raises Unknown for a face that is not here."""
        with self.writing():
            to = to if self._is_called(to) else person_name(to)
            faces = [face for face_id in dict.fromkeys(face_ids) for face in self.find(face_id=face_id)]
            moved = [face for face in faces if face["identity"] != to]
            line = self._move_logged("split", moved, to)
        self._after_commit(self)
        return Change("split", len(moved), line.change.people, line.command if moved else None)

    def undo(self, command: str | None = None) -> list[Change]:
        """Undo the last command: all of its changes, newest first.

        command: undo only if this is the last command that changed something; omit to undo the last command, whatever
        it is. Raises GalleryError where there is nothing to undo, or where another command than `command` is the last.
        """
        undone = []
        with self.writing():
            self.check_log()
            lines = self._last_lines(command)
            for line in lines:
                undone.append(replace(line.change, people=line.change.people or self._people_of(line)))
                self._revert(line)
                self._bring_back(line.id)
                self.execute("DELETE FROM trash WHERE line=?", (line.id,))
                self.execute("DELETE FROM log WHERE id=?", (line.id,))
            self.seal_log()
        self._after_commit(self)
        return undone

    def _last_lines(self, command: str | None) -> list[LogEntry]:
        """Return the lines of the last command, newest first; with `command`, skip commands that changed nothing."""
        newest = self.rows(f"{LOG} ORDER BY id DESC")
        last = next((line for line in map(self._line, newest) if command is None or not line.is_empty), None)
        if last is None:
            raise GalleryError(
                f"expected a change of {self.folder.name} to undo, its log is empty: there is nothing to undo"
            )
        if command not in (None, last.command):
            raise GalleryError(
                f"expected the last change of {self.folder.name} to be the one to undo, another was made since: "
                "see `list --log`"
            )
        lines = self.execute(f"{LOG} WHERE command = ? ORDER BY id DESC", (last.command,))
        return list(map(self._line, lines))

    def _people_of(self, line: LogEntry) -> tuple[str, ...]:
        """Return the names under which the faces of a line are enrolled now."""
        return tuple(sorted(set(self.known(line.detail.get("faces", ())).values())))

    # steps of the changes, each within a transaction of `writing`

    def _move_logged(self, verb: str, faces: Sequence[Mapping[str, Any]], to: str) -> LogEntry:
        line = self._log(verb, {"from": {f["face_id"]: f["identity"] for f in faces}, "to": to})
        if faces:
            self._move(faces, to, line.id)
        return line

    def _put_logged(
        self,
        verb: str,
        places: Mapping[str, Place],
        rejections: Sequence[Rejection] = (),
        to: str | list[str] | None = None,
        command: str | None = None,
    ) -> LogEntry:
        before = self.places(places)
        moved = {face_id: place for face_id, place in places.items() if place != before[face_id]}
        known = set(self.rejections()) if rejections else set()
        said = [one for one in dict.fromkeys(rejections) if one not in known]
        detail = {"before": {face_id: before[face_id] for face_id in moved}, "to": to, "said": said}
        line = self._log(verb, detail, command)
        self.put(moved, line.id)
        self.reject(said)
        return line

    def _revert(self, line: LogEntry) -> None:
        match line.verb, line.detail:
            case _ if line.is_empty:
                pass
            case "set", detail:
                self._unset(detail)
            case _, {"before": before, "said": said}:
                self.unreject(Rejection(*one) for one in said)
                self.put({face_id: Place(*place) for face_id, place in before.items()})
            case "add", {"faces": face_ids, **rest}:
                self.drop_faces([*face_ids, *rest.get("unnamed", ())])
            case "sync", detail:
                self._undo_sync(line.id, detail)
            case "remove", _:
                self.enrol(self._from_trash(line.id))
            case "rename", {"old": old, "new": new} if self.enrolled([new]):
                if self._is_called(old):
                    raise GalleryError(
                        f"expected nobody called {old!r}, somebody is now: "
                        "`compact --keep-undo 0s` deletes what cannot be undone"
                    )
                self._rename(new, old)
            case "merge" | "split", {"from": came_from}:
                found = self.execute(f"{FACES} WHERE face_id {AMONG} ORDER BY faces.id", (json.dumps(list(came_from)),))
                faces = list(map(self._columns, found))
                for name in dict.fromkeys(came_from[face["face_id"]] for face in faces):
                    self._move([face for face in faces if came_from[face["face_id"]] == name], name)

    # the whole

    def clear(self) -> None:
        """Delete all people and faces, within a transaction of `writing`.

        New ids continue from the highest old one, and forgotten people stay forgotten.
        """
        kept = "'salt', 'generation', 'forgetting', 'forgotten', 'forgotten_list', 'recall', 'memory', 'totals'"
        with self.recounting():
            enrolled = ("crops", "vectors", "other_vectors", "trash", "log", "changed", "faces", "people")
            for table in ("group_sums", *reversed(LATER_TABLES), *enrolled):
                self.execute(f"DELETE FROM {table}")
            self.execute(f"DELETE FROM meta WHERE key NOT IN ({kept})")

    # forgotten people

    @contextlib.contextmanager
    def changing_forgotten(self) -> Iterator[None]:
        """Open a transaction of `writing` that may change who is forgotten.

        The list's file is on disk before the commit. Raises Replaced where another process has replaced gallery.db
        since this connection opened it.
        """
        key = self.key if self.encrypted else None
        with forgotten.locked(self.folder):
            self.check_same_file()
            with self.writing():
                self._take_from_file()
                yield
                forgotten.write(self.folder, self.forgotten(), key)

    def _take_from_file(self) -> None:
        """Add people whom only the file holds, after a crash before the commit; a damaged file is rewritten later."""
        with contextlib.suppress(forgotten.Unreadable):
            listed = forgotten.read(self.folder, self.key)
            if listed is not None and self.fact("salt") is not None and self.forgotten() | listed != self.forgotten():
                self.set_forgotten(self.forgotten() | listed)

    def sync_forgotten(self) -> None:
        """Make the list and its file equal: an older version kept no file, and a crash may leave more in the file."""
        with contextlib.suppress(forgotten.Unreadable):
            if forgotten.read(self.folder, self.key) == self.forgotten():
                return
        if os.access(self.folder.parent, os.W_OK):
            with self.changing_forgotten():
                pass


def _named(row: Row) -> Row:
    """Return the row with its person's name in the stored spelling; raises DataError where it cannot be a name."""
    name = person_name(row.identity or "")
    return row if name == row.identity else replace(row, identity=name)


def versions() -> dict[str, str]:
    """Return the versions of the software that writes the files."""
    import faiss

    return {
        "python": sys.version.split()[0],
        "apsw": apsw.apsw_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "faiss": faiss.__version__,
        "numpy": np.__version__,
    }
