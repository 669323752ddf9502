"""Kinds of values in a user's own column: numbers, dates or text.

A column has a kind if all of its values have it; otherwise the column is text.

Number  digits with an optional sign, point and exponent: 5, 05, +5, 5.0, .5, 5e0; compared exactly; not 1,234 or nan
Date    ISO 8601 or EXIF, year first: 2024-05, 2024-05-01, 2024-05-01T10:00:00Z, 2024:05:01 10:00:00; each is a period
Text    anything else

An empty value, or one of spaces only, is missing.
"""

from __future__ import annotations

import calendar
import datetime
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

NUMBER, DATE, TEXT = KINDS = ("number", "date", "text")
DIGITS = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.I)
LONGEST = 1000  # characters of a number, at most
DAY = re.compile(
    r"(\d{4})([-:])(\d\d)(?:\2(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6})\d*)?)?(Z|[+-]\d\d:?\d\d)?)?)?",
    re.ASCII,
)
YEAR = re.compile(r"\d{4}", re.ASCII)
MICROSECONDS = {"day": 86_400_000_000, "minute": 60_000_000, "second": 1_000_000}


class Period(NamedTuple):
    """A stretch of time in microseconds since the year 1, UTC: its first moment, and the first one after it."""

    start: int
    end: int


def number_of(text: str) -> Decimal | None:
    """Return the number that a text spells, or None."""
    if not DIGITS.fullmatch(text := text.strip()) or len(text) > LONGEST:
        return None
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of 19 digits
        return None


def date_of(text: str) -> Period | None:
    """Return the period that a text names, or None; a time without a zone is UTC."""
    if not (found := DAY.fullmatch(text.strip())):
        return None
    year, separator, month, day, hour, minute, second, fraction, zone = found.groups()
    if separator == ":" and not day:
        return None
    try:
        first = datetime.date(int(year), int(month), int(day or 1))
        datetime.time(int(hour or 0), int(minute or 0), int(second or 0))
    except ValueError:
        return None
    days = 1 if day else calendar.monthrange(first.year, first.month)[1]
    start = first.toordinal() * MICROSECONDS["day"]
    if hour is None:
        return Period(start, start + days * MICROSECONDS["day"])
    start += (int(hour) * 60 + int(minute)) * MICROSECONDS["minute"] + int(second or 0) * MICROSECONDS["second"]
    start += int((fraction or "0").ljust(6, "0")) - _offset(zone)
    return Period(start, start + (1 if fraction else MICROSECONDS["second"] if second else MICROSECONDS["minute"]))


def period_of(text: str) -> Period | None:
    """Return `date_of` the text, or the period of a plain year, which filters on a column of dates may name."""
    if YEAR.fullmatch(text := text.strip()) and int(text):
        first, last = date_of(f"{text}-01"), date_of(f"{text}-12")
        return Period(first.start, last.end) if first and last else None
    return date_of(text)


def _offset(zone: str | None) -> int:
    """Return by how many microseconds a zone such as +02:00 is ahead of UTC."""
    if zone in (None, "Z"):
        return 0
    digits = str(zone)[1:].replace(":", "")
    minutes = 60 * int(digits[:2]) + int(digits[2:])
    return (minutes if str(zone)[0] == "+" else -minutes) * MICROSECONDS["minute"]


def kind_of(value: Any) -> str | None:
    """Return number, date or text; None for a missing value."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    if number_of(text) is not None:
        return NUMBER
    return DATE if date_of(text) is not None else TEXT


@dataclass
class Counts:
    """Numbers of values of each kind, for each column."""

    columns: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, extra: Mapping[str, Any], sign: int = 1) -> None:
        """Count the columns of a face; with sign -1, subtract those of a removed face."""
        for column, value in extra.items():
            if (kind := kind_of(value)) is not None:
                counts = self.columns.setdefault(column, dict.fromkeys(KINDS, 0))
                counts[kind] += sign
                if not any(counts.values()):
                    del self.columns[column]

    def kind(self, column: str) -> str:
        """Return the kind of a column; text for a column without values."""
        counts = self.columns.get(column, {})
        return next((kind for kind in KINDS if counts.get(kind) and counts[kind] == sum(counts.values())), TEXT)

    def to_json(self) -> str:
        """Return the counts as JSON, with sorted keys."""
        return json.dumps(self.columns, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Counts:
        """Read `to_json`."""
        return cls(json.loads(text))

    @classmethod
    def over(cls, rows: Iterable[tuple[str]]) -> Counts:
        """Count the columns of faces, each given as a JSON object; skip damaged ones, which their checksums report."""
        counts = cls()
        for (extra,) in rows:
            if extra != "{}":
                with suppress(ValueError, TypeError, AttributeError):
                    counts.add(json.loads(extra))
        return counts


# comparing ------------------------------------------------------------------

NUMBERS: dict[str, Callable[[Decimal, Decimal], bool]] = {
    "=": Decimal.__eq__,
    "!=": Decimal.__ne__,
    "<": Decimal.__lt__,
    "<=": Decimal.__le__,
    ">": Decimal.__gt__,
    ">=": Decimal.__ge__,
}
TEXTS: dict[str, Callable[[str, str], bool]] = {
    "=": str.__eq__,
    "!=": str.__ne__,
    "<": str.__lt__,
    "<=": str.__le__,
    ">": str.__gt__,
    ">=": str.__ge__,
}
DATES: dict[str, Callable[[Period, Period], bool]] = {
    "=": lambda a, b: b.start <= a.start and a.end <= b.end,
    "!=": lambda a, b: not (b.start <= a.start and a.end <= b.end),
    "<": lambda a, b: a.start < b.start,
    "<=": lambda a, b: a.start < b.end,
    ">": lambda a, b: a.start >= b.end,
    ">=": lambda a, b: a.start >= b.start,
}


def comparison(kind: str, operator: str, wanted: str) -> Callable[[str], bool]:
    """Return a function that compares a value, which is not missing, with `wanted`.

    In a comparison of numbers or dates, a value of another kind never matches. If `wanted` itself is of another kind,
    `=` matches no value and `!=` matches all values of the column's kind.
    """
    if kind == TEXT:
        return lambda value: TEXTS[operator](value, wanted)
    read: Callable[[str], Any] = number_of if kind == NUMBER else date_of
    target: Any = number_of(wanted) if kind == NUMBER else period_of(wanted)
    compare: Any = (NUMBERS if kind == NUMBER else DATES)[operator]
    if target is None:
        return lambda value: operator == "!=" and read(value) is not None
    return lambda value: (found := read(value)) is not None and compare(found, target)
