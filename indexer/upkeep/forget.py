"""Erasing a person from every table, from the log, from the derived files and from the write-ahead log.

The rows are deleted in one transaction. The gallery records the `forget` as pending until two things are done: SQLite
has emptied its write-ahead log, which a reader of an older state can hold up, and no build of an older state is
running. Each build and each later `open_store` tries again: `facegallery.indexer.upkeep.pending`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from facegallery.embedder.errors import GalleryError
from facegallery.embedder.names import spelling
from facegallery.indexer.derived.derive import derive, tidy
from facegallery.indexer.store import outputs
from facegallery.indexer.store.checksums import FACE_COLUMNS
from facegallery.indexer.store.log import LogEntry
from facegallery.indexer.store.reader import AMONG, Faces, name_key, normal
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep.alike import unnamed_alike, vectors_of
from facegallery.indexer.upkeep.pending import PENDING
from facegallery.indexer.upkeep.receipt import earlier_alike
from facegallery.indexer.upkeep.traces import Traces, without_names


def forget(store: Store, identity: str, *, unnamed: bool = False) -> Traces:
    """Erase a person, with everything that the gallery ever held of them; return the traces to look for.

    unnamed: also erase the unnamed faces that look like them, now or when they were forgotten before. After an
    interrupted call, the same call finishes it. Raises Unknown for a name that is not, and never was, here, and
    GalleryError for `unnamed` where the gallery is not calibrated.
    """
    with store.changing_forgotten():
        if (name := meant(store, identity)) is None:
            store.person_id(identity)  # raises Unknown for a name that was never here
            name = store.spelled(identity)
        traces = _collect(store, name, unnamed=unnamed)
        _erase(store, traces)
        store.set_fact(PENDING, int(time.time()))
        derive(store)
        outputs.rename(store.folder, lambda path: without_names(path, traces.names))
    tidy(store)
    return traces


def is_known(store: Store, identity: str) -> bool:
    """Return whether a name is, was or was forgotten here."""
    return meant(store, identity) is not None


def meant(store: Store, identity: str) -> str | None:
    """Return the name, as given or in its stored spelling, of somebody who is, was or was forgotten here, or None."""
    known = "SELECT 1 FROM people WHERE name = ? UNION SELECT 1 FROM trash WHERE identity = ?"
    names = dict.fromkeys((identity, normal(identity), spelling(identity)))
    if (name := next((name for name in names if store.execute(known, (name, name))), None)) is not None:
        return name
    listed = store.forgotten()
    return next((name for name in reversed(names) if listed.holds(name_key(name))), None)


def _collect(store: Store, identity: str, *, unnamed: bool) -> Traces:
    """Collect the person's names, also former ones, their faces and their removed faces."""
    names = _names(store.lines(), identity)
    traces = Traces(names - store.enrolled(names - {identity}))  # another person may have an old name by now
    traces.person_ids, traces.texts = store.said_of(identity, traces.names)
    traces.sources, traces.outputs = _sources(store), outputs.read(store.folder)
    sql = (
        f"SELECT {', '.join(f'faces.{c}' for c in FACE_COLUMNS)}, v.vector, o.vector, png "
        "FROM faces JOIN people ON people.id = person LEFT JOIN vectors v ON v.id = faces.id "
        "LEFT JOIN other_vectors o ON o.id = faces.id LEFT JOIN crops ON crops.id = faces.id WHERE name = ?"
    )
    photos: set[str] = set()
    for row in store.rows(sql, (identity,)):
        columns = dict(zip(FACE_COLUMNS, row, strict=False))
        photos.add(columns["image_sha256"] or "")
        traces.add_face(columns["face_id"], [v for v in row[-3:-1] if v], row[-1])
    bindings = json.dumps([*traces.names]), json.dumps([*traces.face_ids]), identity
    for face_id, sha256, vector, png in store.rows(
        f"SELECT face_id, image_sha256, vector, png FROM trash WHERE (identity {AMONG} OR face_id {AMONG}) "
        "AND face_id NOT IN (SELECT face_id FROM faces JOIN people ON people.id = person WHERE name != ?)",
        bindings,
    ):
        photos.add(sha256 or "")
        traces.add_face(face_id, [vector], png)
    traces.alike = _alike(store, identity, traces.names)
    if unnamed:
        photos |= _add_alike(store, traces)
    for sha256 in photos - _with_others(store, photos, traces.face_ids):
        traces.add_photo(sha256)
    return traces


def _alike(store: Store, identity: str, names: set[str]) -> list[str] | None:
    """Return the unnamed faces that look like a person, or did when they were forgotten; None where it is not known."""
    now, before = unnamed_alike(store, identity, names), earlier_alike(store, names)
    return None if now is None and not before else sorted(store.kept({*(now or ()), *before}))


def _add_alike(store: Store, traces: Traces) -> set[str]:
    """Add the unnamed faces that look like the person to the traces; return the sha256 of their photos."""
    if traces.alike is None:
        raise GalleryError(
            f"expected a calibrated gallery for --unnamed, {store.folder.name} is not, or was by another model: run "
            f"`calibrate {store.folder.name}` first, or leave --unnamed out"
        )
    photos = set()
    for face_id in traces.alike:
        vectors, png, sha256 = vectors_of(store, face_id)
        photos.add(sha256 or "")
        traces.add_face(face_id, vectors, png)
    traces.alike = []
    return photos


def _with_others(store: Store, photos: set[str], face_ids: set[str]) -> set[str]:
    """Return those photos that also show somebody else, whose row keeps their hash."""
    both = json.dumps([*photos]), json.dumps([*face_ids])
    sql = " UNION ".join(
        f"SELECT image_sha256 FROM {table} WHERE image_sha256 {AMONG} AND face_id NOT {AMONG}"
        for table in ("faces", "trash", "unnamed")
    )
    return {sha256 for (sha256,) in store.execute(sql, both * 3)}


def _names(lines: Sequence[LogEntry], identity: str) -> set[str]:
    """Return a person's name, and the names that they were renamed from, or entirely merged from."""
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
    store.drop_unnamed(traces.face_ids)
    store.execute(f"DELETE FROM trash WHERE identity {AMONG} OR face_id {AMONG}", (names, face_ids))
    store.execute(f"DELETE FROM rejected WHERE identity {AMONG} OR face_id {AMONG}", (names, face_ids))
    people = names, json.dumps(sorted(traces.person_ids))
    store.execute(f"DELETE FROM persons_trash WHERE identity {AMONG} OR person_id {AMONG}", people)
    for line in store.lines():
        _erase_line(store, line, traces)
    store.drop_faceless(traces.photos)
    store.drop_named(lambda path: without_names(path, traces.names) != path)
    store.seal_log()
    _erase_facts(store, traces)
    listed = store.forgotten().with_person(store.needed_fact("salt"), [*traces.face_ids, *map(name_key, traces.names)])
    store.set_forgotten(listed)
    traces.before = listed.person(map(name_key, traces.names))


def _left(to: str | list[str] | None, names: set[str]) -> str | list[str] | None:
    """Return the person, or people, of a line of the log without these names."""
    if isinstance(to, list):
        return [name for name in to if name not in names]
    return None if to in names else to


def _erase_line(store: Store, line: LogEntry, traces: Traces) -> None:
    """Delete faces and names from a line of the log, and the line where nothing else remains."""
    detail: dict[str, Any]
    match line.detail:
        case {"gone": _}:
            detail, empty = _without_person(store, line, traces)
        case {"before": before, "to": to, "said": said}:
            left = {f: at for f, at in before.items() if f not in traces.face_ids and at[0] not in traces.names}
            words = [one for one in said if one[0] not in traces.face_ids and one[2] not in traces.names]
            detail = {"before": left, "to": _left(to, traces.names), "said": words}
            empty = not left and not words
        case {"faces": faces, **rest}:
            unnamed = (
                {"unnamed": kept} if (kept := [f for f in rest.get("unnamed", ()) if f not in traces.face_ids]) else {}
            )
            detail = {"faces": [f for f in faces if f not in traces.face_ids]} | unnamed
            if "people" in line.detail:
                detail["faces"] = [
                    f for (f,) in store.execute("SELECT face_id FROM trash WHERE line=? ORDER BY rowid", (line.id,))
                ]
                detail["people"] = [name for name in line.detail["people"] if name not in traces.names]
            empty = not detail["faces"] and not unnamed
        case {"from": came_from, "to": to}:
            stay = {f: name for f, name in came_from.items() if f not in traces.face_ids and name not in traces.names}
            detail, empty = {"from": stay, "to": to}, not stay or to in traces.names
        case {"person": person_id}:
            detail, empty = line.detail, person_id in traces.person_ids
        case _:
            detail, empty = line.detail, not traces.names.isdisjoint(line.detail.values())
    if empty:
        for table in ("trash", "persons_trash"):
            store.execute(f"DELETE FROM {table} WHERE line=?", (line.id,))
        store.execute("DELETE FROM log WHERE id=?", (line.id,))
    elif detail != line.detail:
        store.rewrite_line(line, detail)


def _without_person(store: Store, line: LogEntry, traces: Traces) -> tuple[dict[str, Any], bool]:
    """Return a line about changed photos without the person, and whether nothing else remains."""

    def is_path_of(path: str | None) -> bool:
        return path is not None and without_names(path, traces.names) != path

    old = line.detail
    detail = {
        "faces": [f for f in old["faces"] if f not in traces.face_ids],
        "unnamed": [f for f in old["unnamed"] if f not in traces.face_ids],
        "gone": {f: at for f, at in old["gone"].items() if f not in traces.face_ids and at[0] not in traces.names},
        "said": [one for one in old["said"] if one[0] not in traces.face_ids and one[2] not in traces.names],
        "moved": [one for one in old["moved"] if not any(map(is_path_of, one))],
        "photos": [p for p in old["photos"] if p[2] not in traces.photos and not any(map(is_path_of, p[:2]))],
        "paths": [path for path in old["paths"] if not is_path_of(path)],
    }
    return detail, not any(detail.values())


def _sources(store: Faces) -> list[str]:
    return json.loads(store.fact("sources") or "[]")


def _erase_facts(store: Store, traces: Traces) -> None:
    """Replace the person's name in the paths of sources by `*`; later receipts need the other paths."""
    kept = [without_names(source, traces.names) for source in traces.sources]
    if kept != traces.sources:
        store.set_fact("sources", json.dumps(list(dict.fromkeys(kept))))
    syncs = store.syncs()
    store.set_syncs(
        {
            folder: options
            for folder, options in syncs.items()
            if without_names(folder, traces.names) == folder and options.get("identity") not in traces.names
        }
    )
