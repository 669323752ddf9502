"""Searching for what `forget` left, and the receipt of what it did."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from facegallery.embedder.errors import DataError, FaceGalleryError, GalleryError
from facegallery.embedder.names import spelling
from facegallery.indexer.store.database import FILE
from facegallery.indexer.store.migrations import PERSONS, PHOTOS, UNNAMED
from facegallery.indexer.store.reader import AMONG, Faces, name_key, normal
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep.pending import PENDING, cut
from facegallery.indexer.upkeep.traces import PIECE, Traces, files_below, without_names


@dataclass
class Receipt:
    """Record of a `forget`; it names nobody. `files` has the number of traces found in each file afterwards."""

    index: str
    time: str
    face_ids: list[str]
    # a reader holds the write-ahead log, or a build an older state; the next command that opens the index finishes it
    pending: bool
    files: dict[str, int] = field(default_factory=dict)
    data_sets: dict[str, int] = field(default_factory=dict)  # rows deleted from each
    not_cleaned: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)  # faces of the person in each other index
    outputs: list[str] = field(default_factory=list)  # existing files that were written with people of the index
    withheld: int = 0  # paths that name the person
    alike: list[str] = field(default_factory=list)  # unnamed faces that look like the person, and stay

    @property
    def found(self) -> int:
        """Number of traces left in the files that were to be cleaned."""
        return sum(self.files.values())

    def to_json(self) -> str:
        """Return the receipt as JSON."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def read(cls, path: Path) -> Receipt:
        """Read `to_json` from a file; raises DataError where it is not a receipt."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"expected a receipt of `forget`, received {path} ({error}): check the path") from None


# the search for traces ------------------------------------------------------


def look(store: Store, traces: Traces, data_sets: Sequence[Path] = ()) -> dict[str, int]:
    """Count the traces of a person in each file of the index, free pages included, and of data sets.

    Names are not searched for in data sets: their bytes are compressed, and the texts that remain belong to others.
    """
    with store.reading():
        elsewhere = [text for said in traces.names | traces.spellings for text in _texts_with(store, said)]
    nameless = replace(traces, names=set())
    found = {str(path): traces.count(path, elsewhere) for path in files_below(store.folder)}
    return found | {str(path): nameless.count(path) for folder in data_sets for path in files_below(folder)}


def look_and_clean(store: Store, traces: Traces, data_sets: Sequence[Path] = ()) -> dict[str, int]:
    """Search as `look` does; where SQLite left traces in a page, rewrite all pages and search again."""
    found = look(store, traces, data_sets)
    if found.get(str(store.path)) and not store.encrypted and store.fact(PENDING) is None:
        store.execute("VACUUM")
        if not cut(store):
            with store.writing():
                store.set_fact(PENDING, int(time.time()))
        found = look(store, traces, data_sets)
    return found


def _texts_with(store: Faces, name: str) -> list[str]:
    """Return texts of others that hold the name and remain: other names, paths, columns, the log."""
    texts: list[str] = []
    of_unnamed = (
        "SELECT image FROM unnamed WHERE instr(image, ?)",
        "SELECT extra FROM unnamed WHERE instr(extra, ?)",
        "SELECT DISTINCT split FROM unnamed WHERE instr(split, ?)",
        "SELECT DISTINCT identity FROM rejected WHERE instr(identity, ?)",
    )
    of_photos = (
        "SELECT image FROM photos WHERE instr(image, ?)",
        "SELECT path FROM photos WHERE instr(path, ?)",
    )
    of_persons = tuple(
        f"SELECT {column} FROM {table} WHERE instr({column}, ?)"
        for table in ("persons", "persons_trash")
        for column in ("note", "extra")
    )
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
        *(of_unnamed if store.version >= UNNAMED else ()),
        *(of_photos if store.version >= PHOTOS else ()),
        *(of_persons if store.version >= PERSONS else ()),
    ):
        texts += [text for (text,) in store.execute(sql, (name,))]
    return list(dict.fromkeys(texts))


def in_other_indexes(store: Store, traces: Traces) -> tuple[dict[str, int], list[str]]:
    """Count a person's faces, by id or equal vector, in each other index of the root.

    Returns the counts by index, and the names of unreadable indexes.
    """
    found, unread = {}, []
    for path in sorted(store.folder.parent.glob(f"[!_]*/{FILE}")):
        if path.parent.name == store.folder.name:
            continue
        try:
            with Faces(path.parent, writable=False) as other, other.reading():
                found[path.parent.name] = _faces_of(other, traces)
        except FaceGalleryError:
            unread.append(path.parent.name)
    return {name: n for name, n in found.items() if n}, unread


def _faces_of(other: Faces, traces: Traces) -> int:
    """Count enrolled and removed faces."""
    tables = [table for table, since in (("faces", 1), ("trash", 2), ("unnamed", UNNAMED)) if other.version >= since]
    held = {face_id for table in tables for (face_id,) in other.rows(f"SELECT face_id FROM {table}")}
    found = held & traces.face_ids | traces.before.refused(held)
    if traces.heads and tables:
        heads = json.dumps([head.hex().upper() for head in traces.heads])
        sql = f"SELECT face_id FROM faces JOIN vectors USING (id) WHERE hex(substr(vector, 1, {PIECE})) {AMONG}"
        found |= {face_id for (face_id,) in other.execute(sql, (heads,))}
    return len(found)


def look_again(store: Store, receipt: Receipt, identity: str | None) -> dict[str, int]:
    """Search by the ids of a receipt, and by a name where one is given.

    Raises GalleryError where that person is enrolled again.
    """
    if identity is not None and store.enrolled([identity]):
        raise GalleryError(
            f"expected {identity!r} to be forgotten, somebody of this name is enrolled in {store.folder.name}: "
            "run `forget` again"
        )
    traces = Traces({normal(identity), spelling(identity)} if identity is not None else set())
    for face_id in receipt.face_ids:
        traces.add_face(face_id, [], None)
    return look(store, traces, folders_of(receipt, identity))


def folders_of(receipt: Receipt, identity: str | None) -> list[Path]:
    """Return the data sets of a receipt that exist; `identity` completes paths that name the person."""
    folders = [Path(folder.replace("*", identity or "*")) for folder in receipt.data_sets]
    return [folder for folder in folders if folder.is_dir()]


def earlier_alike(store: Store, names: Iterable[str]) -> set[str]:
    """Return the face_ids of unnamed faces that looked like a person when they were forgotten, by earlier receipts."""
    person = store.forgotten().person(map(name_key, names))
    receipts = _earlier(store) if person else []
    return {face_id for receipt in receipts if person.refused(receipt.face_ids) for face_id in receipt.alike}


def earlier_ids(store: Store, traces: Traces) -> set[str]:
    """Return the person's face_ids in earlier receipts, in the folder where `forget` writes them."""
    return {face_id for receipt in _earlier(store) for face_id in traces.before.refused(receipt.face_ids)}


def _earlier(store: Store) -> Iterator[Receipt]:
    """Yield the earlier receipts in the folder where `forget` writes them."""
    for path in store.folder.parent.glob(f"{store.folder.name}-forgotten-*.json"):
        with contextlib.suppress(DataError):
            yield Receipt.read(path)


# the receipt ----------------------------------------------------------------


@dataclass
class Findings:
    """Paths for a receipt, without the person's names, and the paths that are therefore withheld."""

    names: set[str]
    withheld: set[str] = field(default_factory=set)

    def shown(self, path: str) -> str:
        """Return the path with `*` for the person's names."""
        text = without_names(path, self.names)
        if text != path:
            self.withheld.add(path)
        return text


def receipt_of(store: Store, traces: Traces, cleaned: dict[str, int], *, pending: bool) -> Receipt:
    """Search every file and return the receipt.

    cleaned: data sets, and the number of rows deleted from each. pending: the write-ahead log could not be emptied.
    """
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
    receipt.alike = traces.alike or []
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
            f"a name of this person is also in {len(others)} texts of others (names, paths, columns), which remain"
        )
    if receipt.withheld:
        notes.append(f"{receipt.withheld} paths name this person: `*` stands for the name")
    if unread:
        notes.append(f"indexes that could not be searched: {', '.join(unread)}")
    if receipt.alike:
        notes.append(
            f"unnamed faces that look like this person: {len(receipt.alike)}; the same command with --unnamed forgets "
            "them, too"
        )
    elif traces.alike is None:
        notes.append("whether unnamed faces look like this person is not known, since the gallery is not calibrated")
    if traces.short_names:
        notes.append("a name is too short to be searched for in binary files; no table holds it")
    if receipt.data_sets:
        notes.append(
            "data sets hold names compressed: their rows were searched, their bytes only for vectors and crops"
        )
    if store.encrypted:
        notes.append("the index is encrypted: its file cannot be searched")
    return notes
