"""Read a photo's split and person from its folders, and leave out the folders of programs and systems."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from facegallery.embedder.names import name_or_none
from facegallery.embedder.photos.filenames import to_text
from facegallery.embedder.photos.sniff import RAW, has_photo_suffix, is_photo, may_be_photo, suffix_of
from facegallery.embedder.text import printable

FILE = 0  # the level of the photo's own name
SPLITS = frozenset(["gallery", "probe", "train", "val", "test"])
# Made by file servers, operating systems and photo programs; compared in lower case. Hidden folders (.thumbnails,
# .Trash-1000, .picasaoriginals, .dtrash, .AppleDouble, .@__thumb, ...) are left out by their leading point.
SYSTEM = frozenset(
    [
        "@eadir",
        "#recycle",
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
        "@sharesnap",
        "@tmp",
        "thumbnails",
        "thumbs",
        "$recycle.bin",
        "recycler",
        "recycled",
        "system volume information",
        "lost+found",
        "__macosx",
        "network trash folder",
        "temporary items",
        "files_trashbin",
        "files_versions",
        "found.000",
    ]
)
CATALOGUES = (".lrdata", ".lrcat-data", ".cocatalogdb", ".cosessiondb", ".dtmedia")  # previews of Lightroom, ...
LIBRARIES = (".photoslibrary", ".photolibrary", ".migratedphotolibrary", ".aplibrary")  # libraries of Apple's programs
ORIGINALS = frozenset(["originals", "masters"])  # the folders of a library that hold the user's photos


def labels_of(name: str, level: int | None = None) -> tuple[str | None, str | None]:
    """Return (split, identity) of a relative path: 'probe/Ann/1.jpg' -> ('probe', 'Ann').

    The first folder is the split where it is one of SPLITS. Of the others, the folder nearest to the photo names the
    person, or the one at `level`, counted from the root, the first being 1; at level FILE the photo's own name without
    its extension does. The identity is None where there is no such folder, the folder lies in a photo program's
    library, or its name breaks the rule for names.
    """
    folder, _, file = name.rpartition("/")
    split, identity = _labels(folder, level)
    return (split, name_or_none(os.path.splitext(file)[0])) if level == FILE else (split, identity)


@lru_cache(1024)
def _labels(folder: str, level: int | None) -> tuple[str | None, str | None]:
    folders = folder.split("/") if folder else []
    split = folders.pop(0) if folders and folders[0] in SPLITS else None
    if any(folder.lower().endswith(LIBRARIES) for folder in folders):
        return split, None
    return split, name_or_none(_at(folders, level))


def _at(folders: list[str], level: int | None) -> str | None:
    if level is None:
        return folders[-1] if folders else None
    return folders[level - 1] if FILE < level <= len(folders) else None


def is_system(inside: str, name: str) -> bool:
    """Whether the folder `name`, in the folder `inside`, belongs to a program."""
    name = name.lower()
    if inside.lower().endswith(LIBRARIES):
        return name not in ORIGINALS
    return name in SYSTEM or name.endswith(CATALOGUES)


@dataclass
class LeftOut:
    """A count of names of one kind, and the first of them, for a note.

    what: the note, with {n} for the number and {s} or {es} for the plural.
    """

    what: str
    advice: str = ""
    count: int = 0
    first: str = ""

    def add(self, name: str) -> None:
        """Count a name."""
        self.first = self.first or to_text(name)
        self.count += 1

    @property
    def notes(self) -> list[str]:
        """The count as one line for the user; an empty list where it is 0."""
        if not self.count:
            return []
        one = self.count == 1
        what = self.what.format(n=self.count, s="" if one else "s", es="" if one else "es")
        return [f"{what}, such as '{printable(self.first)}'{self.advice}"]


@dataclass
class Walk:
    """The photos below a folder, and counts of what was left out."""

    root: Path
    unread: list[str] = field(default_factory=list)
    links: LeftOut = field(default_factory=lambda: LeftOut(""))
    system: LeftOut = field(default_factory=lambda: LeftOut("{n} system or hidden folder{s} left out"))
    hidden: LeftOut = field(default_factory=lambda: LeftOut("{n} hidden file{s} left out"))
    raw: LeftOut = field(
        default_factory=lambda: LeftOut("{n} raw photo{s} left out", ": save them as JPEG or TIFF first")
    )
    others: LeftOut = field(default_factory=lambda: LeftOut("{n} other file{s} left out by name or content"))
    sniffed: LeftOut = field(
        default_factory=lambda: LeftOut("{n} file{s} without a photo's extension taken for photos by their first bytes")
    )

    @property
    def notes(self) -> list[str]:
        """Lines for the user about what was left out."""
        more = (
            f" and {self.links.count - 1} others: links to folders" if self.links.count > 1 else ": a link to a folder"
        )
        links = [f"{printable(self.links.first)}{more}, not followed"] if self.links.count else []
        kinds = (self.system, self.hidden, self.raw, self.others, self.sniffed)
        return self.unread + links + [line for kind in kinds for line in kind.notes]

    def __iter__(self) -> Iterator[str]:
        """Yield the relative paths of the photos; links to folders are not followed."""
        yield from self._below(self.root)

    def some(self, names: Iterable[str]) -> Iterator[str]:
        """Yield those of the relative paths that are photos, and the photos in those that are folders."""
        for name in names:
            path = os.path.join(self.root, name)
            if not self._reaches(name):
                continue
            if os.path.isdir(path) and not os.path.islink(path):
                folder, _, last = name.rpartition("/")
                if self._enters(os.path.join(self.root, folder), f"{folder}/" if folder else "", last):
                    yield from self._below(path)
            elif os.path.lexists(path):
                folder, _, last = name.rpartition("/")
                if self._takes(os.path.join(self.root, folder), f"{folder}/" if folder else "", last):
                    yield name

    def _reaches(self, name: str) -> bool:
        """Return whether a walk enters the folders above a path."""
        inside = ""
        for part in name.split("/")[:-1]:
            if not self._enters(os.path.join(self.root, inside), f"{inside}/" if inside else "", part):
                return False
            inside = f"{inside}/{part}" if inside else part
        return True

    def _below(self, start: str | Path) -> Iterator[str]:
        for folder, folders, files in os.walk(start, onerror=self._refuse):
            inside = os.path.relpath(folder, self.root)
            prefix = "" if inside == "." else f"{inside}/"
            folders[:] = [name for name in sorted(folders) if self._enters(folder, prefix, name)]
            yield from (prefix + name for name in files if self._takes(folder, prefix, name))

    def _refuse(self, error: OSError) -> None:
        self.unread.append(f"{to_text(str(error.filename))!r}: {error.strerror}, left out")

    def _enters(self, folder: str, prefix: str, name: str) -> bool:
        if os.path.islink(os.path.join(folder, name)):
            self.links.add(prefix + name)
        elif name.startswith(".") or is_system(folder, name):
            self.system.add(prefix + name)
        else:
            return True
        return False

    def _takes(self, folder: str, prefix: str, name: str) -> bool:
        if name.startswith("."):
            if has_photo_suffix(name):
                self.hidden.add(prefix + name)
            return False
        if has_photo_suffix(name):
            return True
        kind = self.raw if suffix_of(name) in RAW else self.others
        if may_be_photo(name) and is_photo(os.path.join(folder, name)):
            kind = self.sniffed
        kind.add(prefix + name)
        return kind is self.sniffed
