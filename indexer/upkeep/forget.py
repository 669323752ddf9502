"""Forgetting a person for good: out of every table, of the log, of the derived files and of the write-ahead log; then a look whether
anything is left, and a receipt.

The rows go in one transaction. What remains is noted in the gallery as pending until SQLite could cut its write-ahead log, which a reader
of an older state can hold up, and until no build is at work, which may be of an older state; whoever builds, and every later
`open_store`, tries again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import apsw

from facegallery.embedder.errors import DataError, FaceGalleryError, GalleryError
from facegallery.embedder.names import spelling
from facegallery.indexer.derived.derive import derive, is_building, tidy
from facegallery.indexer.store import outputs
from facegallery.indexer.store.checksums import FACE_COLUMNS
from facegallery.indexer.store.database import FILE
from facegallery.indexer.store.errors import Busy, guarded
from facegallery.indexer.store.log import LogEntry
from facegallery.indexer.store.reader import AMONG, Faces, name_key, normal
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep.traces import PIECE, Traces, files_below, without_names

PENDING = "forgetting"
CUT_WAIT_MS = 2000  # for readers of an older state
KEY_BYTES = 64


@dataclass
class Receipt:
    """What `forget` did; it names nobody. `files` says how often something of the person was found in each file afterwards."""

    index: str
    time: str
    face_ids: list[str]
    pending: bool  # a reader still holds the write-ahead log, or a build an older state; any later command that opens the index finishes it
    files: dict[str, int] = field(default_factory=dict)
    data_sets: dict[str, int] = field(default_factory=dict)  # rewritten: rows taken out
    not_cleaned: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)  # other indexes here: how many faces of the person each holds
    outputs: list[str] = field(default_factory=list)  # files that were written with the index's people, and are there
    withheld: int = 0  # paths that are not shown whole, since they name the person

    @property
    def found(self) -> int:
        """Traces that are left in what was to be cleaned."""
        return sum(self.files.values())

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def read(cls, path: Path) -> Receipt:
        """Reads `to_json`; raises DataError where the file is none."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"expected a receipt of `forget`, {path} is none ({error}): check the path") from None


# out of the gallery ---------------------------------------------------------


def forget(store: Store, identity: str) -> Traces:
    """Takes a person out for good, all that the gallery ever held of them; returns what is to be looked for.

    A second call, after one that was stopped, finishes it. Raises GalleryError for a name that is not, and was not, here.
    """
    with store.changing_forgotten():
        if (name := meant(store, identity)) is None:
            store.person_id(identity)  # says that nobody is called so
            name = store.spelled(identity)
        traces = _collect(store, name)
        _erase(store, traces)
        store.set_fact(PENDING, int(time.time()))
        derive(store)
        outputs.rename(store.folder, lambda path: without_names(path, traces.names))
    tidy(store)
    return traces


def forget_and_look(store: Store, identity: str) -> Receipt:
    """Takes a person out for good, and looks for what is left in every file. There is no undo."""
    traces = forget(store, identity)
    return receipt_of(store, traces, {}, not finish_pending(store, CUT_WAIT_MS))


def is_known(store: Store, identity: str) -> bool:
    """Whether somebody is, was or was forgotten under a name."""
    return meant(store, identity) is not None


def meant(store: Store, identity: str) -> str | None:
    """The name, as it was given or in its one spelling, of somebody who is, was or was forgotten here; None where there is none."""
    known = "SELECT 1 FROM people WHERE name = ? UNION SELECT 1 FROM trash WHERE identity = ?"
    names = dict.fromkeys((identity, normal(identity), spelling(identity)))
    if (name := next((name for name in names if store.execute(known, (name, name))), None)) is not None:
        return name
    listed = store.forgotten()
    return next((name for name in reversed(names) if listed.holds(name_key(name))), None)


def _collect(store: Store, identity: str) -> Traces:
    """The person's names, old ones too, their faces and those that were removed of them."""
    names = _names(store.lines(), identity)
    traces = Traces(names - store.enrolled(names - {identity}))  # an old name may be another person's by now
    traces.sources, traces.outputs = _sources(store), outputs.read(store.folder)
    sql = (
        f"SELECT {', '.join(f'faces.{c}' for c in FACE_COLUMNS)}, v.vector, o.vector, png FROM faces JOIN people ON people.id = person "
        "LEFT JOIN vectors v ON v.id = faces.id LEFT JOIN other_vectors o ON o.id = faces.id LEFT JOIN crops ON crops.id = faces.id "
        "WHERE name = ?"
    )
    photos: set[str] = set()
    for row in store.rows(sql, (identity,)):
        columns = dict(zip(FACE_COLUMNS, row, strict=False))
        photos.add(columns["image_sha256"] or "")
        traces.add_face(columns["face_id"], [v for v in row[-3:-1] if v], row[-1])
    bindings = json.dumps([*traces.names]), json.dumps([*traces.face_ids]), identity
    for face_id, sha256, vector, png in store.rows(  # but those that are another's by now
        f"SELECT face_id, image_sha256, vector, png FROM trash WHERE (identity {AMONG} OR face_id {AMONG}) "
        "AND face_id NOT IN (SELECT face_id FROM faces JOIN people ON people.id = person WHERE name != ?)",
        bindings,
    ):
        photos.add(sha256 or "")
        traces.add_face(face_id, [vector], png)
    for sha256 in photos - _with_others(store, photos, traces.face_ids):
        traces.add_photo(sha256)
    return traces


def _with_others(store: Store, photos: set[str], face_ids: set[str]) -> set[str]:
    """Those photos that show somebody else too, whose row keeps their hash."""
    both = json.dumps([*photos]), json.dumps([*face_ids])
    sql = " UNION ".join(
        f"SELECT image_sha256 FROM {table} WHERE image_sha256 {AMONG} AND face_id NOT {AMONG}"
        for table in ("faces", "trash")
    )
    return {sha256 for (sha256,) in store.execute(sql, both * 2)}


def _names(lines: Sequence[LogEntry], identity: str) -> set[str]:
    """A person's name, and those that they were renamed from, or merged from as a whole."""
    names = {identity}
    for line in reversed(lines):
        match line.verb, line.detail:
            case "rename", {"old": old, "new": new} if new in names:
                names.add(old)
            case "merge", {"from": came_from, "to": to} if to in names:
                names.update(came_from.values())
    return names


def _erase(store: Store, traces: Traces) -> None:
    face_ids, names = json.dumps(sorted(traces.face_ids)), json.dumps(sorted(traces.names))
    ids = [id for (id,) in store.execute(f"SELECT id FROM faces WHERE face_id {AMONG}", (face_ids,))]
    store.drop(ids)
    store.execute(f"DELETE FROM trash WHERE identity {AMONG} OR face_id {AMONG}", (names, face_ids))
    for line in store.lines():
        _erase_line(store, line, traces)
    store.seal_log()
    _erase_facts(store, traces)
    listed = store.forgotten().with_person(
        store.needed_fact("salt"), [*traces.face_ids, *map(name_key, traces.names)]
    )
    store.set_forgotten(listed)
    traces.before = listed.person(map(name_key, traces.names))


def _erase_line(store: Store, line: LogEntry, traces: Traces) -> None:
    """Takes faces and names out of a line of the log; a line that says nothing without them goes."""
    match line.detail:
        case {"faces": faces}:
            detail: dict[str, Any] = {"faces": [f for f in faces if f not in traces.face_ids]}
            if "people" in line.detail:
                detail["faces"] = [
                    f for (f,) in store.execute("SELECT face_id FROM trash WHERE line=? ORDER BY rowid", (line.id,))
                ]
                detail["people"] = [name for name in line.detail["people"] if name not in traces.names]
            empty = not detail["faces"]
        case {"from": came_from, "to": to}:
            left = {f: name for f, name in came_from.items() if f not in traces.face_ids and name not in traces.names}
            detail, empty = {"from": left, "to": to}, not left or to in traces.names
        case _:
            detail, empty = line.detail, not traces.names.isdisjoint(line.detail.values())
    if empty:
        store.execute("DELETE FROM trash WHERE line=?", (line.id,))
        store.execute("DELETE FROM log WHERE id=?", (line.id,))
    elif detail != line.detail:
        store.rewrite_line(line, detail)


def _sources(store: Faces) -> list[str]:
    return json.loads(store.fact("sources") or "[]")


def _erase_facts(store: Store, traces: Traces) -> None:
    """Later receipts need the paths of what fed the gallery: only the folders that are called like the person lose their names."""
    kept = [without_names(source, traces.names) for source in traces.sources]
    if kept != traces.sources:
        store.set_fact("sources", json.dumps(list(dict.fromkeys(kept))))


# out of the write-ahead log -------------------------------------------------


def finish_pending(store: Faces, wait_ms: int = 0) -> bool:
    """Finishes a `forget` that a reader or a crash held up; False where it still has to wait. What `open_store` calls."""
    if store.fact(PENDING) is None:
        return True
    if not os.access(store.folder, os.W_OK):
        return False
    with Store(store.folder, True, store.key) as writer:
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


def cut(store: Faces) -> bool:
    """Moves the write-ahead log into the file and empties it; False while a reader of an older state holds it."""
    try:
        with guarded(store.path):
            store.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except Busy:
        return False
    wal = Path(f"{store.path}-wal")
    return not wal.exists() or wal.stat().st_size == 0


# what is left ---------------------------------------------------------------


def look(store: Store, traces: Traces, data_sets: Sequence[Path] = ()) -> dict[str, int]:
    """How often something of a person stands in each file of the index, free pages and all, and of data sets.

    In data sets names are not looked for: their bytes are compressed, and what is left of them are texts of others.
    """
    with store.reading():
        elsewhere = [text for name in traces.names for text in _texts_with(store, name)]
    nameless = replace(traces, names=set())
    found = {str(path): traces.count(path, elsewhere) for path in files_below(store.folder)}
    return found | {str(path): nameless.count(path) for folder in data_sets for path in files_below(folder)}


def look_and_clean(store: Store, traces: Traces, data_sets: Sequence[Path] = ()) -> dict[str, int]:
    """`look`, and where SQLite left something in a page, all pages written anew and another look."""
    found = look(store, traces, data_sets)
    if found.get(str(store.path)) and not store.encrypted and store.fact(PENDING) is None:
        store.execute("VACUUM")
        if not cut(store):
            with store.writing():
                store.set_fact(PENDING, int(time.time()))
        found = look(store, traces, data_sets)
    return found


def _texts_with(store: Faces, name: str) -> list[str]:
    """Texts of others that hold the name and stay: other names, paths, columns, the log."""
    texts: list[str] = []
    for sql in (
        "SELECT name FROM people WHERE instr(name, ?)",
        "SELECT image FROM faces WHERE instr(image, ?)",
        "SELECT extra FROM faces WHERE instr(extra, ?)",
        "SELECT DISTINCT split FROM faces WHERE instr(split, ?)",
        "SELECT detail FROM log WHERE instr(detail, ?)",
        "SELECT identity FROM trash WHERE instr(identity, ?)",
        "SELECT image FROM trash WHERE instr(image, ?)",
        "SELECT extra FROM trash WHERE instr(extra, ?)",
        "SELECT value FROM meta WHERE typeof(value) = 'text' AND instr(value, ?)",
        "SELECT sql FROM sqlite_schema WHERE instr(sql, ?)",
    ):
        texts += [text for (text,) in store.execute(sql, (name,))]
    return list(dict.fromkeys(texts))


def in_other_indexes(store: Store, traces: Traces) -> tuple[dict[str, int], list[str]]:
    """How many faces of a person each other index of the root holds, by id or by the same vector; and the names of those that cannot be read."""
    found, unread = {}, []
    for path in sorted(store.folder.parent.glob(f"[!_]*/{FILE}")):
        if path.parent.name == store.folder.name:
            continue
        try:
            with Faces(path.parent, False) as other, other.reading():
                found[path.parent.name] = _faces_of(other, traces)
        except FaceGalleryError:
            unread.append(path.parent.name)
    return {name: n for name, n in found.items() if n}, unread


def _faces_of(other: Faces, traces: Traces) -> int:
    """Enrolled faces and removed ones."""
    tables = [table for table, since in (("faces", 1), ("trash", 2)) if other.version >= since]
    held = {face_id for table in tables for (face_id,) in other.rows(f"SELECT face_id FROM {table}")}
    found = held & traces.face_ids | traces.before.refused(held)
    if traces.heads and tables:
        heads = json.dumps([head.hex().upper() for head in traces.heads])
        sql = f"SELECT face_id FROM faces JOIN vectors USING (id) WHERE hex(substr(vector, 1, {PIECE})) {AMONG}"
        found |= {face_id for (face_id,) in other.execute(sql, (heads,))}
    return len(found)


@dataclass
class Findings:
    """Paths for a receipt, and how many of them are not shown whole."""

    names: set[str]
    withheld: set[str] = field(default_factory=set)

    def shown(self, path: str) -> str:
        text = without_names(path, self.names)
        if text != path:
            self.withheld.add(path)
        return text


def receipt_of(store: Store, traces: Traces, cleaned: dict[str, int], pending: bool) -> Receipt:
    """The receipt, with a look at every file: data sets in `cleaned` (folder: rows taken out) too."""
    files = look_and_clean(store, traces, [Path(folder) for folder in cleaned])
    pending = pending or store.fact(PENDING) is not None
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    paths, own = Findings(traces.names), f"{store.folder}/"
    files = {path if path.startswith(own) else paths.shown(path): n for path, n in files.items()}
    receipt = Receipt(
        store.folder.name,
        now,
        sorted(traces.face_ids),
        pending,
        files,
        {paths.shown(path): n for path, n in cleaned.items()},
    )
    receipt.others, unread = in_other_indexes(store, traces)
    receipt.outputs = [
        f"{o.kind}: {paths.shown(o.path)}" for o in traces.outputs if "*" in o.path or os.path.exists(o.path)
    ]
    receipt.not_cleaned = _not_cleaned(
        store, traces, receipt, paths, {str(Path(folder).resolve()) for folder in cleaned}
    )
    receipt.withheld = len(paths.withheld)
    receipt.notes = _notes(store, traces, receipt, unread)
    return receipt


def _not_cleaned(store: Store, traces: Traces, receipt: Receipt, paths: Findings, cleaned: set[str]) -> list[str]:
    cleaned = cleaned | {without_names(path, traces.names) for path in cleaned}
    lines = [f"data set or photos: {paths.shown(source)}" for source in traces.sources if source not in cleaned]
    lines += [f"index {name}: {n} faces of this person" for name, n in receipt.others.items()]
    lines += [f"written with people of this index: {line}" for line in receipt.outputs]
    lines += [
        f"model {part.name} ({part.sha256[:16]}): finetuned, perhaps on this person too"
        for part in store.spec.parts
        if part.parent
    ]
    return [*dict.fromkeys(lines), "the original photos", "backups and exports of this index"]


def _notes(store: Store, traces: Traces, receipt: Receipt, unread: list[str]) -> list[str]:
    notes = []
    with store.reading():
        others = {
            text
            for name in traces.names
            for text in _texts_with(store, name)
            if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
        }
    if others:
        notes.append(
            f"a name of this person also stands in {len(others)} texts of others (names, paths, columns), which stay"
        )
    if receipt.withheld:
        notes.append(f"{receipt.withheld} paths name this person and are not shown whole: `*` stands for the name")
    if unread:
        notes.append(f"indexes that could not be looked through: {', '.join(unread)}")
    if traces.short_names:
        notes.append("a name is too short to be looked for in binary files; no table holds it")
    if receipt.data_sets:
        notes.append(
            "data sets hold names compressed: their rows were looked through, their bytes only for vectors and crops"
        )
    if store.encrypted:
        notes.append("the index is encrypted: its file shows nothing to look for")
    return notes


def look_again(store: Store, receipt: Receipt, identity: str | None) -> dict[str, int]:
    """`look` by a receipt's ids, and a name where it is given; raises GalleryError where that person is enrolled again."""
    if identity is not None and store.enrolled([identity]):
        raise GalleryError(
            f"expected {identity!r} to be forgotten, they are enrolled in {store.folder.name}: run `forget` again"
        )
    traces = Traces({normal(identity), spelling(identity)} if identity is not None else set())
    for face_id in receipt.face_ids:
        traces.add_face(face_id, [], None)
    return look(store, traces, folders_of(receipt, identity))


def folders_of(receipt: Receipt, identity: str | None) -> list[Path]:
    """The data sets of a receipt that are there; where their paths name the person, only with that name."""
    folders = [Path(folder.replace("*", identity or "*")) for folder in receipt.data_sets]
    return [folder for folder in folders if folder.is_dir()]


def earlier_ids(store: Store, traces: Traces) -> set[str]:
    """Those face_ids in earlier receipts, where `forget` puts them, that are the same person's."""
    ids: set[str] = set()
    for path in store.folder.parent.glob(f"{store.folder.name}-forgotten-*.json"):
        with contextlib.suppress(DataError):
            ids.update(traces.before.refused(Receipt.read(path).face_ids))
    return ids
