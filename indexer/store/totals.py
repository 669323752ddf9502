"""Row counts and checksum sums of the tables of gallery.db, which reveal rows that another program deleted.

A face that another program deletes leaves no row behind with a wrong checksum. The totals are kept in `meta`. SQLite's
preupdate hook updates them in the transaction of every change, at a cost for each changed row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from facegallery.indexer.store.checksums import checksum
from facegallery.indexer.store.migrations import PERSONS, PHOTOS, UNNAMED

if TYPE_CHECKING:
    from facegallery.indexer.store.database import Database

KEY = "totals"
SINCE = "totals_since"  # seconds since 1970: when a gallery of an older version was first counted
# `changed` and `forgotten` have checksums of their own
FIRST_TABLES = ("people", "faces", "vectors", "crops", "other_vectors", "log", "trash", "meta")
UNNAMED_TABLES = ("unnamed", "unnamed_vectors", "unnamed_crops", "other_unnamed_vectors", "grouped", "rejected")
PERSON_TABLES = ("persons", "persons_trash")
LATER_TABLES = (*UNNAMED_TABLES, "photos", *PERSON_TABLES)
TABLES = (*FIRST_TABLES, *LATER_TABLES)
MODULUS = 1 << 128


@dataclass
class Totals:
    """Number of rows, and sum of their checksums, of each table."""

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABLES, 0))
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABLES, 0))

    def note(self, change: Any) -> None:
        """Count an apsw.PreUpdate: a row that is inserted, deleted or updated."""
        if (table := change.table_name) in self.rows and change.database_name == "main":
            if (new := change.new) is not None:
                self._add(table, new, 1)
            if (old := change.old) is not None:
                self._add(table, old, -1)

    def add(self, table: str, rows: Iterable[tuple]) -> None:
        """Count rows that are in a table."""
        for row in rows:
            self._add(table, row, 1)

    def swap(self, first: str, second: str) -> None:
        """Exchange the totals of two tables that were renamed into each other."""
        for counts in (self.rows, self.sums):
            counts[first], counts[second] = counts[second], counts[first]

    def _add(self, table: str, row: tuple, sign: int) -> None:
        if table == "meta" and row[0] == KEY:
            return
        self.rows[table] += sign
        self.sums[table] = (self.sums[table] + sign * _number(table, row)) % MODULUS

    def differences(self, found: Totals) -> Iterator[str]:
        """Yield a line for each table whose rows are not those that were counted here."""
        for table in found.rows:
            missing = self.rows[table] - found.rows[table]
            if missing:
                what = (
                    f"{missing} rows of the table {table} were deleted"
                    if missing > 0
                    else f"the table {table} has {-missing} rows too many"
                )
                yield f"{what} by another program"
            elif self.sums[table] != found.sums[table]:
                yield f"rows of the table {table} were changed by another program"

    def to_json(self) -> str:
        """Return the totals as JSON."""
        return json.dumps({table: [n, f"{self.sums[table]:032x}"] for table, n in self.rows.items()})

    @classmethod
    def from_json(cls, text: str) -> Totals:
        """Read `to_json`."""
        found = json.loads(text)
        there = [table for table in TABLES if table in found]
        return cls({table: found[table][0] for table in there}, {table: int(found[table][1], 16) for table in there})


def count(db: Database) -> Totals:
    """Count all rows of a gallery, read-only ones of an earlier version too; reads every checksum."""
    since = dict.fromkeys(UNNAMED_TABLES, UNNAMED) | {"photos": PHOTOS} | dict.fromkeys(PERSON_TABLES, PERSONS)
    tables = tuple(table for table in TABLES if db.version >= since.get(table, 0))
    found = Totals(dict.fromkeys(tables, 0), dict.fromkeys(tables, 0))
    for table in tables:
        columns = {"people": "id, name", "meta": "key, checksum"}.get(table, "checksum")
        found.add(table, db.rows(f"SELECT {columns} FROM {table}"))
    return found


def _number(table: str, row: tuple) -> int:
    """Return the checksum of a row, its last column, as a number; of a person, which has none, over id and name."""
    stored = checksum(*row[:2]) if table == "people" else row[-1]
    return int.from_bytes(stored if isinstance(stored, bytes) else repr(stored).encode(), "little")
