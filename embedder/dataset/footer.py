"""Read which column chunks a Parquet file has from its footer, which Thrift's compact protocol encodes.

Arrow's own view of a column chunk ends the process where a footer's histograms have another length than its schema
says (`pyarrow.parquet.RowGroupMetaData.column`). The fields are those of parquet-format's `parquet.thrift`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BOOLEANS = {1: True, 2: False}  # field types that are values themselves
BYTE, DOUBLE, BYTES, LISTS, STRUCT = 3, 7, 8, (9, 10), 12  # field types of Thrift
INTEGERS = (4, 5, 6)
DOUBLE_BYTES = 8
MOST_BITS = 64  # of a number
LONG_LIST = 15  # a list's length in its first byte; this one says that the length follows
BYTE_ARRAY = 6  # type of a column of texts


@dataclass(frozen=True)
class Chunk:
    """The pages of one column in one row group."""

    column: str  # the path in the schema, its parts joined by dots
    texts: bool
    values: int
    at: int  # offset of the first page in the file
    size: int  # bytes, compressed


@dataclass(frozen=True)
class RowGroup:
    rows: int
    chunks: tuple[Chunk, ...]


def row_groups(footer: bytes) -> list[RowGroup]:
    """Return the row groups that a footer states; raise ValueError where it is none."""
    try:
        fields, _ = _struct(footer, 0)
        return [RowGroup(group[3], tuple(_chunk(one[3]) for one in group[1])) for group in fields[4]]
    except (IndexError, KeyError, TypeError, AttributeError):
        raise ValueError("the footer lacks a field, or has no end") from None


def _chunk(fields: dict[int, Any]) -> Chunk:
    """Return the chunk of a ColumnMetaData. Its first page is the dictionary's if that lies before the data."""
    at, dictionary = fields[9], fields.get(11, 0)
    return Chunk(
        ".".join(part.decode() for part in fields[3]),
        fields[1] == BYTE_ARRAY,
        fields[5],
        dictionary if 0 < dictionary < at else at,
        fields[7],
    )


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """Parse a struct; return (values by field, end offset)."""
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        if head < 16:
            raise ValueError("a field out of order")
        number += head >> 4
        fields[number], at = _value(data, at, head & 15)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in BOOLEANS:
        return BOOLEANS[kind], at
    if kind == BYTE:
        return data[at], at + 1
    if kind in INTEGERS:
        value, at = varint(data, at, MOST_BITS)
        return (value >> 1) ^ -(value & 1), at
    if kind == DOUBLE:
        return None, at + DOUBLE_BYTES
    if kind == BYTES:
        length, at = varint(data, at, MOST_BITS)
        return data[at : at + length], at + length
    if kind in LISTS:
        return _list(data, at)
    if kind == STRUCT:
        return _struct(data, at)
    raise ValueError("a field of a kind that footers do not have")


def _list(data: bytes, at: int) -> tuple[list[Any], int]:
    length, kind = data[at] >> 4, data[at] & 15
    at += 1
    if length == LONG_LIST:
        length, at = varint(data, at, MOST_BITS)
    values = []
    for _ in range(length):
        # in a list, a boolean is a byte of its own
        value, at = (data[at] == 1, at + 1) if kind in BOOLEANS else _value(data, at, kind)
        values.append(value)
    return values, at


def varint(data: bytes, at: int, most_bits: int) -> tuple[int, int]:
    """Parse an unsigned number; return (number, end offset).

    Raise IndexError where the data end first, ValueError for a number of more than `most_bits`.
    """
    value = shift = 0
    while (byte := data[at]) > 127:
        value |= (byte & 127) << shift
        shift += 7
        at += 1
    value |= byte << shift
    if value >> most_bits:
        raise ValueError(f"a number of more than {most_bits} bits")
    return value, at + 1
