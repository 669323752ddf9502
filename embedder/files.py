"""Write files atomically, name and clean up temporary files, and lock folders.

A temporary is named `_tmp-PID.START.NAMESPACE-...` (older versions: `_tmp-PID.START-...`). The process that writes it
holds a lock on it, so that another process, even in another container, can tell an unfinished file from a leftover.
Files with any other name belong to the user.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

LOCK = "_lock"
TEMPORARY = "_tmp-"
GRACE = 60.0  # seconds that an unlocked temporary, or a link, which cannot be locked, is left alone
UNLOCKABLE_GRACE = 86400.0  # the same on a file system without locks
# The prefix is followed by a number and the target's name, by the 8 characters of `tempfile`, or by 32 hex digits and a
# word. Older versions had no namespace; their start, in ticks since boot, has at least 5 digits, unlike a day or year.
OWN_NAME = re.compile(
    TEMPORARY + r"(?P<pid>[0-9]+)\."
    r"(?:(?P<start>[0-9]+|ended)\.(?P<namespace>[0-9a-f]{8})-(?:[0-9]+-.+|[a-z0-9_]{8}|[0-9a-f]{32}-[a-z]+)"
    r"|(?P<old_start>[0-9]{5,})-.+)",
    re.DOTALL,
)
NAME_KEPT = 40  # characters of the target's name that the name of its temporary repeats
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_number = itertools.count()


# writing --------------------------------------------------------------------


def overwrite(temporary: Path, path: Path) -> None:
    """Rename a finished temporary to `path`; replace any file there."""
    os.replace(temporary, path)


def write_atomic(path: Path, data: bytes, finish: Callable[[Path, Path], None] = overwrite) -> None:
    """Write a file so that it is complete and on disk, or not there at all. finish: as for `atomic`."""
    with atomic(path, finish) as file:
        file.write(data)


@contextlib.contextmanager
def atomic(path: Path, finish: Callable[[Path, Path], None] = overwrite) -> Iterator[BinaryIO]:
    """Open a file for writing so that it is complete and on disk after the block, or not there at all.

    finish: called with the finished temporary and `path`; renames the temporary. Use this function for data that does
    not fit in memory.
    """
    temporary = temporary_beside(path)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            hold(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
            finish(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    sync_folder(path.parent)


def place(temporary: Path, path: Path) -> None:
    """Rename a finished temporary to `path`; raise FileExistsError if `path` exists, even if it has just appeared."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # reserves the name
        os.replace(temporary, path)
        return
    temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that renames in it survive a crash."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> Path:
    """Create a folder and its missing parents with mode 0700; return the folder."""
    for missing in reversed([f for f in (folder, *folder.parents) if not f.exists()]):
        missing.mkdir(exist_ok=True, mode=0o700)
    return folder


# temporaries ----------------------------------------------------------------


def process_mark(pid: int) -> str:
    """Return `PID.START.NAMESPACE`, which names one process: start time and namespace tell reused numbers apart."""
    try:
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        start = "ended"
    return f"{pid}.{start}.{_namespace()}"


@cache
def _namespace() -> str:
    """Return 8 hex digits for this boot and this namespace of process numbers; two containers differ."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        text = f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        text = os.uname().nodename
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def temporary_prefix() -> str:
    """Return the prefix of the names of this process's temporary files and folders."""
    return f"{TEMPORARY}{process_mark(os.getpid())}-"


def temporary_beside(path: Path) -> Path:
    """Return a path in the folder of `path` that no other thread or process uses."""
    return path.parent / f"{temporary_prefix()}{next(_number)}-{path.name[-NAME_KEPT:].lstrip('_')}"


@contextlib.contextmanager
def temporary_folder(inside: Path) -> Iterator[Path]:
    """Create a folder that is locked while the block runs and removed afterwards."""
    with tempfile.TemporaryDirectory(dir=inside, prefix=temporary_prefix()) as name, held(Path(name)):
        yield Path(name)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock a temporary file or folder while the block runs, so that no other process removes it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        hold(fd)
        yield
    finally:
        os.close(fd)


def hold(fd: int) -> None:
    """Lock an open temporary until it is closed; do nothing on a file system without locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_SH)


def is_temporary(name: str) -> bool:
    """Whether a name has the form of this program's temporaries; any other file belongs to the user."""
    return OWN_NAME.fullmatch(name) is not None


def drop_stale_temporaries(folder: Path) -> None:
    """Remove the temporaries in a folder that no running process writes."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):  # another process has just removed or finished it
            if is_temporary(path.name) and _is_stale(path):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_stale(path: Path) -> bool:
    """Whether a temporary is unlocked and its process has ended, or is unknown and the temporary is old."""
    locked = _is_locked(path)
    if locked:
        return False
    name = OWN_NAME.fullmatch(path.name)
    assert name is not None
    if name["namespace"] in (None, _namespace()):  # None: named by an older version
        return process_mark(int(name["pid"])).split(".")[1] != (name["start"] or name["old_start"])
    age = time.time() - path.lstat().st_ctime
    return age > (GRACE if locked is False else UNLOCKABLE_GRACE)


def _is_locked(path: Path) -> bool | None:
    """Whether a process holds the lock of a temporary; None where the file system has no locks."""
    if path.is_symlink():
        return False
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(fd)


# locks ----------------------------------------------------------------------


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder while the block runs; the kernel frees it however the process ends.

    Log a line, with the process that holds the lock, before waiting for it. Take no lock of a read-only folder.
    """
    path = folder / LOCK
    if not os.access(folder, os.W_OK):
        yield
        return
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        try:
            _take(file, path)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            log.warning("%s lies on a file system without locks: write to it with one command at a time", folder)
        _write_holder(file)
        yield


def _take(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("%s is being written by %s: waiting until it has finished", path.parent, _holder(file))
        fcntl.flock(file, fcntl.LOCK_EX)


def _holder(file: BinaryIO) -> str:
    try:
        who = json.loads(file.read(4096))
        return f"process {int(who['process'])} on {str(who['host'])[:64]!r}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def _write_holder(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps({"process": os.getpid(), "host": os.uname().nodename}).encode())
    file.flush()
