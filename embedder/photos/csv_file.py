"""Read CSVs as spreadsheets and people write them; every error names the line that cannot be read."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from facegallery.embedder.errors import DataError
from facegallery.embedder.photos.filenames import to_file

KNOWN = ("image", "identity", "split")  # columns whose names are read in upper and lower case
SIDES = ("x0", "y0", "x1", "y1"), ("left", "top", "right", "bottom")  # columns of a box; only all four of one are that
SIZE = "box_width", "box_height"  # of the picture whose pixels a box counts, where it is another than the photo
DELIMITERS = ",;\t"
BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
HINT = re.compile(r"sep=([,;\t])\s*", re.IGNORECASE)  # the first line that Excel reads


@dataclass(frozen=True)
class CsvLine:
    """One record of a CSV.

    number: of the line in the file on which the record begins, from 1. cells: by column; '' for an empty cell.
    """

    number: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


@dataclass(frozen=True)
class CsvTable:
    """A CSV: its columns in order, and its records without the blank ones."""

    path: Path
    columns: list[str]
    lines: list[CsvLine] = field(default_factory=list)

    @property
    def more(self) -> list[str]:
        """The user's own columns."""
        return [name for name in self.columns if name not in KNOWN and name not in self.boxed]

    @property
    def boxed(self) -> list[str]:
        """The columns that hold boxes."""
        return _boxed(set(self.columns))


def read_csv(path: Path) -> CsvTable:
    """Read a CSV with a header that has a column `image`, which every line fills in.

    Cells are separated by commas, semicolons or tabs, whichever the header uses; spaces around them are dropped. The
    encoding is UTF-8, or UTF-16 or UTF-32 with a byte order mark. Raise DataError, naming the line, for surplus cells,
    an unclosed quote, a column that occurs twice, and another encoding.
    """
    text = _text(path)
    records = _records(path, text, _delimiter(text))
    number, header = next(records, (0, []))
    columns = _columns(path, number, header)
    lines = [_line(path, number, columns, cells) for number, cells in records]
    return CsvTable(path, [name for name in columns if name], lines)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"expected a CSV, {path} is not there: check the path") from None
    encoding = next((name for bom, name in BOMS if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n|\r|\n", data[: error.start])) + 1
        raise DataError(f"expected a CSV in UTF-8, line {line} of {path} is not: save it as `CSV UTF-8`") from None
    if (at := text.find("\0")) >= 0:
        raise DataError(
            f"expected a CSV in UTF-8, line {_line_number(text, at)} of {path} holds a NUL: save it as `CSV UTF-8`"
        )
    return text


def _line_number(text: str, at: int) -> int:
    return len(re.findall(r"\r\n|\r|\n", text[:at])) + 1


def _delimiter(text: str) -> str:
    """Return the one of DELIMITERS that gives the header a cell `image`, or else the most cells."""
    if hint := HINT.match(text):
        return hint[1]
    header = next((line for line in io.StringIO(text, newline="") if line.strip()), "")
    cells = {d: [cell.strip().strip('"').strip().lower() for cell in header.split(d)] for d in DELIMITERS}
    return max(DELIMITERS, key=lambda d: ("image" in cells[d], len(cells[d])))


def _records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the first line, cells) of each record that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"expected a CSV, the record that begins on line {number} of {path} cannot be read ({error}): "
                'close its quotes, and write a quote within a cell twice ("")'
            ) from None
        if any(cells) and not (number == 1 and HINT.match(text)):
            yield number, cells


def _columns(path: Path, number: int, header: list[str]) -> list[str]:
    """Return the names of the header, '' for a column without one; names in KNOWN and of boxes are in lower case."""
    lower = {name.lower() for name in header}
    special = {*KNOWN, *_boxed(lower)}
    names = [name.lower() if name.lower() in special else name for name in header]
    while names and not names[-1]:
        names.pop()
    twice = next((name for i, name in enumerate(names) if name and name in names[:i]), None)
    if twice:
        raise DataError(
            f"expected columns with names of their own, line {number} of {path} has {twice!r} twice: rename one"
        )
    if "image" not in names:
        shown = ", ".join(name[:40] for name in names if name) or "none"
        raise DataError(f"expected a CSV with a column `image`, {path} has {shown}: add a header line")
    return names


def _boxed(columns: set[str]) -> list[str]:
    """Return which columns hold boxes: all four of one kind, and with them the size that they apply to."""
    sides = [side for sides in SIDES if columns.issuperset(sides) for side in sides]
    return sides + [name for name in SIZE if sides and columns.issuperset(SIZE)]


def _line(path: Path, number: int, columns: list[str], cells: list[str]) -> CsvLine:
    if any(cells[len(columns) :]):
        raise DataError(
            f"expected {len(columns)} cells, line {number} of {path} has {len(cells)}: "
            'put a cell that holds the separator in quotes, such as "King, Tony"'
        )
    line = CsvLine(number, {name: cell for name, cell in zip(columns, cells, strict=False) if name})
    if not line["image"]:
        raise DataError(f"expected an image in every line, line {number} of {path} has none: fill it in")
    return line


def photo_path(root: Path, cell: str) -> str:
    """Return the path, relative to `root` and with `/`, that a cell names.

    Backslashes separate folders unless a file has them in its name.
    """
    if "\\" in cell and not os.path.lexists(root / to_file(cell)):
        cell = cell.replace("\\", "/")
    path = os.path.normpath(cell)
    home = os.path.abspath(root)
    if os.path.isabs(path) and path.startswith(os.path.join(home, "")):
        path = os.path.relpath(path, home)
    return Path(path).as_posix()
