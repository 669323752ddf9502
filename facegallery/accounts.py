"""server.db under the data root: keys, sessions, limits, idempotency, audit and jobs, shared by all worker processes.

Secrets are kept as hashes only. What was said of people is not kept here, but for answers to writes, for a day, until somebody is forgotten.
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
from typing import Any

import apsw

from facegallery.embedder.errors import InputError
from facegallery.embedder.files import make_folder, process_mark
from facegallery.embedder.weights.folder import data_root
from facegallery.indexer.store.database import WAIT_MS
from facegallery.indexer.store.errors import guarded

FILE = "server.db"
SCOPES = ("read", "write", "admin")  # each has those before it
PREFIX = "fdb_"
DAY = 86400.0
AUDIT_KEPT = 400 * DAY
SESSIONS = 20  # of a key; the oldest end
DROPPED = bytes(1)  # in the place of what was asked, once somebody was forgotten
START = "start "  # and where it listens: the name of the key in the address that `serve` prints

SCHEMA = """
CREATE TABLE IF NOT EXISTS keys(id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, hash BLOB NOT NULL UNIQUE, scope TEXT NOT NULL,
                                rate REAL NOT NULL, made REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sessions(hash BLOB PRIMARY KEY, key TEXT NOT NULL REFERENCES keys(id) ON DELETE CASCADE, until REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS used(key TEXT NOT NULL, second INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY(key, second)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS writes(key TEXT NOT NULL, mark TEXT NOT NULL, asked BLOB NOT NULL, status INTEGER, answer BLOB, time REAL NOT NULL,
                                  PRIMARY KEY(key, mark)) STRICT;
CREATE TABLE IF NOT EXISTS audit(id INTEGER PRIMARY KEY, time REAL NOT NULL, key TEXT NOT NULL, what TEXT NOT NULL, name TEXT NOT NULL,
                                 status INTEGER NOT NULL, faces TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS jobs(id TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL, done INTEGER NOT NULL,
                                total INTEGER NOT NULL, began REAL NOT NULL, ended REAL, detail TEXT, process TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True)
class Key:
    """Who asks."""

    id: str
    name: str
    scope: str
    rate: float  # requests a second, 0 without a limit

    def may(self, scope: str) -> bool:
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


class Accounts:
    """The file, open. Use it from one thread at a time."""

    def __init__(self, path: Path | None = None):
        self.path = path or data_root() / FILE
        make_folder(self.path.parent)
        with guarded(self.path):
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600))
            self._db = apsw.Connection(str(self.path))
            self._db.set_busy_timeout(WAIT_MS)
            for line in (
                "journal_mode=WAL",
                "synchronous=NORMAL",
                "secure_delete=ON",
                "foreign_keys=ON",
                "trusted_schema=OFF",
            ):
                self._db.execute(f"PRAGMA {line}").fetchall()
            self._db.execute(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT")
            self._drop_old_writes()

    def close(self) -> None:
        self._db.close()

    def _run(self, sql: str, *values: Any) -> list[tuple]:
        with guarded(self.path):
            return self._db.execute(sql, values).fetchall()

    def _drop_old_writes(self) -> None:
        self._run("DELETE FROM writes WHERE time < ?", time.time() - DAY)

    # keys

    def make_key(self, name: str, scope: str, rate: float) -> str:
        """The secret, which is nowhere else; raises InputError where the name is taken, blank or a start's, or a wrong scope is asked for."""
        if scope not in SCOPES:
            raise InputError(f"expected a scope of {', '.join(SCOPES)}, received {scope!r}: choose one")
        if not name.strip() or len(name) > 100:
            raise InputError(f"expected a name of 1 to 100 letters for the key, received {name!r:.120}: choose another")
        if name.startswith(START):
            raise InputError(
                f"expected a name that does not begin with {START!r}, as those of servers' own keys do, received {name!r}: choose another"
            )
        if not (rate == 0 or rate >= 1):
            raise InputError(
                f"expected a rate of 1 request a second or more, or 0 for no limit, received {rate}: mend it"
            )
        return self._add_key(name, scope, rate)

    def _add_key(self, name: str, scope: str, rate: float) -> str:
        secret = PREFIX + secrets.token_urlsafe(32)
        made = self._run(
            "INSERT OR IGNORE INTO keys VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
            secrets.token_hex(8),
            name,
            _hash(secret),
            scope,
            rate,
            time.time(),
        )
        if not made:
            raise InputError(
                f"expected a name that no key has, there is one called {name!r}: choose another, or revoke that one"
            )
        return secret

    def list_keys(self) -> list[dict[str, Any]]:
        """Every key, without its secret."""
        rows = self._run("SELECT id, name, scope, rate, made FROM keys ORDER BY made")
        return [dict(zip(("id", "name", "scope", "rate", "made"), row, strict=True)) for row in rows]

    def revoke(self, name: str) -> None:
        """Ends a key and its sessions; raises InputError where there is none of that name."""
        if not self._run("DELETE FROM keys WHERE name=? RETURNING id", name):
            raise InputError(f"expected the name of a key, received {name!r}: see `keys list`")

    def start_key(self, at: str) -> str:
        """A new key for the one who starts a server at an address and port of loopback, instead of the one before."""
        self.end_start_key(at)
        return self._add_key(START + at, "admin", 0)

    def end_start_key(self, at: str) -> None:
        self._run("DELETE FROM keys WHERE name=?", START + at)

    def key(self, id: str) -> Key | None:
        rows = self._run("SELECT id, name, scope, rate FROM keys WHERE id=?", id)
        return Key(*rows[0]) if rows else None

    def holder(self, secret: str) -> Key | None:
        rows = self._run("SELECT id, name, scope, rate FROM keys WHERE hash=?", _hash(secret))
        return Key(*rows[0]) if rows else None

    # sessions

    def begin_session(self, key: Key, seconds: float) -> str | None:
        """The secret of a session with a key's scope; None where the key was revoked meanwhile."""
        secret, now = secrets.token_urlsafe(32), time.time()
        self._run("DELETE FROM sessions WHERE until < ?", now)
        sql = "INSERT INTO sessions SELECT ?, id, ? FROM keys WHERE id=? RETURNING 1"
        begun = self._run(sql, _hash(secret), now + seconds, key.id)
        newest = "SELECT rowid FROM sessions WHERE key=? ORDER BY rowid DESC LIMIT ?"
        self._run(f"DELETE FROM sessions WHERE key=? AND rowid NOT IN ({newest})", key.id, key.id, SESSIONS)
        return secret if begun else None

    def in_session(self, secret: str) -> Key | None:
        sql = "SELECT keys.id, name, scope, rate FROM sessions JOIN keys ON keys.id = key WHERE sessions.hash=? AND until >= ?"
        rows = self._run(sql, _hash(secret), time.time())
        return Key(*rows[0]) if rows else None

    def end_session(self, secret: str) -> None:
        self._run("DELETE FROM sessions WHERE hash=?", _hash(secret))

    # limits

    def may_ask(self, key: Key) -> bool:
        """Counts a request; False where the key has asked more often in this second than it may."""
        if not key.rate:
            return True
        second = int(time.time())
        self._run("DELETE FROM used WHERE key=? AND second<?", key.id, second)
        sql = "INSERT INTO used VALUES (?, ?, 1) ON CONFLICT(key, second) DO UPDATE SET n = n + 1 RETURNING n"
        return self._run(sql, key.id, second)[0][0] <= key.rate

    # writes that are sent again

    def begin_write(self, key: Key, mark: str, asked: bytes) -> tuple[bool, int | None, bytes | None, bool]:
        """(is new, status, answer, is the same question) of a write that its sender calls `mark`; without a status it is still done."""
        now = time.time()
        self._drop_old_writes()
        sql = "INSERT OR IGNORE INTO writes(key, mark, asked, time) VALUES (?, ?, ?, ?) RETURNING 1"
        if self._run(sql, key.id, mark, asked, now):
            return True, None, None, True
        rows = self._run("SELECT status, answer, asked FROM writes WHERE key=? AND mark=?", key.id, mark)
        return (False, *rows[0][:2], rows[0][2] in (asked, DROPPED)) if rows else (False, None, None, True)

    def end_write(self, key: Key, mark: str, status: int | None, answer: bytes) -> None:
        """What it came to; without a status it is as if it was never asked."""
        if status is None:
            self._run("DELETE FROM writes WHERE key=? AND mark=?", key.id, mark)
        else:
            sql = "UPDATE writes SET status=?, answer=iif(asked=?, NULL, ?) WHERE key=? AND mark=?"  # it may be dropped while it is at work
            self._run(sql, status, DROPPED, answer, key.id, mark)

    def drop_answers(self) -> None:
        """When a person is forgotten: kept answers may name them. What was done stays done."""
        self._run("UPDATE writes SET answer = NULL, asked = ?", DROPPED)  # a hash of a name can be guessed
        self._run("PRAGMA wal_checkpoint(TRUNCATE)")

    # audit

    def note(self, key: str, what: str, name: str, status: int, faces: Sequence[str]) -> None:
        """One line of who did what to which index and faces."""
        now = time.time()
        self._run(
            "INSERT INTO audit(time, key, what, name, status, faces) VALUES (?, ?, ?, ?, ?, ?)",
            now,
            key,
            what,
            name,
            status,
            json.dumps(list(faces)),
        )
        self._run("DELETE FROM audit WHERE time < ?", now - AUDIT_KEPT)
        self._drop_old_writes()

    def audit(self, limit: int) -> list[dict[str, Any]]:
        """The last lines, newest first."""
        rows = self._run("SELECT time, key, what, name, status, faces FROM audit ORDER BY id DESC LIMIT ?", limit)
        return [
            dict(zip(("time", "key", "what", "index", "status", "faces"), (*row[:5], json.loads(row[5])), strict=True))
            for row in rows
        ]

    # jobs

    def begin_job(self, name: str, kind: str) -> str | None:
        """The id of a new job; None where one of that kind is at work on the index."""
        id = secrets.token_hex(8)
        self.end_lost_jobs()
        sql = (
            "INSERT INTO jobs SELECT ?, ?, ?, 'running', 0, 0, ?, NULL, NULL, ? "
            "WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE name=? AND kind=? AND state='running') RETURNING id"
        )
        return id if self._run(sql, id, name, kind, time.time(), process_mark(os.getpid()), name, kind) else None

    def tell_job(self, id: str, done: int, total: int) -> None:
        self._run("UPDATE jobs SET done=?, total=? WHERE id=?", done, total, id)

    def end_job(self, id: str, state: str, detail: str) -> None:
        self._run("UPDATE jobs SET state=?, detail=?, ended=? WHERE id=?", state, detail, time.time(), id)

    def end_lost_jobs(self) -> None:
        """Of processes that are no more."""
        for id, process in self._run("SELECT id, process FROM jobs WHERE state='running'"):
            if process_mark(int(process.partition(".")[0])) != process:
                self.end_job(id, "failed", "the process that did it has ended: ask for it again")

    def job(self, id: str) -> dict[str, Any] | None:
        self.end_lost_jobs()
        rows = self._run("SELECT id, name, kind, state, done, total, began, ended, detail FROM jobs WHERE id=?", id)
        names = ("id", "index", "kind", "state", "done", "total", "began", "ended", "detail")
        return dict(zip(names, rows[0], strict=True)) if rows else None


def drop_answers() -> None:
    """For whoever forgets a person without a server: those that one has kept, if there was one."""
    if (data_root() / FILE).exists():
        with closing(Accounts()) as accounts:
            accounts.drop_answers()


def _hash(secret: str) -> bytes:
    """Of a random secret: nothing that could be guessed, so that one round is enough."""
    return sha256(secret.encode()).digest()
