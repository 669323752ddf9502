"""Every error a user can meet, each with the exit code that the command line returns.

    FaceGalleryError                70  our fault
    ├── InputError              2  a wrong option or argument
    ├── DataError               3  photos or Parquet data sets
    ├── ModelError              4  models and weights
    ├── GalleryError            5  galleries and indexes
    └── SystemFault             6  disk full, permission, a missing program

A message is one line in three parts: what was expected, what came, what to do.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator


class FaceGalleryError(Exception):
    """The root; raised itself only where the fault is ours."""

    exit_code = 70


class InputError(FaceGalleryError):
    exit_code = 2


class DataError(FaceGalleryError):
    exit_code = 3


class ModelError(FaceGalleryError):
    exit_code = 4


class GalleryError(FaceGalleryError):
    exit_code = 5


class SystemFault(FaceGalleryError):
    exit_code = 6


ADVICE = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again, it goes on",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again, it goes on",
    errno.EACCES: "permission denied: choose a folder that you may write to",
    errno.EPERM: "not permitted: choose a folder that you may write to",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another path",
    errno.EFBIG: "the file is larger than this system or `ulimit -f` allows: raise the limit",
    errno.EMFILE: "too many open files: raise `ulimit -n`",
}


def from_os_error(error: OSError) -> SystemFault:
    """The one-line fault for an error of the operating system."""
    what = ADVICE.get(error.errno or 0, error.strerror or str(error))
    return SystemFault(f"{error.filename}: {what}" if error.filename else what)


@contextlib.contextmanager
def system_faults() -> Iterator[None]:
    """Raise an error of the operating system as its one-line fault."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error) from None
