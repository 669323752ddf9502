"""Faults for tests: processes killed while they change files, files that cannot grow, rows changed by another hand."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import apsw


def killed_fork(work: Callable[[], object], at: int, calls_of_os: Sequence[str]) -> int:
    """The status of a fork that is killed before the at-th of these calls; 0: of none. An open for reading is none."""
    if pid := os.fork():
        return os.waitpid(pid, 0)[1]
    try:
        left, calls = at, {name: getattr(os, name) for name in calls_of_os}
        for name in calls:

            def deadly(*args, name=name, **kwargs):
                nonlocal left
                left -= name != "open" or bool(args[1] & os.O_WRONLY)
                if at and left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return calls[name](*args, **kwargs)

            setattr(os, name, deadly)
        os.fsync = lambda fd: None  # a kill loses nothing of what was written
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limit the files of this process; Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def sql(folder: Path, statement: str, bindings: tuple = ()) -> list[tuple]:
    """Run a statement on an index behind the gallery's back."""
    db = apsw.Connection(str(folder / "gallery.db"))
    try:
        return list(db.execute(statement, bindings))
    finally:
        db.close()
