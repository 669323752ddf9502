"""Files that are complete or not there at all, the temporary files they are written to, and locks that the kernel frees.

A temporary is called `_tmp-PID.START.NAMESPACE-...` (older versions: `_tmp-PID.START-...`) and is locked by the process that writes it,
so that another process, in another container too, can tell an unfinished file from a leftover. Any other name is the user's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO

LOCK = "_lock"
TEMPORARY = "_tmp-"
GRACE = 60.0  # seconds: from making a temporary to locking it, and for links, which cannot be locked
UNLOCKABLE_GRACE = 86400.0  # where the file system has no locks
# What follows is a number and a target's name, the 8 characters of `tempfile`, or 32 hex digits and what is built. Older versions had no
# namespace; ticks since the machine's start had 5 digits or more after 100 seconds, which no day, month or year has.
OWN_NAME = re.compile(
    TEMPORARY + r"(?P<pid>[0-9]+)\."
    r"(?:(?P<start>[0-9]+|ended)\.(?P<namespace>[0-9a-f]{8})-(?:[0-9]+-.+|[a-z0-9_]{8}|[0-9a-f]{32}-[a-z]+)|(?P<old_start>[0-9]{5,})-.+)",
    re.DOTALL,
)
NAME_KEPT = 40  # characters of the target's name in its temporary's
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_number = itertools.count()


# writing --------------------------------------------------------------------


def overwrite(temporary: Path, path: Path) -> None:
    """Give a finished temporary its name, whatever has it."""
    os.replace(temporary, path)


def write_atomic(path: Path, data: bytes, finish: Callable[[Path, Path], None] = overwrite) -> None:
    """Write a file: complete and on disk, or not there at all. finish: as in `atomic`."""
    with atomic(path, finish) as file:
        file.write(data)


@contextlib.contextmanager
def atomic(path: Path, finish: Callable[[Path, Path], None] = overwrite) -> Iterator[BinaryIO]:
    """Open a file for data that does not fit in memory: complete and on disk after the block, or not there at all.

    finish: gives the finished temporary its name.
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
    """Give a finished temporary its name; raise FileExistsError where something has it, even since a moment ago."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # nobody else gets the name from here on
        os.replace(temporary, path)
        return
    temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> Path:
    """Make a folder that only its owner may enter, and those above it where they are missing."""
    for missing in reversed([f for f in (folder, *folder.parents) if not f.exists()]):
        missing.mkdir(exist_ok=True, mode=0o700)
    return folder


# temporaries ----------------------------------------------------------------


def process_mark(pid: int) -> str:
    """Name a process by its number, its start (numbers come again) and the namespace in which it has that number."""
    try:
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        start = "ended"
    return f"{pid}.{start}.{_namespace()}"


@cache
def _namespace() -> str:
    """8 hex digits for this boot of this machine and this namespace of process numbers; two containers differ."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        text = f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        text = os.uname().nodename
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def temporary_prefix() -> str:
    """How the names of this process's temporary files and folders begin."""
    return f"{TEMPORARY}{process_mark(os.getpid())}-"


def temporary_beside(path: Path) -> Path:
    """A name that no other thread or process uses, in the folder of the file that it will become."""
    return path.parent / f"{temporary_prefix()}{next(_number)}-{path.name[-NAME_KEPT:].lstrip('_')}"


@contextlib.contextmanager
def temporary_folder(inside: Path) -> Iterator[Path]:
    """Make a folder that is locked while the block runs and removed after it."""
    with tempfile.TemporaryDirectory(dir=inside, prefix=temporary_prefix()) as name, held(Path(name)):
        yield Path(name)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock a temporary file or folder while the block runs, so that no other process takes it for a leftover."""
    fd = os.open(path, os.O_RDONLY)
    try:
        hold(fd)
        yield
    finally:
        os.close(fd)


def hold(fd: int) -> None:
    """Lock an open temporary until it is closed; without locks its process's mark has to do."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_SH)


def is_temporary(name: str) -> bool:
    """Whether this program gives temporaries such a name; every other file or folder is the user's."""
    return OWN_NAME.fullmatch(name) is not None


def drop_stale_temporaries(folder: Path) -> None:
    """Remove the temporaries that no process writes any more."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):  # another process has just removed or finished it
            if is_temporary(path.name) and _is_stale(path):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_stale(path: Path) -> bool:
    """Whether nobody holds the lock of a temporary, and its process is known to have ended, or it is not new."""
    locked = _is_locked(path)
    if locked:
        return False
    name = OWN_NAME.fullmatch(path.name)
    assert name is not None
    if name["namespace"] in (None, _namespace()):  # none in the names of older versions
        return process_mark(int(name["pid"])).split(".")[1] != (name["start"] or name["old_start"])
    age = time.time() - path.lstat().st_ctime
    return age > (GRACE if locked is False else UNLOCKABLE_GRACE)


def _is_locked(path: Path) -> bool | None:
    """Whether a process holds the lock of a temporary; None where that cannot be known."""
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
def locked(folder: Path, on_wait: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Hold the lock of a folder; the kernel frees it however the process ends.

    A folder that nobody may write to needs none. on_wait: receives one line, who holds the lock, before this process waits for it.
    """
    path = folder / LOCK
    if not os.access(folder, os.W_OK):
        yield
        return
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        try:
            _take(file, path, on_wait)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            on_wait(f"{folder} lies on a file system without locks: write to it with one command at a time")
        _write_holder(file)
        yield


def _take(file: BinaryIO, path: Path, on_wait: Callable[[str], None]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait(f"{path.parent} is being written by {_holder(file)}: waiting until it has finished")
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
