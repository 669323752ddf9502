"""List of the files that were written with people of an index, which a receipt of `forget` names.

    ROOT/_written/NAME.jsonl   a line for each file: its kind and its path

It holds hits, predictions, reports, pictures, exports and backups, but nothing that was printed. An index in a
read-only folder keeps no such list.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.files import write_atomic
from facegallery.indexer.store.forgotten import locked_path

FOLDER, ENDING = "_written", ".jsonl"


@dataclass(frozen=True)
class WrittenFile:
    """A file or folder, by its absolute path."""

    kind: str  # hits, predictions, report, picture, export, backup
    path: str


def list_path(folder: Path) -> Path:
    """Return the path of the list of the index in `folder`."""
    return folder.parent / FOLDER / f"{folder.name}{ENDING}"


def note(folder: Path, kind: str, path: Path) -> None:
    """Add a file to the list; do nothing where the list cannot be written."""
    output = WrittenFile(kind, str(path.resolve()))
    with contextlib.suppress(OSError, FaceGalleryError):
        if output in read(folder):
            return
        with locked_path(_lock_path(folder)), open(list_path(folder), "a", opener=_private, encoding="ascii") as file:
            file.write(_line(output))


def _lock_path(folder: Path) -> Path:
    return list_path(folder).with_suffix(".lock")


def _line(output: WrittenFile) -> str:
    return json.dumps(asdict(output)) + "\n"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def read(folder: Path) -> list[WrittenFile]:
    """Return the files on the list, each once; skip damaged lines."""
    try:
        lines = list_path(folder).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found: dict[WrittenFile, None] = {}
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            output = WrittenFile(**json.loads(line))
            if isinstance(output.kind, str) and isinstance(output.path, str):
                found[output] = None
    return list(found)


def rename(folder: Path, renamed: Callable[[str], str]) -> None:
    """Replace each path on the list by `renamed(path)`."""
    if not list_path(folder).exists():
        return
    with locked_path(_lock_path(folder)):
        before = read(folder)
        if (after := [WrittenFile(o.kind, renamed(o.path)) for o in before]) != before:
            write_atomic(list_path(folder), "".join(map(_line, after)).encode())
