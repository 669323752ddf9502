"""Find which files beside a photo may hold the faces that somebody drew in it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from facegallery.embedder.dataset.row import Entry
from facegallery.embedder.photos import picasa
from facegallery.embedder.photos.drawn import Beside
from facegallery.embedder.photos.listing import path_inside

SUFFIX = ".xmp"


def sidecars_of(root: Path, name: str) -> list[str]:
    """Return the paths where a photo's sidecars lie if there are any, links resolved; none outside of the root.

    `photo.jpg.xmp` as digiKam and darktable write it, then `photo.xmp` as Lightroom does.
    """
    names = dict.fromkeys((f"{name}{SUFFIX}", f"{os.path.splitext(name)[0]}{SUFFIX}"))
    return [path for one in names if (path := path_inside(root, one)) is not None]


def beside(root: Path, name: str) -> Beside:
    """Return what may lie beside a photo and hold its faces."""
    folder, _, photo = name.rpartition("/")
    names = (f"{folder}/{one}" if folder else one for one in picasa.NAMES)
    paths = [path for one in names if (path := path_inside(root, one)) is not None]
    return Beside(sidecars_of(root, name), paths, photo)


def _files(root: Path, name: str) -> list[str]:
    found = beside(root, name)
    return [*found.sidecars, *found.picasa]


def with_sidecars(root: Path, entry: Entry) -> Entry:
    """Return a photo's entry as one that changes when a sidecar does."""
    for path in _files(root, entry.path):
        try:
            status = os.stat(path)
        except OSError:
            continue
        entry = replace(
            entry,
            size=entry.size + status.st_size,
            mtime_ns=max(entry.mtime_ns, status.st_mtime_ns),
            ctime_ns=max(entry.ctime_ns or 0, status.st_ctime_ns),
        )
    return entry


def has_sidecar(root: Path, entry: Entry) -> bool:
    """Whether a sidecar lies beside a photo."""
    return any(map(os.path.exists, _files(root, entry.path)))
