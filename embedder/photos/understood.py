"""Describe in words which people a run's labels name, before the run begins, and warn of likely mistakes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from facegallery.embedder.names import spelling
from facegallery.embedder.photos.folders import SPLITS

SHOWN = 2  # names in a line
MANY_OF_ONE = 200  # photos of the only person from which a folder more likely holds photos of many people
DATE = re.compile(
    r"(19|20)\d\d([-_. ](0?[1-9]|1[0-2])([-_. ](0?[1-9]|[12]\d|3[01]))?|(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])?)?"
    r"([ _-]\D.*)?|\d\d?[-_. ]\d\d?[-_. ](19|20)?\d\d"
    r"|(\d\d?[. ]*)?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[-_. ]+(19|20)?\d\d",
    re.IGNORECASE,
)
CAMERA = re.compile(
    r"\d{3}(CANON|EOS\w\w|NIKON|NCD\d\d|ND\d{3}|D\d{4}|MSDCF|OLYMP|_PANA|APPLE|_FUJI|ANDRO|PENTX|GOPRO|MEDIA|LEICA"
    r"|SIGMA|CASIO|KODAK|SSCAM|PHOTO)"
)
HEAPS = frozenset(
    [
        "dcim",
        "camera",
        "camera roll",
        "phone",
        "iphone",
        "mobile",
        "photos",
        "photo",
        "photographs",
        "images",
        "image",
        "imgs",
        "img",
        "pictures",
        "picture",
        "pics",
        "fotos",
        "bilder",
        "imagenes",
        "immagini",
        "albums",
        "album",
        "gallery",
        "new folder",
        "neuer ordner",
        "nouveau dossier",
        "untitled folder",
        "untitled",
        "misc",
        "other",
        "others",
        "various",
        "unsorted",
        "unknown",
        "people",
        "persons",
        "faces",
        "face",
        "crops",
        "cropped",
        "raw",
        "raws",
        "jpg",
        "jpeg",
        "jpegs",
        "png",
        "heic",
        "edited",
        "edits",
        "original",
        "originals",
        "export",
        "exports",
        "exported",
        "selects",
        "backup",
        "backups",
        "copy",
        "old",
        "new",
        "import",
        "imports",
        "downloads",
        "download",
        "desktop",
        "documents",
        "screenshots",
        "whatsapp images",
        "telegram images",
        "instagram",
        "facebook",
        "training",
        "testing",
        "validation",
        "valid",
        "dev",
        "eval",
        "data",
        "dataset",
        "db",
        "database",
        "small",
        "large",
        "high",
        "low",
        "hires",
        "lowres",
        "full",
        "thumb",
        "previews",
        "preview",
        *SPLITS,
    ]
)
NUMBERED = re.compile(r"[ _-]*\(?\d*\)?$")  # New folder (2), photos_1
ADVICE = (
    "if so, say which folder is the person's with --identity-level N of `embed`, `align` or `add` "
    "(1: the first below the root), or list the photos in a CSV"
)


@dataclass
class Understood:
    """Which people are in the photos of a run, by folders, a CSV, an option or the rows of a data set.

    source: the words after the number of people in `text`, such as 'from folders such as'. without: photos without a
    person. examples: the first names.
    """

    source: str
    people: int = 0
    photos: int = 0
    without: int = 0
    examples: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The description as one line."""
        people = f"{self.people:,} {'person' if self.people == 1 else 'people'}"
        examples = f" {self.source} {', '.join(map(repr, self.examples))}" if self.people else ""
        without = (
            f" ({self.without:,} photo{'' if self.without == 1 else 's'} without a person)" if self.without else ""
        )
        return people + examples + without

    @property
    def lines(self) -> list[str]:
        """`text`, and a line that warns where something looks wrong."""
        return [self.text] + (
            [f"warning: these may not be people: {'; '.join(self.warnings)}: {ADVICE}"] if self.warnings else []
        )

    def result(self) -> dict[str, Any]:
        """Return the fields and `text`, as --json prints them."""
        return asdict(self) | {"text": self.text}


def understand(pairs: Iterable[tuple[str, str | None]], source: str, *, by_folders: bool = True) -> Understood:
    """Describe the people in (relative path, identity) of each photo.

    source: as in `Understood`. by_folders: warn where the folders do not look like one folder a person; pass False
    where the user said which folder names the person.
    """
    folders: Counter[tuple[str, str]] = Counter()
    done = Understood(source)
    for path, identity in pairs:
        done.photos += 1
        if identity is None:
            done.without += 1
        else:
            folders[path.rpartition("/")[0], identity] += 1
    found = _Names(folders)
    done.people, done.examples = len(found.photos), list(islice(found.photos, SHOWN))
    done.warnings = [line for check in (_CHECKS if by_folders else _NAME_CHECKS) for line in check(found)]
    return done


class _Names:
    """The names of a run: how many photos each has, and which folders gave the names."""

    def __init__(self, folders: Counter[tuple[str, str]]):
        self.photos: Counter[str] = Counter()
        self.places: dict[str, set[tuple[str, ...]]] = {}  # the folders above each folder that named a person
        for (folder, identity), count in sorted(folders.items()):
            self.photos[identity] += count
            parts = folder.split("/") if folder else []
            below = parts[1:] if parts and parts[0] in SPLITS else parts
            depth = next((i for i in reversed(range(len(below))) if spelling(below[i]) == identity), None)
            if depth is not None:
                self.places.setdefault(identity, set()).add(tuple(below[:depth]))


def _dates(found: _Names) -> list[str]:
    """Warn of people who are called like years.

    Do not warn where most names begin with a number and few of those look like years.
    """
    dates = [name for name in found.photos if DATE.fullmatch(name)]
    numbers = sum(name[:1].isdecimal() for name in found.photos)
    if not dates or (2 * numbers > len(found.photos) >= 2 * len(dates)):
        return []
    return [f"{_names(dates)} like a date" if len(dates) == 1 else f"{_names(dates)} like dates"]


def _heaps(found: _Names) -> list[str]:
    """Warn of people who are called like a folder of many people's photos."""
    heaps = [name for name in found.photos if is_heap(name)]
    return [f"{_names(heaps)} like a folder of many people's photos"] if heaps else []


def is_heap(name: str) -> bool:
    """Whether a folder has a name that cameras, phones and programs give to folders of photos."""
    return bool(CAMERA.fullmatch(name)) or NUMBERED.sub("", name).casefold() in HEAPS


def _scattered(found: _Names) -> list[str]:
    """Warn of one name in several people's folders, such as Ann/raw and Bob/raw.

    Years above people's folders are no reason to warn.
    """
    parents = {
        name: sorted({p[-1] for p in places if p and not _says_nothing(p[-1])}) for name, places in found.places.items()
    }
    twice = [name for name, above in parents.items() if len(above) > 1]
    if not twice:
        return []
    above = parents[twice[0]]
    shown = ", ".join(map(repr, above[:SHOWN]))
    return [f"{twice[0]!r} lies in {len(above)} folders, such as {shown}, and counts as one person"]


def _says_nothing(folder: str) -> bool:
    return bool(DATE.fullmatch(folder)) or is_heap(folder)


def _mixed(found: _Names) -> list[str]:
    """Warn of people's folders at different depths."""
    by_depth = {len(place): "/".join([*place, name]) for name, places in found.places.items() for place in places}
    if len(by_depth) < 2:
        return []
    shown = ", ".join(repr(by_depth[d]) for d in sorted(by_depth)[:SHOWN])
    return [f"people's folders lie at different depths, such as {shown}"]


def _one_each(found: _Names) -> list[str]:
    """Warn where almost every photo has a folder of its own, in folders within folders."""
    above = {place for places in found.places.values() for place in places if place}
    single = sum(count == 1 for count in found.photos.values())
    if len(found.photos) < 3 or 2 * single <= len(found.photos) or 2 * len(above) <= len(found.photos):
        return []
    return [f"{single} of {len(found.photos)} have one photo, in folders within folders"]


def _only_one(found: _Names) -> list[str]:
    """Warn where many photos name one person."""
    if len(found.photos) != 1 or not found.places or (n := found.photos.total()) < MANY_OF_ONE:
        return []
    return [f"all {n:,} photos are one person's"]


_NAME_CHECKS: Sequence[Callable[[_Names], list[str]]] = (_dates, _heaps, _only_one)
_CHECKS: Sequence[Callable[[_Names], list[str]]] = (*_NAME_CHECKS, _scattered, _mixed, _one_each)


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN]))
    return f"{shown} is called" if len(names) == 1 else f"{len(names)} of them, such as {shown}, are called"
