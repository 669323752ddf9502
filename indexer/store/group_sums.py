"""Groups of unnamed faces by the sums of their vectors, and the single faces beside them.

The sums are derived: a group that changes loses its own, and gets it anew when it is needed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from facegallery.indexer.store.checksums import checksum
from facegallery.indexer.store.errors import damaged
from facegallery.indexer.store.migrations import GROUP_SUMS, UNNAMED
from facegallery.indexer.store.reader import AMONG, BLOCK
from facegallery.indexer.store.rows import Rows

CONFIRMED = "(SELECT number FROM grouped WHERE state = 'confirmed')"
PHOTO = "coalesce(image_sha256, image)"


class Single(NamedTuple):
    """An unnamed face that is in no group that stays. number: of the group in which it is; None: in none."""

    id: int
    face_id: str
    photo: str
    number: int | None


class GroupSums(Rows):
    """Reader and writer of the sums; `confirmed` limits the groups that stay to those that the user confirmed."""

    @property
    def has_unnamed(self) -> bool:
        """Whether the file has tables for unnamed faces; an older version's has none until its next change."""
        return self.version >= UNNAMED

    def held_numbers(self, *, confirmed: bool = False) -> list[int]:
        """Return the numbers of the groups that stay, ascending."""
        sql = f"SELECT DISTINCT number FROM grouped WHERE {_held(confirmed=confirmed)} ORDER BY number"
        return [number for (number,) in self.rows(sql)] if self.has_unnamed else []

    def group_sums(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the sum of the vectors of each group, float32 (g, d), its faces, int64 (g,), and whether it was kept.

        Raises Damaged where a sum, or a vector of a group without one, was changed.
        """
        row_of = {number: row for row, number in enumerate(numbers)}
        sums, sizes = np.zeros((len(numbers), self.spec.dimension), np.float32), np.zeros(len(numbers), np.int64)
        sql = "SELECT number, faces, sum, checksum FROM group_sums ORDER BY number"
        for number, faces, data, stored in self.rows(sql) if self.version >= GROUP_SUMS else ():
            if checksum(number, faces, data) != stored:
                raise damaged(self.path, f"the sum of group {number} was changed")
            if (row := row_of.get(number)) is not None:
                sums[row], sizes[row] = np.frombuffer(data, "<f4"), faces
        known = sizes > 0
        lacking = np.flatnonzero(~known)
        sums[lacking], sizes[lacking] = self._summed([numbers[row] for row in lacking.tolist()])
        return sums, sizes, known

    def keep_group_sums(self) -> None:
        """Store the sums that groups lack, within a transaction of `writing`."""
        lacking = (
            f"SELECT DISTINCT number FROM grouped WHERE {_held()} AND number NOT IN (SELECT number FROM group_sums)"
        )
        numbers = [number for (number,) in self.execute(lacking)]
        rows = [(n, int(size), x.tobytes()) for n, x, size in zip(numbers, *self._summed(numbers), strict=True)]
        self.execute_many("INSERT INTO group_sums VALUES (?, ?, ?, ?)", [(*row, checksum(*row)) for row in rows])

    def drop_group_sums(self, ids: str) -> None:
        """Delete the sums of the groups in which faces are. ids: of the faces, as JSON."""
        self.execute(f"DELETE FROM group_sums WHERE number IN (SELECT number FROM grouped WHERE id {AMONG})", (ids,))

    def singles(self, *, confirmed: bool = False) -> tuple[list[Single], np.ndarray]:
        """Return the faces that are in no group that stays, oldest first, and their vectors, float32 (n, d).

        Raises Damaged naming a face whose vector was changed or lost.
        """
        blocks, found = [np.empty((0, self.spec.dimension), np.float32)], []
        sql = (
            f"SELECT unnamed.id, face_id, image, vector, v.checksum, {PHOTO}, number FROM unnamed "
            "LEFT JOIN grouped ON grouped.id = unnamed.id LEFT JOIN unnamed_vectors v ON v.id = unnamed.id "
            f"WHERE {_single(confirmed=confirmed)} ORDER BY unnamed.id"
        )
        rows = self.rows(sql) if self.has_unnamed else iter(())
        while batch := list(islice(rows, BLOCK)):
            found += [Single(row[0], row[1], row[5], row[6]) for row in batch]
            blocks.append(self.read_vectors([row[:5] for row in batch])[1])
        return found, np.concatenate(blocks)

    def single_ids(self) -> list[int]:
        """Return the ids of the faces that are in no group and not ignored, ascending."""
        sql = (
            f"SELECT unnamed.id FROM unnamed LEFT JOIN grouped ON grouped.id = unnamed.id WHERE {_single()} ORDER BY 1"
        )
        return [id for (id,) in self.rows(sql)]

    def photos_of_groups(self, photos: Iterable[str], *, confirmed: bool = False) -> dict[int, set[str]]:
        """Return for groups that stay those of these photos that show one of their faces, by number."""
        found: dict[int, set[str]] = defaultdict(set)
        if self.version >= GROUP_SUMS:
            sql = (
                f"SELECT DISTINCT number, {PHOTO} FROM unnamed JOIN grouped ON grouped.id = unnamed.id "
                f"WHERE {PHOTO} {AMONG} AND {_held(confirmed=confirmed)}"
            )
            for number, photo in self.rows(sql, (json.dumps(list(photos)),)):
                found[number].add(photo)
        return found

    def _summed(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum of the vectors of each group, float32 (g, d), and its faces, int64 (g,), from the vectors."""
        row_of = {number: row for row, number in enumerate(numbers)}
        sums, sizes = np.zeros((len(numbers), self.spec.dimension), np.float32), np.zeros(len(numbers), np.int64)
        sql = (
            "SELECT unnamed.id, face_id, image, vector, v.checksum, number FROM grouped "
            "JOIN unnamed ON unnamed.id = grouped.id LEFT JOIN unnamed_vectors v ON v.id = grouped.id "
            f"WHERE number {AMONG} AND state != 'ignored' ORDER BY unnamed.id"
        )
        rows = self.rows(sql, (json.dumps(list(numbers)),)) if numbers else iter(())
        while batch := list(islice(rows, BLOCK)):
            at = np.array([row_of[row[5]] for row in batch])
            np.add.at(sums, at, self.read_vectors([row[:5] for row in batch])[1])
            np.add.at(sizes, at, 1)
        return sums, sizes


def _held(*, confirmed: bool = False) -> str:
    """Return the SQL condition of a row of `grouped` for being in a group that stays; ignored faces have no number."""
    return "number IS NOT NULL" + f" AND number IN {CONFIRMED}" * confirmed


def _single(*, confirmed: bool = False) -> str:
    """Return the SQL condition for being unnamed, not ignored, and in no group that stays."""
    free = f"(number IS NULL OR number NOT IN {CONFIRMED})" if confirmed else "number IS NULL"
    return f"coalesce(state, 'open') != 'ignored' AND {free}"
