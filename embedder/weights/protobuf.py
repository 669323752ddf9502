"""Walk the fields of protobuf messages without their description, whatever the bytes are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LONGEST = 63  # most bits before the last byte of a whole number
WHOLE, BYTES, SIZES = 0, 2, {1: 8, 5: 4}  # wire types of values, and the sizes of those of fixed size


def fields_of(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of each field of a message; a value is a whole number, or bytes.

    Raise ValueError, KeyError or IndexError where the bytes are no message.
    """
    at = 0
    while at < len(message):
        key, at = whole(message, at)
        kind = key & 7
        if kind == WHOLE:
            value, at = whole(message, at)
            yield key >> 3, value
            continue
        size, at = whole(message, at) if kind == BYTES else (SIZES[kind], at)
        if at + size > len(message):
            raise ValueError("it ends too early")
        yield key >> 3, message[at : at + size]
        at += size


def whole(message: memoryview, at: int) -> tuple[int, int]:
    """Read a number of 7 bits a byte; return the number and the offset after it.

    Raise ValueError beyond 64 bits, IndexError at the end of the message.
    """
    number = shift = 0
    while True:
        byte = message[at]
        number, shift, at = number | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return number, at
        if shift > LONGEST:
            raise ValueError("a number of more than 64 bits")


def wholes(value: int | memoryview) -> Iterator[int]:
    """Yield one number, or the numbers of a packed field."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = whole(value, at)
        yield number
