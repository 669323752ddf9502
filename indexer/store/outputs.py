"""Which files were written with the people of an index, so that a receipt of `forget` can name them.

    ROOT/_written/NAME.jsonl   a line for each file: what it is and where it lies

Hits, predictions, reports, pictures, exports and backups; not what was printed. An index of a folder that cannot be written keeps no such
list.
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
    """Where the list of the index in `folder` lies."""
    return folder.parent / FOLDER / f"{folder.name}{ENDING}"


def note(folder: Path, kind: str, path: Path) -> None:
    """Enters a file; where the list cannot be written it stays as it is."""
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
    """The files that were entered, each once; lines that are damaged are left out."""
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
    """Puts other paths in place of those on the list."""
    if not list_path(folder).exists():
        return
    with locked_path(_lock_path(folder)):
        before = read(folder)
        if (after := [WrittenFile(o.kind, renamed(o.path)) for o in before]) != before:
            write_atomic(list_path(folder), "".join(map(_line, after)).encode())
