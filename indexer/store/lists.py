"""Lists of forgotten people of all indexes of a root, including indexes whose gallery.db is lost or damaged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from facegallery.embedder.errors import FaceGalleryError
from facegallery.indexer.store.checksums import SALT_BYTES
from facegallery.indexer.store.database import CIPHER_FILE, FILE, LINK, environment_key, no_key
from facegallery.indexer.store.forgotten import ENDING, FOLDER, Forgotten, Unreadable, list_path, read, write
from facegallery.indexer.store.store import Store


def recover(folder: Path, *, readmit: bool = False) -> Forgotten:
    """Return the list of an index from its file and from what is readable in gallery.db.

    The list is empty where no index was. Raises Unreadable where neither source is readable, unless `readmit`:
    otherwise forgotten people could return unnoticed.
    """
    listed, reason = None, None
    try:
        listed = read(folder)
    except Unreadable as error:
        reason = str(error)
    held = in_gallery(folder)
    if listed is None and held is None and (reason or was_there(folder)) and not readmit:
        raise unknown(folder, reason or f"{list_path(folder)} is not there")
    return (Forgotten() if listed is None else listed) | (Forgotten() if held is None else held)


def begin(folder: Path, *, readmit: bool = False, encrypted: bool = False) -> Forgotten:
    """Write the list of an index to its file, with a salt, and return it.

    Call it before gallery.db is made, or made again. Raises Unreadable as `recover` does, GalleryError for a missing
    key.
    """
    known = recover(folder, readmit=readmit)
    if encrypted and environment_key() is None:
        raise no_key(folder)
    if not known.salts:
        known = Forgotten({os.urandom(SALT_BYTES): {}})
    write(folder, known, environment_key() if encrypted else None)
    return known


def unknown(folder: Path, reason: str) -> Unreadable:
    """Return the error for an index whose list of forgotten people is lost."""
    return Unreadable(
        f"expected the list of who was forgotten from {folder.name}, neither gallery.db nor the file has it "
        f"({reason}): restore one of them, or give --readmit, with which forgotten people may return"
    )


def in_gallery(folder: Path) -> Forgotten | None:
    """Read the list from gallery.db, which may be damaged elsewhere; None where the list is not complete."""
    if not _size(folder / FILE):
        return None
    with contextlib.suppress(FaceGalleryError), Store(folder, writable=False) as store:
        lost = store.generation == 0 and os.path.lexists(folder / LINK)
        return None if lost else store.forgotten()
    return None


def elsewhere(folder: Path, enrolled: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each other index of the root that has forgotten somebody enrolled here.

    enrolled: (face_id, name) of the faces of this index.
    """
    others = {
        name: listed
        for name, listed in lists(folder.parent)
        if name != folder.name and isinstance(listed, Forgotten) and listed
    }
    found: dict[str, set[str]] = {index: set() for index in others}
    named: dict[str, set[str]] = {}
    for face_id, name in enrolled if others else ():
        if name not in named:
            named[name] = {index for index, listed in others.items() if listed.holds(f"name:{name}")}
        for index, listed in others.items():
            if index in named[name] or listed.holds(face_id):
                found[index].add(name)
    return [
        f"{len(people)} people who were forgotten from {index}, or have the name of one, are enrolled here, "
        f"such as {min(people)!r}: each index forgets for itself, `forget {folder.name} --identity P` removes them here"
        for index, people in found.items()
        if people
    ]


def was_there(folder: Path) -> bool:
    """Return whether an index was ever finished in `folder`, or begun with encryption."""
    return os.path.lexists(folder / LINK) or (folder / CIPHER_FILE).exists() or _size(folder / FILE) > 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def lists(root: Path) -> Iterator[tuple[str, Forgotten | Unreadable]]:
    """Yield (name, list) for each index of a root, also for deleted ones; instead of an unreadable list, its error."""
    names = {path.name.removesuffix(ENDING) for path in (root / FOLDER).glob(f"[!_]*{ENDING}")}
    names |= {path.parent.name for file in (FILE, LINK) for path in root.glob(f"[!_]*/{file}")}
    for name in sorted(names):
        with contextlib.suppress(Unreadable):
            if (listed := read(root / name)) is not None:
                yield name, listed
                continue
        try:
            yield name, recover(root / name)
        except Unreadable as error:
            yield name, error
