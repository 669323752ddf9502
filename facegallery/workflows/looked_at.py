"""Note in a gallery which photos were looked at: where they lie, when and where they were taken."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice

from facegallery.embedder.photos.decoder import WORKERS, Decoder, Photo
from facegallery.embedder.photos.filenames import to_text
from facegallery.indexer.store.photos import PhotoRow
from facegallery.indexer.store.store import Store
from facegallery.workflows.inputs import PhotoItem

AHEAD = 2 * WORKERS  # photos that wait decoded
BATCH = 512


def folder_text(folder: str | os.PathLike[str]) -> str:
    """Return the absolute path of a folder as the gallery notes it."""
    return to_text(os.path.realpath(folder))


def path_of(item: PhotoItem) -> str | None:
    """Return the absolute path of a photo; None where it is no file."""
    return None if item.root is None else f"{folder_text(item.root).rstrip('/')}/{item.entry.path}"


def photo_row(item: PhotoItem, photo: Photo) -> PhotoRow:
    """Return what is known of a photo after it was decoded."""
    width, height = photo.size or (None, None)
    latitude, longitude = photo.place or (None, None)
    taken = None if photo.taken is None else photo.taken.isoformat()
    return PhotoRow(
        image=item.entry.path,
        path=path_of(item),
        sha256=photo.sha256,
        bytes=None if item.entry.size < 0 else item.entry.size,
        mtime_ns=mtime_of(item),
        width=width,
        height=height,
        taken=taken,
        latitude=latitude,
        longitude=longitude,
        outcome=photo.outcome,
    )


def mtime_of(item: PhotoItem) -> int | None:
    """Return when a photo's file was changed; None where it is no file, or was not there."""
    return None if item.root is None or item.entry.mtime_ns < 0 else item.entry.mtime_ns


def note_known(store: Store, photos: Sequence[tuple[PhotoItem, str]]) -> None:
    """Note photos whose faces the gallery has already, each with the hash of its bytes.

    What is known of other copies is taken from these; others are decoded, for their size, date and place.
    """
    for i in range(0, len(photos), BATCH):
        block = [(item, sha256) for item, sha256 in photos[i : i + BATCH] if item.root is not None]
        store.note_photos(known_rows(store, block))


def known_rows(store: Store, photos: Sequence[tuple[PhotoItem, str]]) -> list[PhotoRow]:
    """Return rows of photos with these hashes, without those that are noted as they are."""
    noted = store.photos_at(path for item, _ in photos if (path := path_of(item)) is not None)
    todo = [(item, sha256) for item, sha256 in photos if not is_noted(item, sha256, noted.get(path_of(item) or ""))]
    copies = store.photos_of(sha256 for _, sha256 in todo)
    rows = [
        replace(copies[sha256][0], image=item.entry.path, path=path_of(item), mtime_ns=mtime_of(item))
        for item, sha256 in todo
        if sha256 in copies
    ]
    unseen = [item for item, sha256 in todo if sha256 not in copies]
    return rows + [photo_row(item, photo) for item, photo in _decoded(unseen)]


def is_noted(item: PhotoItem, sha256: str, noted: PhotoRow | None) -> bool:
    """Return whether a photo is noted as it is."""
    return noted is not None and (noted.sha256, noted.bytes, noted.mtime_ns) == (
        sha256,
        item.entry.size,
        mtime_of(item),
    )


def _decoded(items: Sequence[PhotoItem]) -> Iterator[tuple[PhotoItem, Photo]]:
    """Yield photos with what their files say, without their pixels; at most AHEAD wait decoded."""
    if not items:
        return
    with Decoder() as decoder:
        todo = ((item, item.submit(decoder)) for item in items)
        waiting: deque[tuple[PhotoItem, Future[Photo]]] = deque(islice(todo, AHEAD))
        while waiting:
            waiting.extend(islice(todo, 1))
            item, future = waiting.popleft()
            photo = future.result()
            photo.pixels = None
            yield item, photo
