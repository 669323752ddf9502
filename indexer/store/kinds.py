"""What the values of a user's own column are: numbers, dates or text. A column is of the kind that all of its values are of, else text.

Number  digits with an optional sign, point and exponent: 5, 05, +5, 5.0, .5, 5e0; compared exactly. Not 1,234, 1_000, 0x10, nan or inf
Date    ISO 8601 or EXIF, year first: 2024-05, 2024-05-01, 2024-05-01T10:00:00Z, 2024:05:01 10:00:00; a period, from its start to its end
Text    anything else

A value that is empty or only spaces is a missing one.
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
LONGEST = 1000  # characters of a number
DAY = re.compile(
    r"(\d{4})([-:])(\d\d)(?:\2(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6})\d*)?)?(Z|[+-]\d\d:?\d\d)?)?)?",
    re.ASCII,
)
YEAR = re.compile(r"\d{4}", re.ASCII)
MICROSECONDS = {"day": 86_400_000_000, "minute": 60_000_000, "second": 1_000_000}


class Period(NamedTuple):
    """Microseconds since the year 1, UTC, of the first moment and of the one after the last."""

    start: int
    end: int


def number_of(text: str) -> Decimal | None:
    """The number that a text is, or None."""
    if not DIGITS.fullmatch(text := text.strip()) or len(text) > LONGEST:
        return None
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of 19 digits
        return None


def date_of(text: str) -> Period | None:
    """The period that a text names, or None. A time without a zone is taken as UTC."""
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
    """`date_of`, or a year alone: what a filter on a column of dates may ask for."""
    if YEAR.fullmatch(text := text.strip()) and int(text):
        first, last = date_of(f"{text}-01"), date_of(f"{text}-12")
        return Period(first.start, last.end) if first and last else None
    return date_of(text)


def _offset(zone: str | None) -> int:
    """Microseconds that a zone such as +02:00 is before UTC."""
    if zone in (None, "Z"):
        return 0
    digits = str(zone)[1:].replace(":", "")
    minutes = 60 * int(digits[:2]) + int(digits[2:])
    return (minutes if str(zone)[0] == "+" else -minutes) * MICROSECONDS["minute"]


def kind_of(value: Any) -> str | None:
    """number, date or text; None where the value is missing."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    if number_of(text) is not None:
        return NUMBER
    return DATE if date_of(text) is not None else TEXT


@dataclass
class Counts:
    """For each column how many values are numbers, dates and text, by kind."""

    columns: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, extra: Mapping[str, Any], sign: int = 1) -> None:
        """Count the columns of a face; with a sign of -1, of one that is removed."""
        for column, value in extra.items():
            if (kind := kind_of(value)) is not None:
                counts = self.columns.setdefault(column, dict.fromkeys(KINDS, 0))
                counts[kind] += sign
                if not any(counts.values()):
                    del self.columns[column]

    def kind(self, column: str) -> str:
        """What the column holds; text where it has no values."""
        counts = self.columns.get(column, {})
        return next((kind for kind in KINDS if counts.get(kind) and counts[kind] == sum(counts.values())), TEXT)

    def to_json(self) -> str:
        return json.dumps(self.columns, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Counts:
        return cls(json.loads(text))

    @classmethod
    def over(cls, rows: Iterable[tuple[str]]) -> Counts:
        """The counts of the columns of faces, each a JSON object. A damaged one, which its row's checksum tells, is left out."""
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
    """A function that says whether a value, which is not missing, compares so with `wanted`.

    In a comparison of numbers or dates a value of another kind never matches; a `wanted` of another kind matches no value with `=` and
    all of the kind with `!=`.
    """
    if kind == TEXT:
        return lambda value: TEXTS[operator](value, wanted)
    read: Callable[[str], Any] = number_of if kind == NUMBER else date_of
    target: Any = number_of(wanted) if kind == NUMBER else period_of(wanted)
    compare: Any = (NUMBERS if kind == NUMBER else DATES)[operator]
    if target is None:
        return lambda value: operator == "!=" and read(value) is not None
    return lambda value: (found := read(value)) is not None and compare(found, target)
