"""Plan a data set: which input goes to which shard, and with which options the data set was begun."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from facegallery.embedder.dataset.checks import MOST_SHARDS, check_plan, parse_json
from facegallery.embedder.dataset.parquet import open_parquet
from facegallery.embedder.dataset.row import Entry, GivenFace, to_bytes
from facegallery.embedder.errors import DataError
from facegallery.embedder.files import write_atomic

OPTIONS_KEY = b"facegallery.options"
EARLIER_OPTIONS_KEY = b"facedb.options"  # in data sets written when the package was called facedb
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("shard", pa.int32()),
        ("identity", pa.string()),
        ("split", pa.string()),
        ("extra", pa.string()),
        ("dropped", pa.bool_()),
        ("inode", pa.uint64()),
        ("ctime_ns", pa.int64()),
        ("given", pa.string()),
    ]
)
LATER = ("inode", "ctime_ns", "given")  # columns that plans of older versions lack


@dataclass(frozen=True)
class Planned:
    """Where the rows of an input go, unless the input was dropped."""

    entry: Entry
    shard: int
    dropped: bool


def plans(folder: Path) -> Iterator[tuple[Path, pa.Table]]:
    """Yield the plan files of a data set and their lines, oldest first; raise DataError for a damaged file."""
    for number in numbers(folder, "_plan-*.parquet"):
        path = folder / f"_plan-{number:04d}.parquet"
        with open_parquet(path) as file:
            there = set(file.schema.names)
            columns = [name for name in SCHEMA.names if name in there]
            lines = file.read(columns, most_rows=file.size)  # a line takes at least one byte
        yield path, check_plan(lines, SCHEMA, LATER, path)


def read_plans(folder: Path) -> dict[str, Planned]:
    """Return the plan of each input by its path; a later line replaces an earlier one."""
    planned: dict[str, Planned] = {}
    for path, table in plans(folder):
        for line in table.to_pylist():
            extra = _extra(line.pop("extra"), path)
            shard, dropped = line.pop("shard"), line.pop("dropped")
            given = _given(line.pop("given"), path)
            planned[line["path"]] = Planned(Entry(**line, extra=extra, given=given), shard, dropped)
    return planned


def _given(text: str | None, path: Path) -> tuple[GivenFace, ...]:
    """Return the faces that a CSV placed; plans of older versions, and photos without any, have null."""
    if text is None:
        return ()
    try:
        return tuple(
            GivenFace(
                _box(face["box"]), _text(face["identity"]), _extra(json.dumps(face["extra"]), path), _size(face["size"])
            )
            for face in parse_json(text, path)
        )
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"expected faces in column `given` of {path}, received {text[:40]!r}: embed into a new --out"
        ) from None


def _box(box: Sequence[float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = map(float, box)
    return x0, y0, x1, y1


def _size(size: Sequence[float] | None) -> tuple[float, float] | None:
    if size is None:
        return None
    width, height = map(float, size)
    return width, height


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError


def _extra(text: str, path: Path) -> tuple[tuple[str, str], ...]:
    pairs = parse_json(text, path)
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(value, str) for value in pair) for pair in pairs
    ):
        raise DataError(
            f"expected pairs of texts in column `extra` of {path}, received {text[:40]!r}: embed into a new --out"
        )
    return tuple((key, value) for key, value in pairs)


def write_plan(folder: Path, changes: Sequence[Planned], options: Mapping[str, Any]) -> None:
    """Add a plan file; raise DataError where the data set would have too many shards."""
    if any(change.shard >= MOST_SHARDS for change in changes):
        raise DataError(
            f"expected fewer than {MOST_SHARDS:,} shards in {folder}, received more photos: "
            "embed them into several folders"
        )
    lines = [
        asdict(p.entry)
        | {"shard": p.shard, "dropped": p.dropped, "extra": json.dumps(p.entry.extra)}
        | {"given": json.dumps([asdict(face) for face in p.entry.given]) if p.entry.given else None}
        for p in changes
    ]
    table = pa.Table.from_pylist(lines, SCHEMA.with_metadata({OPTIONS_KEY: json.dumps(options).encode()}))
    number = 1 + max(numbers(folder, "_plan-*.parquet"), default=-1)
    write_atomic(folder / f"_plan-{number:04d}.parquet", to_bytes(table))


def check_options(folder: Path, options: Mapping[str, Any]) -> None:
    """Raise DataError, naming the option, where the data set was begun with another value."""
    first = next(plans(folder), None)
    if first is None:
        return
    path, table = first
    metadata = table.schema.metadata or {}
    before = parse_json(metadata.get(OPTIONS_KEY, metadata.get(EARLIER_OPTIONS_KEY, b"null")), path)
    if not isinstance(before, dict):
        raise DataError(f"expected the options of the run in {path}, received something else: embed into a new --out")
    for key in [*options, *(k for k in before if k not in options)]:
        if before.get(key) != options.get(key):
            raise DataError(
                f"expected the options that {folder} was begun with, {str(key)[:80]} was {str(before.get(key))[:200]} "
                f"and is now {options.get(key)}: choose another --out, or give the option as it was"
            )


def changes_of(
    planned: Mapping[str, Planned], now: Mapping[str, Entry], per_shard: int, dropped: Collection[str]
) -> list[Planned]:
    """Return the plan lines that a run adds.

    Changed inputs stay in their shard, new ones go to new shards, and those in `dropped` are marked as dropped.
    """
    changes = [
        Planned(entry, p.shard, dropped=False)
        for path, p in planned.items()
        if (entry := now.get(path)) is not None and (p.dropped or not is_same(p.entry, entry))
    ]
    changes += [Planned(planned[path].entry, planned[path].shard, dropped=True) for path in dropped]
    first = 1 + max((p.shard for p in planned.values()), default=-1)
    new = [entry for path, entry in now.items() if path not in planned]
    return changes + [Planned(entry, first + i // per_shard, dropped=False) for i, entry in enumerate(new)]


def is_same(before: Entry, now: Entry) -> bool:
    """Whether an input is as it was planned; plans of older versions lack its inode and ctime."""
    return _labels(before) == _labels(now) and (
        before.inode is None or (before.inode, before.ctime_ns) == (now.inode, now.ctime_ns)
    )


def may_be_same(before: Entry, now: Entry) -> bool:
    """Whether only times or the inode of an input differ, so that its content has to be compared."""
    return (before.size, *_labels(before)[3:]) == (now.size, *_labels(now)[3:])


def _labels(entry: Entry) -> tuple[Any, ...]:
    return entry.path, entry.size, entry.mtime_ns, entry.identity, entry.split, entry.extra, entry.given


def by_shard(planned: Mapping[str, Planned]) -> dict[int, list[Entry]]:
    """Return the inputs of each shard, in order, without the dropped ones."""
    found: dict[int, list[Entry]] = {}
    for p in planned.values():
        entries = found.setdefault(p.shard, [])
        if not p.dropped:
            entries.append(p.entry)
    return found


def digest_of(entries: Sequence[Entry]) -> str:
    """Return 32 hex digits over the inputs of a shard; inputs planned by older versions keep their digest."""
    fields = [
        {key: value for key, value in asdict(e).items() if key not in LATER or value not in (None, ())} for e in entries
    ]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:32]


def numbers(folder: Path, pattern: str) -> list[int]:
    """Return the numbers in the names of a folder's plans or marks, in rising order."""
    names = (path.name.split("-")[1].split(".")[0] for path in folder.glob(pattern))
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and len(name) < 10)
