"""Photos: which ones a folder or a CSV holds, and their pixels, with a typed outcome for each."""

from __future__ import annotations

import csv
import json
import os
import queue
import select
import subprocess
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from embedder.compute import cores
from embedder.decode import MAX_PIXELS
from embedder.errors import DataError
from embedder.table import Entry
from embedder.workers import start, stop

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
OUTSIDE = "outside"
SECONDS_TO_DECODE = 30.0
WORKERS = min(4, cores())
ONE_BLOCK = {"PILLOW_BLOCKS_MAX": "1"}  # of Pillow's memory is kept from photo to photo


# which photos ---------------------------------------------------------------


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
        listing = Listing(path.parent, [_entry(path.parent, path.name, None, None)])
    else:
        raise DataError(f"expected a folder of photos, a photo or a CSV, {path} is not there: check the path")
    if metadata is not None:
        _add_metadata(listing, metadata)
    if not listing.entries:
        raise DataError(f"expected photos in {path}, found none ({', '.join(sorted(SUFFIXES)[:6])}, ... are looked for): check the folder")
    return listing


def _entry(root: Path, name: str, identity: str | None, split: str | None, extra: tuple = ()) -> Entry:
    try:
        status = os.stat(root / name)
        size, mtime = status.st_size, status.st_mtime_ns
    except OSError:
        size, mtime = -1, -1
    return Entry(name, size, mtime, identity, split, extra)


def _list_folder(root: Path) -> Listing:
    listing = Listing(root)
    names = sorted(_walk(root, listing.notes))
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
    return _path_inside(root, name) is None


def _path_inside(root: Path, name: str) -> str | None:
    """The path without links; None where it leaves the root."""
    home = os.path.realpath(root)
    path = os.path.realpath(os.path.join(home, name))
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


# their pixels ---------------------------------------------------------------


@dataclass
class Photo:
    """What became of one photo: pixels where the outcome is ok, else why not."""

    name: str
    outcome: str
    why: str = ""
    sha256: str | None = None
    pixels: np.ndarray | None = None  # uint8 RGB (h, w, 3)
    faces: int = 0  # found in it


class Decoder:
    """A small pool of processes that decode photos; one that hangs or dies is replaced and its photo is `unreadable`."""

    def __init__(self, workers: int = WORKERS, seconds: float = SECONDS_TO_DECODE, most_pixels: int = MAX_PIXELS):
        self._seconds, self._most_pixels = seconds, most_pixels
        self._idle: queue.SimpleQueue[subprocess.Popen | None] = queue.SimpleQueue()
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers)
        for _ in range(workers):
            self._idle.put(None)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for _ in range(self._workers):
            worker = self._idle.get()
            if worker is not None:
                stop(worker)

    def submit(self, root: Path, name: str) -> Future[Photo]:
        return self._threads.submit(self._decode, root, name)

    def stream(self, root: Path, names: Iterable[str], ahead: int = 2 * WORKERS) -> Iterator[Photo]:
        """The photos in order; at most `ahead` wait decoded, and decoding begins at once."""
        todo = iter(names)
        waiting = deque(self.submit(root, name) for name in islice(todo, ahead))
        return self._stream(root, todo, waiting)

    def _stream(self, root: Path, todo: Iterator[str], waiting: deque[Future[Photo]]) -> Iterator[Photo]:
        for name in todo:
            waiting.append(self.submit(root, name))
            yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def submit_bytes(self, name: str, data: bytes) -> Future[Photo]:
        """A photo that is no file."""
        return self._threads.submit(self._decode_bytes, name, data)

    def _decode(self, root: Path, name: str) -> Photo:
        path = _path_inside(root, name)
        if path is None:
            return Photo(name, OUTSIDE, "a link or path that leaves the folder")
        return self._asked(name, path, b"")

    def _decode_bytes(self, name: str, data: bytes) -> Photo:
        return self._asked(name, [name, len(data)], data)

    def _asked(self, name: str, question: str | list[Any], data: bytes) -> Photo:
        idle, worker = self._idle.get(), None
        try:
            worker = idle or start("embedder.decode", str(self._most_pixels), environment=ONE_BLOCK, buffered=False)
            photo, idle = _ask(worker, name, json.dumps(question).encode() + b"\n" + data, self._seconds), worker
        except (OSError, ValueError, TimeoutError, MemoryError) as error:
            if worker:
                stop(worker)
            idle = None
            why = f"took longer than {self._seconds:g} s" if isinstance(error, TimeoutError) else "the decoder died of it"
            photo = Photo(name, "unreadable", why)
        finally:
            self._idle.put(idle)
        return photo


def _ask(worker: subprocess.Popen, name: str, question: bytes, seconds: float) -> Photo:
    assert worker.stdin and worker.stdout
    left = memoryview(question)
    while left:  # a raw pipe takes what it has room for
        left = left[worker.stdin.write(left) :]
    if not select.select([worker.stdout], [], [], seconds)[0]:
        raise TimeoutError
    head = json.loads(_read_exactly(worker.stdout, int.from_bytes(_read_exactly(worker.stdout, 4), "little")))
    pixels = None
    if head["shape"]:
        pixels = np.frombuffer(_read_exactly(worker.stdout, int(np.prod(head["shape"]))), np.uint8).reshape(head["shape"])
    return Photo(name, head["outcome"], head["why"], head["sha256"], pixels)


def _read_exactly(stream, size: int) -> bytearray:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        n = stream.readinto(view[got:])
        if not n:
            raise ValueError("the decoder ended")
        got += n
    return data
