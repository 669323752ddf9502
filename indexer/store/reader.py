"""What a gallery holds: people, faces, vectors and crops, each row checked against its checksum when it is read."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.names import spelling
from facegallery.embedder.spec import FaceSpec
from facegallery.indexer.store.checksums import FACE_COLUMNS, chained, checksum, face_checksum
from facegallery.indexer.store.errors import Damaged, Unknown, damaged
from facegallery.indexer.store.forgotten import Forgotten, hash_of
from facegallery.indexer.store.kinds import Counts, kind_of
from facegallery.indexer.store.log import Log

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
BLOCK = 4096  # rows read or written at once
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
    """Faces that were removed or given to another person since some moment, in order."""

    ids: list[int]
    seq: int  # of the last
    chain: bytes  # `chained` over all since the built generation


def normal(name: str) -> str:
    """NFC: what galleries of earlier versions did to a name. `facegallery.embedder.names` has the rule for new ones."""
    return unicodedata.normalize("NFC", name)


def name_key(name: str) -> str:
    """What is hashed of a forgotten person's name."""
    return f"name:{normal(name)}"


def check_name(name: str) -> str:
    """The name of an index; raises InputError where it could not be a plain folder's."""
    if not NAME.fullmatch(name):
        raise InputError(
            f"expected an index name of letters, digits, `.`, `_` and `-` that begins with a letter or digit, received {name!r}: "
            "choose another"
        )
    return name


def index_folder(root: Path, name: str) -> Path:
    """Where the index called `name` lies; raises InputError as `check_name` does."""
    return root / check_name(name)


class Faces(Log):
    """The reading side of a gallery."""

    _counted: tuple[object, Counts] | None = None  # `kinds` by `mark`

    # what it holds

    @property
    def generation(self) -> int:
        """Number of the last finished build; 0 before the first."""
        return self.fact("generation") or 0

    @property
    def spec(self) -> FaceSpec:
        """The contract of the vectors."""
        try:
            return FaceSpec.from_json(self.needed_fact("spec"))
        except DataError as error:
            raise damaged(self.path, str(error)) from None

    @property
    def mean(self) -> np.ndarray | None:
        """float64 (d,): what centring subtracts, or None."""
        data = self.fact("mean")
        return None if data is None else np.frombuffer(data, "<f8")

    @property
    def faces(self) -> int:
        """How many are enrolled."""
        return self.execute("SELECT count(*) FROM faces")[0][0]

    def faces_since(self, newest: int, faces: int) -> tuple[int, int]:
        """How many faces were added and removed since there were so many and `newest` was the highest id; by their number alone where it
        is 0."""
        now = self.faces
        added = (
            self.execute("SELECT count(*) FROM faces WHERE id > ?", (newest,))[0][0] if newest else max(0, now - faces)
        )
        return added, max(0, faces - (now - added))

    @property
    def people(self) -> int:
        """How many have a face enrolled."""
        return self.execute("SELECT count(DISTINCT person) FROM faces")[0][0]

    @property
    def columns(self) -> list[str]:
        """Names of the users' own columns, of any face that was ever added."""
        return json.loads(self.fact("columns") or "[]")

    @property
    def kinds(self) -> Counts:
        """How many values of the users' own columns are numbers, dates and text."""
        if (text := self.fact("kinds")) is not None:
            return Counts.from_json(text)
        mark = self.mark
        if self._counted is None or self._counted[0] != mark:  # an older version kept no counts
            self._counted = mark, Counts.over(self.rows("SELECT extra FROM faces"))
        return self._counted[1]

    def example(self, column: str, wanted: Callable[[str], bool]) -> str | None:
        """A value of a user's own column that is of a wanted kind."""
        path = f"$.{json.dumps(column, ensure_ascii=False)}"
        rows = self.rows("SELECT json_extract(extra, ?) FROM faces", (path,))
        return next((str(value) for (value,) in rows if (kind := kind_of(value)) and wanted(kind)), None)

    @property
    def keeps_crops(self) -> bool:
        """Whether crops are stored: of any face, or nobody is enrolled."""
        return bool(self.execute("SELECT 1 FROM crops LIMIT 1")) or not self.execute("SELECT 1 FROM faces LIMIT 1")

    def list_people(self, after: str = "", limit: int = -1, containing: str = "") -> list[tuple[str, int]]:
        """Names and numbers of their faces, by name, from the one that follows `after`; those that contain a text, in any case of ASCII."""
        sql = (
            "SELECT name, (SELECT count(*) FROM faces WHERE person = people.id) AS n FROM people "
            "WHERE name > ? AND instr(lower(name), lower(?)) AND n > 0 ORDER BY name LIMIT ?"
        )
        return self.execute(sql, (normal(after), normal(containing), limit))

    def count_people(self, after: str = "") -> int:
        """How many people there are whose names follow `after`."""
        return self.execute(
            "SELECT count(DISTINCT person) FROM faces JOIN people ON people.id = person WHERE name > ?",
            (normal(after),),
        )[0][0]

    def first_faces(self, names: Sequence[str]) -> dict[str, str]:
        """name -> the face_id of the person's oldest face, of those who are enrolled."""
        sql = f"SELECT name, face_id FROM people JOIN faces ON faces.id = (SELECT min(id) FROM faces WHERE person = people.id) WHERE name {AMONG}"
        return dict(self.rows(sql, (json.dumps(list(names)),)))

    def list_faces(self, identity: str) -> list[dict[str, Any]]:
        """face_id, image, split, box and the user's own columns of a person's faces, oldest first; raises GalleryError for an unknown one."""
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
        """int64 (n,) ids of all faces, rising, and (n,) numbers of the people they belong to."""
        return self._owners("INDEXED BY faces_person")

    def _owners(self, source: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            pairs = np.array(self.execute(f"SELECT id, person FROM faces {source} ORDER BY id"), np.int64).reshape(
                -1, 2
            )
        except (TypeError, ValueError, OverflowError):
            raise damaged(self.path, "a face without an owner") from None
        return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])

    @property
    def counter(self) -> int:
        """The highest id that a face ever had."""
        return max([seq for (seq,) in self.execute("SELECT seq FROM sqlite_sequence WHERE name='faces'")], default=0)

    def check_counter(self) -> None:
        """Raises Damaged where an id would be used twice."""
        ids = self.execute("SELECT max(id) FROM faces UNION SELECT max(face) FROM changed")
        if any(self.counter < id for (id,) in [*ids, (self.fact("built_to"),)] if isinstance(id, int)):
            raise damaged(self.path, "its counter of faces was changed")

    def check_owners(self) -> None:
        """Raises Damaged where SQLite's index, which `owners` reads, says otherwise than the table."""
        if not np.array_equal(self.owners(), self._owners("NOT INDEXED")):
            raise damaged(self.path, "its index of owners does not fit its faces")

    def faces_of(self, people: Sequence[int]) -> list[tuple[int, int]]:
        """(id of a face, number of the person) of all faces of people, by their numbers."""
        return self.execute(
            f"SELECT id, person FROM faces INDEXED BY faces_person WHERE person {AMONG}", (json.dumps(people),)
        )

    def owners_of(self, ids: Iterable[int]) -> dict[int, int]:
        """id -> number of the person, of those that are enrolled; raises GalleryError where one was changed or lost."""
        return self._checked_owners(AMONG, json.dumps(list(ids)))

    def owners_after(self, id: int) -> dict[int, int]:
        """`owners_of` all faces above `id`."""
        return self._checked_owners("> ?", id)

    def _checked_owners(self, which: str, binding: int | str) -> dict[int, int]:
        found = {self._columns(row)["id"]: row[-1] for row in self.rows(f"{FACES} WHERE faces.id {which}", (binding,))}
        if {id for (id,) in self.execute(f"SELECT id FROM vectors WHERE id {which}", (binding,))} != found.keys():
            raise damaged(self.path, "its faces do not fit their vectors")
        indexed = "SELECT count(*) FROM faces a JOIN faces b INDEXED BY faces_person ON b.person = a.person AND b.id = a.id WHERE a.id "
        if self.execute(indexed + which, (binding,)) != [(len(found),)]:
            raise damaged(self.path, "its index of owners does not fit its faces")
        return found

    def changes(self, seq: int, chain: bytes) -> Changes:
        """What was noted after the line `seq`, up to which the checksum is `chain`; raises Damaged where a line was changed or lost."""
        lines = self.execute("SELECT seq, face FROM changed WHERE seq > ? ORDER BY seq", (seq,))
        found = Changes([face for _, face in lines], lines[-1][0] if lines else seq, chained(chain, lines))
        if (wanted := self.fact("changes")) is not None and wanted != found.chain:
            raise damaged(self.path, "its list of changed faces was changed")
        return found

    def vectors(
        self, block: int = BLOCK, after: int = 0, table: str = "vectors"
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """ids int64 (b,) above `after` and uncentred vectors float32 (b, d) in the order of ids.

        Raises GalleryError naming a face whose vector was changed or lost.
        """
        sql = f"SELECT faces.id, face_id, image, vector, v.checksum FROM faces LEFT JOIN {table} v ON v.id = faces.id WHERE faces.id > ? ORDER BY 1"
        size = 4 * self.spec.dimension if table == "vectors" else None
        rows = self.rows(sql, (after,))
        while batch := list(islice(rows, block)):
            for id, face_id, image, vector, stored in batch:
                if checksum(id, vector) != stored or len(vector) != (size := size or len(vector)):
                    raise self._changed(face_id, image)
            ids = np.array([row[0] for row in batch], np.int64)
            yield ids, np.frombuffer(b"".join(row[3] for row in batch), "<f4").reshape(len(batch), -1)

    def fetch(self, ids: Iterable[int], d: int | None = None) -> dict[int, StoredFace]:
        """The faces of these ids; raises GalleryError naming one that was changed, or has no d numbers, or was lost."""
        wanted = [int(id) for id in ids]
        sql = (
            f"SELECT {COLUMNS}, faces.checksum, name, person, vector, vectors.checksum FROM faces LEFT JOIN people ON people.id = person "
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

    def table_rows(self, ids: Sequence[int], crops: bool = True) -> list[Row]:
        """Whole rows of faces, in the order of `ids`, as `add` takes them; raises GalleryError naming one that was changed."""
        faces, found = self.fetch(ids, self.spec.dimension), {}
        for row in self.rows(f"{FACES} WHERE faces.id {AMONG}", (json.dumps(list(map(int, ids))),)):
            columns = self._columns(row)
            id = columns["id"]
            png = self.crop_of(id, columns["face_id"], columns["image"]) if crops else None
            found[id] = to_row(columns, columns["identity"], faces[id].vector, png)
        return [found[int(id)] for id in ids]

    def _columns(self, row: Sequence[Any]) -> dict[str, Any]:
        """FACE_COLUMNS and `identity` of a row of FACES, checked."""
        *columns, stored, name, _ = row
        if face_checksum(name, columns) != stored:
            raise self._changed(columns[1], columns[2])
        return dict(zip(FACE_COLUMNS, columns, strict=True)) | {"identity": name}

    def _changed(self, face_id: str, image: str) -> Damaged:
        return Damaged(
            f"expected face {face_id} ({image}) as it was enrolled, {self.path} holds it changed: make the index again with "
            "`build-index --replace` or `restore`"
        )

    def crop(self, face_id: str) -> bytes | None:
        """The PNG of an enrolled face, where it was kept."""
        for id, image in self.execute("SELECT id, image FROM faces WHERE face_id=?", (face_id,)):
            return self.crop_of(id, face_id, image)
        return None

    def crop_of(self, id: int, face_id: str, image: str) -> bytes | None:
        """The PNG of the face with a number, or None; `face_id` and `image` name it in the error for one that was changed."""
        for png, stored in self.execute("SELECT png, checksum FROM crops WHERE id=?", (id,)):
            if checksum(id, png) != stored:
                raise self._changed(face_id, image)
            return png
        return None

    def enrolled(self, names: Iterable[str]) -> set[str]:
        """Those of the names that have a face here."""
        sql = "SELECT 1 FROM people JOIN faces ON person = people.id WHERE name=? LIMIT 1"
        return {name for name in set(names) if self.execute(sql, (self.spelled(name),))}

    def spelled(self, name: str) -> str:
        """The name of the person who is meant: as it was given where somebody is called exactly so, which galleries of earlier versions
        allow for any text, else in the one spelling of `facegallery.embedder.names`."""
        return next((given for given in dict.fromkeys((name, normal(name))) if self._is_called(given)), spelling(name))

    def _is_called(self, name: str) -> bool:
        """Whether somebody has exactly this name."""
        return bool(self.execute("SELECT 1 FROM people WHERE name=?", (name,)))

    def known(self, face_ids: Iterable[str]) -> dict[str, str]:
        """face_id -> the person it is enrolled under, of those that are."""
        sql = f"SELECT face_id, name FROM faces JOIN people ON people.id = person WHERE face_id {AMONG}"
        return dict(self.rows(sql, (json.dumps(list(face_ids)),)))

    def forgotten(self) -> Forgotten:
        """All that were forgotten; raises Damaged where the list was changed or lost."""
        salt, text = self.fact("salt"), self.fact("forgotten_list")
        if salt is None:
            return Forgotten()
        try:
            listed = Forgotten() if text is None else Forgotten.from_json(text)
        except ValueError as error:
            raise damaged(self.path, f"its list of who was forgotten: {error}") from None
        marks = listed.by_salt.get(salt, {})
        return Forgotten({**listed.by_salt, salt: {hash: marks.get(hash, b"") for hash in self.forgotten_hashes()}})

    def forgotten_hashes(self) -> set[bytes]:
        """Of all that were forgotten by this gallery's salt; raises Damaged where one was changed or lost."""
        hashes = [hash for (hash,) in self.execute("SELECT hash FROM forgotten ORDER BY hash")]
        if (wanted := self.fact("forgotten")) is not None and wanted != checksum(*hashes):
            raise damaged(self.path, "its list of who was forgotten was changed")
        return set(hashes)

    def forgotten_hash(self, text: str) -> bytes:
        """What is kept of a forgotten face_id or `name_key`: 16 bytes that say nothing without this gallery's salt."""
        return hash_of(text, self.needed_fact("salt"))

    def person_id(self, name: str) -> int:
        """The number of a person; raises Unknown where nobody is called so."""
        for (id,) in self.execute("SELECT id FROM people WHERE name=?", (self.spelled(name),)):
            return id
        raise Unknown(
            f"expected a person of {self.folder.name}, nobody is called {name!r}: see `list {self.folder.name}`"
        )

    def find(
        self, identity: str | None = None, face_id: str | None = None, image: str | None = None
    ) -> list[dict[str, Any]]:
        """The faces of a person, of an id or of a photo, by id; raises GalleryError where there are none."""
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
                f"expected {what} {value!r} in {self.folder.name}, there is none: see `list {self.folder.name} --identity P`"
            )
        return [self._columns(row) for row in rows]

    def removed_by(self, line: int) -> list[tuple[str, Row]]:
        """The faces that a line of the log removed, each with the fingerprint of the contract that its vector was made by."""
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


def to_row(columns: Mapping[str, Any], identity: str, vector: np.ndarray, png: bytes | None) -> Row:
    """A row as `Gallery.add` takes it."""
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
    return None if data is None else np.frombuffer(data, "<f4").tolist()
