"""Keep the server's keys, sessions, rate limits, repeated writes, audit log and jobs in `server.db`.

The file lies under the data root and is shared by all processes of a server. Secrets are stored as hashes only. Names
of people are stored only in the responses to writes, for a day at most, and are deleted once anybody is forgotten.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from facegallery.embedder.errors import InputError
from facegallery.embedder.files import make_folder, process_mark
from facegallery.embedder.weights.folder import data_root
from facegallery.indexer.store.database import WAIT_MS
from facegallery.indexer.store.errors import guarded

FILE = "server.db"
SCOPES = ("read", "write", "admin")  # each includes those before it
PREFIX = "fdb_"
DAY = 86400.0
AUDIT_SECONDS = 400 * DAY
MAX_SESSIONS = 20  # per key; beginning another ends the oldest
ERASED = bytes(1)  # replaces the hash of a request once a person was forgotten
START = "start "  # prefix of the names of start keys; the address that the server listens at follows

PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON", "foreign_keys=ON", "trusted_schema=OFF")
SCHEMA = """
CREATE TABLE IF NOT EXISTS keys(
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, hash BLOB NOT NULL UNIQUE, scope TEXT NOT NULL,
    rate REAL NOT NULL, made REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sessions(
    hash BLOB PRIMARY KEY, key TEXT NOT NULL REFERENCES keys(id) ON DELETE CASCADE, until REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS used(
    key TEXT NOT NULL, second INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY(key, second)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS writes(
    key TEXT NOT NULL, mark TEXT NOT NULL, asked BLOB NOT NULL, status INTEGER, answer BLOB, time REAL NOT NULL,
    PRIMARY KEY(key, mark)) STRICT;
CREATE TABLE IF NOT EXISTS audit(
    id INTEGER PRIMARY KEY, time REAL NOT NULL, key TEXT NOT NULL, what TEXT NOT NULL, name TEXT NOT NULL,
    status INTEGER NOT NULL, faces TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS jobs(
    id TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL, done INTEGER NOT NULL,
    total INTEGER NOT NULL, began REAL NOT NULL, ended REAL, detail TEXT, process TEXT NOT NULL, result TEXT) STRICT;
"""


@dataclass(frozen=True)
class Key:
    """A key of the server, without its secret."""

    id: str
    name: str
    scope: str
    rate: float  # requests per second; 0 for no limit

    def may(self, scope: str) -> bool:
        """Tell whether the key's scope includes `scope`."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


class Write(NamedTuple):
    """A change as `Accounts.begin_write` finds it.

    `status` is None while the change is running; `answer` is None as well once a person was forgotten. `is_same` tells
    whether the same change was sent before with this Idempotency-Key.
    """

    is_new: bool
    status: int | None = None
    answer: bytes | None = None
    is_same: bool = True


@dataclass(frozen=True)
class AuditEntry:
    """A change that was requested over HTTP: by which key, of which index, about which faces, and the status."""

    key: str
    what: str
    index: str
    status: int
    faces: Sequence[str] = ()


class Accounts:
    """The open file. Use an object from one thread at a time."""

    def __init__(self, path: Path | None = None):
        self.path = path or data_root() / FILE
        make_folder(self.path.parent)
        with guarded(self.path):
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600))
            self._db = apsw.Connection(str(self.path))
            self._db.set_busy_timeout(WAIT_MS)
            for pragma in PRAGMAS:
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            self._db.execute(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT")
            self._add_later_columns()
            self._delete_old_writes()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _run(self, sql: str, *values: Any) -> list[tuple]:
        with guarded(self.path):
            return self._db.execute(sql, values).fetchall()

    def _add_later_columns(self) -> None:
        """Add the columns that files of earlier versions lack."""
        self._run("BEGIN IMMEDIATE")
        if not self._run("SELECT 1 FROM pragma_table_info('jobs') WHERE name='result'"):
            self._run("ALTER TABLE jobs ADD COLUMN result TEXT")
        self._run("COMMIT")

    def _delete_old_writes(self) -> None:
        self._run("DELETE FROM writes WHERE time < ?", time.time() - DAY)

    # keys

    def make_key(self, name: str, scope: str, rate: float) -> str:
        """Make a key and return its secret, which is stored nowhere.

        Raises InputError for a name that is taken, blank or reserved for start keys, an unknown scope, or a rate that
        is neither 0 nor at least 1.
        """
        if scope not in SCOPES:
            raise InputError(f"expected a scope of {', '.join(SCOPES)}, received {scope!r}: choose one of these")
        if not name.strip() or len(name) > 100:
            raise InputError(
                f"expected a name of 1 to 100 characters for the key, received {name!r:.120}: choose another"
            )
        if name.startswith(START):
            raise InputError(
                f"expected a name that does not begin with {START!r}, which is reserved for the keys that `serve` "
                f"prints, received {name!r}: choose another"
            )
        if not (rate == 0 or rate >= 1):
            raise InputError(
                f"expected a rate of at least 1 request per second, or 0 for no limit, received {rate}: change --rate"
            )
        return self._add_key(name, scope, rate)

    def _add_key(self, name: str, scope: str, rate: float) -> str:
        secret = PREFIX + secrets.token_urlsafe(32)
        sql = "INSERT OR IGNORE INTO keys VALUES (?, ?, ?, ?, ?, ?) RETURNING id"
        if not self._run(sql, secrets.token_hex(8), name, _hash(secret), scope, rate, time.time()):
            raise InputError(
                f"expected an unused name for the key, there is already a key {name!r}: choose another name, "
                f"or revoke that key"
            )
        return secret

    def list_keys(self) -> list[dict[str, Any]]:
        """List all keys by age, without their secrets."""
        rows = self._run("SELECT id, name, scope, rate, made FROM keys ORDER BY made")
        return [dict(zip(("id", "name", "scope", "rate", "made"), row, strict=True)) for row in rows]

    def revoke(self, name: str) -> None:
        """Delete a key and its sessions. Raises InputError if no key has this name."""
        if not self._run("DELETE FROM keys WHERE name=? RETURNING id", name):
            raise InputError(f"expected the name of a key, received {name!r}: run `keys list`")

    def start_key(self, at: str) -> str:
        """Make the admin key that `serve` prints for an address of loopback, and delete the previous one."""
        self.end_start_key(at)
        return self._add_key(START + at, "admin", 0)

    def end_start_key(self, at: str) -> None:
        """Delete the start key of an address."""
        self._run("DELETE FROM keys WHERE name=?", START + at)

    def key(self, id: str) -> Key | None:
        """Return the key with this id, or None."""
        rows = self._run("SELECT id, name, scope, rate FROM keys WHERE id=?", id)
        return Key(*rows[0]) if rows else None

    def holder(self, secret: str) -> Key | None:
        """Return the key with this secret, or None."""
        rows = self._run("SELECT id, name, scope, rate FROM keys WHERE hash=?", _hash(secret))
        return Key(*rows[0]) if rows else None

    # sessions

    def begin_session(self, key: Key, seconds: float) -> str | None:
        """Begin a session with a key's scope and return its secret; None if the key has just been revoked."""
        secret, now = secrets.token_urlsafe(32), time.time()
        self._run("DELETE FROM sessions WHERE until < ?", now)
        sql = "INSERT INTO sessions SELECT ?, id, ? FROM keys WHERE id=? RETURNING 1"
        begun = self._run(sql, _hash(secret), now + seconds, key.id)
        newest = "SELECT rowid FROM sessions WHERE key=? ORDER BY rowid DESC LIMIT ?"
        self._run(f"DELETE FROM sessions WHERE key=? AND rowid NOT IN ({newest})", key.id, key.id, MAX_SESSIONS)
        return secret if begun else None

    def in_session(self, secret: str) -> Key | None:
        """Return the key of a session that has not ended, or None."""
        sql = (
            "SELECT keys.id, name, scope, rate FROM sessions JOIN keys ON keys.id = key "
            "WHERE sessions.hash=? AND until >= ?"
        )
        rows = self._run(sql, _hash(secret), time.time())
        return Key(*rows[0]) if rows else None

    def end_session(self, secret: str) -> None:
        """Delete a session."""
        self._run("DELETE FROM sessions WHERE hash=?", _hash(secret))

    # rate limits

    def count_request(self, key: Key) -> bool:
        """Count a request and return whether the key is within its rate in this second."""
        if not key.rate:
            return True
        second = int(time.time())
        self._run("DELETE FROM used WHERE key=? AND second<?", key.id, second)
        sql = "INSERT INTO used VALUES (?, ?, 1) ON CONFLICT(key, second) DO UPDATE SET n = n + 1 RETURNING n"
        return self._run(sql, key.id, second)[0][0] <= key.rate

    # repeated writes

    def begin_write(self, key: Key, mark: str, asked: bytes) -> Write:
        """Record that a change begins, or return how the earlier one with the same mark stands.

        mark: the sender's Idempotency-Key; asked: hash of the request.
        """
        now = time.time()
        self._delete_old_writes()
        sql = "INSERT OR IGNORE INTO writes(key, mark, asked, time) VALUES (?, ?, ?, ?) RETURNING 1"
        if self._run(sql, key.id, mark, asked, now):
            return Write(is_new=True)
        rows = self._run("SELECT status, answer, asked FROM writes WHERE key=? AND mark=?", key.id, mark)
        if not rows:  # it was refused, and deleted, at this moment
            return Write(is_new=False)
        status, answer, before = rows[0]
        return Write(is_new=False, status=status, answer=answer, is_same=before in (asked, ERASED))

    def end_write(self, key: Key, mark: str, status: int | None, answer: bytes) -> None:
        """Record the response. With status None, delete the entry so that the request may be repeated."""
        if status is None:
            self._run("DELETE FROM writes WHERE key=? AND mark=?", key.id, mark)
        else:  # a person may have been forgotten while it was running
            sql = "UPDATE writes SET status=?, answer=iif(asked=?, NULL, ?) WHERE key=? AND mark=?"
            self._run(sql, status, ERASED, answer, key.id, mark)

    def drop_answers(self) -> None:
        """Delete all stored responses, because they may name a person who was forgotten.

        That the changes were made stays recorded. The hashes of the requests go as well: a hash of a name can be
        guessed.
        """
        self._run("UPDATE writes SET answer = NULL, asked = ?", ERASED)
        self._run("PRAGMA wal_checkpoint(TRUNCATE)")

    # audit log

    def note(self, entry: AuditEntry) -> None:
        """Add a line to the audit log, and delete lines older than AUDIT_SECONDS."""
        now = time.time()
        self._run(
            "INSERT INTO audit(time, key, what, name, status, faces) VALUES (?, ?, ?, ?, ?, ?)",
            *(now, entry.key, entry.what, entry.index, entry.status, json.dumps(list(entry.faces))),
        )
        self._run("DELETE FROM audit WHERE time < ?", now - AUDIT_SECONDS)
        self._delete_old_writes()

    def audit(self, limit: int) -> list[dict[str, Any]]:
        """Return the last `limit` lines of the audit log, newest first."""
        rows = self._run("SELECT time, key, what, name, status, faces FROM audit ORDER BY id DESC LIMIT ?", limit)
        names = ("time", "key", "what", "index", "status", "faces")
        return [dict(zip(names, (*row[:5], json.loads(row[5])), strict=True)) for row in rows]

    # jobs

    def begin_job(self, name: str, kind: str) -> str | None:
        """Record that a job begins and return its id; None while a job of that kind is running on the index."""
        id = secrets.token_hex(8)
        self._end_lost_jobs()
        sql = (
            "INSERT INTO jobs(id, name, kind, state, done, total, began, process) "
            "SELECT ?, ?, ?, 'running', 0, 0, ?, ? "
            "WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE name=? AND kind=? AND state='running') RETURNING id"
        )
        return id if self._run(sql, id, name, kind, time.time(), process_mark(os.getpid()), name, kind) else None

    def report_job(self, id: str, done: int, total: int) -> None:
        """Record the progress of a job."""
        self._run("UPDATE jobs SET done=?, total=? WHERE id=?", done, total, id)

    def end_job(self, id: str, state: str, detail: str, result: str | None = None) -> None:
        """Record the end of a job.

        state: "done" or "failed"; detail: a line about its result, or its error; result: the result as JSON.
        """
        sql = "UPDATE jobs SET state=?, detail=?, result=?, ended=? WHERE id=?"
        self._run(sql, state, detail, result, time.time(), id)

    def _end_lost_jobs(self) -> None:
        """Mark jobs as failed whose process has ended."""
        for id, process in self._run("SELECT id, process FROM jobs WHERE state='running'"):
            if process_mark(int(process.partition(".")[0])) != process:
                self.end_job(id, "failed", "the process that ran it has ended: start it again")

    def job(self, id: str) -> dict[str, Any] | None:
        """Return a job, or None."""
        self._end_lost_jobs()
        columns = "id, name, kind, state, done, total, began, ended, detail, result"
        if not (rows := self._run(f"SELECT {columns} FROM jobs WHERE id=?", id)):
            return None
        names = ("id", "index", "kind", "state", "done", "total", "began", "ended", "detail")
        *values, result = rows[0]
        return dict(zip(names, values, strict=True)) | {"result": result and json.loads(result)}


def drop_answers() -> None:
    """Delete the responses that a server stored, if there is a `server.db`; for commands that forget a person."""
    if (data_root() / FILE).exists():
        with closing(Accounts()) as accounts:
            accounts.drop_answers()


def _hash(secret: str) -> bytes:
    """Hash a random secret. One round is enough, because a random secret cannot be guessed."""
    return sha256(secret.encode()).digest()
