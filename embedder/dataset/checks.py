"""Refuse Parquet columns and JSON that no run writes, each in one line that names the file and the column.

All checks are columnar, so that a million rows cost one pass over each column.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facegallery.embedder.dataset.row import FIELDS, LATER_FIELDS, first_not_unit
from facegallery.embedder.errors import DataError, reason
from facegallery.embedder.spec import CropRule, FaceSpec

MOST_SHARDS = 10_000_000
LONGEST = {"image": 4096, "image_sha256": 128, "identity": 1024, "split": 255, "outcome": 32}  # bytes
LONGEST_EXTRA = 1 << 16  # bytes of a cell of the user's own columns
FARTHEST = 1e6  # largest coordinate of a box or landmark, pixels
TYPES = {f.name: f.type for f in FIELDS + LATER_FIELDS}
NUMBERS = {"box": 4, "landmarks": 10}  # how many numbers a cell has
ADVICE = "run the command that wrote it into a new --out"


def refuse(path: Path, column: str, expected: str, received: str) -> DataError:
    """Return a DataError about a column of a file."""
    return DataError(f"expected {expected} in column `{column[:80]}` of {path}, received {received}: {ADVICE}")


def damaged(path: Path, error: Exception) -> DataError:
    """Return a DataError about a file that Arrow cannot read."""
    return DataError(
        f"expected a complete Parquet file, {path} is missing or damaged ({reason(error, 120)}): "
        "run the command that wrote it again"
    )


def parse_json(text: str | bytes, path: Path) -> Any:
    """Parse a JSON document; raise DataError for other text, and for too many levels."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected JSON in {path}, received something else ({str(error)[:80]}): {ADVICE}") from None


# types ----------------------------------------------------------------------


def check_schema(schema: pa.Schema, path: Path) -> None:
    """Raise DataError unless every column is there once, with a type equivalent to ours."""
    names = schema.names
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise DataError(f"expected each column once in {path}, received {twice[:80]!r} twice: {ADVICE}")
    for field in FIELDS:
        if field.name not in names:
            raise DataError(f"expected a column `{field.name}` in {path}, it has none: {ADVICE}")
    for name in names:
        wanted = TYPES.get(name, pa.string())
        if not _is_equivalent(schema.field(name).type, wanted):
            raise refuse(path, name, f"{wanted}", f"{schema.field(name).type}"[:80])


def _is_equivalent(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column written by another tool holds the same kind of value as `wanted`.

    Large, dictionary and null types, and wider numbers, are equivalent.
    """
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_null(found):
        return True
    if pa.types.is_list(wanted):
        lists = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
        return lists and pa.types.is_floating(found.value_type)
    kinds: list[Sequence[Callable[[pa.DataType], bool]]] = [
        (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
        (pa.types.is_integer,),
        (pa.types.is_floating,),
        (pa.types.is_boolean,),
    ]
    return any(any(of(found) for of in kind) and any(of(wanted) for of in kind) for kind in kinds)


def as_ours(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    """Convert a table of equivalent types to the schema's types; raise DataError for invalid UTF-8."""
    try:
        table.validate(full=True)
        if all(table.schema.field(name).type == schema.field(name).type for name in table.column_names):
            return table
        columns = [_cast(table[name], schema.field(name).type) for name in table.column_names]
    except (pa.ArrowException, ValueError) as error:
        raise damaged(path, error) from None
    fields = [schema.field(name) for name in table.column_names]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=table.schema.metadata))


def _cast(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    return column if column.type == wanted else pc.cast(column, wanted)


# values ---------------------------------------------------------------------


def check_rows(table: pa.Table, spec: FaceSpec, path: Path) -> None:
    """Raise DataError where a value could not come from a run of this contract; the table has our types."""
    for name in table.column_names:
        column = table[name]
        if name == "vector":
            _check_vectors(column, spec.dimension, path)
        elif name == "crop":
            check_crops(column, spec.crop, path)
        elif name in NUMBERS:
            _check_lists(column, name, path)
        elif pa.types.is_floating(column.type):
            _check_finite(column, name, path)
        elif pa.types.is_string(column.type):
            _check_text(column, name, path)
    _check_needed(table, spec, path)


def _check_needed(table: pa.Table, spec: FaceSpec, path: Path) -> None:
    """Raise DataError where a value is missing, or two columns contradict each other."""
    names = set(table.column_names)
    for name in names & {"face_id", "image", "outcome", "face"}:
        if table[name].null_count:
            raise refuse(path, name, "a value in every row", "null")
    if "image" in names and pc.any(pc.equal(table["image"], "")).as_py():
        raise refuse(path, "image", "a path in every row", "an empty text")
    for name, pattern in (("face_id", "^[0-9a-f]{32}$"), ("outcome", "^[a-z_]{1,32}$")):
        if name in names and not pc.all(pc.match_substring_regex(table[name], pattern), min_count=0).as_py():
            raise refuse(path, name, f"values such as {pattern}", "others")
    if "face" in names and len(table) and pc.min(table["face"]).as_py() < -1:
        raise refuse(path, "face", "numbers from 0, or -1 where there is no face", f"{pc.min(table['face']).as_py()}")
    if spec.dimension and {"outcome", "vector"} <= names:
        _check_vectors_belong(table, path)


def _check_vectors_belong(table: pa.Table, path: Path) -> None:
    if not pc.equal(table["outcome"], "ok").equals(pc.is_valid(table["vector"])):
        raise refuse(
            path, "vector", "a vector in the rows whose outcome is ok and in no other", "one missing, or one too many"
        )


def _check_text(column: pa.ChunkedArray, name: str, path: Path) -> None:
    most = LONGEST.get(name, LONGEST_EXTRA)
    longest = pc.max(pc.binary_length(column)).as_py() or 0
    if longest > most:
        raise refuse(path, name, f"texts of at most {most:,} bytes", f"one of {longest:,}")


def _check_finite(column: pa.ChunkedArray, name: str, path: Path) -> None:
    """Raise DataError for NaN and infinity; nulls are allowed."""
    if not pc.all(pc.is_finite(column), min_count=0).as_py():
        raise refuse(path, name, "finite numbers", "NaN or infinity")


def _check_lists(column: pa.ChunkedArray, name: str, path: Path) -> None:
    """Raise DataError unless each cell is null or a list of the right number of finite pixels."""
    valid = column.drop_null()
    if not pc.all(pc.equal(pc.list_value_length(valid), NUMBERS[name]), min_count=0).as_py():
        raise refuse(path, name, f"{NUMBERS[name]} numbers in every face", "others")
    values = pc.list_flatten(valid)
    if values.null_count or not pc.all(pc.less_equal(pc.abs(values), FARTHEST), min_count=0).as_py():
        raise refuse(path, name, f"pixels of at most {FARTHEST:,.0f}", "others, or none")


def _check_vectors(column: pa.ChunkedArray, dimension: int, path: Path) -> None:
    """Raise DataError unless each cell is null or a unit vector of the contract's dimension."""
    for chunk in column.chunks:
        valid = chunk.drop_null()
        if not len(valid):
            continue
        if not pc.all(pc.equal(valid.value_lengths(), dimension)).as_py():
            raise refuse(
                path,
                "vector",
                f"{dimension} numbers in every vector" if dimension else "no vectors beside crops",
                "others",
            )
        flat = valid.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)  # (n, d); nulls become NaN
        bad = first_not_unit(np.asarray(flat, np.float32))
        if bad is not None:
            length = np.linalg.norm(np.asarray(flat[bad], np.float64))
            raise refuse(path, "vector", "vectors of length 1", f"one of {length:.6g}")


def check_crops(column: pa.ChunkedArray, rule: CropRule, path: Path) -> None:
    """Raise DataError unless each cell is null or begins as an 8-bit RGB PNG of the contract's size.

    A PNG may take no more bytes than its pixels need.
    """
    side = rule.window or rule.size + 2 * rule.border
    head, valid = png_head(side), column.drop_null()
    after = SIZE_BYTES.stop if rule.window else 0  # a window has a size of its own
    sound = _have(valid, head[after:], after) and (not rule.window or _have(valid, head[: SIZE_BYTES.start], 0))
    if not sound:
        raise refuse(path, "crop", f"PNGs of {side} x {side} pixels in 8-bit RGB", "something else")
    most, longest = 2 * len(head) + 4 * side * side + 65536, pc.max(pc.binary_length(valid)).as_py() or 0
    if longest > most:
        raise refuse(path, "crop", f"PNGs of at most {most:,} bytes", f"one of {longest:,}")


def _have(cells: pa.ChunkedArray, part: bytes, at: int) -> bool:
    """Return whether all cells have these bytes at an offset."""
    of_cells = pc.binary_slice(cells, at, at + len(part))
    return bool(pc.all(pc.equal(of_cells, pa.scalar(part, pa.binary())), min_count=0).as_py())


SIZE_BYTES = slice(16, 24)  # of a PNG: its width and height


def png_head(side: int) -> bytes:
    """Return the first 29 bytes of every PNG that `align` writes of a square crop."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", side, side, 8, 2, 0, 0, 0)


# plans and marks ------------------------------------------------------------


def check_plan(table: pa.Table, schema: pa.Schema, optional: Collection[str], path: Path) -> pa.Table:
    """Return the lines of a plan with all columns of the schema; raise DataError for any other file.

    optional: columns that earlier versions did not write; they become null.
    """
    metadata = table.schema.metadata
    for field in schema:
        if table.column_names.count(field.name) != 1:
            if field.name not in optional or field.name in table.column_names:
                found = str(table.column_names[:20])[:300]
                raise DataError(f"expected a column `{field.name}` once in {path}, received {found}: {ADVICE}")
            table = table.append_column(field, pa.nulls(len(table), field.type))
        elif not _is_equivalent(table.schema.field(field.name).type, field.type):
            raise refuse(path, field.name, f"{field.type}", f"{table.schema.field(field.name).type}"[:80])
    table = as_ours(table.select(schema.names), schema, path).replace_schema_metadata(metadata)
    for name in ("path", "size", "mtime_ns", "shard", "extra", "dropped"):
        if table[name].null_count:
            raise refuse(path, name, "a value in every line", "null")
    for name, most in (("path", LONGEST["image"]), ("identity", LONGEST["identity"]), ("split", LONGEST["split"])):
        if (longest := pc.max(pc.binary_length(table[name])).as_py() or 0) > most:
            raise refuse(path, name, f"texts of at most {most:,} bytes", f"one of {longest:,}")
    shards = table["shard"]
    if len(table) and not 0 <= pc.min(shards).as_py() <= pc.max(shards).as_py() < MOST_SHARDS:
        raise refuse(path, "shard", f"numbers from 0 to {MOST_SHARDS:,}", f"{pc.min(shards)} to {pc.max(shards)}")
    return table


def is_mark(mark: Any) -> bool:
    """Whether a JSON document is a done-mark whose counts add up."""
    if not isinstance(mark, dict):
        return False
    outcomes = mark.get("outcomes")
    counts = [mark.get("rows"), mark.get("bytes"), *(outcomes.values() if isinstance(outcomes, dict) else [None])]
    if not all(type(count) is int and 0 <= count < 1 << 53 for count in counts):
        return False
    texts = isinstance(mark.get("inputs"), str) and isinstance(mark.get("fingerprint"), str)
    return texts and sum(counts[2:]) == counts[0]
