"""Errors of a gallery, and the translation of SQLite's errors into them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import apsw

from facegallery.embedder.errors import FaceGalleryError, GalleryError, InputError, SystemFault, from_os_error


class Damaged(GalleryError):
    """Report that gallery.db itself is broken; `build-index --replace` makes a new one."""


class Busy(GalleryError):
    """Report that another process writes, or still reads an older state."""


class Replaced(GalleryError):
    """Report that the index was replaced, for example by vectors of another model; open it again."""


class Unknown(GalleryError):
    """Report that there is no such person, face or photo."""


def one_line(error: Exception, path: Path) -> FaceGalleryError | Exception:
    """Translate an SQLite error into one of ours; return a programming error unchanged."""
    reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    match error:
        case apsw.FullError():
            return from_os_error(OSError(errno.ENOSPC, "", str(path)))
        case apsw.CantOpenError() if not os.path.lexists(path):
            return replaced(path)
        case apsw.CantOpenError() | apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.AuthError():
            return from_os_error(OSError(errno.EACCES, "", str(path)))
        case apsw.IOError():
            return SystemFault(
                f"expected to read and write {path}, received {reason}: "
                "check the disk, its free space and limits on file sizes"
            )
        case apsw.BusyError() | apsw.LockedError() | apsw.ProtocolError():
            return Busy(
                f"expected {path} to be free, another process is writing to it: wait for that process and try again"
            )
        case apsw.CorruptError() | apsw.NotADBError() | apsw.FormatError() | apsw.SQLError() | UnicodeDecodeError():
            return damaged(path, reason)
        case apsw.NoMemError():
            return MemoryError()
        case UnicodeEncodeError(object=text):
            return InputError(f"expected text, received {text!r:.120}, which is not valid UTF-8: spell it in UTF-8")
    return error


def replaced(path: Path) -> Replaced:
    """Return the error for a gallery.db that was removed or replaced since it was found or opened."""
    return Replaced(f"expected {path} to stay as it was opened, it was replaced or removed: run the same command again")


def damaged(path: Path, reason: str) -> Damaged:
    """Return the error for a gallery.db that is broken for `reason`."""
    return Damaged(
        f"expected a sound gallery, {path} is damaged ({reason}): "
        "make the index again with `build-index --replace` or `restore`"
    )


@contextlib.contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Translate the SQLite errors of the block into ours."""
    try:
        yield
    except (apsw.Error, UnicodeError) as error:
        ours = one_line(error, path)
        if ours is error:
            raise
        raise ours from None
