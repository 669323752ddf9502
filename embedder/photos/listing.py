"""List the photos of a folder or a CSV, with the labels that paths and CSV give them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from facegallery.embedder.dataset.row import Entry, GivenFace
from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.names import person_name, spelling
from facegallery.embedder.photos.csv_file import SIDES, CsvLine, CsvTable, photo_path, read_csv
from facegallery.embedder.photos.filenames import to_file, to_text
from facegallery.embedder.photos.folders import LeftOut, Walk, labels_of
from facegallery.embedder.photos.given import BadBox, box_of, nameless, sides_of, size_of
from facegallery.embedder.photos.understood import Understood, understand
from facegallery.embedder.text import printable

_SOME = "column {} of {} kept as one of your own: a box needs x0, y0, x1, y1, or left, top, right, bottom"


@dataclass
class Listing:
    """The photos of a run, in order, with notes for the user about what was left out.

    extra: the user's own columns. source: the words before the names of people in a message. by_folders: whether the
    folder nearest to a photo names its person, which may be wrong.
    """

    root: Path
    entries: list[Entry] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    source: str = "from folders such as"
    by_folders: bool = True

    def understood(self) -> Understood:
        """Return which people are in the photos."""
        pairs = ((entry.path, identity) for entry in self.entries for identity in entry.identities)
        return understand(pairs, self.source, by_folders=self.by_folders)

    def nameless(self) -> Listing:
        """Return the same photos, of nobody."""
        unnamed = [replace(entry, identity=None, given=nameless(entry.given)) for entry in self.entries]
        return replace(self, entries=unnamed)


def list_photos(source: str | Path, metadata: Path | None = None, level: int | None = None) -> Listing:
    """List the photos of a folder, of one file, or of a CSV.

    A folder is `<split>/<identity>/<photo>`, `<identity>/<photo>` or flat. metadata: a CSV `image,...` whose other
    columns are added to the rows. level: which folder names the person, as for `labels_of`. Raise DataError where there
    is no photo, InputError for a level without a folder.
    """
    path = Path(source)
    if level is not None and not path.is_dir():
        raise InputError(f"expected a folder of photos for --identity-level, received {path}: leave the option out")
    if path.suffix.lower() == ".csv" and path.is_file():
        listing = _list_csv(path)
    elif path.is_dir():
        listing = _list_folder(path, level)
    elif path.is_file():
        listing = Listing(path.parent, [_entry(path.parent, to_text(path.name), None, None)])
    else:
        raise DataError(f"expected a folder of photos, a photo or a CSV, {path} is not there: check the path")
    if metadata is not None:
        _add_metadata(listing, metadata)
    if not listing.entries:
        left_out = f"; {'; '.join(listing.notes)}" if listing.notes else ""
        raise DataError(
            f"expected photos in {path}, found none (.jpg, .png, .heic, .tif, ... are searched{left_out}): "
            "check the folder"
        )
    return listing


def _entry(
    root: Path, name: str, identity: str | None, split: str | None, extra: tuple[tuple[str, str], ...] = ()
) -> Entry:
    try:
        s = os.stat(root / to_file(name))
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return Entry(name, -1, -1, identity, split, extra)
    return Entry(name, s.st_size, s.st_mtime_ns, identity, split, extra, s.st_ino, s.st_ctime_ns)


def _list_folder(root: Path, level: int | None) -> Listing:
    walk = Walk(root)
    names = sorted(map(to_text, walk))
    listing = Listing(root, notes=walk.notes, by_folders=level is None)
    nameless = LeftOut("{n} photo{s} without a person, in folders whose names cannot be people's")
    for name in names:
        split, identity = labels_of(name, level)
        if identity is None and not _is_flat(name, split):
            nameless.add(name)
        listing.entries.append(_entry(root, name, identity, split))
    listing.notes += nameless.notes if level is None else []
    return listing


def list_some(root: Path, names: Iterable[str], level: int | None = None) -> Listing:
    """List those photos of a folder that are at these relative paths, or below them; none where none is there.

    names: as the operating system has them. level: as for `list_photos`.
    """
    walk = Walk(root)
    found = sorted(set(map(to_text, walk.some(names))))
    labels = ((name, *labels_of(name, level)) for name in found)
    entries = [_entry(root, name, identity, split) for name, split, identity in labels]
    return Listing(root, entries, notes=walk.notes, by_folders=level is None)


def _is_flat(name: str, split: str | None) -> bool:
    """Whether a photo lies in no folder but its split's."""
    return name.count("/") <= (split is not None)


def is_outside(root: Path, name: str) -> bool:
    """Whether a path leaves the root, by a link or by '..'."""
    return path_inside(root, name) is None


def path_inside(root: Path, name: str) -> str | None:
    """Return the path with links resolved; None where it leaves the root."""
    if "\0" in name:
        return None
    home = os.path.realpath(root)
    path = os.path.realpath(os.path.join(home, to_file(name)))
    return path if os.path.join(path, "").startswith(os.path.join(home, "")) else None


def identity_of(table: CsvTable, line: CsvLine) -> str | None:
    """Return the person that a line names, or None; raise DataError, naming the line, for an invalid name."""
    return person_name(line["identity"], f"line {line.number} of {table.path}") if spelling(line["identity"]) else None


def _list_csv(path: Path) -> Listing:
    table = read_csv(path)
    listing = Listing(path.parent, extra=table.more, source="such as", by_folders=False)
    boxes = _Boxes(table)
    first: dict[str, CsvLine] = {}
    twice: list[tuple[str, CsvLine]] = []
    for line in table.lines:
        name = photo_path(path.parent, line["image"])
        identity = identity_of(table, line)
        is_new = first.setdefault(name, line) is line
        if boxes.takes(name, line, identity):
            identity = None
        elif not is_new:
            twice.append((name, line))
        if is_new:
            listing.entries.append(_entry(path.parent, name, identity, line["split"] or None, _more(table.more, line)))
    listing.entries = [boxes.added_to(entry) for entry in listing.entries]
    listing.notes += _repeated(path, first, twice) + boxes.notes
    return listing


class _Boxes:
    """The faces that the lines of a CSV place in photos."""

    def __init__(self, table: CsvTable):
        self._table, self._sides = table, sides_of(table)
        self._given: dict[str, list[GivenFace]] = {}
        self._splits: dict[str, str] = {}
        some = next((side for sides in SIDES for side in sides if side in table.columns), None)
        self._unused = [] if self._sides or some is None else [_SOME.format(printable(some), table.path.name)]
        self._bad = LeftOut(f"warning: {{n}} box{{es}} of {table.path.name} not read")
        self._plain = LeftOut(f"{{n}} line{{s}} of {table.path.name} without a box for photos with boxes not used")
        self._split = LeftOut(f"{{n}} photo{{s}} of {table.path.name} in two splits", ": the first counts")

    def takes(self, name: str, line: CsvLine, identity: str | None) -> bool:
        """Take a line of a photo if it has a box, or one that cannot be read, which is counted."""
        if self._sides is None:
            return False
        if self._splits.setdefault(name, line["split"]) != line["split"]:
            self._split.add(name)
        try:
            box, size = box_of(line, self._sides), size_of(line)
        except BadBox as error:
            self._bad.add(f"line {line.number}")
            self._bad.advice = self._bad.advice or f": {error}"
            return True
        if box is not None:
            self._given.setdefault(name, []).append(GivenFace(box, identity, _more(self._table.more, line), size))
        return box is not None

    def added_to(self, entry: Entry) -> Entry:
        """Return a photo with its boxes; columns on which they do not agree are only theirs."""
        given = tuple(self._given.get(entry.path, ()))
        if not given:
            return entry
        if entry.identity is not None:
            self._plain.add(entry.path)
        shared = set(given[0].extra).intersection(*(face.extra for face in given))
        extra = tuple(pair for pair in given[0].extra if pair in shared)
        return replace(entry, identity=None, given=given, extra=extra)

    @property
    def notes(self) -> list[str]:
        """Lines for the user."""
        return self._unused + self._bad.notes + self._plain.notes + self._split.notes


def _more(columns: Iterable[str], line: CsvLine) -> tuple[tuple[str, str], ...]:
    """Return the user's own columns that a line fills in."""
    return tuple((name, line[name]) for name in columns if line[name])


def _repeated(path: Path, first: dict[str, CsvLine], twice: list[tuple[str, CsvLine]]) -> list[str]:
    """Return one line about photos that several lines name; photos with two people come first."""
    if not twice:
        return []
    other = [(name, line) for name, line in twice if spelling(line["identity"]) != spelling(first[name]["identity"])]
    name, line = (other or twice)[0]
    people = f", {len(other)} of them as other people's" if other else ""
    lines = f"{first[name].number} and {line.number}"
    return [
        f"{len(twice)} lines of {path.name} name a photo twice{people}, such as '{printable(name)}' on lines {lines}: "
        "the first line counts"
    ]


def _add_metadata(listing: Listing, path: Path) -> None:
    table = read_csv(path)
    known = {e.path for e in listing.entries}
    by_path: dict[str, CsvLine] = {}
    twice: list[tuple[str, CsvLine]] = []
    for line in table.lines:
        name = photo_path(listing.root, line["image"])
        if by_path.setdefault(name, line) is not line:
            twice.append((name, line))
    listing.extra += table.more
    listing.entries = [
        replace(e, extra=e.extra + _more(table.more, by_path[e.path])) if e.path in by_path else e
        for e in listing.entries
    ]
    listing.notes += _repeated(path, by_path, twice)
    if unused := sorted(by_path.keys() - known):
        listing.notes.append(
            f"{len(unused)} lines of {path.name} name photos that are not there, such as '{printable(unused[0])}'"
        )
    if labels := [name for name in ("identity", "split", *table.boxed) if name in table.columns]:
        listing.notes.append(
            f"{' and '.join(labels)} of {path.name} not used: give the CSV instead of the folder to take them from it"
        )
