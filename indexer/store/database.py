"""One SQLite file that is the truth: how it is opened, locked, migrated and encrypted."""

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
from facegallery.indexer.store.errors import Damaged, Replaced, damaged, guarded
from facegallery.indexer.store.migrations import COUNTED, MIGRATIONS
from facegallery.indexer.store.totals import Totals

FILE, LINK, CIPHER_FILE = "gallery.db", "index.faiss", "encrypted"
CIPHER = "chacha20"  # with Poly1305 over every page
PLAIN = b"SQLite format 3\0"
WAIT_MS = 60_000  # for another process that writes
CACHE_KIB = 64 * 1024
MAPPED = 1 << 40  # bytes of the file that readers map, or as many as SQLite allows: 2 GiB
# file systems on which SQLite's locks or shared memory do not hold between machines
NETWORK = re.compile(
    r"(nfs\d?|cifs|smb\d?|smbfs|afs|ceph|lustre|gpfs|beegfs|glusterfs|ncpfs|davfs|fuse\.(sshfs|glusterfs|s3fs|rclone|davfs\d?|ceph(-fuse)?|gcsfuse|juicefs))"
)


# where it lies, and by which key --------------------------------------------


def file_system(path: Path, mounts: str | Path = "/proc/self/mountinfo") -> str:
    """Type of the file system that holds `path`, such as ext4; empty where the system does not say."""
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
    """Raises SystemFault for a folder on a network: SQLite's write-ahead log works between processes of one machine only."""
    if NETWORK.fullmatch(kind := file_system(folder)):
        raise SystemFault(
            f"expected a local disk for an index, {folder} lies on a network file system ({kind}): move it to a local one"
        )


def environment_key() -> bytes | None:
    """The key in FACEGALLERY_KEY, or in the file that FACEGALLERY_KEY_FILE names (without the line's end); None where neither is set."""
    if text := os.environ.get("FACEGALLERY_KEY"):
        return text.encode()
    if not (path := os.environ.get("FACEGALLERY_KEY_FILE")):
        return None
    try:
        key = Path(path).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise InputError(
            f"expected a key in {path} (FACEGALLERY_KEY_FILE), it cannot be read ({error.strerror}): mend the path"
        ) from None
    if not key:
        raise InputError(f"expected a key in {path} (FACEGALLERY_KEY_FILE), it is empty: put one in")
    return key


def no_key(folder: Path) -> GalleryError:
    """What to say where an encrypted index is to be opened or made, and no key was given."""
    return GalleryError(
        f"expected the key of {folder.name}, received none: set FACEGALLERY_KEY, or FACEGALLERY_KEY_FILE to a file that holds it"
    )


# the connection -------------------------------------------------------------


class Database:
    """One connection to INDEX/gallery.db. Use it as a context manager, from one thread at a time."""

    key: bytes | None  # by which it is encrypted
    connection: apsw.Connection  # SQLite's own, for what no method here does

    def __init__(self, folder: Path, writable: bool, key: bytes | None = None):
        """Raises SystemFault for a network file system, GalleryError for a missing or wrong key."""
        self.folder, self.path, self.writable = folder, folder / FILE, writable
        check_file_system(folder)
        self.encrypted = (folder / CIPHER_FILE).exists()
        if self.encrypted and not hasattr(apsw, "mc_version"):
            raise SystemFault(
                "expected the package apsw-sqlite3mc for an encrypted index, found plain apsw: `pip uninstall apsw`, then install again"
            )
        self.key = (key or environment_key()) if self.encrypted else None
        if self.encrypted and not self.key:
            raise no_key(folder)
        self._totals: Totals | None = None  # of a transaction that writes
        self._frozen: tuple | None = None  # of a folder that cannot be written: what the file must stay like
        self._opened = 0
        self._connect()

    def _connect(self) -> None:
        self._opened += 1
        try:
            self._open(self._immutable())
        except FaceGalleryError as error:
            if self.encrypted and isinstance(error, Damaged):
                raise self._wrong_key() from None
            if not self.encrypted and isinstance(error, Damaged) and self._looks_encrypted():
                raise Damaged(f"{error}; or it is encrypted and lost its file `{CIPHER_FILE}`") from None
            raise

    def _open(self, immutable: bool) -> None:
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
            self.connection.close(True)
            raise

    def _configure(self) -> None:
        if self.key:
            self.execute(f"PRAGMA cipher='{CIPHER}'")
            self.execute(f"PRAGMA hexkey='{self.key.hex()}'")
        self.connection.set_busy_timeout(WAIT_MS)
        self._file = self._inode()
        self.execute("PRAGMA trusted_schema=OFF")
        if self.writable:
            self.execute(
                "PRAGMA cell_size_check=ON"
            )  # a quarter of the time of a search: readers trust the rows' checksums
            self.execute("PRAGMA page_size=65536")  # before the first page is written
            self.execute("PRAGMA journal_mode=WAL")
            self.execute("PRAGMA synchronous=FULL")
            self.execute("PRAGMA secure_delete=ON")
            self.execute("PRAGMA foreign_keys=ON")
            self.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            self.connection.preupdate_hook(self._count)
        else:
            self.execute(f"PRAGMA mmap_size={MAPPED}")  # a search reads some bytes of a dozen pages of 64 KiB
            self.execute("SELECT count(*) FROM sqlite_schema")  # tells a wrong key, or a damaged file, now

    def _wrong_key(self) -> GalleryError:
        return GalleryError(
            f"expected the key that {self.folder.name} was encrypted with, received another (or {self.path} is damaged): check FACEGALLERY_KEY "
            "and FACEGALLERY_KEY_FILE"
        )

    def _looks_encrypted(self) -> bool:
        with contextlib.suppress(OSError), open(self.path, "rb") as file:
            head = file.read(len(PLAIN))
            return len(head) == len(PLAIN) and len(set(head)) > 8 and head != PLAIN
        return False

    def _immutable(self) -> bool:
        """Whether the folder can only be read, and there is no write-ahead log to read with it."""
        if self.writable or os.access(self.folder, os.W_OK) or Path(f"{self.path}-wal").exists():
            return False
        self._frozen = self._fingerprint()
        return True

    def _follow(self) -> None:
        """Opens the file of a folder that cannot be written again where somebody else has changed it: SQLite would not notice."""
        if self._frozen is not None and not self.connection.in_transaction and self._frozen != self._fingerprint():
            self.connection.close(True)
            self._frozen = None
            self._connect()

    def _inode(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def check_same_file(self) -> None:
        """Raises Replaced where the file was removed, or another one lies in its place, since it was opened."""
        if self._inode() != self._file:
            raise Replaced(
                f"expected {self.path} to stay as it was opened, it was replaced meanwhile: run the same command again"
            )

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
        """Ends an open transaction without its changes, and the connection."""
        self.connection.close(True)

    # SQL

    def rows(self, sql: str, bindings: Sequence[Any] = ()) -> Iterator[tuple]:
        """The answer of one statement, row by row."""
        self._follow()
        with guarded(self.path):
            yield from self.connection.execute(sql, bindings)

    def execute(self, sql: str, bindings: Sequence[Any] = ()) -> list[tuple]:
        """All rows of a statement's answer."""
        self._follow()
        with guarded(self.path):
            return self.connection.execute(sql, bindings).fetchall()

    def execute_many(self, sql: str, bindings: Iterable[Sequence[Any]]) -> None:
        """One statement for each of the bindings."""
        with guarded(self.path):
            self.connection.executemany(sql, bindings).fetchall()

    def define(self, name: str, function: Callable[..., Any]) -> None:
        """Make a function of one argument known to SQL, on this connection."""
        with guarded(self.path):
            self.connection.create_scalar_function(name, function, 1, deterministic=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction that no other writer shares, migrated to this version; all of it is kept, or nothing."""
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
        """Count all rows anew after a change, within a transaction of `writing`, of nearly all of them; another program's changes count, too."""
        self.connection.preupdate_hook(None)
        try:
            yield
            self._totals = totals.count(self)
        finally:
            self.connection.preupdate_hook(self._count)

    def renamed(self, first: str, second: str) -> None:
        """Note, within a transaction of `writing`, that two tables were renamed into each other."""
        assert self._totals is not None
        self._totals.swap(first, second)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Freezes what this connection sees."""
        self.begin_reading()
        try:
            yield
        finally:
            self.end_reading()

    def begin_reading(self) -> None:
        """Freezes what this connection sees, until `end_reading`."""
        self.execute("BEGIN")
        self.execute("SELECT count(*) FROM meta")  # SQLite takes its snapshot at the first read

    def end_reading(self) -> None:
        if self.connection.in_transaction:
            self.execute("ROLLBACK")

    @property
    def mark(self) -> tuple[int, int]:
        """Another one as soon as another connection's commit is seen."""
        return self._opened, self.execute("PRAGMA data_version")[0][0]

    # versions

    @property
    def version(self) -> int:
        """How many migrations the file has seen."""
        return self.execute("PRAGMA user_version")[0][0]

    def check_version(self) -> None:
        """Raises GalleryError for an index of a newer version."""
        if self.version > len(MIGRATIONS):
            raise GalleryError(
                f"expected an index of version {len(MIGRATIONS)} or older, {self.path} has version {self.version}: install a newer facegallery"
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
        """How many rows each table must have, and the sum of their checksums."""
        return Totals.from_json(self.needed_fact(totals.KEY))

    # facts about the whole

    def fact(self, key: str) -> Any:
        """A fact, or None where it was never set; raises Damaged where it was changed behind our back."""
        if self.version == 0:
            return None
        for value, stored in self.execute("SELECT value, checksum FROM meta WHERE key=?", (key,)):
            if checksum(key, value) != stored:
                raise damaged(self.path, f"the entry {key!r} was changed")
            return value
        return None

    def set_fact(self, key: str, value: str | int | bytes | None) -> None:
        """None takes the fact away."""
        if value is None:
            self.execute("DELETE FROM meta WHERE key=?", (key,))
        else:
            self.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value, checksum(key, value)))

    def needed_fact(self, key: str) -> Any:
        """A fact that every finished gallery has."""
        if (value := self.fact(key)) is None:
            raise damaged(self.path, f"the entry {key!r} is missing")
        return value


def create_file(folder: Path, encrypt: bool = False) -> None:
    """An empty gallery.db where there is none, its owner's alone; beside it the mark of an encrypted one."""
    check_file_system(folder)
    make_folder(folder)
    if encrypt and not (folder / FILE).exists():
        write_atomic(folder / CIPHER_FILE, f"{CIPHER}\n".encode())
    with contextlib.suppress(FileExistsError):
        os.close(os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        sync_folder(folder)
        sync_folder(folder.parent)


def remove_file(folder: Path) -> None:
    """A damaged gallery's files; the folders derived from it go when the new one is finished."""
    for name in (f"{FILE}-wal", f"{FILE}-shm", FILE, CIPHER_FILE):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
