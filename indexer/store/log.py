"""The log of a gallery: a line for each change."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from facegallery.indexer.store.checksums import checksum
from facegallery.indexer.store.database import Database
from facegallery.indexer.store.errors import damaged
from facegallery.results import Change

LOG = "SELECT id, command, time, verb, detail, checksum FROM log"


@dataclass(frozen=True)
class LogEntry:
    """One line of the log."""

    id: int
    command: str
    time: float
    verb: str
    detail: dict[str, Any]

    @property
    def is_empty(self) -> bool:
        """Return whether the command changed nothing."""
        match self.detail:
            case {"before": before, "said": said}:
                return not before and not said
            case {"faces": faces, **rest}:
                return not any((faces, rest.get("unnamed"), rest.get("gone"), rest.get("photos"), rest.get("paths")))
            case {"from": faces}:
                return not faces
        return bool(self.detail["old"] == self.detail["new"])

    @property
    def change(self) -> Change:
        """Summarise the line."""
        match self.detail:
            case {"person": _, "identity": name}:
                return Change(self.verb, 0, (name,), self.command)
            case {"before": before, "to": to}:
                named = to if isinstance(to, list) else [to]
                people = dict.fromkeys([*(place[0] for place in before.values()), *named])
                return Change(self.verb, len(before), tuple(name for name in people if name), self.command)
            case {"faces": faces, **rest}:
                n = max(len(faces) + len(rest.get("unnamed", ())), len(rest.get("gone", ())))
                return Change(self.verb, n, tuple(rest.get("people", ())), self.command)
            case {"from": came_from, "to": to}:
                return Change(self.verb, len(came_from), tuple(dict.fromkeys([*came_from.values(), to])), self.command)
        return Change(self.verb, 0, (self.detail["old"], self.detail["new"]), self.command)


def new_command() -> str:
    """Return a new id for changes that `undo` reverts together."""
    return uuid.uuid4().hex


class Log(Database):
    """Reader and writer of the log; each line is checked against its checksum."""

    def count_log(self) -> int:
        """Return the number of lines."""
        return self.execute("SELECT count(*) FROM log")[0][0]

    def list_log(self, limit: int = 20) -> list[dict[str, Any]]:
        """Return the last changes, newest first, as dicts with time, verb, faces, people and command."""
        rows = self.execute(f"{LOG} ORDER BY id DESC LIMIT ?", (limit,))
        return [{"time": line.time, **asdict(line.change)} for line in map(self._line, rows)]

    def _line(self, row: Sequence[Any]) -> LogEntry:
        id, command, now, verb, detail, stored = row
        if checksum(command, now, verb, detail) != stored:
            raise damaged(self.path, f"line {id} of its log was changed")
        return LogEntry(id, command, now, verb, json.loads(detail))

    def newest_line(self) -> int:
        """Return the id of the newest line; 0 for an empty log."""
        return self.execute("SELECT coalesce(max(id), 0) FROM log")[0][0]

    def check_log(self) -> None:
        """Raise Damaged where the newest line is lost."""
        if (wanted := self.fact("log")) is not None and wanted != self.newest_line():
            raise damaged(self.path, "the last line of its log is lost")

    def lines(self) -> list[LogEntry]:
        """Return the whole log, oldest line first."""
        return list(map(self._line, self.execute(f"{LOG} ORDER BY id")))

    # writing, within a transaction of `writing`

    def _log(self, verb: str, detail: dict[str, Any], command: str | None = None) -> LogEntry:
        command, now, text = command or new_command(), time.time(), json.dumps(detail, ensure_ascii=False)
        sql = "INSERT INTO log(command, time, verb, detail, checksum) VALUES (?, ?, ?, ?, ?) RETURNING id"
        ((id,),) = self.execute(sql, (command, now, verb, text, checksum(command, now, verb, text)))
        self.seal_log()
        return LogEntry(id, command, now, verb, detail)

    def seal_log(self) -> None:
        """Record which line is the newest, after lines were added or deleted."""
        self.set_fact("log", self.newest_line())

    def rewrite_line(self, line: LogEntry, detail: dict[str, Any]) -> None:
        """Replace the detail of a log line."""
        text = json.dumps(detail, ensure_ascii=False)
        stored = checksum(line.command, line.time, line.verb, text)
        self.execute("UPDATE log SET detail=?, checksum=? WHERE id=?", (text, stored, line.id))

    def drop_log(self, before: float) -> int:
        """Delete log lines older than `before` (seconds since 1970) and the faces and people that they removed.

        Returns the number of deleted lines.
        """
        old = (before,)
        for table in ("trash", "persons_trash"):
            self.execute(f"DELETE FROM {table} WHERE line IN (SELECT id FROM log WHERE time < ?)", old)
        dropped = len(self.execute("DELETE FROM log WHERE time < ? RETURNING id", old))
        self.seal_log()
        return dropped
