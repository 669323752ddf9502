"""The log of a gallery: what each change did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from facegallery.indexer.store.checksums import checksum
from facegallery.indexer.store.database import Database
from facegallery.indexer.store.errors import damaged
from facegallery.results import Change


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
        """Whether the command changed nothing."""
        match self.detail:
            case {"faces": faces} | {"from": faces}:
                return not faces
        return bool(self.detail["old"] == self.detail["new"])

    @property
    def change(self) -> Change:
        match self.detail:
            case {"faces": faces, **rest}:
                return Change(self.verb, len(faces), tuple(rest.get("people", ())), self.command)
            case {"from": came_from, "to": to}:
                return Change(self.verb, len(came_from), tuple(dict.fromkeys([*came_from.values(), to])), self.command)
        return Change(self.verb, 0, (self.detail["old"], self.detail["new"]), self.command)


class Log(Database):
    """The lines of the log, each checked against its checksum when it is read."""

    def count_log(self) -> int:
        """How many changes are kept."""
        return self.execute("SELECT count(*) FROM log")[0][0]

    def list_log(self, limit: int = 20) -> list[dict[str, Any]]:
        """The last changes, newest first: command, time, verb, number of faces, people."""
        rows = self.execute(
            "SELECT id, command, time, verb, detail, checksum FROM log ORDER BY id DESC LIMIT ?", (limit,)
        )
        return [{"time": line.time, **asdict(line.change)} for line in map(self._line, rows)]

    def _line(self, row: Sequence[Any]) -> LogEntry:
        id, command, now, verb, detail, stored = row
        if checksum(command, now, verb, detail) != stored:
            raise damaged(self.path, f"line {id} of its log was changed")
        return LogEntry(id, command, now, verb, json.loads(detail))

    def newest_line(self) -> int:
        """Its id; 0 where there is none."""
        return self.execute("SELECT coalesce(max(id), 0) FROM log")[0][0]

    def check_log(self) -> None:
        """Raises Damaged where the newest line is lost."""
        if (wanted := self.fact("log")) is not None and wanted != self.newest_line():
            raise damaged(self.path, "the last line of its log is lost")

    def lines(self) -> list[LogEntry]:
        """The whole log, oldest first."""
        return list(
            map(self._line, self.execute("SELECT id, command, time, verb, detail, checksum FROM log ORDER BY id"))
        )
