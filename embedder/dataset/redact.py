"""Remove people from an existing data set: rewrite its shards, marks and plans, each atomically."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from facegallery.embedder.dataset.dataset import DataSet, mark_path, shard_path
from facegallery.embedder.dataset.people import drop_people, read_people
from facegallery.embedder.dataset.plan import by_shard, digest_of, plans, read_plans
from facegallery.embedder.dataset.row import Entry, to_bytes
from facegallery.embedder.files import drop_stale_temporaries, locked, write_atomic

IsDoomed = Callable[[str | None, str | None], bool]


def drop_rows(folder: Path, is_doomed: IsDoomed) -> int:
    """Remove the rows for which is_doomed(face_id, identity) is true; return how many were removed.

    All rows of a photo that bears a doomed identity are removed. After a stop at any moment, the same call again
    finishes the removal. Wait for a run that writes to the folder. Raise DataError where the folder is not a data set.
    """
    DataSet(folder)  # checked before a lock file is made in it
    with locked(folder):
        return _drop_rows(folder, is_doomed)


def _drop_rows(folder: Path, is_doomed: IsDoomed) -> int:
    data, planned = DataSet(folder), read_plans(folder)
    photos = {path for path, p in planned.items() if is_doomed(None, p.entry.identity)}
    for shard in sorted(data.marks):
        table = data.shard(shard, ["identity", "image"], check=False)
        photos.update(image for identity, image in _pairs(table, "identity", "image") if is_doomed(None, identity))
    _drop_unfinished(data)
    inputs = by_shard(planned)
    dropped = sum(_rewrite_shard(data, shard, inputs.get(shard, []), photos, is_doomed) for shard in sorted(data.marks))
    for plan, lines in plans(folder):
        kept = lines.filter(pa.array([name not in photos for name in lines["path"].to_pylist()], pa.bool_()))
        if len(kept) < len(lines):
            write_atomic(plan, to_bytes(kept))
    drop_people(folder, lambda name: is_doomed(None, name))
    return dropped


def count_rows(folder: Path, is_doomed: IsDoomed) -> int:
    """Return how many rows and plan lines `drop_rows` would remove for a face or an identity of their own."""
    data = DataSet(folder)
    rows = (pair for table in data.shards(["face_id", "identity"]) for pair in _pairs(table, "face_id", "identity"))
    lines = sum(is_doomed(None, identity) for _, table in plans(folder) for identity in table["identity"].to_pylist())
    people = sum(is_doomed(None, name) for name, _ in read_people(folder))
    return sum(is_doomed(face_id, identity) for face_id, identity in rows) + lines + people


def _drop_unfinished(data: DataSet) -> None:
    """Remove shards without a mark, and temporaries: no reader sees them, but they may hold anybody."""
    drop_stale_temporaries(data.folder)
    marked = {shard_path(data.folder, shard) for shard in data.marks}
    for path in data.folder.glob("part-*.parquet"):
        if path not in marked:
            path.unlink(missing_ok=True)


def _rewrite_shard(data: DataSet, shard: int, entries: list[Entry], photos: set[str], is_doomed: IsDoomed) -> int:
    """Rewrite a shard without the doomed rows; return how many rows were removed."""
    table, path, mark = data.shard(shard, check=False), shard_path(data.folder, shard), data.marks[shard]
    kept = [
        image not in photos and not is_doomed(face_id, None) for face_id, image in _pairs(table, "face_id", "image")
    ]
    if all(kept) and mark["bytes"] == path.stat().st_size:
        return 0
    if not all(kept):
        table = table.filter(pa.array(kept, pa.bool_()))
        write_atomic(path, to_bytes(table))
    if mark["inputs"] == digest_of(entries):  # otherwise the shard is pending, and stays so
        mark |= {"inputs": digest_of([entry for entry in entries if entry.path not in photos])}
    mark |= {
        "rows": len(table),
        "bytes": path.stat().st_size,
        "outcomes": dict(sorted(Counter(table["outcome"].to_pylist()).items())),
    }
    write_atomic(mark_path(data.folder, shard), json.dumps(mark, indent=1).encode())
    return len(kept) - len(table)


def _pairs(table: pa.Table, *columns: str) -> zip:
    return zip(*(table[name].to_pylist() for name in columns), strict=True)
