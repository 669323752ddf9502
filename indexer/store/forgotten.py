"""Forgotten people as salted hashes, and the file that keeps their list apart from its index.

    ROOT/_forgotten/NAME.json   the list of the index NAME; it outlives ROOT/NAME and its gallery.db
    ROOT/_forgotten/NAME.lock   locked by the process that changes the list

gallery.db holds the same list. The file is written before the commit. After a crash in between, one of the two still
refuses each person, and the next writer merges them. The file is made before the index: an index without its file was
made by an older version.

The salt allows anybody to test names and photos against the list. It is in the file in plain form; for an encrypted
index it is sealed with the key.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facegallery.embedder.errors import GalleryError, system_faults
from facegallery.embedder.files import make_folder, write_atomic
from facegallery.indexer.store.checksums import SALT_BYTES, checksum
from facegallery.indexer.store.database import WAIT_MS, environment_key
from facegallery.indexer.store.errors import Busy

FOLDER, ENDING = "_forgotten", ".json"
HASH_BYTES = 16
POLL_SECONDS = 0.02
SCRYPT = {"n": 1 << 13, "r": 8, "p": 1, "dklen": SALT_BYTES}


class Unreadable(GalleryError):
    """Report that the list of forgotten people of an index cannot be read."""


def hash_of(text: str, salt: bytes) -> bytes:
    """Return the 16 bytes that are kept of a face_id or a `reader.name_key`."""
    return hashlib.blake2b(text.encode(), key=salt, digest_size=HASH_BYTES).digest()


@dataclass(frozen=True)
class Forgotten:
    """Hashes of forgotten faces and names, by salt.

    Each hash has the mark of its person, which is empty where an older version kept none.
    """

    by_salt: Mapping[bytes, Mapping[bytes, bytes]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.by_salt.values())

    def __or__(self, other: Forgotten) -> Forgotten:
        """Merge two lists; a mark replaces an empty one."""
        merged = {salt: dict(marks) for salt, marks in self.by_salt.items()}
        for salt, marks in other.by_salt.items():
            own = merged.setdefault(salt, {})
            own.update({hash: mark for hash, mark in marks.items() if mark or hash not in own})
        return Forgotten(merged)

    def __sub__(self, other: Forgotten) -> Forgotten:
        """Return the hashes that the other list does not hold."""
        return Forgotten(
            {
                salt: {hash: mark for hash, mark in marks.items() if hash not in other.by_salt.get(salt, {})}
                for salt, marks in self.by_salt.items()
            }
        )

    @property
    def salts(self) -> frozenset[bytes]:
        """The salts of the list."""
        return frozenset(self.by_salt)

    def of_salts(self, salts: Iterable[bytes]) -> Forgotten:
        """Return the part of the list that was made with one of the salts."""
        return Forgotten({salt: self.by_salt[salt] for salt in salts if salt in self.by_salt})

    def holds(self, text: str) -> bool:
        """Return whether a face_id or `name_key` is on the list."""
        return any(marks and hash_of(text, salt) in marks for salt, marks in self.by_salt.items())

    def refused(self, texts: Iterable[str]) -> set[str]:
        """Return those of the face_ids or `name_key`s that are on the list."""
        return {text for text in texts if self.holds(text)} if self else set()

    def with_person(self, salt: bytes, texts: Iterable[str]) -> Forgotten:
        """Return the list with a person's face_ids and `name_key`s added, under one mark."""
        hashes = sorted(hash_of(text, salt) for text in texts)
        known = self.by_salt.get(salt, {})
        mark = next((known[hash] for hash in hashes if known.get(hash)), hashes[0] if hashes else b"")
        return Forgotten({salt: dict.fromkeys(hashes, mark)}) | self

    def person(self, keys: Iterable[str]) -> Forgotten:
        """Return the part of the list that was forgotten together with one of the `name_key`s."""
        keys, found = list(keys), {}
        for salt, marks in self.by_salt.items():
            wanted = {marks.get(hash_of(key, salt)) for key in keys} - {None, b""}
            found[salt] = {hash: mark for hash, mark in marks.items() if mark in wanted}
        return Forgotten(found)

    def without(self, texts: Iterable[str]) -> Forgotten:
        """Return the list without these face_ids and `name_key`s."""
        texts = list(texts)
        return Forgotten(
            {
                salt: {h: mark for h, mark in marks.items() if h not in back}
                if (back := {hash_of(text, salt) for text in texts if marks})
                else marks
                for salt, marks in self.by_salt.items()
            }
        )

    # text

    def to_json(self, key: bytes | None = None) -> str:
        """Return the list as JSON; with a key, its salts are sealed."""
        lists = [
            {**_salt_fields(salt, key), "hashes": {hash.hex(): mark.hex() for hash, mark in sorted(marks.items())}}
            for salt, marks in sorted(self.by_salt.items())
        ]
        return json.dumps({"lists": lists, "checksum": _digest(lists)})

    @classmethod
    def from_json(cls, text: str | bytes, key: bytes | None = None) -> Forgotten:
        """Read `to_json`.

        Raises ValueError for a damaged text, Unreadable where the salts are sealed with another key.
        """
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("checksum") != _digest(document.get("lists")):
            raise ValueError("its checksum is wrong")
        return cls(
            {
                _salt_of(entry, key): {
                    bytes.fromhex(hash): bytes.fromhex(mark) for hash, mark in entry["hashes"].items()
                }
                for entry in document["lists"]
            }
        )


def _digest(lists: Any) -> str:
    return checksum(json.dumps(lists, sort_keys=True)).hex()


def _salt_fields(salt: bytes, key: bytes | None) -> dict[str, str]:
    """Return the salt; with a key, a hash of the salt, and the salt XORed with a pad made from key and hash."""
    if key is None:
        return {"salt": salt.hex()}
    name = name_of(salt)
    return {"of": name.hex(), "sealed": _xor(salt, _pad(key, name)).hex()}


def name_of(salt: bytes) -> bytes:
    """Return the 16 bytes that identify a sealed salt."""
    return hashlib.blake2b(salt, digest_size=HASH_BYTES).digest()


def _salt_of(entry: dict[str, str], key: bytes | None) -> bytes:
    if "salt" in entry:
        return bytes.fromhex(entry["salt"])
    name = bytes.fromhex(entry["of"])
    key = key or environment_key()
    salt = key and _xor(bytes.fromhex(entry["sealed"]), _pad(key, name))
    if not salt or name_of(salt) != name:
        raise Unreadable("it is sealed with a key that FACEGALLERY_KEY and FACEGALLERY_KEY_FILE do not give")
    return salt


@functools.lru_cache(maxsize=64)
def _pad(key: bytes, name: bytes) -> bytes:
    return hashlib.scrypt(key, salt=name, n=SCRYPT["n"], r=SCRYPT["r"], p=SCRYPT["p"], dklen=SCRYPT["dklen"])


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


# the file -------------------------------------------------------------------


def list_path(folder: Path) -> Path:
    """Return the path of the list of the index in `folder`."""
    return folder.parent / FOLDER / f"{folder.name}{ENDING}"


def read(folder: Path, key: bytes | None = None) -> Forgotten | None:
    """Read the list of an index from its file; None where there is no file. Raises Unreadable for a damaged file."""
    path = list_path(folder)
    try:
        return Forgotten.from_json(path.read_bytes(), key)
    except FileNotFoundError:
        return None
    except Unreadable as error:
        raise Unreadable(f"{path}: {error}") from None
    except OSError as error:
        raise Unreadable(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Unreadable(f"{path} is damaged ({str(error)[:80]})") from None


def salt_names(folder: Path) -> set[bytes] | None:
    """Return the hashes of the salts in an index's file, which need no key; None for an unreadable file."""
    try:
        entries = json.loads(list_path(folder).read_bytes())["lists"]
        return {
            bytes.fromhex(entry["of"]) if "of" in entry else name_of(bytes.fromhex(entry["salt"])) for entry in entries
        }
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def write(folder: Path, forgotten: Forgotten, key: bytes | None = None) -> None:
    """Write the list to its file, on disk when this returns; an equal file stays untouched."""
    path, data = list_path(folder), forgotten.to_json(key).encode()
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return
    with system_faults():
        write_atomic(path, data)


class _Held(threading.local):
    """Locks that this thread holds."""

    def __init__(self) -> None:
        self.paths: Counter[Path] = Counter()


_held = _Held()


@contextlib.contextmanager
def locked(*folders: Path) -> Iterator[None]:
    """Hold the locks of the lists of these indexes, which exclude other processes and threads.

    Take them before any transaction. Raises Busy after a minute.
    """
    with contextlib.ExitStack() as stack:
        for path in sorted({list_path(folder.absolute()).with_suffix(".lock") for folder in folders}):
            stack.enter_context(locked_path(path))
        yield


@contextlib.contextmanager
def locked_path(path: Path) -> Iterator[None]:
    """Hold the lock of one file, made where it is missing; the thread that holds it may take it again."""
    if _held.paths[path]:
        yield
        return
    with system_faults():
        make_folder(path.parent)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _wait_for(fd, path)
        _held.paths[path] += 1
        yield
    finally:
        _held.paths[path] = 0
        os.close(fd)


def _wait_for(fd: int, path: Path) -> None:
    until = time.monotonic() + WAIT_MS / 1000
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise Busy(
                    f"expected {path} to be free, another process changes that index: "
                    "wait for that process and try again"
                ) from None
            time.sleep(POLL_SECONDS)
