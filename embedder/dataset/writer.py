"""Write Parquet data sets of faces: plan a run, take its shards, and resume where an earlier run stopped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from facegallery.embedder.dataset.dataset import (
    MOST_ROWS,
    SHARD_PHOTOS,
    DataSet,
    is_data_set,
    mark_path,
    read_mark,
    read_shard,
    shard_path,
)
from facegallery.embedder.dataset.parquet import check_written
from facegallery.embedder.dataset.plan import (
    by_shard,
    changes_of,
    check_options,
    digest_of,
    is_same,
    may_be_same,
    read_plans,
    write_plan,
)
from facegallery.embedder.dataset.row import Entry, Row, schema_of, to_bytes, to_rows
from facegallery.embedder.errors import DataError
from facegallery.embedder.files import LOCK, drop_stale_temporaries, is_temporary, make_folder, write_atomic
from facegallery.embedder.spec import FaceSpec


@dataclass(frozen=True)
class WriterOptions:
    """How to write a data set.

    extra: names of the user's own columns. per_shard: inputs of a new shard. prune: drop the rows of inputs that are
    gone. retry: outcomes whose inputs are processed again. hash_of: returns the sha256 of an input as it is now, or
    None where it cannot be read; called only for inputs whose times changed.
    """

    extra: tuple[str, ...] = ()
    per_shard: int = SHARD_PHOTOS
    prune: bool = False
    retry: Collection[str] = frozenset()
    hash_of: Callable[[Entry], str | None] = lambda entry: None


DEFAULT = WriterOptions()


class DataSetWriter:
    """Plans a run over inputs and writes its shards; the same run again resumes.

    Hold the lock of the folder (`files.locked`) while the writer is used. vanished: paths of planned inputs that are
    not among this run's. relabelled: (before, now) of inputs that belong to another person now. retried: the former
    outcome of inputs that are processed again, by path.
    """

    def __init__(
        self,
        folder: str | Path,
        spec: FaceSpec,
        options: dict[str, Any],
        entries: Sequence[Entry],
        settings: WriterOptions = DEFAULT,
    ):
        """Plan the run; raise DataError, naming the option, where the folder was begun with another.

        options: settings of the command, which every run over the folder must repeat. entries: the inputs of this run.
        """
        self.folder, self.spec, self.extra = make_folder(Path(folder)), spec, tuple(settings.extra)
        self._retry, self._hash_of = frozenset(settings.retry), settings.hash_of
        check_is_ours(self.folder)
        drop_stale_temporaries(self.folder)
        options = {**spec.meaning(), **options, "metadata columns": list(self.extra)}
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
        changes = changes_of(planned, now, settings.per_shard, self.vanished if settings.prune else ())
        if changes or not planned:
            write_plan(self.folder, changes, options)
        self._before = by_shard(planned)
        self._by_shard = by_shard(planned | {change.entry.path: change for change in changes})
        self._todo: dict[int, list[Entry]] = {}
        self.retried: dict[str, str] = {}

    @property
    def entries(self) -> list[Entry]:
        """Inputs of the whole data set."""
        return [entry for entries in self._by_shard.values() for entry in entries]

    def pending(self) -> list[tuple[int, list[Entry]]]:
        """Return the shards to write, each with its inputs: unfinished ones, and those with an outcome to retry."""
        return [(n, entries) for n, entries in sorted(self._by_shard.items()) if not self._is_done(n, entries)]

    def _is_done(self, shard: int, entries: list[Entry]) -> bool:
        mark = self._finished_mark(shard)
        return mark is not None and mark["inputs"] == digest_of(entries) and not self._retry & mark["outcomes"].keys()

    def _finished_mark(self, shard: int) -> dict[str, Any] | None:
        """Return the mark of a shard whose file has the length that the mark states, or None."""
        mark, path = read_mark(self.folder, shard), shard_path(self.folder, shard)
        return mark if mark is not None and path.exists() and path.stat().st_size == mark["bytes"] else None

    @cached_property
    def _gone(self) -> frozenset[str]:
        return frozenset(self.vanished)

    def todo(self, shard: int) -> list[Entry]:
        """Return the inputs of a shard that have to be processed; `kept` returns the rows of the others."""
        if shard not in self._todo:
            self._todo[shard] = self._find_todo(shard)
        return self._todo[shard]

    def _find_todo(self, shard: int) -> list[Entry]:
        entries = self._by_shard[shard]
        gone = any(entry.path in self._gone for entry in entries)  # their rows cannot be made again
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
        if mark["inputs"] != digest_of(list(before.values())):  # rows of a stopped run, whose inputs are unknown
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
        """Return the rows of an earlier run that are still right, by the path of their input.

        Those are the rows of inputs that have not changed, and of inputs that have vanished.
        """
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
        """Write a shard's rows, then its mark; leave files alone that would not change.

        seconds, versions: recorded in the mark. Raise DataError where the rows are more than a reader accepts.
        """
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
    """Raise DataError where a folder holds other files than a data set's."""
    others = folder.is_dir() and [p for p in folder.iterdir() if not is_temporary(p.name) and p.name != LOCK]
    if others and not is_data_set(folder):  # in this order: another process may write its plan meanwhile
        raise DataError(
            f"expected an empty folder or a data set for --out, {folder} holds other files: choose another folder"
        )


def _check_model(folder: Path, spec: FaceSpec) -> None:
    """Raise DataError, naming both models, where another model made the data set."""
    try:
        made = DataSet(folder).spec
    except DataError:  # there is no finished shard
        return
    if made.parts and spec.parts and made.model_name != spec.model_name:
        raise DataError(
            f"expected the model of {folder}, it was made with {made.model_name}, now {spec.model_name}: "
            f"choose another --out, or give --model {made.model_name}"
        )
