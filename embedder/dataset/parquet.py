"""Read Parquet files by unknown writers: compute a file's decoded size from its page headers before decoding a page.

A file states its sizes several times, and only the headers of the pages bind the decoder: a footer may state anything.
An encoded page may still stand for far more data: a dictionary repeats a value of 1 MB 100,000 times in a few bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facegallery.embedder.dataset.checks import ADVICE, damaged
from facegallery.embedder.dataset.footer import Chunk, row_groups, varint
from facegallery.embedder.errors import DataError

MOST_FOOTER = 1 << 20  # bytes; a column takes about 300
MOST_LIST = 10_000  # row groups or columns
MOST_PAGES = 1 << 16  # pages of a file; a page of crops has 1 MB
FIRST, MOST_HEADER = 1 << 10, 1 << 16  # bytes that are read at first, and at most, to parse a page's header
END = b"PAR1"
INT32, INT64, BYTES, STRUCT, TRUTHS = 5, 6, 8, 12, (1, 2)  # Thrift's field types
NUMBERS = (INT32, BYTES, INT64)  # field types that begin with a number
MOST_BITS = 32  # of a number in a page's header
LEAST_BYTES, TIMES = 256 << 20, 4  # a file may decode to at most LEAST_BYTES + TIMES x its size
OF_VALUE = 16  # bytes of a decoded number, its place in lists, and its validity
DICTIONARY = 2  # type of a page that holds a dictionary
DATA = {0: (5, 2), 3: (8, 4)}  # type of a data page -> the fields of its header and of its encoding
PLAIN = (0, 6)  # encodings in which a value takes its own bytes
BY_DICTIONARY = (2, 8)  # encodings that refer to a dictionary


@dataclass(frozen=True)
class OpenedParquet:
    """An open Parquet file; a context manager that closes it."""

    path: Path
    source: Any  # pyarrow.NativeFile
    size: int  # bytes
    file: pq.ParquetFile
    schema: pa.Schema

    def __enter__(self) -> OpenedParquet:
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()

    @property
    def rows(self) -> int:
        """The number of rows that the footer states."""
        return self.file.metadata.num_rows

    def read(self, columns: Sequence[str], most_rows: int) -> pa.Table:
        """Decode these columns.

        Raise DataError, before the memory is spent, where the columns have more than `most_rows` rows or more bytes
        than any file of ours.
        """
        most = LEAST_BYTES + TIMES * self.size
        try:
            groups = row_groups(_footer(self.source, self.size))
            _check_rows(sum(group.rows for group in groups), most_rows, self.path)
            decoded, spread = _measure(self.source, [c for group in groups for c in group.chunks if _is_of(c, columns)])
            if decoded > most:
                raise _too_large(most, self.path)
            file = self.file
            if decoded + sum(spread.values()) > most:
                texts = [name for name, size in spread.items() if size]
                file = pq.ParquetFile(self.source, metadata=self.file.metadata, read_dictionary=texts, pre_buffer=False)
            table = file.read(columns=list(columns), use_threads=False)
            if decoded + sum(map(_bytes_of, table.columns)) > most:
                raise _too_large(most, self.path)
            if file is not self.file:
                fields = [self.schema.field(name) for name in table.column_names]
                table = table.cast(pa.schema(fields, table.schema.metadata))
        except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
            raise damaged(self.path, error) from None
        if table.num_rows != self.rows:
            raise damaged(self.path, ValueError(f"{table.num_rows} rows where it says {self.rows}"))
        return table


def open_parquet(path: Path) -> OpenedParquet:
    """Open a Parquet file; raise DataError for another file, or a footer longer than any of ours."""
    try:
        source = _source_of(path)
        size = source.size()
        source.seek(max(size - 8, 0))
        end = source.read()
        if end.endswith(END):
            _check_footer(end, path)
        limits = {"thrift_string_size_limit": MOST_FOOTER, "thrift_container_size_limit": MOST_LIST}
        file = pq.ParquetFile(source, pre_buffer=False, **limits)
        return OpenedParquet(path, source, size, file, file.schema_arrow)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error) from None


def _source_of(path: Path) -> pa.NativeFile:
    """Open a file for Arrow, which cannot take a path that is not UTF-8: such a file is read into memory."""
    try:
        str(path).encode()
        return pa.OSFile(str(path))
    except UnicodeEncodeError:
        return pa.BufferReader(path.read_bytes())


def check_written(table: pa.Table, data: bytes, most_rows: int, path: Path) -> None:
    """Raise DataError where a reader would refuse a table or its encoded bytes."""
    _check_rows(len(table), most_rows, path)
    _check_footer(data[-8:], path)
    if table.nbytes > (most := LEAST_BYTES + TIMES * len(data)):
        raise _too_large(most, path)


def _check_rows(rows: int, most: int, path: Path) -> None:
    if rows > most:
        raise DataError(
            f"expected at most {most:,} rows in {path}, received {rows:,}: "
            "give it fewer photos, or fewer faces of a photo"
        )


def _check_footer(end: bytes, path: Path) -> None:
    """Raise DataError for too long a footer. end: the last 8 bytes of a file."""
    if (length := int.from_bytes(end[:4], "little")) > MOST_FOOTER:
        raise DataError(
            f"expected at most {MOST_FOOTER:,} bytes of metadata in {path}, received {length:,}: give it fewer columns"
        )


def _too_large(most: int, path: Path) -> DataError:
    return DataError(
        f"expected at most {most:,} bytes in the rows of {path}, received more: give them shorter texts, or {ADVICE}"
    )


def _footer(source: pa.NativeFile, size: int) -> bytes:
    """Return the footer of a file that Arrow has opened."""
    length = int.from_bytes(_more(source, size - 8, 4), "little")
    return _more(source, size - 8 - length, length)


def _is_of(chunk: Chunk, columns: Collection[str]) -> bool:
    """Return whether a chunk holds one of these columns, or a part of one."""
    return chunk.column in columns or any(chunk.column.startswith(f"{column}.") for column in columns)


def _bytes_of(column: pa.ChunkedArray) -> int:
    """Return the bytes that a dictionary-encoded column of texts has once decoded; 0 for any other column."""
    kind = column.type
    if not pa.types.is_dictionary(kind) or not (_is_text(kind.value_type)):
        return 0
    lengths = (pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() for chunk in column.chunks)
    return sum(length or 0 for length in lengths)


def _is_text(kind: pa.DataType) -> bool:
    return any(
        of(kind) for of in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )


def _measure(source: Any, chunks: Sequence[Chunk]) -> tuple[int, dict[str, int]]:
    """Return (bytes of all pages and values, most bytes of dictionary-encoded texts by column).

    Raise ValueError where a page has no valid header.
    """
    decoded = pages = 0
    spread: dict[str, int] = {}
    for chunk in chunks:
        size = values = references = dictionary = others = 0
        for kind, of_page, count, encoding in _pages(source, chunk):
            pages += 1
            size += of_page
            values += count
            if kind == DICTIONARY:
                dictionary += of_page
            elif encoding in BY_DICTIONARY:
                references += count
            elif encoding not in PLAIN:
                others += count
            if pages > MOST_PAGES:
                raise ValueError(f"more than {MOST_PAGES:,} pages")
        decoded += size + OF_VALUE * values
        if chunk.texts:
            decoded += others * size
            spread[chunk.column] = spread.get(chunk.column, 0) + references * dictionary
    return decoded, spread


def _pages(source: Any, chunk: Chunk) -> Iterator[tuple[int, int, int, int]]:
    """Yield (type, decompressed bytes, number of values, encoding) of each page, as Arrow finds the pages."""
    at, left = chunk.at, chunk.values
    end = at + chunk.size
    window, began = b"", at
    while left > 0 and at < end:
        if at - began >= len(window):
            window, began = _more(source, at, FIRST), at
        try:
            header, place = _struct(window, at - began)
        except IndexError:  # the window ends in the header
            window, began = _more(source, at, MOST_HEADER), at
            header, place = _whole_struct(window)
        page = kind, size, count, encoding = _facts(header)
        yield page
        left -= count
        at = began + place + header[3]


def _more(source: Any, at: int, length: int) -> bytes:
    source.seek(at)
    return source.read(length)


def _facts(header: dict[int, Any]) -> tuple[int, int, int, int]:
    """Return what `_pages` yields for a page header; raise ValueError where the header lacks a field."""
    try:
        kind, size, compressed = header[1], header[2], header[3]
        count, encoding = 0, 0
        if kind in DATA:
            place, of_encoding = DATA[kind]
            count, encoding = header[place][1], header[place][of_encoding]
        if size < 0 or compressed < 0 or count < 0:
            raise ValueError("a page of negative size")
    except (KeyError, TypeError):
        raise ValueError("a page whose header lacks its size") from None
    return kind, size, count, encoding


def _whole_struct(data: bytes) -> tuple[dict[int, Any], int]:
    try:
        return _struct(data, 0)
    except IndexError:
        raise ValueError("the header of a page has no end") from None


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """Parse a Thrift struct in the compact protocol; return (32-bit numbers and structs by field, end offset).

    Raise IndexError where the data end first, ValueError for what no page header has.
    """
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        if head < 16:
            raise ValueError("a field out of order")
        number += head >> 4
        kind = head & 15
        if kind in NUMBERS:
            value = data[at]
            at += 1
            if value > 127:
                value, at = varint(data, at - 1, MOST_BITS)
            if kind == INT32:
                fields[number] = (value >> 1) ^ -(value & 1)
            elif kind == BYTES:
                at += value
        elif kind == STRUCT:
            fields[number], at = _struct(data, at)
        elif kind not in TRUTHS:
            raise ValueError("a field of a kind that pages do not have")
    return fields, at + 1
