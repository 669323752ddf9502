"""Data sets that would decode to more than the machine has are refused before that; all of ours are read."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facegallery.embedder.dataset import parquet
from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.footer import row_groups
from facegallery.embedder.dataset.parquet import open_parquet
from facegallery.embedder.dataset.plan import read_plans
from facegallery.embedder.dataset.row import Entry, to_bytes, to_table
from facegallery.embedder.dataset.writer import DataSetWriter, WriterOptions
from facegallery.embedder.errors import DataError
from tests import parquet_bombs, synthetic
from tests.conftest import ROOT
from tests.parquet_bombs import BOMBS, MEGABYTE, alone, of_rows, put, repeated

ROWS = synthetic.rows(2, 2, "gallery")


@pytest.fixture
def folder(tmp_path) -> Path:
    for row in ROWS:
        row.extra = {"tag": "x"}
    return synthetic.write(tmp_path / "vectors", ROWS, extra=["tag"])


def change(folder: Path, changed: pa.Table, name: str = "part-00000.parquet", **settings) -> Path:
    parquet_bombs.write(changed, folder / name, **settings)
    mark = folder / "_part-00000.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"rows": len(changed), "outcomes": {"ok": len(changed)}}))
    return folder / name


def table_of(folder: Path) -> pa.Table:
    return pq.ParquetFile(folder / "part-00000.parquet").read()


def read_with_little_memory(folder: Path, columns: str = "") -> tuple[str, int]:
    """(an error's line or "read", megabytes)."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.parquet_bombs", folder, columns], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-500:]
    line, taken = done.stdout.rstrip().rsplit("\t", 1)
    return line, int(taken)


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_is_refused_in_one_line_and_little_memory(folder, what):
    changed, settings = BOMBS[what]
    path = change(folder, changed(table_of(folder)), **settings)
    assert path.stat().st_size < 4 << 20
    line, taken = read_with_little_memory(folder)
    assert line.startswith("expected at most") and "part-00000.parquet" in line and taken < 100, (line, taken)


def test_a_footer_that_lies_of_its_sizes_changes_nothing(folder):
    path = change(
        folder,
        alone(table_of(folder), "identity", pa.array(["x" * (300 << 20)])),
        use_dictionary=False,
        write_statistics=False,
    )
    data = path.read_bytes()
    chunks = pq.ParquetFile(path).metadata.row_group(0)
    size = next(
        chunks.column(i) for i in range(chunks.num_columns) if chunks.column(i).path_in_schema == "identity"
    ).total_uncompressed_size
    told, zero = b"", 2 * size
    while zero:
        told, zero = told + bytes([(zero & 127) | (128 if zero > 127 else 0)]), zero >> 7
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    assert data.count(told, start) == 1
    path.write_bytes(data[:start] + data[start:].replace(told, b"\x80" * (len(told) - 1) + b"\0"))
    group = pq.ParquetFile(path).metadata.row_group(0)
    assert sum(group.column(i).total_uncompressed_size for i in range(group.num_columns)) < 10_000
    line, taken = read_with_little_memory(folder)
    assert line.startswith("expected at most") and taken < 100, (line, taken)


def test_a_column_that_nobody_asks_for_is_not_decoded(folder):
    change(folder, put(of_rows(table_of(folder), 60_000), "tag", repeated(MEGABYTE, 60_000)))
    line, taken = read_with_little_memory(folder, "image,outcome")
    assert line == "read" and taken < 150, (line, taken)


@pytest.mark.parametrize("what", ["lines", "a text"])
def test_a_bomb_in_a_plan_is_refused_in_little_memory(folder, what):
    path = folder / "_plan-0000.parquet"
    plan = pq.ParquetFile(path).read()
    n = 5_000_000 if what == "lines" else 2000
    bomb = of_rows(plan, n) if what == "lines" else alone(plan, "path", repeated(MEGABYTE, n))
    pq.write_table(bomb, path, compression="ZSTD", row_group_size=1 << 30, store_schema=False)
    line, taken = read_with_little_memory(folder, "plans")
    assert line.startswith("expected at most") and "_plan-0000.parquet" in line and taken < 100, (line, taken)


def test_long_texts_that_are_no_bomb_are_read_as_they_are(folder, monkeypatch):
    """By their dictionary, where it could stand for more than a file may have."""
    texts = [f"{i % 5}" * 60_000 for i in range(3000)]
    table = pa.table(
        {
            "text": texts,
            "other": pa.array([None, "a", "b"] * 1000),
            "blob": pa.array([b"1", None, b"3"] * 1000, pa.binary()),
        }
    ).replace_schema_metadata({"facegallery.options": "{}"})
    path = folder / "long.parquet"
    pq.write_table(table, path, dictionary_pagesize_limit=1 << 24)
    with open_parquet(path) as file:
        read = file.read(table.column_names, 3000)
    assert [c.to_pylist() for c in read.columns] == [c.to_pylist() for c in table.columns]
    assert read.schema.metadata[b"facegallery.options"] == b"{}", "without them a data set cannot be continued"
    monkeypatch.setattr(parquet, "LEAST_BYTES", 100 << 20)
    with open_parquet(path) as file, pytest.raises(DataError, match="at most"):
        file.read(table.column_names, 3000)


PAGES: dict[str, dict[str, Any]] = {
    "as ours": {},
    "version 2": {"data_page_version": "2.0"},
    "no dictionary": {"use_dictionary": False},
    "small pages": {"data_page_size": 500},
    "row groups": {"row_group_size": 100},
    "not compressed": {"compression": "NONE"},
    "gzip": {"compression": "GZIP"},
    "snappy": {"compression": "SNAPPY"},
    "large dictionary": {"dictionary_pagesize_limit": 64},
    "no statistics": {"write_statistics": False},
    "checksums": {"write_page_checksum": True},
    "an index": {"write_page_index": True},
    "split": {
        "use_dictionary": False,
        "column_encoding": {"n": "BYTE_STREAM_SPLIT", "v.list.element": "BYTE_STREAM_SPLIT"},
    },
    "deltas": {
        "use_dictionary": False,
        "column_encoding": {"n": "DELTA_BINARY_PACKED", "t": "DELTA_BYTE_ARRAY", "b": "DELTA_LENGTH_BYTE_ARRAY"},
    },
}


def first_page(chunk: pq.ColumnChunkMetaData) -> int:
    dictionary = chunk.dictionary_page_offset
    return dictionary if dictionary and dictionary < chunk.data_page_offset else chunk.data_page_offset


HISTOGRAMS = """
import sys
from pathlib import Path
from facegallery.embedder.dataset.parquet import open_parquet
from facegallery.embedder.errors import DataError
path, good = Path(sys.argv[1]), Path(sys.argv[1]).read_bytes()
refused = 0
for at in range(len(good) - 8 - int.from_bytes(good[-8:-4], "little"), len(good) - 8):
    path.write_bytes(good[:at] + bytes([good[at] ^ 73]) + good[at + 1:])
    try:
        with open_parquet(path) as file:
            file.read(["identity", "image"], 1000)
    except DataError:
        refused += 1
print(refused)
"""


def test_a_footer_of_which_a_byte_is_damaged_ends_no_process(tmp_path):
    """Arrow's view of a column ends the process where the histograms of a footer have another length."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"identity": ["a", "b", "a"], "image": ["1", "2", "3"]}), path)
    done = subprocess.run([sys.executable, "-c", HISTOGRAMS, path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and int(done.stdout) > 100, done.stderr


@pytest.mark.parametrize("what", PAGES)
def test_all_that_writers_write_is_measured_and_read(tmp_path, what):
    rng = np.random.default_rng(0)
    n = 1000
    table = pa.table(
        {
            "t": [f"photo {i % 300} of somebody" if i % 7 else None for i in range(n)],
            "n": pa.array(rng.integers(0, 1 << 40, n)),
            "v": pa.array(list(rng.normal(size=(n, 8)).astype(np.float32))),
            "b": pa.array([rng.bytes(i % 3000) for i in range(n)]),
            "yes": pa.array([bool(i % 3) for i in range(n)]),
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, **PAGES[what])
    with open_parquet(path) as file:
        metadata = file.file.metadata  # as Arrow reads the same footer
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        stated = row_groups(parquet._footer(file.source, file.size))
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        ours = [chunk for group in stated for chunk in group.chunks]
        assert [group.rows for group in stated] == [group.num_rows for group in groups]
        assert [(c.column, c.texts, c.values, c.size, c.at) for c in ours] == [
            (c.path_in_schema, c.physical_type == "BYTE_ARRAY", c.num_values, c.total_compressed_size, first_page(c))
            for c in chunks
        ]
        pages = [list(parquet._pages(file.source, c)) for c in ours]
        assert [sum(page[2] for page in of_chunk) for of_chunk in pages] == [c.num_values for c in chunks]
        for of_chunk, chunk in zip(pages, chunks, strict=True):  # the footer counts the headers too
            assert 0 <= chunk.total_uncompressed_size - sum(page[1] for page in of_chunk) < 6500 * len(of_chunk)
        assert file.read(table.column_names, n).equals(table)
        with pytest.raises(DataError, match="at most 999 rows"):
            file.read(table.column_names, n - 1)


def test_a_shard_that_readers_would_refuse_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("facegallery.embedder.dataset.writer.MOST_ROWS", 3)
    with pytest.raises(DataError, match="3 rows in .*part-00000.parquet"):
        synthetic.write(tmp_path / "rows", ROWS)
    monkeypatch.undo()
    spec = synthetic.spec()
    writer = DataSetWriter(tmp_path / "bytes", spec, {}, [Entry("a.jpg", 1, 0)], WriterOptions(("tag",)))
    rows = [synthetic.row("a.jpg", "Ann", row.vector, extra={"tag": "x" * 60_000}) for row in ROWS[:1] * 5000]
    with pytest.raises(DataError, match="rows of .*part-00000.parquet"):
        writer.write(0, to_table(rows, spec, ["tag"]), 0.0, {})
    many = [f"column {i}" for i in range(100)]
    monkeypatch.setattr(parquet, "MOST_FOOTER", 10_000)
    with pytest.raises(DataError, match="metadata in .*part-00000.parquet"):
        DataSetWriter(tmp_path / "columns", spec, {}, [Entry("a.jpg", 1, 0)], WriterOptions(tuple(many))).write(
            0, to_table(ROWS[:1], spec, many), 0.0, {}
        )
    assert not list(tmp_path.glob("*/part*"))


def test_ours_stay_far_from_the_limits(tmp_path):
    """A full shard of crops, and 20,000 planned photos."""
    rows = [synthetic.row(f"a/{i}.jpg", "Ann", row.vector) for i, row in enumerate(synthetic.rows(256, 1))]
    data = to_bytes(to_table(rows, synthetic.spec()))
    assert int.from_bytes(data[-8:-4], "little") < parquet.MOST_FOOTER / 100
    writer = DataSetWriter(
        tmp_path, synthetic.spec(), {}, [Entry(f"folder/{i}.jpg", 1000, 1, "Ann") for i in range(20_000)]
    )
    planned = read_plans(tmp_path)
    assert len(planned) == len(writer.entries) == 20_000
    assert (tmp_path / "_plan-0000.parquet").stat().st_size > 20_000
    assert DataSet(synthetic.write(tmp_path / "d", rows)).table().num_rows == 256
