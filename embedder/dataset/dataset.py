"""Read Parquet data sets of faces, and the marks that say which shards are finished.

FOLDER/part-00000.parquet     a finished shard; every photo has at least one row, whatever its outcome
FOLDER/_part-00000.json       its done-mark; a shard without one does not count
FOLDER/_plan-0000.parquet     which input goes to which shard; later plans add lines or replace them
FOLDER/_lock                  held by the process that writes
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from facegallery.embedder.dataset.checks import ADVICE, as_ours, check_rows, check_schema, damaged, is_mark
from facegallery.embedder.dataset.parquet import OpenedParquet, open_parquet
from facegallery.embedder.dataset.plan import numbers
from facegallery.embedder.dataset.row import COLUMNS, LATER, contract_of, schema_of
from facegallery.embedder.errors import DataError
from facegallery.embedder.spec import FaceSpec

SHARD_PHOTOS = 256
MOST_ROWS = 512 * SHARD_PHOTOS  # of a shard: 512 faces of each photo
LOOKS, PAUSE = 20, 0.05  # how often, and seconds between, to look for the mark of a shard that was just replaced


def shard_path(folder: Path, shard: int) -> Path:
    """Return the path of a shard in a data set."""
    return folder / f"part-{shard:05d}.parquet"


def mark_path(folder: Path, shard: int) -> Path:
    """Return the path of a shard's done-mark."""
    return folder / f"_part-{shard:05d}.json"


class DataSet:
    """The finished shards of a folder.

    spec: the contract of all shards. marks: the done-mark of each shard by its number. extra: the user's own columns.
    """

    def __init__(self, folder: str | Path):
        """Open a folder; raise DataError where it is not a data set, or nothing in it is finished."""
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(f"expected a folder of Parquet shards, {self.folder} is not there: check the path")
        self.marks = {n: mark for n in numbers(self.folder, "_part-*.json") if (mark := _sound_mark(self.folder, n))}
        if not self.marks:
            raise DataError(
                f"expected finished Parquet shards in {self.folder}, found none: "
                f"run `align` or `embed` with --out {self.folder}"
            )
        path = shard_path(self.folder, min(self.marks))
        with _opened(path) as file:
            found = file.schema
        check_schema(found, path)
        self.spec = FaceSpec.from_json(contract_of(found))
        self.extra = [name for name in found.names if name not in COLUMNS]  # the user's own columns
        self._schema, self._first = schema_of(self.spec, self.extra), found
        for number, mark in self.marks.items():
            if mark["fingerprint"] != self.spec.fingerprint:
                raise _of_another(shard_path(self.folder, number))

    @property
    def outcomes(self) -> dict[str, int]:
        """Number of rows by outcome."""
        total: Counter[str] = Counter()
        for mark in self.marks.values():
            total.update(mark["outcomes"])
        return dict(sorted(total.items()))

    def shard(self, shard: int, columns: Sequence[str] | None = None, *, check: bool = True) -> pa.Table:
        """Return the rows of a shard, in order, with this version's types.

        columns: the columns to read; None reads all. check: False skips the checks of values and of the number of rows,
        for functions that remove rows and must not fail on the others. Raise DataError for content that no run writes.
        """
        if shard not in self.marks:
            raise damaged(shard_path(self.folder, shard), FileNotFoundError("it has no done-mark"))
        path = shard_path(self.folder, shard)
        table, rows = read_shard(path, self.spec, self._schema, columns, check=check, like=self._first)
        if check:
            self._check_count(shard, rows)
        return table

    def _check_count(self, shard: int, rows: int) -> None:
        """Raise DataError where the mark counts other rows than the shard has.

        A shard is written a moment before its mark, so that a mark that is too old is read again.
        """
        for _ in range(LOOKS):
            if rows == self.marks[shard]["rows"]:
                return
            time.sleep(PAUSE)
            self.marks[shard] = read_mark(self.folder, shard) or self.marks[shard]
        raise DataError(
            f"expected {self.marks[shard]['rows']} rows in {shard_path(self.folder, shard)}, as its done-mark says, "
            f"it has {rows}: the command that wrote to it was stopped, run it again"
        )

    def shards(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the tables of all finished shards, in order; memory holds one at a time."""
        for number in sorted(self.marks):
            yield self.shard(number, columns)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rows as one table."""
        return pa.concat_tables(self.shards(columns))


def read_shard(
    path: Path,
    spec: FaceSpec,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    *,
    check: bool = True,
    like: pa.Schema | None = None,
) -> tuple[pa.Table, int]:
    """Return (rows of a shard with this version's types, number of rows in the shard); raise DataError.

    columns: the columns to read; None reads all. check: whether to check the values. like: a schema that was checked
    before; a shard of the same schema is not checked again.
    """
    wanted = list(columns or schema.names)
    with _opened(path) as file:
        found = file.schema
        if like is None or not found.equals(like, check_metadata=True):
            _check_equivalent(found, spec, schema, path)
        there = set(found.names)
        table = _with_later(file.read([name for name in wanted if name in there], MOST_ROWS), wanted, file.rows)
        rows = file.rows
    table = as_ours(table, schema, path)
    if check:
        check_rows(table, spec, path)
    return table, rows


def _with_later(table: pa.Table, wanted: list[str], rows: int) -> pa.Table:
    """Return the wanted columns, null where an earlier version did not write them."""
    if table.column_names == wanted:
        return table
    for name in wanted:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(rows)) if table.num_columns else pa.table({name: pa.nulls(rows)})
    return table.select(wanted)


def _check_equivalent(found: pa.Schema, spec: FaceSpec, schema: pa.Schema, path: Path) -> None:
    """Raise DataError unless a shard has the columns and the contract of the first shard."""
    check_schema(found, path)
    if FaceSpec.from_json(contract_of(found)).fingerprint != spec.fingerprint:
        raise _of_another(path)
    if odd := sorted((set(found.names) ^ set(schema.names)) - LATER):
        raise DataError(
            f"expected the same columns in all shards of {path.parent}, {path.name} differs in `{odd[0][:80]}`: "
            f"{ADVICE}"
        )


def _opened(path: Path) -> OpenedParquet:
    """Open a shard; raise DataError where its metadata hold no contract."""
    file = open_parquet(path)
    if not contract_of(file.schema):
        file.source.close()
        raise DataError(
            f"expected a shard with a face contract, {path} has none: it was not written by `align` or `embed`"
        )
    return file


def _of_another(path: Path) -> DataError:
    return DataError(f"expected shards of one contract in {path.parent}, {path.name} is of another: remove it")


def is_data_set(folder: str | Path) -> bool:
    """Return whether a path is a folder that holds shards rather than photos."""
    path = Path(folder)
    return path.is_dir() and any(path.glob("_plan-*.parquet"))


def read_mark(folder: Path, shard: int) -> dict[str, Any] | None:
    """Return a shard's done-mark, or None where the shard is not finished."""
    try:
        mark = json.loads(mark_path(folder, shard).read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return mark if is_mark(mark) else None


def _sound_mark(folder: Path, shard: int) -> dict[str, Any] | None:
    """Return a shard's done-mark or None, as `read_mark`; raise DataError for a mark that no run writes."""
    mark = read_mark(folder, shard)
    if mark is None and (path := mark_path(folder, shard)).exists():
        raise DataError(
            f"expected the done-mark of a shard in {path}, received something else: run the command that wrote it again"
        )
    return mark
