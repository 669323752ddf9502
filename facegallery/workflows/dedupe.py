"""Find copies of photos and bursts, and say which photo of each set to keep; change nothing."""

from __future__ import annotations

import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from facegallery import results
from facegallery.embedder.errors import InputError
from facegallery.embedder.photos.decoder import WORKERS, Decoder, Photo
from facegallery.embedder.photos.likeness import Look, blocks, hashes, is_flat, likeness, look, near, scene_likeness
from facegallery.embedder.photos.listing import list_photos, path_inside
from facegallery.embedder.progress import Progress, unseen
from facegallery.results.duplicates import Kind
from facegallery.workflows.inputs import PhotoInputs, PhotoItem, has_data_set, items_of, sources_of

# chosen on one half of the photos of benchmarks/accuracy/duplicates.py, measured on the other
MOST_BITS = 10  # of 64, in which the hashes of one picture differ
ONE_PICTURE = 0.8  # least likeness of two copies of one picture
ONE_SCENE = 0.6  # least likeness of the scenes of two photos of a burst
MOST_COLOUR = 16.0  # levels between the mean colours of two copies: beyond, one was turned grey or tinted
MOST_SHAPE = 1.06  # ratio of the shapes, width by height, of two copies
BURST_SECONDS = 3.0
FOLLOWING = 8  # photos within the time after one that it is compared with
AT_ONCE = 4096  # pairs that are compared before those are left out whose photos have found a copy
AHEAD = 2 * WORKERS  # photos that wait decoded
NUMBERED = re.compile(r"(.*?)(\d{1,15})(\.[^./]*)?", re.DOTALL)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Seen:
    """A photo that was read: its name, file, EXIF time and look. mtime: of the file, in ns; None where it is none."""

    name: str
    sha256: str | None
    bytes: int
    mtime: int | None
    taken: datetime | None
    look: Look

    @property
    def pixels(self) -> int:
        return self.look.width * self.look.height

    @property
    def density(self) -> float:
        """Bytes of the file for each pixel: more where it is compressed less."""
        return self.bytes / self.pixels

    @property
    def age(self) -> tuple[Any, ...]:
        """Sorts the oldest first; photos whose EXIF says it come before the others."""
        return self.taken is None, self.taken or datetime.min, self.mtime or 0

    @property
    def number(self) -> tuple[str, int] | None:
        """What stands before the last number of the name, the folder included, and the number; None without one."""
        match = NUMBERED.fullmatch(self.name)
        return (match[1], int(match[2])) if match else None

    @property
    def result(self) -> results.DuplicatePhoto:
        taken = None if self.taken is None else self.taken.isoformat()
        seen = self.look
        return results.DuplicatePhoto(self.name, seen.width, seen.height, self.bytes, taken, round(seen.sharpness, 1))


def dedupe(
    photos: PhotoInputs, *, seconds: float = BURST_SECONDS, progress: Progress | None = None
) -> results.Duplicates:
    """Find copies of photos and bursts, and which photo of each set to keep; no file is changed.

    Args:
        photos: as for `Gallery.search`, but no data set.
        seconds: longest time from one photo of a burst to the next; 0 for no bursts.
        progress: called with the number of photos done and of all.

    Raises:
        InputError: what is no photo, or a data set.
        DataError: a path where nothing is.

    ```python
    for one in fg.dedupe("photos/"):
        print(one.kind, one.keep.image, one.why, [photo.image for photo in one.others])
    ```
    """
    if not seconds >= 0:
        raise InputError(
            f"expected seconds of at least 0, received {seconds}: give a larger number, or 0 for no bursts"
        )
    items = _files_once(_items(photos))
    seen, unread = _read(items, progress or unseen)
    finders: dict[Kind, Callable[[Sequence[_Seen]], list[list[_Seen]]]] = {
        "same file": _same_files,
        "same picture": _same_pictures,
        "burst": lambda left: _bursts(left, seconds),
    }
    sets, rest = list[results.DuplicateSet](), seen
    for kind, find in finders.items():
        groups = find(rest)
        sets += [_as_set(kind, group) for group in groups]
        spare = {id(photo) for group in groups for photo in group[1:]}
        rest = [photo for photo in rest if id(photo) not in spare]
    return results.Duplicates(tuple(sets), len(items), tuple(unread))


# reading


def _items(photos: PhotoInputs) -> list[PhotoItem]:
    sources = sources_of(photos)
    if (data := has_data_set(sources)) is not None:
        raise InputError(f"expected photos, {data} is a data set: give the photos that it was made of")
    items = list[PhotoItem]()
    for source in sources:
        if isinstance(source, Path):
            listing = list_photos(source)
            for note in listing.notes:
                log.info(note)
            items += items_of(listing)
        else:
            items += source
    return items


def _files_once(items: Iterable[PhotoItem]) -> list[PhotoItem]:
    """Leave out links to files that are among the photos, and files that are given again; say how many."""
    kept, files, left_out = list[PhotoItem](), dict[str, int](), 0
    for item in items:
        real = None if item.root is None else path_inside(item.root, item.entry.path)
        if real is None or real not in files:
            if real is not None:
                files[real] = len(kept)
            kept.append(item)
            continue
        left_out += 1
        before = kept[files[real]]
        assert before.root is not None and item.root is not None
        if (before.root / before.entry.path).is_symlink() and not (item.root / item.entry.path).is_symlink():
            kept[files[real]] = item
    if left_out:
        log.info(f"left out: {left_out} photo{'s' * (left_out > 1)} given twice, by a link or by name")
    return kept


def _read(items: Sequence[PhotoItem], progress: Progress) -> tuple[list[_Seen], list[results.UnreadPhoto]]:
    """Decode each photo and look at it; return those that could be read, and the others with the reason."""
    seen, unread = list[_Seen](), list[results.UnreadPhoto]()
    with Decoder() as decoder:
        for done, (item, photo) in enumerate(zip(items, _decoded(decoder, items), strict=True), 1):
            name = item.entry.path if item.root is None else os.path.join(item.root, item.entry.path)
            if photo.pixels is None:
                unread.append(results.UnreadPhoto(name, photo.outcome, photo.why))
            else:
                size = max(item.entry.size, 0)
                mtime = None if item.root is None else item.entry.mtime_ns
                seen.append(_Seen(name, photo.sha256, size, mtime, photo.taken, look(photo.pixels)))
            progress(done, len(items))
    return seen, unread


def _decoded(decoder: Decoder, items: Sequence[PhotoItem]) -> Iterator[Photo]:
    """Yield the photos in order; at most AHEAD wait decoded."""
    todo = iter(items)
    waiting = deque(item.submit(decoder) for item in islice(todo, AHEAD))
    while waiting:
        waiting.extend(item.submit(decoder) for item in islice(todo, 1))
        yield waiting.popleft().result()


# sets: each group has the photo to keep first


def _best_copies_first(photo: _Seen) -> tuple[Any, ...]:
    return -photo.pixels, -photo.density, -photo.look.sharpness, photo.age, photo.name


def _best_of_burst_first(photo: _Seen) -> tuple[Any, ...]:
    return -photo.pixels, -photo.look.sharpness, -photo.density, photo.age, photo.name


def _same_files(seen: Sequence[_Seen]) -> list[list[_Seen]]:
    by_hash: dict[str, list[_Seen]] = {}
    for photo in seen:
        if photo.sha256 is not None:
            by_hash.setdefault(photo.sha256, []).append(photo)
    return [sorted(group, key=_best_copies_first) for group in by_hash.values() if len(group) > 1]


def _same_pictures(seen: Sequence[_Seen]) -> list[list[_Seen]]:
    """Group photos round the best copy of each picture: each is itself like that copy, not only like a third."""
    best = sorted((photo for photo in seen if not is_flat(photo.look.thumbnail)), key=_best_copies_first)
    if len(best) < 2:
        return []
    thumbnails = np.stack([photo.look.thumbnail for photo in best])
    hashed, facts = hashes(thumbnails), _Facts(best)
    home = np.full(len(best), -1)  # the place of the copy to keep; -1 where a photo is kept itself
    for block in blocks(len(best)):
        rows = block[home[block] < 0]
        later = np.arange(block[0], len(best))
        i, j = near(hashed, rows, later[home[later] < 0], MOST_BITS)
        may = facts.may_be_copies(i, j)
        _settle(home, i[may], j[may], thumbnails)
    groups = {int(one): [best[one]] for one in np.unique(home[home >= 0])}
    for other in np.flatnonzero(home >= 0).tolist():
        groups[int(home[other])].append(best[other])
    return sorted(groups.values(), key=lambda group: group[0].name)


def _settle(home: np.ndarray, i: np.ndarray, j: np.ndarray, thumbnails: np.ndarray) -> None:
    """Give photos j that are like photos i, which come by rising place, their copies to keep in `home`."""
    for start in range(0, len(i), AT_ONCE):
        one, other = i[start : start + AT_ONCE], j[start : start + AT_ONCE]
        is_open = (home[one] < 0) & (home[other] < 0)
        one, other = one[is_open], other[is_open]
        alike = likeness(thumbnails, (one, other)) >= ONE_PICTURE
        for a, b in zip(one[alike].tolist(), other[alike].tolist(), strict=True):
            if home[a] < 0 and home[b] < 0:
                home[b] = a


class _Facts:
    """What speaks against two photos being copies of one picture, beside their thumbnails."""

    def __init__(self, seen: Sequence[_Seen]):
        self._seen = seen
        self._shape = np.log([photo.look.width / photo.look.height for photo in seen])
        self._colour = np.array([photo.look.colour for photo in seen])
        self._time = np.array([photo.taken or "NaT" for photo in seen], "datetime64[us]")

    def may_be_copies(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return whether each pair may be: bool (m,). i, j: the places of the photos, int64 (m,)."""
        other_time = (self._time[i] != self._time[j]) & ~np.isnat(self._time[i]) & ~np.isnat(self._time[j])
        may = (np.abs(self._shape[i] - self._shape[j]) <= np.log(MOST_SHAPE)) & ~other_time
        may &= np.abs(self._colour[i] - self._colour[j]).max(axis=1, initial=0) <= MOST_COLOUR
        for at in np.flatnonzero(may & ~np.isnat(self._time[i]) & ~np.isnat(self._time[j])):
            may[at] = not _follow(self._seen[i[at]], self._seen[j[at]])  # a camera that writes whole seconds
        return may


def _follow(one: _Seen, other: _Seen) -> bool:
    """Whether two photos of a folder are of one size and the numbers in their names follow each other."""
    if (one.look.width, one.look.height) != (other.look.width, other.look.height):
        return False
    if (a := one.number) is None or (b := other.number) is None:
        return False
    return a[0] == b[0] and abs(a[1] - b[1]) == 1


def _bursts(seen: Sequence[_Seen], seconds: float) -> list[list[_Seen]]:
    """Group photos that were taken within seconds, each nearly the scene of another."""
    pairs = [*_close_by_exif(seen, seconds), *_close_by_file(seen, seconds)] if seconds else []
    if not pairs:
        return []
    alike = np.concatenate([_one_scene(seen, pairs[at : at + AT_ONCE]) for at in range(0, len(pairs), AT_ONCE)])
    group_of = {at: [at] for pair in pairs for at in pair}
    for (one, other), is_alike in zip(pairs, alike, strict=True):
        if is_alike and group_of[one] is not group_of[other]:
            group_of[one].extend(group_of[other])
            group_of.update(dict.fromkeys(group_of[other], group_of[one]))
    groups = {id(group): group for group in group_of.values() if len(group) > 1}
    found = [sorted((seen[at] for at in group), key=_best_of_burst_first) for group in groups.values()]
    return sorted(found, key=lambda group: min(photo.name for photo in group))


def _one_scene(seen: Sequence[_Seen], pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return whether the photos of each pair show nearly one scene, bool (m,)."""
    thumbnails = np.stack([seen[at].look.thumbnail for pair in pairs for at in pair])  # (2 m, s, s)
    first = np.arange(0, len(thumbnails), 2)
    return scene_likeness(thumbnails, (first, first + 1)) >= ONE_SCENE


def _close_by_exif(seen: Sequence[_Seen], seconds: float) -> Iterator[tuple[int, int]]:
    """Yield pairs of photos that were taken within seconds by EXIF."""
    timed = sorted((photo.taken, at) for at, photo in enumerate(seen) if photo.taken is not None)
    for n, (time, at) in enumerate(timed):
        for later, other in timed[n + 1 : n + 1 + FOLLOWING]:
            if (later - time).total_seconds() > seconds:
                break
            yield at, other


def _close_by_file(seen: Sequence[_Seen], seconds: float) -> Iterator[tuple[int, int]]:
    """Yield pairs of photos without EXIF times whose names follow each other, written within seconds."""
    untimed = {photo.number: at for at, photo in enumerate(seen) if photo.taken is None and photo.mtime is not None}
    for key, at in untimed.items():
        other = untimed.get((key[0], key[1] + 1)) if key else None
        if other is not None and abs((seen[at].mtime or 0) - (seen[other].mtime or 0)) <= seconds * 1e9:
            yield at, other


# which to keep


def _as_set(kind: Kind, group: Sequence[_Seen]) -> results.DuplicateSet:
    why = _why_file(group) if kind == "same file" else _why_picture(kind, group)
    return results.DuplicateSet(kind, why, tuple(photo.result for photo in group))


def _why_file(group: Sequence[_Seen]) -> str:
    ages = [photo.mtime for photo in group]
    rest = "the oldest file" if ages.count(ages[0]) == 1 else "the first by name"
    return f"the same bytes, {rest}"


def _why_picture(kind: Kind, group: Sequence[_Seen]) -> str:
    """Say by what the first photo is better than the second."""
    keep, second = group[0], group[1]
    size = f"{keep.look.width} x {keep.look.height}"
    if keep.pixels > second.pixels:
        return f"{size}, {'the other is' if len(group) == 2 else 'the others are'} smaller"
    facts: list[tuple[Callable[[_Seen], float], str]] = [
        (lambda photo: photo.density, f"the least compressed: {8 * keep.density:.2f} bits a pixel"),
        (lambda photo: photo.look.sharpness, "the sharpest"),
    ]
    for fact, words in reversed(facts) if kind == "burst" else facts:
        if fact(keep) > fact(second):
            return f"{size}, and of this size {words}"
    return f"{size}, {'the oldest' if keep.age < second.age else 'as the others, the first by name'}"
