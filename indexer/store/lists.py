"""Who was forgotten from the indexes of a root, those too whose gallery.db is lost or damaged."""

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


def recover(folder: Path, readmit: bool = False) -> Forgotten:
    """The list of an index whose gallery.db may be lost or damaged: by its file, and by what can still be read of gallery.db.

    Raises Unreadable where neither can be read, unless `readmit`: forgotten people could come back. Empty where there was no index.
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


def begin(folder: Path, readmit: bool = False, encrypted: bool = False) -> Forgotten:
    """`recover`, with a salt, and on disk in the file: to be called before gallery.db is made, or made anew."""
    known = recover(folder, readmit)
    if encrypted and environment_key() is None:
        raise no_key(folder)
    if not known.salts:
        known = Forgotten({os.urandom(SALT_BYTES): {}})
    write(folder, known, environment_key() if encrypted else None)
    return known


def unknown(folder: Path, reason: str) -> Unreadable:
    return Unreadable(
        f"expected to know who was forgotten from {folder.name}, neither its gallery.db nor its list says it ({reason}): with --readmit people who "
        "were forgotten may come back"
    )


def in_gallery(folder: Path) -> Forgotten | None:
    """The list by gallery.db, damaged elsewhere perhaps; None where it cannot be read whole."""
    if not _size(folder / FILE):
        return None
    with contextlib.suppress(FaceGalleryError), Store(folder, False) as store:
        lost = store.generation == 0 and os.path.lexists(folder / LINK)
        return None if lost else store.forgotten()
    return None


def elsewhere(folder: Path, enrolled: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each other index of the root that faces (face_id, name) of this one were forgotten from."""
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
        f"{len(people)} people who were forgotten from {index}, or have the name of one, are enrolled here, such as {min(people)!r}: each index "
        f"forgets for itself, `forget {folder.name} --identity P` takes them out of this one, too"
        for index, people in found.items()
        if people
    ]


def was_there(folder: Path) -> bool:
    """Whether an index was ever finished here, or begun and encrypted."""
    return os.path.lexists(folder / LINK) or (folder / CIPHER_FILE).exists() or _size(folder / FILE) > 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def lists(root: Path) -> Iterator[tuple[str, Forgotten | Unreadable]]:
    """The list of each index of a root, by name, of those that are gone too; or why it cannot be read."""
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
