"""Taking people out of a data set that exists: its shards, their marks and its plans are written anew, each in one step."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from embedder.table import DataSet, Entry, digest_of, mark_path, plans, read_mark, read_plans, shard_path, to_bytes, write_atomic

IsDoomed = Callable[[str | None, str | None], bool]


def drop_rows(folder: Path, is_doomed: IsDoomed) -> int:
    """Takes out the rows for which is_doomed(face_id, identity), with all of the photos that bear a doomed identity; returns how many.

    Stopped at any moment, the same call again finishes it. Raises DataError where the folder is no data set.
    """
    data, planned = DataSet(folder), read_plans(folder)
    photos = {path for path, p in planned.items() if is_doomed(None, p.entry.identity)}
    for table in data.shards(["identity", "image"]):
        photos.update(image for identity, image in _pairs(table, "identity", "image") if is_doomed(None, identity))
    by_shard: dict[int, list[Entry]] = {}
    for path, p in planned.items():
        entries = by_shard.setdefault(p.shard, [])
        if path not in photos and not p.dropped:
            entries.append(p.entry)
    dropped = sum(_rewrite_shard(data, shard, by_shard.get(shard, []), photos, is_doomed) for shard in sorted(data.marks))
    for plan, lines in plans(folder):
        kept = lines.filter(pa.array([name not in photos for name in lines["path"].to_pylist()], pa.bool_()))
        if len(kept) < len(lines):
            write_atomic(plan, to_bytes(kept))
    return dropped


def _rewrite_shard(data: DataSet, shard: int, entries: list[Entry], photos: set[str], is_doomed: IsDoomed) -> int:
    table = data.shard(shard)
    kept = [image not in photos and not is_doomed(face_id, None) for face_id, image in _pairs(table, "face_id", "image")]
    if all(kept):
        return 0
    table = table.filter(pa.array(kept, pa.bool_()))
    content, mark = to_bytes(table), read_mark(data.folder, shard) or {}
    write_atomic(shard_path(data.folder, shard), content)
    mark |= {
        "inputs": digest_of(entries), "rows": len(table), "bytes": len(content),
        "outcomes": dict(sorted(Counter(table["outcome"].to_pylist()).items())),
    }  # fmt: skip
    write_atomic(mark_path(data.folder, shard), json.dumps(mark, indent=1).encode())
    return len(kept) - len(table)


def _pairs(table: pa.Table, *columns: str) -> zip:
    return zip(*(table[name].to_pylist() for name in columns), strict=True)
