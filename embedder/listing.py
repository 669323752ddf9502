"""Which photos a folder or a CSV holds, and what their paths say of them."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from embedder.errors import DataError
from embedder.filenames import to_file, to_text
from embedder.row import Entry

SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".pgm",
        ".ppm",
        ".pbm",
        ".pnm",
        ".heic",
        ".heif",
        ".avif",
        ".jp2",
    ]
)
SPLITS = frozenset(["gallery", "probe", "train", "val", "test"])


@dataclass
class Listing:
    """The photos of a run, in order, with notes for the user about what was passed over."""

    root: Path
    entries: list[Entry] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_photos(source: str | Path, metadata: Path | None = None) -> Listing:
    """The photos of a folder (`<split>/<identity>/<photo>`, `<identity>/<photo>` or flat), of one file, or of a CSV.

    metadata: a CSV `image,...` whose other columns are added to the rows. Raises DataError where there is no photo.
    """
    path = Path(source)
    if path.suffix.lower() == ".csv" and path.is_file():
        listing = _list_csv(path)
    elif path.is_dir():
        listing = _list_folder(path)
    elif path.is_file():
        listing = Listing(path.parent, [_entry(path.parent, to_text(path.name), None, None)])
    else:
        raise DataError(f"expected a folder of photos, a photo or a CSV, {path} is not there: check the path")
    if metadata is not None:
        _add_metadata(listing, metadata)
    if not listing.entries:
        raise DataError(f"expected photos in {path}, found none ({', '.join(sorted(SUFFIXES)[:6])}, ... are looked for): check the folder")
    return listing


def _entry(root: Path, name: str, identity: str | None, split: str | None, extra: tuple = ()) -> Entry:
    try:
        s = os.stat(root / to_file(name))
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return Entry(name, -1, -1, identity, split, extra)
    return Entry(name, s.st_size, s.st_mtime_ns, identity, split, extra, s.st_ino, s.st_ctime_ns)


def _list_folder(root: Path) -> Listing:
    listing = Listing(root)
    names = sorted(map(to_text, _walk(root, listing.notes)))
    for name in names:
        split, identity = labels_of(name)
        listing.entries.append(_entry(root, name, identity, split))
    return listing


def labels_of(name: str) -> tuple[str | None, str | None]:
    """(split, identity) that a relative path tells: 'probe/Ann/1.jpg' -> ('probe', 'Ann'), 'Ann/1.jpg' -> (None, 'Ann')."""
    folders = name.split("/")[:-1]
    split = folders.pop(0) if folders and folders[0] in SPLITS else None
    return split, normal_name(folders[0]) if folders else None


def normal_name(name: str) -> str:
    """A person's name in Unicode's composed form (NFC), without outer spaces."""
    return unicodedata.normalize("NFC", name).strip()


def _walk(root: Path, notes: list[str]) -> Iterator[str]:
    """Relative paths of the photos below `root`; links to folders are not followed, hidden files are passed over."""
    ignored = 0

    def refuse(error: OSError) -> None:
        notes.append(f"{error.filename}: {error.strerror}, passed over")

    for folder, folders, files in os.walk(root, onerror=refuse):
        inside = Path(folder).relative_to(root)
        for name in sorted(folders):
            if os.path.islink(os.path.join(folder, name)):
                notes.append(f"{inside / name}: a link to a folder, not followed")
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield (inside / name).as_posix()
            elif not name.startswith("."):
                ignored += 1
    if ignored:
        notes.append(f"{ignored} other files passed over")


def is_outside(root: Path, name: str) -> bool:
    """Whether a path leaves the root, by a link or by '..'."""
    return path_inside(root, name) is None


def path_inside(root: Path, name: str) -> str | None:
    """The path without links; None where it leaves the root."""
    if "\0" in name:
        return None
    home = os.path.realpath(root)
    path = os.path.realpath(os.path.join(home, to_file(name)))
    return path if os.path.join(path, "").startswith(os.path.join(home, "")) else None


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """(columns, rows) of a CSV with a header; raises DataError where it has no column `image`."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = [{k: v for k, v in row.items() if k} for row in reader]
            columns = [name for name in reader.fieldnames or [] if name]
    except FileNotFoundError:
        raise DataError(f"expected a CSV, {path} is not there: check the path") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"expected a CSV in UTF-8, {path} cannot be read ({error}): save it again") from None
    if "image" not in columns:
        raise DataError(f"expected a CSV with a column `image`, {path} has {', '.join(columns) or 'none'}: add a header line")
    short = next((i for i, row in enumerate(rows, 2) if not row.get("image")), None)
    if short:
        raise DataError(f"expected an image in every line, line {short} of {path} has none: fill it in")
    return columns, rows


def _list_csv(path: Path) -> Listing:
    columns, rows = read_csv(path)
    extra = [name for name in columns if name not in ("image", "identity", "split")]
    listing = Listing(path.parent, extra=extra)
    seen: set[str] = set()
    for row in rows:
        name = Path(os.path.normpath(row["image"])).as_posix()
        if name in seen:
            listing.notes.append(f"{name}: named twice in {path.name}, the first line counts")
            continue
        seen.add(name)
        own = tuple((key, row[key]) for key in extra if row.get(key))
        listing.entries.append(_entry(path.parent, name, normal_name(row.get("identity") or "") or None, row.get("split") or None, own))
    return listing


def _add_metadata(listing: Listing, path: Path) -> None:
    columns, rows = read_csv(path)
    own = [name for name in columns if name not in ("image", "identity", "split")]
    table = {Path(os.path.normpath(row["image"])).as_posix(): row for row in rows}
    listing.extra += own
    listing.entries = [
        Entry(e.path, e.size, e.mtime_ns, e.identity, e.split, e.extra + tuple((k, r[k]) for k in own if r.get(k)))
        if (r := table.get(e.path))
        else e
        for e in listing.entries
    ]
    unused = table.keys() - {e.path for e in listing.entries}
    if unused:
        listing.notes.append(f"{len(unused)} lines of {path.name} name photos that are not there, such as {sorted(unused)[0]}")
