"""Define every error that a user can meet, each with the exit code of the command line.

    FaceGalleryError           70  a fault of this program
    ├── InputError              2  a wrong option or argument
    ├── DataError               3  photos or Parquet data sets
    ├── ModelError              4  models and weights
    ├── GalleryError            5  galleries and indexes
    └── SystemFault             6  disk full, permission, a missing program

A message is one line in three parts: `expected X, received Y: do Z`.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator


class FaceGalleryError(Exception):
    """Root of all errors; raised itself only for a fault of this program."""

    exit_code = 70


class InputError(FaceGalleryError):
    """An option or argument is wrong."""

    exit_code = 2


class DataError(FaceGalleryError):
    """A photo, a CSV or a Parquet data set is wrong or missing."""

    exit_code = 3


class ModelError(FaceGalleryError):
    """A model or its weights are wrong or missing."""

    exit_code = 4


class GalleryError(FaceGalleryError):
    """A gallery or an index is wrong or missing."""

    exit_code = 5


class SystemFault(FaceGalleryError):
    """The operating system refuses: the disk is full, permission is denied, a program is missing."""

    exit_code = 6


def reason(error: Exception, most: int = 100) -> str:
    """Return the first line of an error's message, or its type, in at most `most` characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:most]


ADVICE = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again to resume",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again to resume",
    errno.EACCES: "permission denied: choose a folder that you may write to",
    errno.EPERM: "not permitted: choose a folder that you may write to",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another path",
    errno.EFBIG: "the file is larger than this system or `ulimit -f` allows: raise the limit",
    errno.EMFILE: "too many open files: raise `ulimit -n`",
}


def from_os_error(error: OSError) -> SystemFault:
    """Convert an error of the operating system to a SystemFault with a one-line message."""
    what = ADVICE.get(error.errno or 0, error.strerror or str(error))
    return SystemFault(f"{error.filename}: {what}" if error.filename else what)


@contextlib.contextmanager
def system_faults() -> Iterator[None]:
    """Raise errors of the operating system inside the block as SystemFault."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error) from None
