"""Faces without a person: kept beside those with one, grouped, named, and what the user said of them.

A face is either enrolled (the tables `faces`, `vectors`, `crops`, `other_vectors`) or unnamed (the same with `unnamed`
in their names), never both. Naming moves it, so that no search for people ever sees an unnamed one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np

from facegallery.embedder.dataset.row import Row
from facegallery.indexer.store.checksums import FACE_COLUMNS, checksum
from facegallery.indexer.store.errors import Damaged, Unknown, damaged
from facegallery.indexer.store.group_sums import GroupSums
from facegallery.indexer.store.reader import AMONG, BLOCK, to_row
from facegallery.indexer.store.rows import columns_of, unit_vectors

State = Literal["open", "confirmed", "ignored"]
COLUMNS = ", ".join(f"unnamed.{name}" for name in FACE_COLUMNS)
SELECT = (
    f"SELECT {COLUMNS}, unnamed.checksum, number, state, grouped.checksum FROM unnamed "
    "LEFT JOIN grouped ON grouped.id = unnamed.id"
)


class Place(NamedTuple):
    """Where a face is: with a person, or unnamed in a group or in none.

    state: `confirmed` where the user said that the faces of the group are one person, `ignored` where the face was to
    be left alone, else `open`.
    """

    identity: str | None = None
    number: int | None = None
    state: State = "open"


LOOSE = Place()


class Tables(NamedTuple):
    """The tables that hold faces of one kind."""

    faces: str
    crops: str
    vectors: str
    other_vectors: str


ENROLLED_FACES = Tables("faces", "crops", "vectors", "other_vectors")
UNNAMED_FACES = Tables("unnamed", "unnamed_crops", "unnamed_vectors", "other_unnamed_vectors")


class Rejection(NamedTuple):
    """The user's word that a face is not of a group, or not of a person."""

    face_id: str
    number: int | None
    identity: str | None


@dataclass(frozen=True)
class Group:
    """A group of unnamed faces."""

    number: int
    faces: int
    confirmed: bool
    face_id: str  # of its oldest face


@dataclass(frozen=True)
class UnnamedFace:
    """An unnamed face, checked against its checksums."""

    id: int
    columns: dict[str, Any]  # FACE_COLUMNS
    place: Place

    @property
    def face_id(self) -> str:
        """The id of the face: 32 hex digits."""
        return self.columns["face_id"]

    @property
    def image(self) -> str:
        """The path of the photo."""
        return self.columns["image"]


@dataclass
class Arrangement:
    """Faces to move, and what the user said of them.

    places: where each is to be, by face_id. seen: where unnamed faces were when this was decided; what was moved since
    then stays.
    """

    places: dict[str, Place] = field(default_factory=dict)
    rejections: list[Rejection] = field(default_factory=list)
    seen: dict[str, Place] | None = None


class Unnamed(GroupSums):
    """Reader and writer of unnamed faces; call the methods that write within a transaction of `writing`."""

    # reading

    @property
    def unnamed(self) -> int:
        """Number of unnamed faces."""
        return self.execute("SELECT count(*) FROM unnamed")[0][0] if self.has_unnamed else 0

    @property
    def ignored(self) -> int:
        """Number of unnamed faces that were to be left alone."""
        return self.execute("SELECT count(*) FROM grouped WHERE state = 'ignored'")[0][0] if self.has_unnamed else 0

    def counts(self) -> dict[str, int]:
        """Return how many unnamed faces, groups, faces in no group, ignored ones and rejections there are, and photos.

        photos: those with a face that is enrolled or unnamed.
        """
        groups = self.list_groups()
        unnamed, ignored = self.unnamed, self.ignored
        tables = ("faces", "unnamed") if self.has_unnamed else ("faces",)
        every = " UNION ALL ".join(f"SELECT coalesce(image_sha256, image) AS photo FROM {table}" for table in tables)
        ((photos,),) = self.execute(f"SELECT count(DISTINCT photo) FROM ({every})")
        return {
            "unnamed": unnamed,
            "groups": len(groups),
            "loose": unnamed - ignored - sum(one.faces for one in groups),
            "ignored": ignored,
            "rejected": len(self.rejections()),
            "photos": photos,
        }

    @property
    def has_groups(self) -> bool:
        """Whether there is a group."""
        return self.has_unnamed and bool(self.execute("SELECT 1 FROM grouped WHERE number IS NOT NULL LIMIT 1"))

    @property
    def grouped(self) -> tuple[int, int]:
        """Number of groups, and of faces in them."""
        sql = "SELECT count(DISTINCT number), count(number) FROM grouped WHERE number IS NOT NULL"
        groups, faces = self.execute(sql)[0] if self.has_unnamed else (0, 0)
        return groups, faces

    def list_groups(self, limit: int = -1) -> list[Group]:
        """Return the groups, largest first, without those of ignored faces."""
        sql = (
            "SELECT number, n, confirmed, face_id FROM (SELECT number, count(*) AS n, min(id) AS first, "
            "max(state = 'confirmed') AS confirmed FROM grouped WHERE number IS NOT NULL AND state != 'ignored' "
            "GROUP BY number) JOIN unnamed ON unnamed.id = first ORDER BY n DESC, number LIMIT ?"
        )
        rows = self.execute(sql, (limit,)) if self.has_unnamed else []
        return [Group(number, n, bool(confirmed), face_id) for number, n, confirmed, face_id in rows]

    def group(self, number: int) -> list[UnnamedFace]:
        """Return the faces of a group, oldest first; raises Unknown where there is none of this number."""
        found = list(self._unnamed("WHERE number = ? ORDER BY unnamed.id", (number,))) if self.has_unnamed else []
        if not found:
            raise Unknown(
                f"expected a group of {self.folder.name}, there is no group {number}: see `groups {self.folder.name}`"
            )
        return found

    def unnamed_faces(self, face_ids: Iterable[str] | None = None) -> Iterator[UnnamedFace]:
        """Yield the unnamed faces, oldest first; those of `face_ids` alone where these are given."""
        if not self.has_unnamed:
            return
        if face_ids is None:
            yield from self._unnamed("ORDER BY unnamed.id")
        else:
            among = (json.dumps(list(face_ids)),)
            yield from self._unnamed(f"WHERE face_id {AMONG} ORDER BY unnamed.id", among)

    def unnamed_by_ids(self, ids: Sequence[int]) -> list[UnnamedFace]:
        """Return the unnamed faces with these ids, in the order of their ids."""
        return list(self._unnamed(f"WHERE unnamed.id {AMONG} ORDER BY unnamed.id", (json.dumps(ids),))) if ids else []

    def unnamed_after(self, id: int, limit: int, number: int | None = None) -> list[UnnamedFace]:
        """Return unnamed faces with higher ids, oldest first; those of a group alone where its number is given."""
        if not self.has_unnamed:
            return []
        where = "WHERE unnamed.id > ?1 AND (?2 IS NULL OR number = ?2) ORDER BY unnamed.id LIMIT ?3"
        return list(self._unnamed(where, (id, number, limit)))

    def _unnamed(self, where: str, bindings: Sequence[Any] = ()) -> Iterator[UnnamedFace]:
        for *columns, stored, number, state, said in self.rows(f"{SELECT} {where}", bindings):
            if checksum(*columns) != stored or (said is not None and checksum(columns[0], number, state) != said):
                raise self._changed(columns[1], columns[2])
            place = LOOSE if said is None else Place(None, number, state)
            yield UnnamedFace(columns[0], dict(zip(FACE_COLUMNS, columns, strict=True)), place)

    def unnamed_vectors(self, table: str = "unnamed_vectors", block: int = BLOCK) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield ids, int64 (b,), and vectors, float32 (b, d), of unnamed faces, ordered by id.

        Raises Damaged naming a face whose vector was changed or lost.
        """
        if not self.has_unnamed:
            return
        sql = (
            f"SELECT unnamed.id, face_id, image, vector, v.checksum FROM unnamed "
            f"LEFT JOIN {table} v ON v.id = unnamed.id ORDER BY 1"
        )
        rows = self.rows(sql)
        while batch := list(islice(rows, block)):
            yield self.read_vectors(batch)

    def unnamed_crop(self, face_id: str) -> bytes | None:
        """Return the PNG of an unnamed face; None where no crop is stored."""
        sql = "SELECT id, image FROM unnamed WHERE face_id=?"
        for id, image in self.execute(sql, (face_id,)) if self.has_unnamed else []:
            return self.crop_of(id, face_id, image, UNNAMED_FACES.crops)
        return None

    def rejections(self) -> list[Rejection]:
        """Return what the user said that faces are not; raises Damaged where a row was changed."""
        if not self.has_unnamed:
            return []
        rows = self.execute("SELECT face_id, number, identity, checksum FROM rejected ORDER BY rowid")
        if any(checksum(*said) != stored for *said, stored in rows):
            raise damaged(self.path, "what was said of its faces was changed")
        return [Rejection(*said) for *said, _ in rows]

    def kept(self, face_ids: Iterable[str]) -> set[str]:
        """Return those of the face_ids that are unnamed."""
        if not self.has_unnamed:
            return set()
        sql = f"SELECT face_id FROM unnamed WHERE face_id {AMONG}"
        return {face_id for (face_id,) in self.rows(sql, (json.dumps(list(face_ids)),))}

    # writing

    def keep(self, rows: Sequence[Row]) -> list[str]:
        """Keep faces that are neither enrolled nor kept nor forgotten, and return their face_ids.

        Raises DataError for a vector of another size or length.
        """
        face_ids = [row.face_id for row in rows]
        there = {*self.known(face_ids), *self.kept(face_ids), *self.forgotten().refused(face_ids)}
        new = {face_id: row for face_id, row in zip(face_ids, rows, strict=True) if face_id not in there}
        self._insert_unnamed(new)
        return list(new)

    def _insert_unnamed(self, rows: Mapping[str, Row]) -> None:
        xb = unit_vectors(list(rows.values()), self.spec.dimension)
        first = self.execute("SELECT 1 + coalesce((SELECT seq FROM sqlite_sequence WHERE name='unnamed'), 0)")[0][0]
        columns = [columns_of(id, face_id, row) for id, (face_id, row) in enumerate(rows.items(), first)]
        marks = ",".join("?" * (len(FACE_COLUMNS) + 1))
        self.execute_many(
            f"INSERT INTO unnamed({', '.join(FACE_COLUMNS)}, checksum) VALUES ({marks})",
            [(*one, checksum(*one)) for one in columns],
        )
        self._insert_data(UNNAMED_FACES.vectors, first, [x.tobytes() for x in xb])
        self._insert_data(UNNAMED_FACES.crops, first, [row.crop for row in rows.values()])

    def drop_unnamed(self, face_ids: Iterable[str]) -> None:
        """Delete unnamed faces from every table."""
        among = (json.dumps(list(face_ids)),)
        ids = json.dumps([id for (id,) in self.execute(f"SELECT id FROM unnamed WHERE face_id {AMONG}", among)])
        self.drop_group_sums(ids)
        for table in ("grouped", "unnamed_crops", "unnamed_vectors", "other_unnamed_vectors", "unnamed"):
            self.execute(f"DELETE FROM {table} WHERE id {AMONG}", (ids,))

    def new_numbers(self, n: int) -> int:
        """Return the first of n numbers that no group has had, and count them as used."""
        last = int(self.fact("groups") or 0)
        if n:
            self.set_fact("groups", last + n)
        return last + 1

    def reject(self, rejections: Iterable[Rejection]) -> None:
        """Note what the user said that faces are not."""
        self.execute_many("INSERT INTO rejected VALUES (?, ?, ?, ?)", [(*r, checksum(*r)) for r in rejections])

    def unreject(self, rejections: Iterable[Rejection]) -> None:
        """Delete what the user said, once for each."""
        sql = (
            "DELETE FROM rejected WHERE rowid = (SELECT max(rowid) FROM rejected "
            "WHERE face_id IS ? AND number IS ? AND identity IS ?)"
        )
        self.execute_many(sql, list(rejections))

    def _rename(self, old: str, new: str) -> None:
        super()._rename(old, new)
        words = [said for said in self.rejections() if said.identity == old]
        self.unreject(words)
        self.reject(said._replace(identity=new) for said in words)

    def places(self, face_ids: Iterable[str]) -> dict[str, Place]:
        """Return where faces are; raises Unknown for one that is not here."""
        wanted = list(dict.fromkeys(face_ids))
        found = {face_id: Place(name) for face_id, name in self.known(wanted).items()}
        found |= {face.face_id: face.place for face in self.unnamed_faces(wanted)}
        if lost := [face_id for face_id in wanted if face_id not in found]:
            raise Unknown(
                f"expected a face of {self.folder.name}, there is none with the id {lost[0]!r}: see "
                f"`group {self.folder.name}`"
            )
        return {face_id: found[face_id] for face_id in wanted}

    def put(self, places: Mapping[str, Place], line: int | None = None) -> None:
        """Move faces, given by their face_ids, to where they are to be. line: as for `drop`."""
        before = self.places(places)
        named = {f: p for f, p in places.items() if p.identity is not None}
        self._name({f: p for f, p in named.items() if before[f].identity is None})
        for identity in dict.fromkeys(p.identity for f, p in named.items() if before[f].identity is not None):
            moved = [
                f for f, p in named.items() if p.identity == identity and before[f].identity not in (None, identity)
            ]
            if moved and identity is not None:
                self._move([face for f in moved for face in self.find(face_id=f)], identity, line)
        unnamed = {f: p for f, p in places.items() if p.identity is None}
        self._unname([f for f in unnamed if before[f].identity is not None], line)
        self._set_groups(unnamed)

    def unmoved(self, wanted: Arrangement) -> dict[str, Place]:
        """Return the places of those faces that are where they were seen."""
        if wanted.seen is None:
            return wanted.places
        now = {face.face_id: face.place for face in self.unnamed_faces(wanted.places)}
        return {face_id: at for face_id, at in wanted.places.items() if now.get(face_id) == wanted.seen[face_id]}

    def _name(self, places: Mapping[str, Place]) -> None:
        """Enrol unnamed faces."""
        rows = self.unnamed_rows(places)
        self.drop_unnamed(places)
        self.enrol([replace(row, identity=places[face_id].identity) for face_id, row in rows.items()], readmit=True)

    def _unname(self, face_ids: Sequence[str], line: int | None) -> None:
        """Keep enrolled faces as unnamed ones."""
        ids = [face["id"] for face_id in face_ids for face in self.find(face_id=face_id)]
        rows = dict(zip(face_ids, self.table_rows(ids), strict=True))
        self.drop(ids, line)
        self._insert_unnamed({face_id: replace(row, identity=None) for face_id, row in rows.items()})

    def _set_groups(self, places: Mapping[str, Place]) -> None:
        face_ids = json.dumps(list(places))
        ids = dict(self.rows(f"SELECT face_id, id FROM unnamed WHERE face_id {AMONG}", (face_ids,)))
        among = json.dumps(list(ids.values()))
        self.drop_group_sums(among)
        self.execute(f"DELETE FROM grouped WHERE id {AMONG}", (among,))
        lines = [(ids[f], p.number, p.state) for f, p in places.items() if (p.number, p.state) != LOOSE[1:]]
        self.execute_many("INSERT INTO grouped VALUES (?, ?, ?, ?)", [(*line, checksum(*line)) for line in lines])
        self.drop_group_sums(among)

    def unnamed_rows(self, face_ids: Iterable[str]) -> dict[str, Row]:
        """Return whole rows of unnamed faces by face_id, crops included; raises Damaged naming one that was changed."""
        found = {}
        for face in self.unnamed_faces(face_ids):
            rows = self.execute("SELECT vector, checksum FROM unnamed_vectors WHERE id=?", (face.id,))
            ((vector, stored),) = rows or [(None, None)]
            if checksum(face.id, vector) != stored:
                raise self._changed(face.face_id, face.image)
            png = self.unnamed_crop(face.face_id)
            found[face.face_id] = to_row(face.columns, None, np.frombuffer(vector, "<f4"), png)
        return found

    def unnamed_problems(self) -> Iterator[str]:
        """Yield a line for each unnamed face that is not as it was written."""
        if not self.has_unnamed:
            return
        try:
            self.rejections()
            self.group_sums(self.held_numbers())
            for face in list(self.unnamed_faces()):
                self.unnamed_rows([face.face_id])
        except Damaged as error:
            yield str(error)
        for table in ("unnamed_vectors", "unnamed_crops", "other_unnamed_vectors", "grouped"):
            if self.execute(f"SELECT 1 FROM {table} WHERE id NOT IN (SELECT id FROM unnamed) LIMIT 1"):
                yield f"{self.path}: a row of {table} without a face"
        if self.execute("SELECT 1 FROM unnamed WHERE face_id IN (SELECT face_id FROM faces) LIMIT 1"):
            yield f"{self.path}: a face that is enrolled and unnamed"
