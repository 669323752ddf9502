"""Parquet data sets of faces: the reader, the writer, and the marks that say a shard is done.

FOLDER/part-00000.parquet     a finished shard; every photo has a row, whatever happened to it
FOLDER/_part-00000.json       its done-mark; a shard without one does not exist
FOLDER/_plan-0000.parquet     which input goes to which shard; later plans add to it or replace lines of it
FOLDER/_lock                  held by the process that writes
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from facegallery.embedder.dataset.checks import ADVICE, as_ours, check_rows, check_schema, damaged, is_mark
from facegallery.embedder.dataset.parquet import OpenedParquet, check_written, open_parquet
from facegallery.embedder.dataset.plan import (
    by_shard,
    changes_of,
    check_options,
    digest_of,
    is_same,
    may_be_same,
    numbers,
    read_plans,
    write_plan,
)
from facegallery.embedder.dataset.row import COLUMNS, LATER, Entry, Row, contract_of, schema_of, to_bytes, to_rows
from facegallery.embedder.errors import DataError
from facegallery.embedder.files import LOCK, drop_stale_temporaries, is_temporary, make_folder, write_atomic
from facegallery.embedder.spec import FaceSpec

SHARD_PHOTOS = 256
MOST_ROWS = 512 * SHARD_PHOTOS  # of a shard, and so many faces of each of its photos
LOOKS, PAUSE = 20, 0.05  # at a mark whose shard has just been replaced, seconds apart


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"part-{shard:05d}.parquet"


def mark_path(folder: Path, shard: int) -> Path:
    return folder / f"_part-{shard:05d}.json"


# reading --------------------------------------------------------------------


class DataSet:
    """The finished shards of a folder."""

    def __init__(self, folder: str | Path):
        """Raises DataError where the folder is no data set, or one with nothing finished."""
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(f"expected a folder of Parquet shards, {self.folder} is not there: check the path")
        self.marks = {n: mark for n in numbers(self.folder, "_part-*.json") if (mark := _sound_mark(self.folder, n))}
        if not self.marks:
            raise DataError(
                f"expected finished Parquet shards in {self.folder}, found none: run `align` or `embed` with --out {self.folder}"
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
        """Rows for each outcome."""
        total: Counter[str] = Counter()
        for mark in self.marks.values():
            total.update(mark["outcomes"])
        return dict(sorted(total.items()))

    def shard(self, shard: int, columns: Sequence[str] | None = None, check: bool = True) -> pa.Table:
        """One shard's rows, in order, with our own types; raises DataError for what no run of ours writes.

        check: False leaves out the values and their number, for whoever removes rows and must not fail on others.
        """
        if shard not in self.marks:
            raise damaged(shard_path(self.folder, shard), FileNotFoundError("it has no done-mark"))
        table, rows = read_shard(shard_path(self.folder, shard), self.spec, self._schema, columns, check, self._first)
        if check:
            self._check_count(shard, rows)
        return table

    def _check_count(self, shard: int, rows: int) -> None:
        """Raises DataError where the mark counts other rows than the shard has; a shard comes a moment before its mark."""
        for _ in range(LOOKS):
            if rows == self.marks[shard]["rows"]:
                return
            time.sleep(PAUSE)
            self.marks[shard] = read_mark(self.folder, shard) or self.marks[shard]
        raise DataError(
            f"expected {self.marks[shard]['rows']} rows in {shard_path(self.folder, shard)}, as its done-mark says, it has {rows}: "
            "the command that wrote to it was stopped, run it again"
        )

    def shards(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The tables of all finished shards, in order; memory holds one at a time."""
        for number in sorted(self.marks):
            yield self.shard(number, columns)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows at once."""
        return pa.concat_tables(self.shards(columns))


def read_shard(
    path: Path,
    spec: FaceSpec,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    check: bool = True,
    like: pa.Schema | None = None,
) -> tuple[pa.Table, int]:
    """(rows of a shard of this contract and schema, with our own types, how many the shard has); raises DataError.

    like: the schema of another shard, which was checked.
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
    """The wanted columns, null where an earlier version did not write them."""
    if table.column_names == wanted:
        return table
    for name in wanted:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(rows)) if table.num_columns else pa.table({name: pa.nulls(rows)})
    return table.select(wanted)


def _check_equivalent(found: pa.Schema, spec: FaceSpec, schema: pa.Schema, path: Path) -> None:
    """Raises DataError unless a shard has the columns and the contract that the first one has."""
    check_schema(found, path)
    if FaceSpec.from_json(contract_of(found)).fingerprint != spec.fingerprint:
        raise _of_another(path)
    if odd := sorted((set(found.names) ^ set(schema.names)) - LATER):
        raise DataError(
            f"expected the same columns in all shards of {path.parent}, {path.name} differs in `{odd[0][:80]}`: {ADVICE}"
        )


def _opened(path: Path) -> OpenedParquet:
    """A shard that has a contract; raises DataError."""
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
    """Whether a folder holds shards rather than photos."""
    return any(Path(folder).glob("_plan-*.parquet"))


def _check_model(folder: Path, spec: FaceSpec) -> None:
    """Raise DataError where another model made the data set; it names both, where weights have only hashes."""
    try:
        made = DataSet(folder).spec
    except DataError:  # no shard says
        return
    if made.parts and spec.parts and made.model_name != spec.model_name:
        raise DataError(
            f"expected the model of {folder}, it was made with {made.model_name}, now {spec.model_name}: choose another --out, or give "
            f"--model {made.model_name}"
        )


def read_mark(folder: Path, shard: int) -> dict[str, Any] | None:
    """A shard's done-mark, or None where it is not done."""
    try:
        mark = json.loads(mark_path(folder, shard).read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return mark if is_mark(mark) else None


def _sound_mark(folder: Path, shard: int) -> dict[str, Any] | None:
    """As read_mark, for a reader: raises DataError where there is a mark that no run of ours writes."""
    mark = read_mark(folder, shard)
    if mark is None and (path := mark_path(folder, shard)).exists():
        raise DataError(
            f"expected the done-mark of a shard in {path}, received something else: run the command that wrote it again"
        )
    return mark


# writing --------------------------------------------------------------------


class DataSetWriter:
    """Plans a run over `entries` and takes its shards; the same run again resumes where the last one stopped.

    Hold the lock of the folder (`files.locked`) as long as it is used.
    """

    def __init__(
        self,
        folder: str | Path,
        spec: FaceSpec,
        options: dict[str, Any],
        entries: Sequence[Entry],
        extra: Sequence[str] = (),
        per_shard: int = SHARD_PHOTOS,
        prune: bool = False,
        retry: Collection[str] = (),
        hash_of: Callable[[Entry], str | None] = lambda entry: None,
    ):
        """retry: outcomes whose inputs are done again; hash_of: sha256 of an input as it is now.

        Raises DataError where the folder was begun with another contract or option, which it names.
        """
        self.folder, self.spec, self.extra = make_folder(Path(folder)), spec, tuple(extra)
        self._retry, self._hash_of = frozenset(retry), hash_of
        check_is_ours(self.folder)
        drop_stale_temporaries(self.folder)
        options = {**spec.meaning(), **options, "metadata columns": list(extra)}
        try:
            check_options(self.folder, options)
        except DataError:
            _check_model(self.folder, spec)
            raise
        planned = read_plans(self.folder)
        now = {e.path: e for e in entries}
        self.vanished = [path for path, p in planned.items() if path not in now and not p.dropped]
        self.all_vanished = bool(self.vanished) and len(self.vanished) == sum(not p.dropped for p in planned.values())
        self.relabelled = [
            (p.entry, now[path])
            for path, p in planned.items()
            if path in now and not p.dropped and now[path].identity != p.entry.identity
        ]
        changes = changes_of(planned, now, per_shard, self.vanished if prune else ())
        if changes or not planned:
            write_plan(self.folder, changes, options)
        self._before = by_shard(planned)
        self._by_shard = by_shard(planned | {change.entry.path: change for change in changes})
        self._todo: dict[int, list[Entry]] = {}
        self.retried: dict[str, str] = {}  # inputs that are tried again, and the outcome that they had

    @property
    def entries(self) -> list[Entry]:
        """Inputs of the whole data set."""
        return [entry for entries in self._by_shard.values() for entry in entries]

    def pending(self) -> list[tuple[int, list[Entry]]]:
        """The shards that are still to be written, or hold outcomes to be tried again, each with its inputs."""
        return [(n, entries) for n, entries in sorted(self._by_shard.items()) if not self._is_done(n, entries)]

    def _is_done(self, shard: int, entries: list[Entry]) -> bool:
        mark = self._finished_mark(shard)
        return mark is not None and mark["inputs"] == digest_of(entries) and not self._retry & mark["outcomes"].keys()

    def _finished_mark(self, shard: int) -> dict[str, Any] | None:
        """The mark of a shard that is there and has the length that it says."""
        mark, path = read_mark(self.folder, shard), shard_path(self.folder, shard)
        return mark if mark is not None and path.exists() and path.stat().st_size == mark["bytes"] else None

    @cached_property
    def _gone(self) -> frozenset[str]:
        return frozenset(self.vanished)

    def todo(self, shard: int) -> list[Entry]:
        """The inputs of a shard that have to be done; the rows of its others are `kept`."""
        if shard not in self._todo:
            self._todo[shard] = self._find_todo(shard)
        return self._todo[shard]

    def _find_todo(self, shard: int) -> list[Entry]:
        entries = self._by_shard[shard]
        gone = any(entry.path in self._gone for entry in entries)  # rows that cannot be made again
        mark = read_mark(self.folder, shard) if gone else self._finished_mark(shard)
        if mark is None:
            return entries
        try:
            table = self._read(shard, ["image", "outcome", "image_sha256"])
        except DataError:
            if gone:
                raise
            return entries
        before = {e.path: e for e in self._before.get(shard, [])}
        if mark["inputs"] != digest_of(list(before.values())):  # rows of unknown inputs, from a run that was stopped
            before = {}
        rows: dict[str, tuple[str, str | None]] = {}
        for image, outcome, sha256 in zip(*(column.to_pylist() for column in table.columns), strict=True):
            rows.setdefault(image, (outcome, sha256))
        return [e for e in entries if not (e.path in rows and self._holds(e, before.get(e.path), *rows[e.path]))]

    def _holds(self, entry: Entry, before: Entry | None, outcome: str, sha256: str | None) -> bool:
        """Whether the rows of an input are still right."""
        if entry.path in self._gone:
            return True
        if before is None or not (is_same(before, entry) or self._is_same_content(before, entry, sha256)):
            return False
        if outcome in self._retry:
            self.retried[entry.path] = outcome
        return outcome not in self._retry

    def _is_same_content(self, before: Entry, now: Entry, sha256: str | None) -> bool:
        return sha256 is not None and may_be_same(before, now) and self._hash_of(now) == sha256

    def kept(self, shard: int) -> dict[str, list[Row]]:
        """Rows of an earlier run that still hold, by the path of their input: of those that are as they were, or have vanished."""
        todo = {entry.path for entry in self.todo(shard)}
        found: dict[str, list[Row]] = {entry.path: [] for entry in self._by_shard[shard] if entry.path not in todo}
        if found:
            for row in to_rows(self._read(shard)):
                if row.image in found:
                    found[row.image].append(row)
        return found

    def _read(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        return read_shard(shard_path(self.folder, shard), self.spec, schema_of(self.spec, self.extra), columns)[0]

    def write(self, shard: int, table: pa.Table, seconds: float, versions: dict[str, str]) -> None:
        """Finish a shard: its rows, then its mark; what is the same as before stays as it is."""
        data, path, old = to_bytes(table), shard_path(self.folder, shard), self._finished_mark(shard)
        check_written(table, data, MOST_ROWS, path)
        inputs = digest_of(self._by_shard[shard])
        same = old is not None and old["bytes"] == len(data) and path.read_bytes() == data
        if same and old is not None and old["inputs"] == inputs:
            return
        if not same:
            write_atomic(path, data)
        mark = {
            "inputs": inputs,
            "rows": table.num_rows,
            "bytes": len(data),
            "outcomes": dict(sorted(Counter(table["outcome"].to_pylist()).items())),
            "seconds": round(seconds, 3),
            "fingerprint": self.spec.fingerprint,
            "versions": versions,
        }
        write_atomic(mark_path(self.folder, shard), json.dumps(mark, indent=1).encode())


def check_is_ours(folder: Path) -> None:
    """Raises DataError where a folder holds other files than a data set's, so that nothing is written beside them."""
    others = folder.is_dir() and [p for p in folder.iterdir() if not is_temporary(p.name) and p.name != LOCK]
    if others and not is_data_set(folder):  # in this order: another process may write its plan meanwhile
        raise DataError(
            f"expected an empty folder or a data set for --out, {folder} holds other files: choose another folder"
        )
