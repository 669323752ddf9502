"""Parquet data sets of faces: the schema, the plan of a run, its shards, and the marks that say a shard is done.

FOLDER/part-00000.parquet     a finished shard; every photo has a row, whatever happened to it
FOLDER/_part-00000.json       its done-mark; a shard without one does not exist
FOLDER/_plan-0000.parquet     which input goes to which shard; later plans add to it or replace lines of it
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedder.errors import DataError
from embedder.spec import FaceSpec

SHARD_PHOTOS = 256
UNIT_TOLERANCE = 1e-5
RIVAL = 0.8  # of a face's area: of 316 photos with several faces, 48 show another so large, 13 of the 15 in which the wrong face was taken
SPEC_KEY, OPTIONS_KEY = b"facedb.spec", b"facedb.options"
MISSING = "missing"  # the outcome of a photo that was planned and is gone

FIELDS = [
    pa.field("face_id", pa.string()),
    pa.field("image", pa.string()),
    pa.field("image_sha256", pa.string()),
    pa.field("identity", pa.string()),
    pa.field("split", pa.string()),
    pa.field("outcome", pa.string()),
    pa.field("face", pa.int16()),
    pa.field("box", pa.list_(pa.float32())),
    pa.field("landmarks", pa.list_(pa.float32())),
    pa.field("confidence", pa.float32()),
    pa.field("sharpness", pa.float32()),
    pa.field("crop", pa.binary()),
    pa.field("vector", pa.list_(pa.float32())),
]
LATER_FIELDS = [  # data sets of earlier versions lack them
    pa.field("photo_faces", pa.int16()),
    pa.field("largest_other", pa.float32()),
]
COLUMNS = tuple(f.name for f in FIELDS + LATER_FIELDS)
PLAN_COLUMNS = ("path", "size", "mtime_ns", "shard", "identity", "split", "extra", "dropped")


@dataclass
class Row:
    """One face, or one photo without a usable one; the columns of DESIGN's table."""

    image: str
    outcome: str
    image_sha256: str | None = None
    identity: str | None = None
    split: str | None = None
    face: int = -1
    box: Sequence[float] | None = None
    landmarks: Sequence[float] | None = None
    confidence: float | None = None
    sharpness: float | None = None
    crop: bytes | None = None  # PNG
    vector: np.ndarray | None = None
    extra: dict[str, str] = field(default_factory=dict)
    pixels: np.ndarray | None = None  # the crop while a run lasts, uint8 (s, s, 3); no column
    photo_faces: int | None = None  # that the detector found in the photo
    largest_other: float | None = None  # area of the photo's largest other face as a share of this one's; 0 where there is none

    @property
    def face_id(self) -> str:
        return face_id(self.image_sha256 or self.image, self.face)

    @property
    def is_unsure(self) -> bool:
        """Whether the photo shows another face that is nearly as large, or larger: the one that was taken may be somebody else's."""
        return self.face == 0 and (self.largest_other or 0) >= RIVAL


def face_id(image_sha256: str, face: int) -> str:
    """32 hex digits: the same face of the same bytes has the same id."""
    return hashlib.blake2b(f"{image_sha256}:{face}".encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One input of a run: a photo, or a shard of crops."""

    path: str
    size: int
    mtime_ns: int
    identity: str | None = None
    split: str | None = None
    extra: tuple[tuple[str, str], ...] = ()


def schema_of(spec: FaceSpec, extra: Sequence[str] = ()) -> pa.Schema:
    """DESIGN's columns, then the user's own as strings; the contract in the metadata."""
    clash = sorted(set(extra) & set(COLUMNS))
    if clash:
        raise DataError(f"expected metadata columns with names of their own, received {clash[0]!r}: rename it in the CSV")
    fields = FIELDS + LATER_FIELDS + [pa.field(name, pa.string()) for name in extra]
    return pa.schema(fields, metadata={SPEC_KEY: spec.to_json().encode()})


def to_table(rows: Sequence[Row], spec: FaceSpec, extra: Sequence[str] = ()) -> pa.Table:
    """Rows as an Arrow table of `schema_of`."""
    schema = schema_of(spec, extra)
    columns = [[getattr(row, name) for row in rows] for name in COLUMNS]
    columns += [[row.extra.get(name) for row in rows] for name in extra]
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def to_rows(table: pa.Table) -> list[Row]:
    """The opposite of `to_table`."""
    extra = [name for name in table.column_names if name not in COLUMNS]
    return [
        Row(**{k: d[k] for k in COLUMNS if k != "face_id" and k in d}, extra={k: d[k] for k in extra if d[k] is not None}) for d in table.to_pylist()
    ]


def vectors_of(table: pa.Table, dimension: int) -> np.ndarray:
    """float32 (n, d) of a table without null vectors; raises DataError where one has another size or is not of unit length."""
    column = table["vector"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    if column.null_count or not (lengths == dimension).all():
        raise DataError(f"expected vectors of {dimension} numbers in every row, received others: embed the photos again")
    vectors = flat.reshape(-1, dimension).astype(np.float32, copy=False)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    bad = np.flatnonzero(~(np.abs(norms - 1) <= UNIT_TOLERANCE))
    if len(bad):
        raise DataError(
            f"expected vectors of length 1, received {norms[bad[0]]:.6g} in face {table['face_id'][bad[0]]}: embed the photos again"
        )
    return vectors


# files ----------------------------------------------------------------------


def write_atomic(path: Path, data: bytes) -> None:
    """Complete, on disk, or not there at all."""
    with atomic(path) as file:
        file.write(data)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write what is too much for memory: complete and on disk after the block, or not there at all."""
    temporary = path.parent / f"{temporary_prefix()}{path.name.lstrip('_')}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the renames in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> Path:
    """A folder that only its owner may enter, made where it is missing, as are those above it."""
    for missing in reversed([f for f in (folder, *folder.parents) if not f.exists()]):
        missing.mkdir(exist_ok=True, mode=0o700)
    return folder


def process_mark(pid: int) -> str:
    """A process by its number and when it began, since numbers come again: in a container every start has the same ones."""
    try:
        return f"{pid}.{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:
        return f"{pid}.ended"


def temporary_prefix() -> str:
    """How the names of this process's temporary files and folders begin."""
    return f"_tmp-{process_mark(os.getpid())}-"


def drop_stale_temporaries(folder: Path) -> None:
    """Removes `_tmp-PROCESS-*` of processes that no longer run here."""
    for path in folder.glob("_tmp-*") if Path("/proc").exists() else ():
        mark = path.name.split("-")[1]
        pid = mark.partition(".")[0]
        if pid.isdigit() and process_mark(int(pid)) != mark:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def to_bytes(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file; the same rows give the same bytes."""
    sink = pa.BufferOutputStream()
    compression = {name: "NONE" if name in ("crop", "vector") else "ZSTD" for name in table.column_names}
    plain = [name for name in table.column_names if name not in ("crop", "vector")]
    pq.write_table(table, sink, compression=compression, use_dictionary=plain)
    return sink.getvalue().to_pybytes()


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
        self.marks = {n: mark for n in _numbers(self.folder, "_part-*.json") if (mark := read_mark(self.folder, n))}
        if not self.marks:
            raise DataError(
                f"expected finished Parquet shards in {self.folder}, found none: run `align` or `embed` with --out {self.folder}"
            )
        self.spec = FaceSpec.from_json(self._open(min(self.marks)).schema_arrow.metadata[SPEC_KEY])
        for number, mark in self.marks.items():
            if mark["fingerprint"] != self.spec.fingerprint:
                raise DataError(
                    f"expected shards of one contract in {self.folder}, {shard_path(self.folder, number).name} is of another: remove it"
                )

    def _open(self, shard: int) -> pq.ParquetFile:
        path = shard_path(self.folder, shard)
        try:
            file = pq.ParquetFile(path)
            if SPEC_KEY not in (file.schema_arrow.metadata or {}):
                raise DataError(f"expected a shard with a face contract, {path} has none: it was not written by `align` or `embed`")
            return file
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from None

    @property
    def extra(self) -> list[str]:
        """Names of the user's own columns."""
        return [name for name in self._open(min(self.marks)).schema_arrow.names if name not in COLUMNS]

    @property
    def outcomes(self) -> dict[str, int]:
        """Rows for each outcome."""
        total: Counter[str] = Counter()
        for mark in self.marks.values():
            total.update(mark["outcomes"])
        return dict(sorted(total.items()))

    def shard(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """One shard's rows, in order."""
        file = self._open(shard)
        try:
            return file.read(columns=list(columns) if columns else None)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(shard_path(self.folder, shard), error) from None

    def shards(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The tables of all finished shards, in order; memory holds one at a time."""
        for number in sorted(self.marks):
            yield self.shard(number, columns)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows at once."""
        return pa.concat_tables(self.shards(columns), promote_options="default")


def is_data_set(folder: str | Path) -> bool:
    """Whether a folder holds shards rather than photos."""
    return any(Path(folder).glob("_plan-*.parquet"))


def _numbers(folder: Path, pattern: str) -> list[int]:
    names = (path.name.split("-")[1].split(".")[0] for path in folder.glob(pattern))
    return sorted(int(name) for name in names if name.isdigit())


def read_mark(folder: Path, shard: int) -> dict[str, Any] | None:
    """A shard's done-mark, or None where it is not done."""
    try:
        return json.loads(mark_path(folder, shard).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _damaged(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0][:120]
    return DataError(
        f"expected a complete Parquet shard, {path} is missing or damaged ({reason}): run the command that wrote it again, it mends it"
    )


# writing --------------------------------------------------------------------


class Writer:
    """Plans a run over `entries` and takes its shards; the same run again goes on where the last one stopped."""

    def __init__(self, folder: str | Path, spec: FaceSpec, options: dict[str, Any], entries: Sequence[Entry],
                 extra: Sequence[str] = (), per_shard: int = SHARD_PHOTOS, prune: bool = False):  # fmt: skip
        """Raises DataError where the folder was begun with another contract or option, which it names."""
        self.folder, self.spec, self.extra = make_folder(Path(folder)), spec, tuple(extra)
        drop_stale_temporaries(self.folder)
        self._check_empty_or_ours()
        self.options = {**spec.meaning(), **options, "metadata columns": list(extra)}
        self._check_options()
        planned = read_plans(self.folder)
        changes = self._changes(planned, {e.path: e for e in entries}, per_shard, prune)
        if changes or not planned:
            self._write_plan(changes)
        self._by_shard: dict[int, list[Entry]] = {}
        for p in (planned | {change.entry.path: change for change in changes}).values():
            entries = self._by_shard.setdefault(p.shard, [])
            if not p.dropped:
                entries.append(p.entry)

    def _check_empty_or_ours(self) -> None:
        ours = is_data_set(self.folder)
        if not ours and any(not p.name.startswith("_tmp-") for p in self.folder.iterdir()):
            raise DataError(f"expected an empty folder or a data set for --out, {self.folder} holds other files: choose another folder")

    def _check_options(self) -> None:
        plan = next(plans(self.folder), None)
        if plan is None:
            return
        before = json.loads(plan[1].schema.metadata[OPTIONS_KEY])
        for key in [*self.options, *(k for k in before if k not in self.options)]:
            if before.get(key) != self.options.get(key):
                raise DataError(
                    f"expected the options that {self.folder} was begun with, {key} was {before.get(key)} and is now "
                    f"{self.options.get(key)}: choose another --out, or give the option as it was"
                )

    def _changes(self, planned: dict[str, Planned], now: dict[str, Entry], per_shard: int, prune: bool) -> list[Planned]:
        """Plan lines that this run adds: changed inputs in their old shard, new ones in new shards, vanished ones dropped."""
        self.vanished = [path for path, p in planned.items() if path not in now and not p.dropped]
        self.relabelled = [
            (p.entry, now[path]) for path, p in planned.items() if path in now and not p.dropped and now[path].identity != p.entry.identity
        ]
        changes = [
            Planned(entry, p.shard, False)
            for path, p in planned.items()
            if (entry := now.get(path)) is not None and (p.dropped or entry != p.entry)
        ]
        if prune:
            changes += [Planned(planned[path].entry, planned[path].shard, True) for path in self.vanished]
        first = 1 + max((p.shard for p in planned.values()), default=-1)
        new = [entry for path, entry in now.items() if path not in planned]
        return changes + [Planned(entry, first + i // per_shard, False) for i, entry in enumerate(new)]

    def _write_plan(self, changes: Sequence[Planned]) -> None:
        lines = [asdict(p.entry) | {"shard": p.shard, "dropped": p.dropped, "extra": json.dumps(p.entry.extra)} for p in changes]
        types = [pa.string(), pa.int64(), pa.int64(), pa.int32(), pa.string(), pa.string(), pa.string(), pa.bool_()]
        schema = pa.schema(list(zip(PLAN_COLUMNS, types, strict=True)), metadata={OPTIONS_KEY: json.dumps(self.options).encode()})
        number = 1 + max(_numbers(self.folder, "_plan-*.parquet"), default=-1)
        write_atomic(self.folder / f"_plan-{number:04d}.parquet", to_bytes(pa.Table.from_pylist(lines, schema)))

    @property
    def entries(self) -> list[Entry]:
        """Inputs of the whole data set."""
        return [entry for entries in self._by_shard.values() for entry in entries]

    def pending(self) -> list[tuple[int, list[Entry]]]:
        """The shards that are still to be written, each with its inputs."""
        return [(n, entries) for n, entries in sorted(self._by_shard.items()) if not self._is_done(n, entries)]

    def _is_done(self, shard: int, entries: list[Entry]) -> bool:
        mark, path = read_mark(self.folder, shard), shard_path(self.folder, shard)
        return mark is not None and mark["inputs"] == digest_of(entries) and path.exists() and path.stat().st_size == mark["bytes"]

    @cached_property
    def _gone(self) -> frozenset[str]:
        return frozenset(self.vanished)

    def old_rows(self, shard: int) -> dict[str, list[Row]]:
        """What an earlier run wrote for inputs of a shard that have vanished since, by path."""
        gone = self._gone & {entry.path for entry in self._by_shard[shard]}
        found: dict[str, list[Row]] = {}
        if gone and read_mark(self.folder, shard) is not None:
            for row in to_rows(DataSet(self.folder).shard(shard)):
                if row.image in gone:
                    found.setdefault(row.image, []).append(row)
        return found

    def write(self, shard: int, table: pa.Table, seconds: float, versions: dict[str, str]) -> None:
        """Finishes a shard: its rows, then its mark."""
        data = to_bytes(table)
        write_atomic(shard_path(self.folder, shard), data)
        mark = {
            "inputs": digest_of(self._by_shard[shard]),
            "rows": table.num_rows,
            "bytes": len(data),
            "outcomes": dict(sorted(Counter(table["outcome"].to_pylist()).items())),
            "seconds": round(seconds, 3),
            "fingerprint": self.spec.fingerprint,
            "versions": versions,
        }
        write_atomic(mark_path(self.folder, shard), json.dumps(mark, indent=1).encode())


# plans ----------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """Where an input's rows go, unless it was dropped."""

    entry: Entry
    shard: int
    dropped: bool


def plans(folder: Path) -> Iterator[tuple[Path, pa.Table]]:
    """The plan files of a data set and their lines, oldest first; raises DataError where one is damaged."""
    for number in _numbers(folder, "_plan-*.parquet"):
        path = folder / f"_plan-{number:04d}.parquet"
        try:
            yield path, pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from None


def read_plans(folder: Path) -> dict[str, Planned]:
    """What all plans together say of each input; a later line of a path replaces an earlier one."""
    planned: dict[str, Planned] = {}
    for _, table in plans(folder):
        for line in table.to_pylist():
            extra = tuple(tuple(pair) for pair in json.loads(line.pop("extra")))
            shard, dropped = line.pop("shard"), line.pop("dropped")
            planned[line["path"]] = Planned(Entry(**line, extra=extra), shard, dropped)
    return planned


def digest_of(entries: Sequence[Entry]) -> str:
    return hashlib.sha256(json.dumps([asdict(e) for e in entries]).encode()).hexdigest()[:32]
