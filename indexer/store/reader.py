"""Reading a gallery: people, faces, vectors and crops; each row is checked against its checksum."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import InputError
from facegallery.embedder.names import spelling
from facegallery.indexer.store.checksums import FACE_COLUMNS, chained, checksum, face_checksum
from facegallery.indexer.store.errors import Damaged, Unknown, damaged
from facegallery.indexer.store.facts import Facts

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
BLOCK = 4096  # rows read or written at once
NAMES = 2000  # that a misspelled one is compared with
LETTERS, MOST_TEXT = 3, 100  # by which the length of a misspelled name may be wrong, and its most letters
COLUMNS = ", ".join(f"faces.{name}" for name in FACE_COLUMNS)
FACES = f"SELECT {COLUMNS}, faces.checksum, name, person FROM faces LEFT JOIN people ON people.id = person"
AMONG = "IN (SELECT value FROM json_each(?))"
TRASHED = ("line", "fingerprint", "identity", *FACE_COLUMNS[1:], "vector", "png")


@dataclass(frozen=True)
class StoredFace:
    """One enrolled face, checked against its checksums."""

    id: int
    face_id: str
    identity: str
    image: str
    vector: np.ndarray  # float32 (d,), uncentred


class Changes(NamedTuple):
    """Faces that were removed or given to another person since an earlier state, in order."""

    ids: list[int]
    seq: int  # of the last
    chain: bytes  # `chained` over all since the built generation


def normal(name: str) -> str:
    """Return the NFC form of a name, as earlier versions stored it; `facegallery.embedder.names` has today's rule."""
    return unicodedata.normalize("NFC", name)


def name_key(name: str) -> str:
    """Return the text that is hashed for a forgotten person's name."""
    return f"name:{normal(name)}"


def check_name(name: str) -> str:
    """Return the name of an index; raises InputError where it cannot be the name of a plain folder."""
    if not NAME.fullmatch(name):
        raise InputError(
            "expected an index name of letters, digits, `.`, `_` and `-` that begins with a letter or digit, "
            f"received {name!r}: choose another"
        )
    return name


def index_folder(root: Path, name: str) -> Path:
    """Return the folder of the index called `name`; raises InputError as `check_name` does."""
    return root / check_name(name)


class Faces(Facts):
    """Reader of people, faces, vectors and crops."""

    def list_people(self, after: str = "", limit: int = -1, containing: str = "") -> list[tuple[str, int]]:
        """Return (name, number of faces) of people, by name.

        after: start behind this name. containing: only names that contain this text, ignoring the case of ASCII
        letters.
        """
        sql = (
            "SELECT name, (SELECT count(*) FROM faces WHERE person = people.id) AS n FROM people "
            "WHERE name > ? AND instr(lower(name), lower(?)) AND n > 0 ORDER BY name LIMIT ?"
        )
        return self.execute(sql, (normal(after), normal(containing), limit))

    def count_people(self, after: str = "") -> int:
        """Return the number of people whose names come after `after`."""
        return self.execute(
            "SELECT count(DISTINCT person) FROM faces JOIN people ON people.id = person WHERE name > ?",
            (normal(after),),
        )[0][0]

    def first_faces(self, names: Sequence[str]) -> dict[str, str]:
        """Return the face_id of the oldest face of each enrolled person in `names`."""
        oldest = "(SELECT min(id) FROM faces WHERE person = people.id)"
        sql = f"SELECT name, face_id FROM people JOIN faces ON faces.id = {oldest} WHERE name {AMONG}"
        return dict(self.rows(sql, (json.dumps(list(names)),)))

    def list_faces(self, identity: str) -> list[dict[str, Any]]:
        """Return face_id, image, split, box and the user's own columns of a person's faces, oldest first.

        Raises Unknown for a person who is not enrolled.
        """
        rows = self.execute(f"{FACES} WHERE person = ? ORDER BY faces.id", (self.person_id(identity),))
        found = []
        for row in rows:
            columns = self._columns(row)
            found.append(
                {
                    "face_id": columns["face_id"],
                    "image": columns["image"],
                    "split": columns["split"],
                    "box": floats_of(columns["box"]),
                    **json.loads(columns["extra"]),
                }
            )
        return found

    def owners(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all faces, int64 (n,), ascending, and the person id of each, int64 (n,)."""
        return self._owners("INDEXED BY faces_person")

    def _owners(self, source: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            pairs = np.array(self.execute(f"SELECT id, person FROM faces {source} ORDER BY id"), np.int64).reshape(
                -1, 2
            )
        except (TypeError, ValueError, OverflowError):
            raise damaged(self.path, "a face without a person") from None
        return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])

    @property
    def counter(self) -> int:
        """The highest id that a face ever had."""
        return max([seq for (seq,) in self.execute("SELECT seq FROM sqlite_sequence WHERE name='faces'")], default=0)

    def check_counter(self) -> None:
        """Raise Damaged where an id could be used twice."""
        ids = self.execute("SELECT max(id) FROM faces UNION SELECT max(face) FROM changed")
        if any(self.counter < id for (id,) in [*ids, (self.fact("built_to"),)] if isinstance(id, int)):
            raise damaged(self.path, "its counter of faces was changed")

    def check_owners(self) -> None:
        """Raise Damaged where the SQLite index that `owners` reads differs from the table."""
        if not np.array_equal(self.owners(), self._owners("NOT INDEXED")):
            raise damaged(self.path, "its index of owners does not fit its faces")

    def faces_of(self, people: Sequence[int]) -> list[tuple[int, int]]:
        """Return (face id, person id) of all faces of the people with these ids."""
        return self.execute(
            f"SELECT id, person FROM faces INDEXED BY faces_person WHERE person {AMONG}", (json.dumps(people),)
        )

    def owners_of(self, ids: Iterable[int]) -> dict[int, int]:
        """Return the person id of each enrolled face in `ids`; raises Damaged where one was changed or lost."""
        return self._checked_owners(AMONG, json.dumps(list(ids)))

    def owners_after(self, id: int) -> dict[int, int]:
        """Return `owners_of` all faces with an id above `id`."""
        return self._checked_owners("> ?", id)

    def _checked_owners(self, which: str, binding: int | str) -> dict[int, int]:
        found = {self._columns(row)["id"]: row[-1] for row in self.rows(f"{FACES} WHERE faces.id {which}", (binding,))}
        if {id for (id,) in self.execute(f"SELECT id FROM vectors WHERE id {which}", (binding,))} != found.keys():
            raise damaged(self.path, "its faces do not fit their vectors")
        indexed = (
            "SELECT count(*) FROM faces a JOIN faces b INDEXED BY faces_person "
            "ON b.person = a.person AND b.id = a.id WHERE a.id "
        )
        if self.execute(indexed + which, (binding,)) != [(len(found),)]:
            raise damaged(self.path, "its index of owners does not fit its faces")
        return found

    def changes(self, seq: int, chain: bytes) -> Changes:
        """Return the changes noted after line `seq` of the table `changed`.

        chain: the checksum over the lines up to `seq`. Raises Damaged where a line was changed or lost.
        """
        lines = self.execute("SELECT seq, face FROM changed WHERE seq > ? ORDER BY seq", (seq,))
        found = Changes([face for _, face in lines], lines[-1][0] if lines else seq, chained(chain, lines))
        if (wanted := self.fact("changes")) is not None and wanted != found.chain:
            raise damaged(self.path, "its list of changed faces was changed")
        return found

    def vectors(
        self, block: int = BLOCK, after: int = 0, table: str = "vectors"
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ids, int64 (b,), above `after`, and their uncentred vectors, float32 (b, d), ordered by id.

        Raises Damaged naming a face whose vector was changed or lost.
        """
        sql = (
            "SELECT faces.id, face_id, image, vector, v.checksum "
            f"FROM faces LEFT JOIN {table} v ON v.id = faces.id WHERE faces.id > ? ORDER BY 1"
        )
        size = 4 * self.spec.dimension if table == "vectors" else None
        rows = self.rows(sql, (after,))
        while batch := list(islice(rows, block)):
            ids, xb = self.read_vectors(batch, size)
            size = 4 * xb.shape[1]
            yield ids, xb

    def read_vectors(self, rows: Sequence[tuple[Any, ...]], size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return ids, int64 (b,), and vectors, float32 (b, d), of rows of id, face_id, image, vector and checksum.

        size: bytes of each vector; those of the first unless given. Raises Damaged naming a face whose vector was
        changed or lost.
        """
        for id, face_id, image, vector, stored in rows:
            if checksum(id, vector) != stored or len(vector) != (size := size or len(vector)):
                raise self._changed(face_id, image)
        ids = np.array([row[0] for row in rows], np.int64)
        return ids, np.frombuffer(b"".join(row[3] for row in rows), "<f4").reshape(len(rows), -1)

    def fetch(self, ids: Iterable[int], d: int | None = None) -> dict[int, StoredFace]:
        """Return the faces with these ids, by id.

        d: dimension that every vector must have. Raises Damaged naming a face that was changed, has another dimension
        or is lost.
        """
        wanted = [int(id) for id in ids]
        sql = (
            f"SELECT {COLUMNS}, faces.checksum, name, person, vector, vectors.checksum "
            "FROM faces LEFT JOIN people ON people.id = person "
            f"LEFT JOIN vectors ON vectors.id = faces.id WHERE faces.id {AMONG}"
        )
        found = {}
        for *row, vector, stored in self.rows(sql, (json.dumps(wanted),)):
            columns = self._columns(row)
            if checksum(columns["id"], vector) != stored or (d and len(vector) != 4 * d):
                raise self._changed(columns["face_id"], columns["image"])
            face = StoredFace(
                columns["id"], columns["face_id"], columns["identity"], columns["image"], np.frombuffer(vector, "<f4")
            )
            found[face.id] = face
        if lost := set(wanted) - set(found):
            raise damaged(self.path, f"face number {min(lost)} is lost")
        return found

    def table_rows(self, ids: Sequence[int], *, crops: bool = True) -> list[Row]:
        """Return whole rows of faces, in the order of `ids`, as `add` accepts them.

        crops: include the stored crops. Raises Damaged naming a face that was changed.
        """
        faces, found = self.fetch(ids, self.spec.dimension), {}
        for row in self.rows(f"{FACES} WHERE faces.id {AMONG}", (json.dumps(list(map(int, ids))),)):
            columns = self._columns(row)
            id = columns["id"]
            png = self.crop_of(id, columns["face_id"], columns["image"]) if crops else None
            found[id] = to_row(columns, columns["identity"], faces[id].vector, png)
        return [found[int(id)] for id in ids]

    def _columns(self, row: Sequence[Any]) -> dict[str, Any]:
        """Return FACE_COLUMNS and `identity` of a row of FACES, checked."""
        *columns, stored, name, _ = row
        if face_checksum(name, columns) != stored:
            raise self._changed(columns[1], columns[2])
        return dict(zip(FACE_COLUMNS, columns, strict=True)) | {"identity": name}

    def checked_columns(self, row: Sequence[Any]) -> dict[str, Any]:
        """Return FACE_COLUMNS and `identity` of a row of FACES; raises Damaged where it was changed."""
        return self._columns(row)

    def _changed(self, face_id: str, image: str) -> Damaged:
        """Return the error for a face that was changed on disk."""
        return Damaged(
            f"expected face {face_id} ({image}) as it was enrolled, {self.path} holds it changed: "
            "make the index again with `build-index --replace` or `restore`"
        )

    def crop(self, face_id: str) -> bytes | None:
        """Return the PNG of an enrolled face; None where no crop is stored."""
        for id, image in self.execute("SELECT id, image FROM faces WHERE face_id=?", (face_id,)):
            return self.crop_of(id, face_id, image)
        return None

    def crop_of(self, id: int, face_id: str, image: str, table: str = "crops") -> bytes | None:
        """Return the PNG of the face with an id, or None; `face_id` and `image` name the face in an error."""
        for png, stored in self.execute(f"SELECT png, checksum FROM {table} WHERE id=?", (id,)):
            if checksum(id, png) != stored:
                raise self._changed(face_id, image)
            return png
        return None

    def enrolled(self, names: Iterable[str]) -> set[str]:
        """Return those of the names that have a face here."""
        sql = "SELECT 1 FROM people JOIN faces ON person = people.id WHERE name=? LIMIT 1"
        return {name for name in set(names) if self.execute(sql, (self.spelled(name),))}

    def spelled(self, name: str) -> str:
        """Return the stored spelling of the person's name.

        Earlier versions stored any text: a person called exactly `name`, or its NFC form, comes first. Otherwise it is
        the spelling of `facegallery.embedder.names`.
        """
        return next((given for given in dict.fromkeys((name, normal(name))) if self._is_called(given)), spelling(name))

    def _is_called(self, name: str) -> bool:
        """Return whether somebody has exactly this name."""
        return bool(self.execute("SELECT 1 FROM people WHERE name=?", (name,)))

    def known(self, face_ids: Iterable[str]) -> dict[str, str]:
        """Return the person of each of the face_ids that is enrolled."""
        sql = f"SELECT face_id, name FROM faces JOIN people ON people.id = person WHERE face_id {AMONG}"
        return dict(self.rows(sql, (json.dumps(list(face_ids)),)))

    def person_id(self, name: str) -> int:
        """Return the id of a person; raises Unknown where nobody has this name."""
        for (id,) in self.execute("SELECT id FROM people WHERE name=?", (self.spelled(name),)):
            return id
        near = self._nearest_name(name)
        meant = f"did you mean {near!r}? See" if near else "see"
        raise Unknown(
            f"expected a person of {self.folder.name}, nobody is called {name!r}: {meant} `list {self.folder.name}`"
        )

    def _nearest_name(self, name: str) -> str | None:
        """Return the name of a person that is spelled much like this one, among NAMES of about its length."""
        length = len(name)
        sql = "SELECT name FROM people WHERE length(name) BETWEEN ? AND ? LIMIT ?"
        alike = self.execute(sql, (length - LETTERS, length + LETTERS, NAMES)) if length <= MOST_TEXT else []
        folded = {given.casefold(): given for (given,) in alike}
        return next((folded[near] for near in get_close_matches(name.casefold(), folded, 1)), None)

    def find(
        self, identity: str | None = None, face_id: str | None = None, image: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the columns of the faces of a person, a face_id or a photo; raises Unknown where there are none."""
        value: int | str | None
        if identity is not None:
            where, value = "person = ?", self.person_id(identity)
        elif face_id is not None:
            where, value = "face_id = ?", face_id
        else:
            where, value = "image = ?", image
        rows = self.execute(f"{FACES} WHERE {where} ORDER BY faces.id", (value,))
        if not rows:
            what = "a face with the id" if face_id is not None else "faces of the photo"
            raise Unknown(
                f"expected {what} {value!r} in {self.folder.name}, there is none: "
                f"see `list {self.folder.name} --identity P`"
            )
        return [self._columns(row) for row in rows]

    def removed_by(self, line: int) -> list[tuple[str, Row]]:
        """Return the faces that a line of the log removed, each with the fingerprint of its vector's contract."""
        rows = []
        for *values, stored in self.execute(
            f"SELECT {', '.join(TRASHED)}, checksum FROM trash WHERE line=? ORDER BY rowid", (line,)
        ):
            columns = dict(zip(TRASHED, values, strict=True))
            if checksum(*values) != stored:
                raise self._changed(columns["face_id"], columns["image"])
            row = to_row(columns, columns["identity"], np.frombuffer(columns["vector"], "<f4"), columns["png"])
            rows.append((columns["fingerprint"], row))
        return rows


def to_row(columns: Mapping[str, Any], identity: str | None, vector: np.ndarray, png: bytes | None) -> Row:
    """Return a row as `Store.add` accepts it."""
    plain: dict[str, Any] = {
        name: columns[name] for name in ("image_sha256", "split", "face", "confidence", "sharpness")
    }
    return Row(
        columns["image"],
        "ok",
        identity=identity,
        box=floats_of(columns["box"]),
        landmarks=floats_of(columns["landmarks"]),
        crop=png,
        vector=vector,
        extra=json.loads(columns["extra"]),
        **plain,
    )


def floats_of(data: bytes | None) -> list[float] | None:
    """Return the numbers of a float32 blob, or None."""
    return None if data is None else np.frombuffer(data, "<f4").tolist()
