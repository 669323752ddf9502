"""Take in the photos of a folder as they come."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from facegallery import results
from facegallery.embedder.errors import DataError, SystemFault
from facegallery.workflows.session import GallerySession
from facegallery.workflows.sync import SyncOptions, check_folder, sync

QUIET_MS = 500  # that nothing changes before a batch is taken
LONGEST_MS = 5000  # that a batch waits while files keep changing
LOOK_MS = 1000  # between two looks at files that were still written to, and at whether the folder is there
MOST = 10_000  # paths that wait; of more, the whole folder is looked at
Mark = tuple[int, int] | None  # size and time of a file; None for a folder, or where there is none


def watch(
    session: GallerySession,
    folder: Path,
    options: SyncOptions = SyncOptions(),  # noqa: B008
    *,
    stop: threading.Event | None = None,
) -> Iterator[results.Synced]:
    """Yield what each `sync` of a folder did: first of all of it, then of the paths that changed.

    A file that is still written to waits until its size and time stay as they are. stop: ends the watch when it is set.
    Raises SystemFault where watchfiles is not installed, DataError where the folder disappears.
    """
    changes = _watchfiles()
    check_folder(session.name, Path(folder))
    folder, stop = Path(os.path.realpath(folder)), stop or threading.Event()
    waiting = Waiting(folder)
    with_watch = changes(
        folder,
        stop_event=stop,
        debounce=LONGEST_MS,
        step=QUIET_MS,
        rust_timeout=LOOK_MS,
        yield_on_timeout=True,
        raise_interrupt=True,
        recursive=True,
        watch_filter=None,
    )
    # the watch begins at its first step, and the first look at the folder comes after that: nothing falls in between
    waiting.everything = True
    for seen in with_watch:
        if not folder.is_dir():
            raise DataError(f"expected the folder {folder} to watch, it is gone: start again when it is back")
        waiting.add(path for _, path in seen)
        batch = waiting.settled()
        if batch is None:
            yield sync(session, folder, options)
        elif batch:
            done = sync(session, folder, options, paths=batch)
            if done.new or done.changed or done.moved or done.gone or done.failed:
                yield done


def _watchfiles():  # type: ignore[no-untyped-def]  # the package may be missing
    try:
        import watchfiles
    except ModuleNotFoundError:
        raise SystemFault(
            "expected watchfiles to watch a folder, it is not installed: run `pip install 'facegallery[watch]'`, or "
            "use `sync` from time to time"
        ) from None
    return watchfiles.watch


@dataclass
class Waiting:
    """Paths below a folder that changed and were not taken yet; MOST at most, else the whole folder waits."""

    folder: Path
    everything: bool = False
    marks: dict[str, tuple[Mark, float]] = field(default_factory=dict)  # what was seen of each, and when
    quiet: float = QUIET_MS / 1000  # seconds that a file must stay as it is

    def add(self, paths: Iterable[str]) -> None:
        """Note paths that changed, absolute ones; what lies outside of the folder is left out."""
        now = time.monotonic()
        for path in paths:
            name = os.path.relpath(path, self.folder)
            if not name.startswith(".."):
                self.marks[name] = (mark_of(path), now)
        if len(self.marks) > MOST:
            self.everything = True
            self.marks.clear()

    def settled(self) -> list[str] | None:
        """Take out and return the paths that stayed as they are; None where the whole folder waits."""
        if self.everything:
            self.everything = False
            self.marks.clear()
            return None
        now, ready = time.monotonic(), []
        for name, (mark, since) in list(self.marks.items()):
            seen = mark_of(os.path.join(self.folder, name))
            if seen != mark:
                self.marks[name] = (seen, now)
            elif now - since >= self.quiet:
                del self.marks[name]
                ready.append(name)
        return ready


def mark_of(path: str) -> Mark:
    """Return the size and time of a file; None for a folder, or where nothing is."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return None if os.path.isdir(path) else (status.st_size, status.st_mtime_ns)
