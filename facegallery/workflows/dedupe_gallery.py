"""Find near-identical photos among those of a gallery, by what it keeps of them, and say which to keep."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from facegallery import results
from facegallery.embedder.dataset.row import Row
from facegallery.embedder.faces import align as crops_of
from facegallery.embedder.photos.likeness import look, scene_likeness
from facegallery.indexer.metrics import BLOCK_SCORES
from facegallery.indexer.store.store import Store
from facegallery.workflows.session import Where, session_of

# the largest, in steps of 0.05 and 0.1, that find 99 % of the copies of benchmarks/accuracy/gallery_duplicates.py, on
# LFW's people for development
ALIKE = 0.9  # least score of two faces that may be one picture
ONE_PICTURE = 0.8  # least likeness of their crops


@dataclass(frozen=True)
class _Photo:
    """A photo of a gallery, by the bytes of its file: its faces, enrolled or not, the largest first."""

    rows: tuple[Row, ...]
    first: int  # in the order in which photos came: enrolled ones by their ids, then the others

    @property
    def image(self) -> str:
        return self.rows[0].image

    @property
    def people(self) -> tuple[str, ...]:
        return tuple(sorted({row.identity for row in self.rows if row.identity is not None}))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the largest face, in pixels; 0 where the box is not known."""
        left, top, right, bottom = self.rows[0].box or (0, 0, 0, 0)
        return round(right - left), round(bottom - top)

    @property
    def sharpness(self) -> float:
        return float(self.rows[0].sharpness or 0)

    @property
    def order(self) -> tuple[float, ...]:
        """Sorts the photo to keep first: enrolled ones, then those with the larger face, the sharper, the earlier."""
        width, height = self.size
        return not self.people, -width * height, -self.sharpness, self.first

    @property
    def result(self) -> results.GalleryDuplicatePhoto:
        width, height = self.size
        unnamed = sum(row.identity is None for row in self.rows)
        return results.GalleryDuplicatePhoto(self.image, self.people, unnamed, width, height, round(self.sharpness, 1))


def dedupe_gallery(where: Where) -> results.GalleryDuplicates:
    """Find near-identical photos among the enrolled and the unnamed ones of a gallery; nothing is changed.

    Two photos are near-identical where each face of the one with fewer faces has a like one in the other: by its
    vector, and, where both have a stored crop, by its crop. They are grouped round the photo to keep, which each of the
    others is itself like. Raises GalleryError for a damaged gallery.
    """
    with session_of(where) as session, session.store() as store, store.reading():
        pairs = _alike(store)
        photos, photo_of = _photos(store, pairs)
        links = _links(pairs, photo_of, photos)
        sets = [_as_set(store, group) for group in _groups(photos, links)]
        counted = store.counts()
        crops = store.keeps_crops
        return results.GalleryDuplicates(session.name, tuple(sets), counted["photos"], by_crops=crops)


# finding


def _alike(store: Store) -> list[tuple[int, int]]:
    """Return the pairs of faces with scores of at least ALIKE; an unnamed face is minus its id."""
    parts = [*store.vectors(), *((-ids, xb) for ids, xb in store.unnamed_vectors())]
    if not parts:
        return []
    ids = np.concatenate([ids for ids, _ in parts])
    xb = np.concatenate([xb for _, xb in parts])
    found: list[tuple[int, int]] = []
    step = max(1, BLOCK_SCORES // len(xb))
    for start in range(0, len(xb), step):
        i, j = np.nonzero(xb[start : start + step] @ xb[start:].T >= ALIKE)
        later = i < j
        found += zip(ids[start + i[later]].tolist(), ids[start + j[later]].tolist(), strict=True)
    return found


def _photos(store: Store, pairs: Sequence[tuple[int, int]]) -> tuple[list[_Photo], dict[int, int]]:
    """Return the photos of the faces in the pairs, with all of their faces, and the place of each face's photo."""
    faces = sorted({face for pair in pairs for face in pair})
    enrolled = [face for face in faces if face > 0]
    unnamed = store.unnamed_by_ids([-face for face in faces if face < 0])
    asked = dict(zip(enrolled, store.table_rows(enrolled, crops=False), strict=True))
    keys = {face: _key(row.image_sha256, row.image) for face, row in asked.items()}
    keys |= {-face.id: _key(face.columns["image_sha256"], face.image) for face in unnamed}
    photos: list[_Photo] = []
    places: dict[str, int] = {}
    for key in dict.fromkeys(keys[face] for face in [*enrolled, *(-face.id for face in unnamed)]):
        places[key] = len(photos)
        photos.append(_Photo(tuple(sorted(_faces_of(store, key), key=_largest_first)), len(photos)))
    return photos, {face: places[key] for face, key in keys.items()}


def _key(sha256: str | None, image: str) -> str:
    """Return what tells a photo from others."""
    return f"image_sha256 {sha256}" if sha256 else f"image {image}"


def _faces_of(store: Store, key: str) -> Iterator[Row]:
    column, value = key.split(" ", 1)
    ids = [id for (id,) in store.execute(f"SELECT id FROM faces WHERE {column}=? ORDER BY id", (value,))]
    yield from store.table_rows(ids)
    if store.has_unnamed:
        face_ids = [id for (id,) in store.execute(f"SELECT face_id FROM unnamed WHERE {column}=?", (value,))]
        yield from store.unnamed_rows(face_ids).values()


def _largest_first(row: Row) -> tuple[float, int]:
    left, top, right, bottom = row.box or (0, 0, 0, 0)
    return -(right - left) * (bottom - top), row.face


def _links(pairs: Sequence[tuple[int, int]], photo_of: Mapping[int, int], photos: Sequence[_Photo]) -> set[tuple]:
    """Return the pairs of photos that are near-identical, each both ways."""
    found = set()
    for one, other in sorted({tuple(sorted((photo_of[a], photo_of[b]))) for a, b in pairs}):
        if one != other and _is_one_picture(photos[one], photos[other]):
            found |= {(one, other), (other, one)}
    return found


def _is_one_picture(one: _Photo, other: _Photo) -> bool:
    """Return whether each face of the photo with fewer faces has a like one in the other."""
    few, many = sorted((one.rows, other.rows), key=len)
    return all(any(_are_alike(row, like) for like in many) for row in few)


def _are_alike(one: Row, other: Row) -> bool:
    assert one.vector is not None and other.vector is not None
    if float(one.vector @ other.vector) < ALIKE:
        return False
    return one.crop is None or other.crop is None or crop_likeness(one.crop, other.crop) >= ONE_PICTURE


def crop_likeness(one: bytes, other: bytes) -> float:
    """Return how alike two crops, PNG, are: at most 1. Forgives that a face was found some pixels further."""
    thumbnails = np.stack([look(crops_of.from_png(png)).thumbnail for png in (one, other)])
    return float(scene_likeness(thumbnails, (np.array([0]), np.array([1])))[0])


def _groups(photos: Sequence[_Photo], links: set[tuple]) -> list[list[_Photo]]:
    """Group photos round the one to keep: each is itself like that one, not only like a third."""
    near: dict[int, set[int]] = defaultdict(set)
    for one, other in links:
        near[one].add(other)
    left = set(near)
    groups = []
    for best in sorted(near, key=lambda at: photos[at].order):
        others = near[best] & left if best in left else set()
        if others:
            left -= {best, *others}
            groups.append([photos[best], *(photos[at] for at in sorted(others, key=lambda at: photos[at].order))])
    return groups


# saying


def _as_set(store: Store, group: Sequence[_Photo]) -> results.GalleryDuplicateSet:
    keep, others = group[0], group[1:]
    people = {name for photo in group for name in photo.people}
    doubtful = any(set(photo.people) - set(keep.people) for photo in others)
    commands = () if doubtful else tuple(command for photo in others for command in _commands(store, photo))
    why = _why(keep, others)
    if doubtful:
        why += f"; enrolled as {' and '.join(sorted(people))}: say with `split` who it is before you remove one"
    return results.GalleryDuplicateSet(why, tuple(photo.result for photo in group), commands)


def _why(keep: _Photo, others: Sequence[_Photo]) -> str:
    """Say by what the first photo is better than the second."""
    second = others[0]
    if keep.people and not second.people:
        return "enrolled, the others are not"
    (width, height), (w, h) = keep.size, second.size
    if width * height > w * h:
        return f"its face is the largest: {width} x {height} pixels"
    if keep.sharpness > second.sharpness:
        return "its face is the sharpest"
    return "it was added first"


def _commands(store: Store, photo: _Photo) -> Iterator[str]:
    """Yield what to type to drop a photo: its enrolled faces are removed, its unnamed ones ignored."""
    name = store.folder.name
    for row in photo.rows:
        if row.identity is not None:
            yield f"remove {name} --face {row.face_id}"
    if unnamed := [row.face_id for row in photo.rows if row.identity is None]:
        yield shlex.join(["ignore", name, *unnamed])
