"""The truth of an index: people, faces, vectors and crops in one SQLite file.

INDEX/gallery.db                SQLite, write-ahead log
INDEX/built-<generation>/       what `indexer.build` derived from it
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from embedder.errors import DataError, FaceDBError, GalleryError, InputError, SystemFault, from_os_error
from embedder.spec import FaceSpec
from embedder.table import Row, make_folder, sync_folder

FILE, LINK = "gallery.db", "index.faiss"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
WAIT_MS = 60_000  # for another process that writes
CACHE_KIB = 64 * 1024
BLOCK = 4096  # rows read at once

# Append only: an index that has seen the first n of these has user_version n.
MIGRATIONS = (
    """
    CREATE TABLE meta(key TEXT PRIMARY KEY, value ANY NOT NULL, checksum BLOB NOT NULL) STRICT;
    CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE faces(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        face_id TEXT NOT NULL UNIQUE,
        person INTEGER NOT NULL REFERENCES people(id),
        image TEXT NOT NULL,
        image_sha256 TEXT,
        split TEXT,
        face INTEGER NOT NULL,
        box BLOB,        -- float32: x0 y0 x1 y1
        landmarks BLOB,  -- float32: x, y of five points
        confidence REAL,
        sharpness REAL,
        extra TEXT NOT NULL,  -- JSON object: the user's own columns
        checksum BLOB NOT NULL
    ) STRICT;
    CREATE INDEX faces_person ON faces(person);
    CREATE TABLE vectors(id INTEGER PRIMARY KEY REFERENCES faces(id), vector BLOB NOT NULL) STRICT;  -- float32
    CREATE TABLE crops(id INTEGER PRIMARY KEY REFERENCES faces(id), png BLOB NOT NULL) STRICT;
    """,
)


class Damaged(GalleryError):
    """The file itself is broken; `build-index --replace` makes a new one."""


@dataclass(frozen=True)
class Face:
    """One enrolled face, checked against its checksum."""

    id: int
    face_id: str
    identity: str
    image: str
    vector: np.ndarray  # float32 (d,), uncentred


def normal(name: str) -> str:
    """A person's name as the gallery spells it: NFC."""
    return unicodedata.normalize("NFC", name)


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


def checksum(*fields: object) -> bytes:
    """16 bytes over the fields, each with its length before it, so that no two lists of fields run into one."""
    digest = hashlib.blake2b(digest_size=16)
    for field in fields:
        data = field if isinstance(field, bytes) else repr(field).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def face_checksum(id: int, face_id: str, identity: str | None, image: str, vector: bytes | None) -> bytes:
    """Over all that a hit shows and its score is made of."""
    return checksum(id, face_id, identity, image, vector)


# errors ---------------------------------------------------------------------


def one_line(error: Exception, path: Path) -> FaceDBError | Exception:
    """An error of SQLite as one of ours; a fault of our own stays what it was."""
    reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    match error:
        case apsw.FullError():
            return from_os_error(OSError(errno.ENOSPC, "", str(path)))
        case apsw.CantOpenError() | apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.AuthError():
            return from_os_error(OSError(errno.EACCES, "", str(path)))
        case apsw.IOError():
            return SystemFault(f"{path}: could not be read or written ({reason}): check the disk, its free space and limits on file sizes")
        case apsw.BusyError() | apsw.LockedError() | apsw.ProtocolError():
            return GalleryError(f"expected {path} to be free, another process is writing to it: wait until it has ended and try again")
        case apsw.CorruptError() | apsw.NotADBError() | apsw.FormatError() | apsw.SQLError() | UnicodeDecodeError():
            return damaged(path, reason)
        case apsw.NoMemError():
            return MemoryError()
    return error


def damaged(path: Path, reason: str) -> Damaged:
    return Damaged(f"expected a sound gallery, {path} is damaged ({reason}): make it again with `build-index --replace`")


@contextlib.contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into ours."""
    try:
        yield
    except (apsw.Error, UnicodeDecodeError) as error:
        ours = one_line(error, path)
        if ours is error:
            raise
        raise ours from None


# the file -------------------------------------------------------------------


class Gallery:
    """One connection to a gallery. Use it as a context manager, from one thread at a time."""

    def __init__(self, folder: Path, writable: bool):
        """`open` and `create` are the ways in."""
        self.folder, self.path = folder, folder / FILE
        flags = apsw.SQLITE_OPEN_READWRITE if writable else apsw.SQLITE_OPEN_READONLY
        with guarded(self.path):
            self._db = apsw.Connection(str(self.path), flags=flags)
        try:
            self._configure(writable)
        except BaseException:
            self._db.close(True)
            raise

    @classmethod
    def open(cls, folder: str | Path, write: bool = False) -> Gallery:
        """A finished gallery. Raises GalleryError where there is none, it is damaged, or a newer version made it."""
        folder = Path(folder)
        if not (folder / FILE).is_file():
            raise missing(folder)
        gallery = cls(folder, write)
        try:
            gallery._check_version()
            if 0 < gallery.version < len(MIGRATIONS):
                gallery._migrate_elsewhere()
            if gallery.generation == 0:
                raise missing(folder)
        except BaseException:
            gallery.close()
            raise
        return gallery

    @classmethod
    def create(cls, folder: str | Path) -> Gallery:
        """The gallery of a folder for writing, made where it is missing; nothing is in it before the first commit."""
        folder = make_folder(Path(folder))
        with contextlib.suppress(FileExistsError):
            os.close(os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            sync_folder(folder)
            sync_folder(folder.parent)
        gallery = cls(folder, True)
        try:
            gallery._check_version()
        except BaseException:
            gallery.close()
            raise
        return gallery

    def _configure(self, writable: bool) -> None:
        self._db.set_busy_timeout(WAIT_MS)
        self.execute("PRAGMA cell_size_check=ON")
        self.execute("PRAGMA trusted_schema=OFF")
        if writable:
            self.execute("PRAGMA page_size=65536")  # before the first page is written
            self.execute("PRAGMA journal_mode=WAL")
            self.execute("PRAGMA synchronous=FULL")
            self.execute("PRAGMA secure_delete=ON")
            self.execute("PRAGMA foreign_keys=ON")
            self.execute(f"PRAGMA cache_size=-{CACHE_KIB}")

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends an open transaction without its changes, and the connection."""
        self._db.close(True)

    # SQL

    def rows(self, sql: str, bindings: Sequence[Any] = ()) -> Iterator[tuple]:
        """The answer of one statement, row by row."""
        with guarded(self.path):
            yield from self._db.execute(sql, bindings)

    def execute(self, sql: str, bindings: Sequence[Any] = ()) -> list[tuple]:
        """All rows of a statement's answer."""
        return list(self.rows(sql, bindings))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction that no other writer shares, migrated to this version; all of it is kept, or nothing."""
        self.execute("BEGIN IMMEDIATE")
        try:
            self._migrate()
            yield
            self.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self.execute("ROLLBACK")
            raise

    def begin_reading(self) -> None:
        """Freezes what this connection sees, until `end_reading`."""
        self.execute("BEGIN")
        self.execute("SELECT count(*) FROM meta")  # SQLite takes its snapshot at the first read

    def end_reading(self) -> None:
        if self._db.in_transaction:
            self.execute("ROLLBACK")

    # versions

    @property
    def version(self) -> int:
        """How many migrations the file has seen."""
        return self.execute("PRAGMA user_version")[0][0]

    def _check_version(self) -> None:
        if self.version > len(MIGRATIONS):
            raise GalleryError(
                f"expected an index of version {len(MIGRATIONS)} or older, {self.path} has version {self.version}: install a newer facedb"
            )

    def _migrate(self) -> None:
        for number in range(self.version, len(MIGRATIONS)):
            self.execute(MIGRATIONS[number])
            self.execute(f"PRAGMA user_version={number + 1}")

    def _migrate_elsewhere(self) -> None:
        with Gallery(self.folder, True) as other, other.writing():
            pass

    # facts about the whole

    def fact(self, key: str) -> Any:
        """A fact, or None where it was never set; raises Damaged where it was changed behind our back."""
        if self.version == 0:
            return None
        for value, stored in self.rows("SELECT value, checksum FROM meta WHERE key=?", (key,)):
            if checksum(key, value) != stored:
                raise damaged(self.path, f"the entry {key!r} was changed")
            return value
        return None

    def set_fact(self, key: str, value: str | int | bytes) -> None:
        self.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value, checksum(key, value)))

    def needed_fact(self, key: str) -> Any:
        """A fact that every finished gallery has."""
        if (value := self.fact(key)) is None:
            raise damaged(self.path, f"the entry {key!r} is missing")
        return value

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

    @property
    def people(self) -> int:
        """How many have a face enrolled."""
        return self.execute("SELECT count(DISTINCT person) FROM faces")[0][0]

    # faces

    def clear(self) -> None:
        """Takes everyone out, within a transaction of `writing`; ids go on from where they were."""
        for table in ("crops", "vectors", "faces", "people", "meta"):
            self.execute(f"DELETE FROM {table}")

    def add(self, row: Row) -> str | None:
        """Enrols a face that has an identity and a vector, float32 (d,).

        Returns None where it is added, else the name of the person it is already enrolled under.
        """
        assert row.identity is not None and row.vector is not None
        face_id, identity, vector = row.face_id, normal(row.identity), row.vector.astype("<f4").tobytes()
        for (name,) in self.rows("SELECT name FROM faces JOIN people ON people.id = person WHERE face_id=?", (face_id,)):
            return name
        id = self._next_id()
        columns = (
            id, face_id, self._person(identity), row.image, row.image_sha256, row.split, row.face, _floats(row.box), _floats(row.landmarks),
            row.confidence, row.sharpness, json.dumps(row.extra, ensure_ascii=False, sort_keys=True),
            face_checksum(id, face_id, identity, row.image, vector),
        )  # fmt: skip
        self.execute(f"INSERT INTO faces VALUES ({','.join('?' * len(columns))})", columns)
        self.execute("INSERT INTO vectors VALUES (?, ?)", (id, vector))
        if row.crop is not None:
            self.execute("INSERT INTO crops VALUES (?, ?)", (id, row.crop))
        return None

    def _next_id(self) -> int:
        last = self.execute("SELECT seq FROM sqlite_sequence WHERE name='faces'")
        return 1 + (last[0][0] if last else 0)

    def _person(self, name: str) -> int:
        for (id,) in self.rows("SELECT id FROM people WHERE name=?", (name,)):
            return id
        return self.execute("INSERT INTO people(name) VALUES (?) RETURNING id", (name,))[0][0]

    def owners(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 (n,) ids of all faces, rising, and (n,) numbers of the people they belong to."""
        return self._owners("INDEXED BY faces_person")

    def _owners(self, source: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            pairs = np.array(self.execute(f"SELECT id, person FROM faces {source} ORDER BY id"), np.int64).reshape(-1, 2)
        except (TypeError, ValueError, OverflowError):
            raise damaged(self.path, "a face without an owner") from None
        return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])

    def check_owners(self) -> None:
        """Raises Damaged where SQLite's index, which `owners` reads, says otherwise than the table."""
        if not np.array_equal(self.owners(), self._owners("NOT INDEXED")):
            raise damaged(self.path, "its index of owners does not fit its faces")

    def vectors(self, block: int = BLOCK) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """ids int64 (b,) and uncentred vectors float32 (b, d) in the order of ids; raises GalleryError naming a face that was changed."""
        found = self._checked(self.rows(f"{_FACES} ORDER BY faces.id"))
        while faces := list(islice(found, block)):
            yield np.array([face.id for face in faces], np.int64), np.stack([face.vector for face in faces])

    def fetch(self, ids: Iterable[int]) -> dict[int, Face]:
        """The faces of these ids; raises GalleryError naming one that was changed or lost."""
        wanted = [int(id) for id in ids]
        rows = self.rows(f"{_FACES} WHERE faces.id IN (SELECT value FROM json_each(?))", (json.dumps(wanted),))
        found = {face.id: face for face in self._checked(rows)}
        if lost := set(wanted) - set(found):
            raise damaged(self.path, f"face number {min(lost)} is lost")
        return found

    def _checked(self, rows: Iterable[tuple]) -> Iterator[Face]:
        for id, face_id, name, image, vector, stored in rows:
            if face_checksum(id, face_id, name, image, vector) != stored:
                raise Damaged(
                    f"expected face {face_id} ({image}) as it was enrolled, {self.path} holds it changed: make the index again with "
                    "`build-index --replace`"
                )
            yield Face(id, face_id, name, image, np.frombuffer(vector, "<f4"))

    def crop(self, face_id: str) -> bytes | None:
        """The PNG of an enrolled face, where it was kept."""
        found = self.execute("SELECT png FROM faces JOIN crops USING (id) WHERE face_id=?", (face_id,))
        return found[0][0] if found else None

    def enrolled(self, names: Iterable[str]) -> set[str]:
        """Those of the names that have a face here."""
        sql = "SELECT 1 FROM people JOIN faces ON person = people.id WHERE name=? LIMIT 1"
        return {name for name in set(names) if self.execute(sql, (normal(name),))}


_FACES = """SELECT faces.id, face_id, name, image, vector, checksum FROM faces
    LEFT JOIN people ON people.id = person LEFT JOIN vectors ON vectors.id = faces.id"""


def _floats(values: Sequence[float] | None) -> bytes | None:
    return None if values is None else np.asarray(values, "<f4").tobytes()


def missing(folder: Path) -> GalleryError:
    """What to say where there is no finished gallery."""
    if os.path.lexists(folder / LINK):
        return Damaged(f"expected people in {folder / FILE}, it is missing or empty: make the index again with `build-index --replace`")
    names = sorted(path.parent.name for path in folder.parent.glob(f"*/{FILE}") if path.parent != folder)
    known = f"; there are {', '.join(names[:10])}" if names else ""
    return GalleryError(f"expected an index in {folder}, there is none: run `build-index VECTORS --name {folder.name}`{known}")


def versions() -> dict[str, str]:
    """Of what the files were made with."""
    import faiss

    return {
        "python": sys.version.split()[0], "apsw": apsw.apsw_version(), "sqlite": apsw.sqlite_lib_version(), "faiss": faiss.__version__,
        "numpy": np.__version__,
    }  # fmt: skip
