"""Parquet files of a few kilobytes that decode to gigabytes; as a program, reads a data set with little memory.

FOLDER COLUMNS: prints the error in one line or "read", and the megabytes that it took.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MEGABYTE = "x" * (1 << 20)
MORE = 700 << 20  # bytes beyond those of the imports
Change = Callable[[pa.Table], pa.Table]


def repeated(value: str, n: int, kind: pa.DataType | None = None) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), pa.array([value], kind or pa.string()))


def of_rows(table: pa.Table, n: int) -> pa.Table:
    """The first row, n times, in few bytes; without lists."""
    arrays = [
        repeated(table[f.name][0].as_py() or "", n, f.type)
        if pa.types.is_string(f.type) or pa.types.is_binary(f.type)
        else pa.nulls(n, f.type)
        if pa.types.is_list(f.type)
        else pa.array(np.zeros(n, f.type.to_pandas_dtype()), f.type)
        for f in table.schema
    ]
    return pa.table(dict(zip(table.column_names, arrays, strict=True))).replace_schema_metadata(table.schema.metadata)


def put(table: pa.Table, name: str, array: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, array)


def alone(table: pa.Table, name: str, array: pa.Array) -> pa.Table:
    return put(of_rows(table, len(array)), name, array)


def numbers(table: pa.Table) -> pa.Table:
    n = 30_000_000
    return alone(table, "box", pa.ListArray.from_arrays([0, n], pa.array(np.zeros(n, np.float32))))


def key_values(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({**table.schema.metadata, b"more": b"x" * (2 << 20)})


ROWS = 60_000
BOMBS: dict[str, tuple[Change, dict]] = {
    "5,000,000 rows": (lambda t: of_rows(t, 5_000_000), {}),
    "a text of 1 MB, repeated": (lambda t: alone(t, "identity", repeated(MEGABYTE, ROWS)), {}),
    "a dictionary of a text of 1 MB": (
        lambda t: alone(t, "identity", repeated(MEGABYTE, ROWS)),
        {"store_schema": True},
    ),
    "bytes of 1 MB, repeated": (lambda t: alone(t, "crop", repeated(MEGABYTE, ROWS, pa.binary())), {}),
    "a text of 1 MB in a user's column, repeated": (lambda t: alone(t, "tag", repeated(MEGABYTE, ROWS)), {}),
    "a text of 300 MB in a page": (
        lambda t: alone(t, "identity", pa.array(["x" * (300 << 20)])),
        {"use_dictionary": False, "write_statistics": False},
    ),
    "30,000,000 numbers in a row": (numbers, {}),
    "texts that begin as the one before": (
        lambda t: alone(t, "tag", pa.array([MEGABYTE] * 300)),
        {"use_dictionary": False, "column_encoding": {"tag": "DELTA_BYTE_ARRAY"}},
    ),
    "2 MB of metadata": (key_values, {}),
}


def write(table: pa.Table, path: Path, row_group_size: int = 1 << 30, **settings) -> None:
    """Without the Arrow types of its columns, so that texts are read as texts."""
    settings = {"compression": "ZSTD", "store_schema": False, **settings}
    with pq.ParquetWriter(path, table.schema, **settings) as writer:
        writer.write_table(table, row_group_size)
        if not settings["store_schema"]:
            writer.add_key_value_metadata(table.schema.metadata)


def megabytes() -> int:
    (peak,) = [
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    ]
    return int(peak) // 1024


def main() -> None:
    from facegallery.embedder.dataset.dataset import DataSet
    from facegallery.embedder.dataset.plan import read_plans
    from facegallery.embedder.errors import DataError

    folder, columns = Path(sys.argv[1]), sys.argv[2].split(",")
    before = megabytes()
    (size,) = [
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize")
    ]
    resource.setrlimit(resource.RLIMIT_AS, (int(size) * 1024 + MORE,) * 2)
    try:
        read_plans(folder) if columns == ["plans"] else DataSet(folder).table(columns if columns != [""] else None)
        line = "read"
    except DataError as error:
        line = str(error)
    print(line, megabytes() - before, sep="\t")


if __name__ == "__main__":
    main()
