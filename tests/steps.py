"""Counts all that a process writes, ours and SQLite's, and stops or fails at the n-th of these steps.

Steps are the writes, syncs, truncations and removals that SQLite asks of the system, seen by a VFS below its own, and
for our own files the opening for writing, writes, syncs, renames, links and removals. Nothing is really synced: what
was not synced is what `POWER` loses.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import numpy as np

KILL = "kill"  # SIGKILL before the n-th step; before the next one is after it
TORN = "torn"  # SIGKILL in the middle of a write
POWER = "power"  # what was not synced is lost, in part or whole
FAIL = "fail"  # the n-th step gives an error
FULL = "full"  # from the n-th step on the disk takes nothing more
MODES = (KILL, TORN, POWER, FAIL, FULL)

REAL = {
    name: getattr(os, name)
    for name in ("open", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir", "symlink", "fdopen")
}
REFUSED = ("write", "open", "mkdir", "symlink", "rename", "copy")  # by a full disk


class Steps:
    """The plan of this process: which step ends it, and how. Nothing is counted before `arm`."""

    def __init__(self) -> None:
        self.armed, self.at, self.mode, self.taken = False, 0, KILL, 0
        self.names: list[str] = []
        self.failed = False
        self.disk = Disk()

    def arm(self, mode: str, at: int) -> None:
        """Steps count from here on; at 0 none is the last."""
        self.armed, self.mode, self.at = True, mode, at
        apsw.set_default_vfs("multipleciphers-stepped")

    @contextlib.contextmanager
    def paused(self):
        """For the test's own reading in between."""
        armed, self.armed = self.armed, False
        try:
            yield
        finally:
            self.armed = armed

    def step(
        self, what: str, path: object, error: Callable[[], Exception], half: Callable[[], object] | None = None
    ) -> None:
        """To be called before each step. half: does it in part."""
        if not self.armed:
            return
        self.taken += 1
        self.names.append(f"{what} {os.path.basename(str(path))}")
        if self.at and (self.taken >= self.at and what in REFUSED if self.mode == FULL else self.taken == self.at):
            self._end(error, half)

    def finished(self) -> None:
        """The place after the last step."""
        if self.mode not in (FAIL, FULL):
            self.step("end", "", RuntimeError)

    def _end(self, error: Callable[[], Exception], half: Callable[[], object] | None) -> None:
        if self.mode in (FAIL, FULL):
            self.failed = True
            raise error()
        self.armed = False
        if self.mode == TORN and half is not None:
            half()
        if self.mode == POWER:
            self.disk.lose(np.random.default_rng(self.at))
        os.kill(os.getpid(), signal.SIGKILL)


class Disk:
    """What has been done since the last sync of each file and folder, and how to undo it."""

    def __init__(self) -> None:
        self._writes: list[
            tuple[tuple, int, int, bytes, bytes | None]
        ] = []  # file, descriptor, offset, what was there, what came
        self._entries: list[tuple[Path, Callable[[], object]]] = []  # folder, how to undo

    def wrote(self, fd: int, offset: int, old: bytes, new: bytes | None) -> None:
        """`new` instead of `old` at the offset; None if the file ends there now."""
        self._writes.append((_inode(fd), fd, offset, old, new))

    def synced(self, fd: int) -> None:
        """A file, or a folder's names."""
        self._writes = [write for write in self._writes if write[0] != _inode(fd)]
        folder = os.readlink(f"/proc/self/fd/{fd}")
        self._entries = [entry for entry in self._entries if str(entry[0]) != folder]

    def created_synced(self, path: Path) -> None:
        """SQLite syncs the folder with a new file's first sync."""
        self._entries = [entry for entry in self._entries if entry[0] != path.parent]

    def changed(self, path: object, undo: Callable[[], object]) -> None:
        """A name of a folder."""
        self._entries.append((Path(os.path.abspath(str(path))).parent, undo))

    def lose(self, rng: np.random.Generator) -> None:
        """Keep any of the writes and the first so many of the names, as a file system with a journal of names does."""
        for _, fd, offset, old, new in reversed(self._writes):
            if new is None:
                os.pwrite(fd, old, offset)
            else:
                os.ftruncate(fd, offset + len(old)) if len(old) < len(new) else None
                os.pwrite(fd, old, offset)
        if rng.random() < 0.5:
            for _, fd, offset, _, new in self._writes:
                if rng.random() < 0.5:
                    os.ftruncate(fd, offset) if new is None else os.pwrite(fd, new, offset)
        for _, undo in reversed(self._entries[rng.integers(len(self._entries) + 1) :]):
            with contextlib.suppress(FileNotFoundError):
                undo()


def _inode(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


STEPS = Steps()


# SQLite ---------------------------------------------------------------------


class File(apsw.VFSFile):
    """A file of SQLite's."""

    def __init__(self, name: Any, flags: list[int]):
        self.path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "temporary")
        new = name is not None and not self.path.exists()
        super().__init__("unix", name, flags)
        # held until the process ends: closing it would give up SQLite's locks
        self.fd = REAL["open"](self.path, os.O_RDWR) if STEPS.armed and name is not None and self.path.exists() else -1
        self.new = new and self.fd >= 0
        if self.new and STEPS.armed:
            STEPS.disk.changed(self.path, lambda: REAL["unlink"](self.path))

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        data = bytes(data)
        half = data[: len(data) // 2]
        STEPS.step(
            "write",
            self.path,
            lambda: apsw.FullError("database or disk is full"),
            lambda: os.pwrite(self.fd, half, offset),
        )
        if STEPS.armed and self.fd >= 0:
            STEPS.disk.wrote(self.fd, offset, os.pread(self.fd, len(data), offset), data)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        STEPS.step("sync", self.path, lambda: apsw.IOError("disk I/O error"))
        if STEPS.armed and self.fd >= 0:
            STEPS.disk.synced(self.fd)
            if self.new:
                self.new = False
                STEPS.disk.created_synced(self.path)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        STEPS.step("truncate", self.path, lambda: apsw.IOError("disk I/O error"))
        if STEPS.armed and self.fd >= 0:
            STEPS.disk.wrote(self.fd, size, os.pread(self.fd, os.fstat(self.fd).st_size, size), None)
        super().xTruncate(size)


class VFS(apsw.VFS):
    """Below SQLite's own, which encrypts, so that what is counted is what reaches the disk."""

    def __init__(self) -> None:
        super().__init__("stepped", "unix")

    def xOpen(self, name: Any, flags: list[int]) -> File:  # noqa: N802
        return File(name, flags)

    def xDelete(self, name: str, sync: bool) -> None:  # noqa: N802
        if not os.path.exists(name):
            return super().xDelete(name, sync)
        STEPS.step("unlink", name, lambda: apsw.IOError("disk I/O error"))
        if STEPS.armed:
            STEPS.disk.changed(name, _back(name))
            if sync:
                STEPS.disk.created_synced(Path(name))
        return super().xDelete(name, False)


# ours -----------------------------------------------------------------------


class Raw(io.FileIO):
    """A file of ours that is being written."""

    def write(self, data: Any) -> int:
        data = bytes(data)
        half = data[: len(data) // 2]
        path = os.readlink(f"/proc/self/fd/{self.fileno()}")
        STEPS.step("write", path, lambda: OSError(errno.ENOSPC, "no space"), lambda: os.write(self.fileno(), half))
        if STEPS.armed:
            STEPS.disk.wrote(os.dup(self.fileno()), self.tell(), b"", data)
        return super().write(data) or 0


def _fdopen(fd: int, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
    return (
        io.BufferedWriter(Raw(fd, mode)) if STEPS.armed and mode == "wb" else REAL["fdopen"](fd, mode, *args, **kwargs)
    )


def _open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
    if STEPS.armed and flags & (os.O_WRONLY | os.O_RDWR):
        STEPS.step("open", path, lambda: OSError(errno.ENOSPC, "no space", str(path)))
        if not os.path.exists(path):
            STEPS.disk.changed(path, lambda: REAL["unlink"](path))
    return REAL["open"](path, flags, *args, **kwargs)


def _fsync(fd: int) -> None:
    STEPS.step("sync", os.readlink(f"/proc/self/fd/{fd}"), lambda: OSError(errno.EIO, "input/output error"))
    if STEPS.armed:
        STEPS.disk.synced(fd)


def _rename(old: Any, new: Any, **kwargs: Any) -> None:
    STEPS.step("rename", new, lambda: OSError(errno.ENOSPC, "no space", str(new)))
    if STEPS.armed:
        back = _back(new) if os.path.lexists(new) else lambda: None
        STEPS.disk.changed(new, lambda: (REAL["rename"](new, old), back()))
    REAL["replace"](old, new, **kwargs)


def _mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
    STEPS.step("mkdir", path, lambda: OSError(errno.ENOSPC, "no space", str(path)))
    REAL["mkdir"](path, *args, **kwargs)
    if STEPS.armed:
        STEPS.disk.changed(path, lambda: shutil.rmtree(path))


def _symlink(to: Any, path: Any, *args: Any, **kwargs: Any) -> None:
    STEPS.step("symlink", path, lambda: OSError(errno.ENOSPC, "no space", str(path)))
    REAL["symlink"](to, path, *args, **kwargs)
    if STEPS.armed:
        STEPS.disk.changed(path, lambda: REAL["unlink"](path))


def _remove(name: str) -> Callable:
    def remove(path: Any, dir_fd: int | None = None) -> None:
        full = path if dir_fd is None else os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        if not STEPS.armed or not os.path.lexists(full):
            return REAL[name](path, dir_fd=dir_fd)
        STEPS.step(name, full, lambda: OSError(errno.EIO, "input/output error", str(full)))
        back = _back(full)
        REAL[name](path, dir_fd=dir_fd)
        STEPS.disk.changed(full, back)

    return remove


def _back(path: Any) -> Callable[[], object]:
    """Brings a file, link or empty folder back that is removed after this call."""
    if os.path.islink(path):
        to = os.readlink(path)
        return lambda: REAL["symlink"](to, path)
    if os.path.isdir(path):
        return lambda: REAL["mkdir"](path, 0o700)
    with open(path, "rb") as file:
        data = file.read()
    return lambda: Path(path).write_bytes(data)


def _copyfile(source: Any, target: Any, **kwargs: Any) -> Any:
    STEPS.step("copy", target, lambda: OSError(errno.ENOSPC, "no space", str(target)))
    return COPYFILE(source, target, **kwargs)


COPYFILE = shutil.copyfile
_vfs: VFS | None = None  # SQLite does not keep it alive


def install(folder: Path) -> None:
    """After this a fork of this process takes counted steps once its STEPS are armed."""
    global _vfs
    _vfs = VFS()
    apsw.Connection(str(folder / "_first.db"), vfs="multipleciphers-stepped").close()  # makes that name known
    ours = {
        "open": _open,
        "fsync": _fsync,
        "replace": _rename,
        "rename": _rename,
        "unlink": _remove("unlink"),
        "rmdir": _remove("rmdir"),
        "mkdir": _mkdir,
        "symlink": _symlink,
        "fdopen": _fdopen,
    }
    for name, call in ours.items():
        setattr(os, name, call)
    shutil.copyfile = _copyfile
