"""The SQLite file of a gallery: how it is opened, locked, migrated and encrypted."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from facegallery.embedder.errors import FaceGalleryError, GalleryError, InputError, SystemFault, from_os_error
from facegallery.embedder.files import make_folder, sync_folder, write_atomic
from facegallery.indexer.store import totals
from facegallery.indexer.store.checksums import checksum
from facegallery.indexer.store.errors import Damaged, damaged, guarded, replaced
from facegallery.indexer.store.migrations import COUNTED, MIGRATIONS
from facegallery.indexer.store.totals import Totals

FILE, LINK, CIPHER_FILE = "gallery.db", "index.faiss", "encrypted"
CIPHER = "chacha20"  # with Poly1305 for each page
PLAIN = b"SQLite format 3\0"
WAIT_MS = 60_000  # for another writing process
CACHE_KIB = 64 * 1024
MAPPED = 1 << 40  # bytes of the file that readers map; SQLite allows 2 GiB
# file systems on which SQLite's locks or shared memory do not hold between machines
NETWORK = re.compile(
    r"(nfs\d?|cifs|smb\d?|smbfs|afs|ceph|lustre|gpfs|beegfs|glusterfs|ncpfs|davfs|"
    r"fuse\.(sshfs|glusterfs|s3fs|rclone|davfs\d?|ceph(-fuse)?|gcsfuse|juicefs))"
)


# location and key -----------------------------------------------------------


def file_system(path: Path, mounts: str | Path = "/proc/self/mountinfo") -> str:
    """Return the type of the file system that holds `path`, such as ext4; empty where the system does not tell."""
    try:
        lines = os.fsdecode(Path(mounts).read_bytes()).split("\n")
    except OSError:
        return ""
    real, best, kind = str(Path(path).resolve()), -1, ""
    for line in lines:
        fields, separator, rest = line.partition(" - ")
        if not separator:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split(" ")[4])
        if len(point) >= best and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, kind = len(point), rest.split()[0]
    return kind


def check_file_system(folder: Path) -> None:
    """Raise SystemFault for a folder on a network file system.

    SQLite's write-ahead log works between processes of one machine only.
    """
    if NETWORK.fullmatch(kind := file_system(folder)):
        raise SystemFault(
            f"expected a local disk for an index, {folder} is on a network file system ({kind}): move it to a local one"
        )


def environment_key() -> bytes | None:
    """Return the key in FACEGALLERY_KEY, or in the file that FACEGALLERY_KEY_FILE names, without its line end.

    Returns None where neither variable is set. Raises InputError for a file that is empty or not readable.
    """
    if text := os.environ.get("FACEGALLERY_KEY"):
        return text.encode()
    if not (path := os.environ.get("FACEGALLERY_KEY_FILE")):
        return None
    try:
        key = Path(path).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise InputError(
            f"expected a key in {path} (FACEGALLERY_KEY_FILE), it cannot be read ({error.strerror}): correct the path"
        ) from None
    if not key:
        raise InputError(f"expected a key in {path} (FACEGALLERY_KEY_FILE), the file is empty: write the key to it")
    return key


def no_key(folder: Path) -> GalleryError:
    """Return the error for an encrypted index without a key."""
    return GalleryError(
        f"expected the key of {folder.name}, received none: "
        "set FACEGALLERY_KEY, or FACEGALLERY_KEY_FILE to a file that holds it"
    )


# the connection -------------------------------------------------------------


class Database:
    """One connection to INDEX/gallery.db. Use it as a context manager, from one thread at a time."""

    key: bytes | None  # of an encrypted index
    connection: apsw.Connection  # for what no method here does

    def __init__(self, folder: Path, *, writable: bool, key: bytes | None = None):
        """Open the file.

        writable: open for changes. key: of an encrypted index; by default from the environment. Raises SystemFault for
        a network file system, GalleryError for a missing or wrong key.
        """
        self.folder, self.path, self.writable = folder, folder / FILE, writable
        check_file_system(folder)
        self.encrypted = (folder / CIPHER_FILE).exists()
        if self.encrypted and not hasattr(apsw, "mc_version"):
            raise SystemFault(
                "expected the package apsw-sqlite3mc for an encrypted index, found plain apsw: "
                "`pip uninstall apsw`, then install again"
            )
        self.key = (key or environment_key()) if self.encrypted else None
        if self.encrypted and not self.key:
            raise no_key(folder)
        self._totals: Totals | None = None  # of an open transaction of `writing`
        self._frozen: tuple | None = None  # the fingerprint of a file in a read-only folder
        self._opened = 0
        self._connect()

    def _connect(self) -> None:
        self._opened += 1
        try:
            self._open(immutable=self._immutable())
        except FaceGalleryError as error:
            if self.encrypted and isinstance(error, Damaged):
                raise self._wrong_key() from None
            if not self.encrypted and isinstance(error, Damaged) and self._looks_encrypted():
                raise Damaged(f"{error}; or it is encrypted and lost its file `{CIPHER_FILE}`") from None
            raise

    def _open(self, *, immutable: bool) -> None:
        with guarded(self.path):
            if immutable:
                name = f"file:{quote(self.path.resolve().as_posix())}?immutable=1"
                self.connection = apsw.Connection(name, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
            else:
                flags = apsw.SQLITE_OPEN_READWRITE if self.writable else apsw.SQLITE_OPEN_READONLY
                self.connection = apsw.Connection(str(self.path), flags=flags)
        try:
            self._configure()
        except BaseException:
            self.connection.close(force=True)
            raise

    def _configure(self) -> None:
        if self.key:
            self.execute(f"PRAGMA cipher='{CIPHER}'")
            self.execute(f"PRAGMA hexkey='{self.key.hex()}'")
        self.connection.set_busy_timeout(WAIT_MS)
        self._file = self._inode()
        self.execute("PRAGMA trusted_schema=OFF")
        if self.writable:
            # a reader skips this check, a quarter of the time of a search, and trusts the rows' checksums
            self.execute("PRAGMA cell_size_check=ON")
            self.execute("PRAGMA page_size=65536")  # before the first page is written
            self.execute("PRAGMA journal_mode=WAL")
            self.execute("PRAGMA synchronous=FULL")
            self.execute("PRAGMA secure_delete=ON")
            self.execute("PRAGMA foreign_keys=ON")
            self.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            self.connection.preupdate_hook(self._count)
        else:
            self.execute(f"PRAGMA mmap_size={MAPPED}")  # a search reads some bytes of a dozen pages of 64 KiB
            self.execute("SELECT count(*) FROM sqlite_schema")  # fails now for a wrong key or a damaged file

    def _wrong_key(self) -> GalleryError:
        return GalleryError(
            f"expected the key that {self.folder.name} was encrypted with, received another "
            f"(or {self.path} is damaged): check FACEGALLERY_KEY and FACEGALLERY_KEY_FILE"
        )

    def _looks_encrypted(self) -> bool:
        with contextlib.suppress(OSError), open(self.path, "rb") as file:
            head = file.read(len(PLAIN))
            return len(head) == len(PLAIN) and len(set(head)) > 8 and head != PLAIN
        return False

    def _immutable(self) -> bool:
        """Return whether the folder is read-only and there is no write-ahead log to read with the file."""
        if self.writable or os.access(self.folder, os.W_OK) or Path(f"{self.path}-wal").exists():
            return False
        self._frozen = self._fingerprint()
        return True

    def _follow(self) -> None:
        """Reopen a file in a read-only folder where another process has changed it: SQLite would not notice."""
        if self._frozen is not None and not self.connection.in_transaction and self._frozen != self._fingerprint():
            self.connection.close(force=True)
            self._frozen = None
            self._connect()

    def _inode(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def check_same_file(self) -> None:
        """Raise Replaced where the file was removed or replaced since it was opened."""
        if self._inode() != self._file:
            raise replaced(self.path)

    def _fingerprint(self) -> tuple:
        try:
            status = self.path.stat()
        except OSError as error:
            raise from_os_error(error) from None
        return status.st_ino, status.st_size, status.st_mtime_ns, Path(f"{self.path}-wal").exists()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Roll back an open transaction, and close the connection."""
        self.connection.close(force=True)

    # SQL

    def rows(self, sql: str, bindings: Sequence[Any] = ()) -> Iterator[tuple]:
        """Run a statement and yield its rows."""
        self._follow()
        with guarded(self.path):
            yield from self.connection.execute(sql, bindings)

    def execute(self, sql: str, bindings: Sequence[Any] = ()) -> list[tuple]:
        """Run a statement and return all of its rows."""
        self._follow()
        with guarded(self.path):
            return self.connection.execute(sql, bindings).fetchall()

    def execute_many(self, sql: str, bindings: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each of the bindings."""
        with guarded(self.path):
            self.connection.executemany(sql, bindings).fetchall()

    def define(self, name: str, function: Callable[..., Any]) -> None:
        """Define an SQL function of one argument on this connection."""
        with guarded(self.path):
            self.connection.create_scalar_function(name, function, 1, deterministic=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Open a transaction that excludes other writers; it commits after the block, or rolls back on an error.

        The file is first migrated to this version.
        """
        self.execute("BEGIN IMMEDIATE")
        try:
            self._migrate()
            before, self._totals = self.totals, self.totals
            yield
            if self._totals != before:
                self.set_fact(totals.KEY, self._totals.to_json())
            self.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.execute("ROLLBACK")
            raise
        finally:
            self._totals = None

    def _count(self, change: Any) -> None:
        if self._totals is not None:
            self._totals.note(change)

    @contextlib.contextmanager
    def recounting(self) -> Iterator[None]:
        """Recount all rows after a change of nearly all of them, within a transaction of `writing`.

        Changes by another program then count as ours, too.
        """
        self.connection.preupdate_hook(None)
        try:
            yield
            self._totals = totals.count(self)
        finally:
            self.connection.preupdate_hook(self._count)

    def swap_totals(self, first: str, second: str) -> None:
        """Record, within a transaction of `writing`, that two tables were renamed into each other."""
        assert self._totals is not None
        self._totals.swap(first, second)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Freeze what this connection sees, for the block."""
        self.begin_reading()
        try:
            yield
        finally:
            self.end_reading()

    def begin_reading(self) -> None:
        """Freeze what this connection sees, until `end_reading`."""
        self.execute("BEGIN")
        self.execute("SELECT count(*) FROM meta")  # SQLite takes its snapshot at the first read

    def end_reading(self) -> None:
        """Let this connection see new commits again."""
        if self.connection.in_transaction:
            self.execute("ROLLBACK")

    @property
    def mark(self) -> tuple[int, int]:
        """A value that changes as soon as this connection sees another connection's commit."""
        return self._opened, self.execute("PRAGMA data_version")[0][0]

    # versions

    @property
    def version(self) -> int:
        """Number of migrations that the file has seen."""
        return self.execute("PRAGMA user_version")[0][0]

    def check_version(self) -> None:
        """Raise GalleryError for an index of a newer version."""
        if self.version > len(MIGRATIONS):
            raise GalleryError(
                f"expected an index of version {len(MIGRATIONS)} or older, {self.path} has version {self.version}: "
                "install a newer facegallery"
            )

    def _migrate(self) -> None:
        before = self.version
        for number in range(before, len(MIGRATIONS)):
            step = MIGRATIONS[number]
            self.execute(step) if isinstance(step, str) else step(self)
            self.execute(f"PRAGMA user_version={number + 1}")
        if before < COUNTED and self.fact("generation"):
            self.set_fact(totals.SINCE, int(time.time()))
        if before < len(MIGRATIONS):
            self.set_fact(totals.KEY, totals.count(self).to_json())

    @property
    def totals(self) -> Totals:
        """Number of rows that each table must have, and the sum of their checksums."""
        return Totals.from_json(self.needed_fact(totals.KEY))

    # facts about the whole gallery

    def fact(self, key: str) -> Any:
        """Return a fact, or None where it was never set; raises Damaged where another program changed it."""
        if self.version == 0:
            return None
        for value, stored in self.execute("SELECT value, checksum FROM meta WHERE key=?", (key,)):
            if checksum(key, value) != stored:
                raise damaged(self.path, f"the entry {key!r} was changed")
            return value
        return None

    def set_fact(self, key: str, value: str | int | bytes | None) -> None:
        """Set a fact; None deletes it."""
        if value is None:
            self.execute("DELETE FROM meta WHERE key=?", (key,))
        else:
            self.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value, checksum(key, value)))

    def needed_fact(self, key: str) -> Any:
        """Return a fact that every finished gallery has; raises Damaged where it is missing."""
        if (value := self.fact(key)) is None:
            raise damaged(self.path, f"the entry {key!r} is missing")
        return value


def create_file(folder: Path, *, encrypt: bool = False) -> None:
    """Create an empty gallery.db where there is none, readable by its owner only.

    encrypt: also mark the index as encrypted.
    """
    check_file_system(folder)
    make_folder(folder)
    if encrypt and not (folder / FILE).exists():
        write_atomic(folder / CIPHER_FILE, f"{CIPHER}\n".encode())
    with contextlib.suppress(FileExistsError):
        os.close(os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        sync_folder(folder)
        sync_folder(folder.parent)


def remove_file(folder: Path) -> None:
    """Delete a damaged gallery.db; the folders derived from it are deleted when the new index is finished."""
    for name in (f"{FILE}-wal", f"{FILE}-shm", FILE, CIPHER_FILE):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
