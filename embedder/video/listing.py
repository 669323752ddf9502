"""List the videos of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from facegallery.embedder.dataset.row import Entry
from facegallery.embedder.errors import DataError
from facegallery.embedder.photos.filenames import to_file, to_text
from facegallery.embedder.photos.folders import is_system
from facegallery.embedder.photos.listing import Listing
from facegallery.embedder.video.kinds import HEAD, begins_as_video, has_video_suffix, is_ambiguous


def list_videos(source: str | Path) -> Listing:
    """List the videos of a folder, in the order of their names, or one video, whatever its name.

    Hidden folders, those of programs and links to folders are left out. Raise DataError where there is no video.
    """
    path = Path(source)
    if path.is_dir():
        names, root = sorted(map(to_text, _walk(path))), path
    elif path.is_file():
        names, root = [to_text(path.name)], path.parent
    else:
        raise DataError(f"expected a video or a folder of videos, {path} is not there: check the path")
    if not names:
        raise DataError(f"expected videos in {path}, found none (.mp4, .mov, .mkv, ... are searched): check the folder")
    return Listing(root, [_entry(root, name) for name in names])


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".") and not is_system(folder, name)]
        inside = os.path.relpath(folder, root)
        for name in files:
            if not name.startswith(".") and has_video_suffix(name) and _is_video(Path(folder, name)):
                yield name if inside == "." else f"{inside}/{name}"


def _is_video(path: Path) -> bool:
    """Whether a file with a video's suffix counts; a broken video does, so that a line tells of it."""
    if not is_ambiguous(path.name) or not path.is_file():
        return path.is_file()
    try:
        with path.open("rb") as file:
            return begins_as_video(file.read(HEAD))
    except OSError:
        return False


def _entry(root: Path, name: str) -> Entry:
    try:
        status = os.stat(root / to_file(name))
    except OSError:
        return Entry(name, -1, -1)
    return Entry(name, status.st_size, status.st_mtime_ns, inode=status.st_ino, ctime_ns=status.st_ctime_ns)
