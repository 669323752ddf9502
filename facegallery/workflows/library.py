"""Answer questions about the photos of a gallery: of whom, when, where."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import asin, cos, radians, sin, sqrt
from pathlib import Path

import numpy as np

from facegallery import results
from facegallery.embedder import draw
from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.faces import align as crops_of
from facegallery.embedder.photos.decoder import Decoder
from facegallery.embedder.photos.filenames import to_file, to_text
from facegallery.embedder.photos.place import Place, on_earth
from facegallery.embedder.replaceable import check_replaceable
from facegallery.embedder.text import printable
from facegallery.indexer.store import outputs
from facegallery.indexer.store.kinds import Period, date_of, period_of
from facegallery.indexer.store.photos import PhotoRow
from facegallery.indexer.store.reader import AMONG, FACES
from facegallery.indexer.store.store import Store
from facegallery.workflows.session import Where, session_of

EARTH_KM = 6371.0
WITHIN_KM = 1.0
TILES, ROWS = 6, 40  # of a picture: photos of a row, rows
WHEN = "expected a date such as 2019, 2019-05 or 2019-05-01 for {}, received {!r}: correct it"


@dataclass(frozen=True)
class PhotoQuestion:
    """Which photos of a gallery are asked for; what is given must all hold.

    identities: people who are all in the photo. without: people who are not. unnamed: with a face without a person.
    since, until: dates as 2019, 2019-05 or 2019-05-01, whole ones. near: latitude and longitude. within: km from there.
    limit: photos at most.
    """

    identities: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    unnamed: bool = False
    year: int | None = None
    since: str | None = None
    until: str | None = None
    near: Place | None = None
    within: float = WITHIN_KM
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"expected a limit of at least 1, received {self.limit}: give a larger one")
        if self.near is not None and on_earth(*self.near) is None:
            raise InputError(
                f"expected a latitude from -90 to 90 and a longitude from -180 to 180, received {self.near}: correct it"
            )
        if not self.within > 0:
            raise InputError(f"expected a distance above 0 km, received {self.within}: correct it")
        if self.year is not None and not 1 <= self.year <= 9999:
            raise InputError(f"expected a year from 1 to 9999, received {self.year}: correct it")
        start, end = self.start, self.end
        if start is not None and end is not None and start >= end:
            raise InputError("expected dates of which the first is not after the last: nothing can be between these")

    @property
    def start(self) -> int | None:
        """The first moment, in microseconds since the year 1."""
        given = [self._year(), None if self.since is None else _period("the first date", self.since)]
        return max((one.start for one in given if one is not None), default=None)

    @property
    def end(self) -> int | None:
        """The first moment that is too late."""
        given = [self._year(), None if self.until is None else _period("the last date", self.until)]
        return min((one.end for one in given if one is not None), default=None)

    def _year(self) -> Period | None:
        return None if self.year is None else period_of(f"{self.year:04}")


def _period(what: str, text: str) -> Period:
    found = period_of(text)
    if found is None:
        raise InputError(WHEN.format(what, text))
    return found


@dataclass
class _Known:
    """A photo by the hash of its bytes: the rows that it has, none in galleries of earlier versions."""

    image: str
    sha256: str | None
    rows: list[PhotoRow] = field(default_factory=list)

    @property
    def key(self) -> str:
        return _key(self.sha256, self.image)

    @property
    def moment(self) -> Period | None:
        """When it was taken."""
        taken = next((row.taken for row in self.rows if row.taken is not None), None)
        return None if taken is None else date_of(taken)

    @property
    def place(self) -> Place | None:
        """Where it was taken."""
        for row in self.rows:
            if row.latitude is not None and row.longitude is not None:
                return row.latitude, row.longitude
        return None


def photos(store: Store, asked: PhotoQuestion = PhotoQuestion()) -> results.GalleryPhotos:  # noqa: B008
    """Return the photos that are asked for, oldest first; those without a date last, by path.

    Raises Unknown for a person who is not enrolled.
    """
    chosen = _chosen(store, asked)
    start, end = asked.start, asked.end
    undated = unplaced = 0
    found: list[_Known] = []
    for photo in chosen:
        moment, place = photo.moment, photo.place
        if start is not None or end is not None:
            if moment is None:
                undated += 1
                continue
            if moment.start < (start or 0) or (end is not None and moment.start >= end):
                continue
        if asked.near is not None:
            if place is None:
                unplaced += 1
                continue
            if distance(place, asked.near) > asked.within:
                continue
        found.append(photo)
    found.sort(key=_order)
    shown = found if asked.limit is None else found[: asked.limit]
    return results.GalleryPhotos(tuple(_described(store, shown)), len(found), undated, unplaced)


def _order(photo: _Known) -> tuple[bool, int, str]:
    moment = photo.moment
    return moment is None, 0 if moment is None else moment.start, photo.image


def distance(a: Place, b: Place) -> float:
    """Return the kilometres between two places, along the earth."""
    (lat_a, lon_a), (lat_b, lon_b) = (tuple(map(radians, place)) for place in (a, b))
    chord = sin((lat_b - lat_a) / 2) ** 2 + cos(lat_a) * cos(lat_b) * sin((lon_b - lon_a) / 2) ** 2
    return 2 * EARTH_KM * asin(sqrt(min(1.0, chord)))


def _key(sha256: str | None, image: str) -> str:
    return sha256 or f"image {image}"


def _chosen(store: Store, asked: PhotoQuestion) -> list[_Known]:
    """Return the photos by who is in them."""
    ids = [store.person_id(name) for name in asked.identities]
    others = [store.person_id(name) for name in asked.without]
    found: dict[str, _Known] | None = None
    for one in (*(_of_person(store, id) for id in ids), *([_of_unnamed(store)] if asked.unnamed else ())):
        found = one if found is None else {key: photo for key, photo in found.items() if key in one}
    if found is None:
        found = _all(store)
    else:
        rows = store.photos_of(photo.sha256 for photo in found.values() if photo.sha256)
        for photo in found.values():
            photo.rows = rows.get(photo.sha256 or "", [])
    for id in others:
        for key in _of_person(store, id):
            found.pop(key, None)
    return list(found.values())


def _of_person(store: Store, id: int) -> dict[str, _Known]:
    return _known(store.rows("SELECT image_sha256, image FROM faces WHERE person = ? ORDER BY id", (id,)))


def _of_unnamed(store: Store) -> dict[str, _Known]:
    return _known(
        (face.columns["image_sha256"], face.image) for face in store.unnamed_faces() if face.place.state != "ignored"
    )


def _all(store: Store) -> dict[str, _Known]:
    """Return every photo that was looked at or has a face."""
    found = _known(store.rows("SELECT image_sha256, image FROM faces ORDER BY id"))
    for key, photo in _known((face.columns["image_sha256"], face.image) for face in store.unnamed_faces()).items():
        found.setdefault(key, photo)
    for row in store.photos():
        found.setdefault(_key(row.sha256, row.path or row.image), _Known(row.image, row.sha256)).rows.append(row)
    return found


def _known(pairs: Iterable[tuple]) -> dict[str, _Known]:
    found: dict[str, _Known] = {}
    for sha256, image in pairs:
        found.setdefault(_key(sha256, image), _Known(image, sha256))
    return found


def _described(store: Store, found: Sequence[_Known]) -> Iterator[results.GalleryPhoto]:
    """Yield photos with the people in them."""
    among = tuple(
        json.dumps([text for photo in found if (text := value(photo))])
        for value in (lambda p: p.sha256, lambda p: None if p.sha256 else p.image)
    )
    where = f"WHERE image_sha256 {AMONG} OR (image_sha256 IS NULL AND image {AMONG})"
    named: dict[str, list[tuple[str, str]]] = {}
    for row in store.rows(f"{FACES} {where} ORDER BY faces.id", among):
        face = store.checked_columns(row)
        named.setdefault(_key(face["image_sha256"], face["image"]), []).append((face["identity"], face["face_id"]))
    nameless: dict[str, list[tuple[bool, str]]] = {}
    wanted = {photo.key for photo in found}
    for one in store.unnamed_faces():
        if (key := _key(one.columns["image_sha256"], one.image)) in wanted:
            nameless.setdefault(key, []).append((one.place.state == "ignored", one.face_id))
    for photo in found:
        faces, loose = sorted(named.get(photo.key, [])), nameless.get(photo.key, [])
        yield _result(photo, faces, loose)


def _result(photo: _Known, faces: list[tuple[str, str]], loose: list[tuple[bool, str]]) -> results.GalleryPhoto:
    paths = [row.path for row in photo.rows if row.path is not None]
    latitude, longitude = photo.place or (None, None)
    return results.GalleryPhoto(
        image=photo.image,
        path=paths[0] if paths else None,
        copies=tuple(paths[1:]),
        taken=next((row.taken for row in photo.rows if row.taken is not None), None),
        latitude=latitude,
        longitude=longitude,
        people=tuple(dict.fromkeys(name for name, _ in faces)),
        unnamed=sum(not ignored for ignored, _ in loose),
        face_ids=(*(face_id for _, face_id in faces), *(face_id for _, face_id in loose)),
    )


# pictures -------------------------------------------------------------------


def draw_photos(where: Where, path: Path, found: results.GalleryPhotos) -> None:
    """Draw photos, TILES a row and ROWS rows at most, each with its date and people.

    Of a photo that is not there any more, or not as it was, a stored crop is drawn. Raises DataError where there is no
    photo.
    """
    check_replaceable(path, "picture")
    if not found:
        raise DataError("expected photos to draw, none fit what is asked for: ask for more")
    with session_of(where) as session, session.store() as store, store.reading(), Decoder() as decoder:
        tiles = [_tile(store, decoder, photo) for photo in found[: TILES * ROWS]]
        draw.save(draw.grid([tiles[i : i + TILES] for i in range(0, len(tiles), TILES)]), path)
    outputs.note(session.folder, "picture", path)


def _tile(store: Store, decoder: Decoder, photo: results.GalleryPhoto) -> draw.Tile:
    names = ", ".join([*photo.people, *([f"{photo.unnamed} unnamed"] if photo.unnamed else [])])
    date = (photo.taken or "").partition("T")[0]
    name = Path(photo.path or photo.image).name
    picture = _thumbnail(store, decoder, photo)
    return draw.Tile(picture, f"{printable(f'{date} {name}'.strip())}\n{printable(names)}")


def _thumbnail(store: Store, decoder: Decoder, photo: results.GalleryPhoto) -> np.ndarray | None:
    """Return a small picture of a photo, uint8 RGB, or of a face in it."""
    noted = store.photos_at([photo.path]) if photo.path is not None else {}
    for path, row in noted.items():
        file = Path(to_file(path))
        read = decoder.submit(file.parent, to_text(file.name)).result()
        if read.pixels is not None and read.sha256 == row.sha256:
            step = max(1, min(read.pixels.shape[:2]) // draw.TILE)
            return read.pixels[::step, ::step]
    for face_id in photo.face_ids:
        png = store.crop(face_id) or store.unnamed_crop(face_id)
        if png is not None:
            return crops_of.from_png(png)
    return None
