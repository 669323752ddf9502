"""Lay out other people's folders as `DEST/<split>/<identity>/<photo>` by hard links or copies.

The source is only read.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.files import make_folder, process_mark, write_atomic
from facegallery.embedder.photos.csv_file import photo_path, read_csv
from facegallery.embedder.photos.filenames import to_file, to_text
from facegallery.embedder.photos.folders import SPLITS
from facegallery.embedder.photos.listing import identity_of, is_outside, list_photos
from facegallery.embedder.photos.sniff import has_photo_suffix

HOMEWORK_NAME = re.compile(r"(\d+)_([12])\.[A-Za-z]+")
METADATA = "metadata.csv"


@dataclass(frozen=True)
class Placed:
    """One photo's place in the prepared folder. source: path relative to SRC. more: the user's own columns."""

    source: str
    split: str
    identity: str
    more: tuple[tuple[str, str], ...] = ()


@dataclass
class Prepared:
    """What `prepare` did: number of people, photos by split, notes for the user."""

    folder: str
    people: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def prepare(
    layout: str, source: Path, destination: Path, table: Path | None = None, level: int | None = None
) -> Prepared:
    """Lay out the photos of `source` in `destination`; the same call again adds new photos.

    layout: a key of LAYOUTS, or 'csv' with `table`. level: which folder names the person, as for `labels_of`. Raise
    DataError, naming the file, rather than overwrite one; InputError for arguments that contradict each other.
    """
    if not source.is_dir():
        raise DataError(f"expected a folder of photos, {source} is not there: check the path")
    if destination.resolve().is_relative_to(source.resolve()):
        raise InputError(f"expected DEST outside SRC, {destination} lies in {source}: choose another folder")
    if layout == "csv" and table is None:
        raise InputError("expected --csv FILE with the columns image,identity[,split] for `prepare csv`, received none")
    notes: list[str] = []
    if level is not None and (table is not None or layout == "homework"):
        raise InputError(
            "expected --identity-level for photos in people's folders, received a CSV or the layout homework: "
            "leave it out"
        )
    placed = _by_csv(source, table, notes) if table is not None else LAYOUTS[layout](source, notes, level)
    if not placed:
        raise DataError(
            f"expected photos laid out as {layout!r} in {source}, found none: check the layout's name and the folder"
        )
    return _write(source, destination, placed, notes)


def _usable(source: Path, names: Iterable[str], notes: list[str]) -> set[str]:
    """Return the photos that can be placed; add notes about missing photos and links that leave the folder."""
    usable, absent, outside = set(), [], []
    for name in names:
        if not (source / to_file(name)).is_file():
            absent.append(name)
        elif is_outside(source, name):
            outside.append(name)
        else:
            usable.add(name)
    for why, left_out in (
        ("links that lead outside the folder", outside),
        ("photos that are not there (broken links, or gone meanwhile)", absent),
    ):
        notes += [f"{why}, left out: {_few(left_out)}"] if left_out else []
    return usable


def _homework(source: Path, notes: list[str], _: int | None) -> list[Placed]:
    """Place `0_1.jpg ...` as gallery and `0_2.jpg ...` as probes; add notes about gaps and other files."""
    placed, others = [], []
    for path in sorted(source.iterdir()):
        match = HOMEWORK_NAME.fullmatch(path.name)
        if match and has_photo_suffix(path.name):
            placed.append(Placed(to_text(path.name), "gallery" if match[2] == "1" else "probe", match[1]))
        elif not path.name.startswith("."):
            others.append(to_text(path.name))
    usable = _usable(source, (item.source for item in placed), notes)
    placed = [item for item in placed if item.source in usable]
    notes += _gaps(placed)
    notes += [f"not of the form 0_1.jpg, left out: {_few(others)}"] if others else []
    return sorted(placed, key=lambda p: (int(p.identity), p.split, p.source))


def _gaps(placed: list[Placed]) -> list[str]:
    have = {split: {int(p.identity) for p in placed if p.split == split} for split in ("gallery", "probe")}
    everyone = have["gallery"] | have["probe"]
    missing = sorted(set(range(max(everyone, default=-1) + 1)) - everyone)
    notes = [f"numbers without a photo: {_few(map(str, missing))}"] if missing else []
    for split, number in (("gallery", 1), ("probe", 2)):
        lacking = sorted(everyone - have[split])
        notes += [f"people without a {split} photo (N_{number}): {_few(map(str, lacking))}"] if lacking else []
    return notes


def _first_and_rest(source: Path, notes: list[str], level: int | None) -> list[Placed]:
    """Place the first photo of each person's folder (1 before 10) in the gallery, the rest as probes.

    Photos in folders of splits keep their split.
    """
    listing = list_photos(source, level=level)
    notes += listing.notes + listing.understood().lines
    nameless = [e.path for e in listing.entries if e.identity is None]
    notes += [f"photos outside a person's folder, left out: {_few(nameless)}"] if nameless else []
    usable = _usable(source, (e.path for e in listing.entries), notes)
    seen: Counter[str] = Counter()
    placed = []
    for entry in sorted(listing.entries, key=lambda e: natural(e.path)):
        if entry.identity is not None and entry.path in usable:
            split = entry.split or ("probe" if seen[entry.identity] else "gallery")
            seen[entry.identity] += 1
            placed.append(Placed(entry.path, split, entry.identity))
    return placed


def natural(text: str) -> list[tuple[int, str]]:
    """Return a sort key in which 's2/10' comes after 's2/9' and 's10' after 's9'."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _by_csv(source: Path, table: Path | None, notes: list[str]) -> list[Placed]:
    """Place the photos of a CSV `image,identity[,split][,more]`, whose paths are relative to `source`.

    Photos without a split go to the gallery.
    """
    assert table is not None
    listed = read_csv(table)
    if "identity" not in listed.columns:
        raise DataError(
            f"expected a CSV with columns image,identity, {table} has {', '.join(listed.columns)}: add the column"
        )
    placed, absent = [], []
    for line in listed.lines:
        split, who, image = line["split"] or "gallery", identity_of(listed, line), photo_path(source, line["image"])
        if split not in SPLITS or who is None:
            raise DataError(
                f"expected an identity and a split of {', '.join(sorted(SPLITS))}, line {line.number} of {table} has "
                f"{who or ''!r}, {split!r}: correct it"
            )
        if is_outside(source, image) or not (source / to_file(image)).is_file():
            absent.append(image)
        else:
            placed.append(Placed(image, split, who, tuple((key, line[key]) for key in listed.more)))
    notes += [f"named in {table.name} and not in {source}: {_few(absent)}"] if absent else []
    return placed


LAYOUTS: dict[str, Callable[[Path, list[str], int | None], list[Placed]]] = {
    "homework": _homework,
    "lfw": _first_and_rest,
    "att": _first_and_rest,
    "folders": _first_and_rest,
}


def _write(source: Path, destination: Path, placed: list[Placed], notes: list[str]) -> Prepared:
    targets = _targets(placed)
    metadata = _metadata(placed, targets) if any(item.more for item in placed) else ""
    if metadata:
        _check_metadata(destination / METADATA, metadata)
    make_folder(destination)
    for item in placed:
        _place(source / to_file(item.source), destination / to_file(targets[item]))
    if metadata:
        write_atomic(destination / METADATA, metadata.encode())
        notes.append(f"the CSV's other columns are in {destination / METADATA}: give it to `embed --metadata`")
    splits = Counter(item.split for item in placed)
    return Prepared(str(destination), len({item.identity for item in placed}), dict(sorted(splits.items())), notes)


def _targets(placed: list[Placed]) -> dict[Placed, str]:
    """Return the place of each photo; two of one name in one folder get their parents' names in front."""
    count = Counter((p.split, p.identity, Path(p.source).name) for p in placed)
    targets = {}
    for item in placed:
        who, name = item.identity, Path(item.source).name
        if "/" in who or "\0" in who or who.startswith("."):
            raise DataError(
                f"expected a name that can be a folder's, received {who!r}: "
                "use `embed` on the CSV itself, or change the name"
            )
        unique = name if count[item.split, who, name] == 1 else item.source.replace("/", "_")
        targets[item] = f"{item.split}/{who}/{unique}"
    return targets


def _place(source: Path, target: Path) -> None:
    """Make a hard link, or a copy where links are impossible; raise DataError where another photo has the name."""
    make_folder(target.parent)
    real = source.resolve()
    try:
        os.link(real, target)
    except FileExistsError:
        _check_same(real, target, source)
    except OSError:
        _copy(real, target, source)


def _check_same(real: Path, target: Path, source: Path) -> None:
    if not (target.samefile(real) or target.read_bytes() == real.read_bytes()):
        raise DataError(
            f"expected {target} to be free or the same photo as {source}, it is another: choose an empty DEST"
        )


def _copy(real: Path, target: Path, source: Path) -> None:
    """Copy a file atomically; its temporary is hidden, so that no walk finds it."""
    if target.exists():
        return _check_same(real, target, source)
    temporary = target.with_name(f"._tmp-{process_mark(os.getpid())}-{threading.get_ident()}")
    try:
        shutil.copyfile(real, temporary)
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(target)) from None


def _metadata(placed: list[Placed], targets: dict[Placed, str]) -> str:
    """Return the CSV's other columns as a CSV by the photos' places in DEST."""
    columns = ["image", *(key for key, _ in placed[0].more)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows({"image": targets[item], **dict(item.more)} for item in placed)
    return text.getvalue()


def _check_metadata(path: Path, text: str) -> None:
    """Raise DataError where a file is there with a line that the new text lacks, so that nothing is lost."""
    if not os.path.lexists(path):
        return
    columns, *lines = csv.reader(io.StringIO(text, newline=""))
    try:
        own, *before = csv.reader(io.StringIO(path.read_bytes().decode(), newline=""), strict=True)
        if own == columns and set(map(tuple, before)) <= set(map(tuple, lines)):
            return
    except (ValueError, OSError, csv.Error):
        pass  # a file that cannot be read is not ours
    raise DataError(
        f"expected no {METADATA} in DEST, or one of an earlier run for the same photos, {path} is another: "
        "choose an empty DEST, or rename the file"
    )


def _few(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
