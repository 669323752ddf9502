"""Writing rows: faces into the tables of a gallery, and out of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from facegallery.embedder.dataset.row import UNIT_TOLERANCE, Row
from facegallery.embedder.errors import DataError
from facegallery.indexer.store.checksums import FACE_COLUMNS, chained, checksum, face_checksum
from facegallery.indexer.store.forgotten import Forgotten
from facegallery.indexer.store.persons import Persons
from facegallery.indexer.store.reader import AMONG, BLOCK, name_key
from facegallery.results import Conflict

EXTRA = json.JSONEncoder(ensure_ascii=False, sort_keys=True)


@dataclass
class Added:
    """Outcome of the rows that were offered for enrolment."""

    added: int = 0
    again: int = 0  # already enrolled, under the same person
    unnamed: int = 0  # kept without a person
    forgotten: int = 0  # refused, because they were forgotten
    conflicts: list[Conflict] = field(default_factory=list)
    face_ids: list[str] = field(default_factory=list, compare=False)  # of the added faces
    # added photos in which another face is nearly as large as the enrolled one
    unsure: list[str] = field(default_factory=list, compare=False)
    # the id of its line in the log; None where nothing was added
    command: str | None = field(default=None, compare=False)

    @property
    def unsure_notes(self) -> list[str]:
        """Return one line about photos that show several faces, or an empty list."""
        if not self.unsure:
            return []
        shown = ", ".join(map(repr, self.unsure[:3]))
        return [
            f"warning: {len(self.unsure)} enrolled photo{'s' * (len(self.unsure) > 1)} show another face "
            f"nearly as large as the enrolled one, such as {shown}: check that the right face was taken"
        ]

    def count_known(self, row: Row, kept: str) -> None:
        """Count a face that is already enrolled, under the name `kept`."""
        if (name := row.identity or "") == kept:
            self.again += 1
        else:
            self.conflicts.append(Conflict(row.face_id, row.image, kept, name))


class Rows(Persons):
    """Writer of rows; call each method within a transaction of `writing`."""

    def enrol(self, rows: Iterable[Row], *, readmit: bool = False) -> tuple[Added, list[str]]:
        """Enrol rows as `add` does, but without a line in the log and with names unchanged; return the face_ids too."""
        done, rows = Added(), iter(rows)
        face_ids: list[str] = []
        dimension = self.spec.dimension
        columns, kinds = set(self.columns), self.kinds
        listed, names = Forgotten() if readmit else self.forgotten(), set[str]()
        while block := list(islice(rows, BLOCK)):
            new = self._new_faces(block, done, listed)
            self._insert(new, dimension)
            face_ids += new
            for row in new.values():
                columns.update(row.extra)
                kinds.add(row.extra)
                names.add(row.identity or "")
        if readmit and face_ids:
            self.set_forgotten(self.forgotten().without({*face_ids, *map(name_key, names)}))
        if columns - set(self.columns):
            self.set_fact("columns", json.dumps(sorted(columns)))
        self.set_fact("kinds", kinds.to_json())
        done.added, done.face_ids = len(face_ids), face_ids
        return done, face_ids

    def _new_faces(self, block: list[Row], done: Added, listed: Forgotten) -> dict[str, Row]:
        """Return, by face_id, the rows that are neither enrolled nor on the list of the forgotten."""
        face_ids = [row.face_id for row in block]
        known, refused = self.known(face_ids), listed.refused(face_ids)
        new: dict[str, Row] = {}
        for row, face_id in zip(block, face_ids, strict=True):
            name = row.identity or ""
            if face_id in refused:
                done.forgotten += 1
            elif face_id in known:
                done.count_known(row, known[face_id])
            else:
                known[face_id] = name
                new[face_id] = row
                done.unsure += [row.image] if row.is_unsure else []
        return new

    def _insert(self, rows: Mapping[str, Row], dimension: int) -> None:
        """Insert new faces, given by their face_ids."""
        xb, first = unit_vectors(list(rows.values()), dimension), self._next_id()
        names = [row.identity or "" for row in rows.values()]
        people = self._people(names)
        faces = []
        for id, name, (face_id, row) in zip(range(first, first + len(rows)), names, rows.items(), strict=True):
            columns = columns_of(id, face_id, row)
            faces.append((*columns, people[name], face_checksum(name, columns)))
        marks = ",".join("?" * (len(FACE_COLUMNS) + 2))
        self.execute_many(f"INSERT INTO faces({', '.join(FACE_COLUMNS)}, person, checksum) VALUES ({marks})", faces)
        self._insert_data("vectors", first, [x.tobytes() for x in xb])
        self._insert_data("crops", first, [row.crop for row in rows.values()])

    def _insert_data(self, table: str, first: int, data: Sequence[bytes | None]) -> None:
        """Insert vectors or crops of faces with ids from `first` on; None for a face without one."""
        lines = [(id, one, checksum(id, one)) for id, one in enumerate(data, first) if one is not None]
        self.execute_many(f"INSERT INTO {table} VALUES (?, ?, ?)", lines)

    def _people(self, names: Iterable[str]) -> dict[str, int]:
        """Return the ids of people by name; insert those who are new."""
        wanted = list(dict.fromkeys(names))
        self.execute_many("INSERT OR IGNORE INTO people(name) VALUES (?)", [(name,) for name in wanted])
        self._give_records(wanted)
        return dict(self.rows(f"SELECT name, id FROM people WHERE name {AMONG}", (json.dumps(wanted),)))

    def _next_id(self) -> int:
        self.check_counter()
        return 1 + self.counter

    def drop(self, ids: Sequence[int], line: int | None = None) -> None:
        """Delete faces from every table, and people who have no face left.

        ids: of the faces. line: of the log; with it `undo` brings back what is kept of those people.
        """
        among = (json.dumps(ids),)
        for table in ("crops", "vectors", "other_vectors"):
            self.execute(f"DELETE FROM {table} WHERE id {AMONG}", among)
        people = self.execute(f"SELECT DISTINCT person FROM faces WHERE id {AMONG}", among)
        kinds = self.kinds
        for (extra,) in self.rows(f"SELECT extra FROM faces WHERE id {AMONG} AND extra != '{{}}'", among):
            kinds.add(json.loads(extra), -1)
        self.set_fact("kinds", kinds.to_json())
        self.execute(f"DELETE FROM faces WHERE id {AMONG}", among)
        self._drop_empty([person for (person,) in people], line)
        self._mark_changed(ids)

    def _drop_empty(self, people: Sequence[int], line: int | None) -> None:
        sql = f"SELECT id FROM people WHERE id {AMONG} AND NOT EXISTS (SELECT 1 FROM faces WHERE person = people.id)"
        self._drop_people([id for (id,) in self.execute(sql, (json.dumps(people),))], line)

    def _mark_changed(self, ids: Sequence[int]) -> None:
        before = self.fact("changes")
        lines = self.execute(
            "INSERT INTO changed(face) SELECT value FROM json_each(?) RETURNING seq, face", (json.dumps(ids),)
        )
        self.set_fact("changes", self.chain_of_changes() if before is None else chained(before, lines))

    def chain_of_changes(self) -> bytes:
        """Return the value that the fact `changes` must have for the lines in the table `changed`."""
        return chained(b"", self.execute("SELECT seq, face FROM changed ORDER BY seq"))

    def _move(self, faces: Sequence[Mapping[str, Any]], to: str, line: int | None = None) -> None:
        person, ids = self._people([to])[to], [f["id"] for f in faces]
        before = self.execute(f"SELECT DISTINCT person FROM faces WHERE id {AMONG}", (json.dumps(ids),))
        lines = [(person, face_checksum(to, [f[name] for name in FACE_COLUMNS]), f["id"]) for f in faces]
        self.execute_many("UPDATE faces SET person=?, checksum=? WHERE id=?", lines)
        self._drop_empty([p for (p,) in before], line)
        self._mark_changed(ids)

    def _rename(self, old: str, new: str) -> None:
        faces, records = self.find(old), self.persons([old])
        self.execute("UPDATE people SET name=? WHERE name=?", (new, old))
        self._replace(new, records[old])
        lines = [(face_checksum(new, [f[name] for name in FACE_COLUMNS]), f["id"]) for f in faces]
        self.execute_many("UPDATE faces SET checksum=? WHERE id=?", lines)

    def set_forgotten(self, listed: Forgotten) -> None:
        """Replace the list of forgotten people."""
        own = listed.by_salt.get(self.needed_fact("salt"), {})
        before, hashes = self.forgotten_hashes(), set(own)
        plain = listed.salts == {self.fact("salt")} and not any(own.values())
        self.execute_many("DELETE FROM forgotten WHERE hash=?", [(hash,) for hash in before - hashes])
        self.execute_many("INSERT INTO forgotten VALUES (?)", [(hash,) for hash in hashes - before])
        self.set_fact("forgotten", checksum(*sorted(hashes)))
        self.set_fact("forgotten_list", None if plain else listed.to_json())


def columns_of(id: int, face_id: str, row: Row) -> tuple[Any, ...]:
    """Return FACE_COLUMNS of a row."""
    return (
        id,
        face_id,
        row.image,
        row.image_sha256,
        row.split,
        row.face,
        _floats(row.box),
        _floats(row.landmarks),
        _number(row.confidence),
        _number(row.sharpness),
        EXTRA.encode(row.extra) if row.extra else "{}",
    )


def unit_vectors(rows: Sequence[Row], dimension: int) -> np.ndarray:
    """Return the vectors of rows, float32 (n, d), each of unit length.

    Raises DataError naming a photo with a missing vector, or one of another size or length.
    """
    for row in rows:
        if row.vector is None or np.shape(row.vector) != (dimension,):
            received = "none" if row.vector is None else f"one of {np.shape(row.vector)}"
            raise DataError(
                f"expected a vector of {dimension} numbers in {row.image}, received {received}: "
                "embed the photo with the gallery's model"
            )
    xb = np.array([row.vector for row in rows], "<f4").reshape(-1, dimension)
    norms = np.linalg.norm(xb.astype(np.float64), axis=1)
    for i in np.flatnonzero(~(np.abs(norms - 1) <= UNIT_TOLERANCE))[:1]:
        raise DataError(
            f"expected vectors of length 1, received length {norms[i]:.6g} in {rows[i].image}: embed the photo again"
        )
    return xb


def _floats(values: Sequence[float] | None) -> bytes | None:
    return None if values is None else np.asarray(values, "<f4").tobytes()


def _number(value: float | None) -> float | None:
    """Return a float that SQLite stores without change: NaN becomes null."""
    return None if value is None or math.isnan(value) else float(value)
