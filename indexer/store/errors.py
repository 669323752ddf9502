"""The errors of a gallery, and what SQLite's own become."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import apsw

from facegallery.embedder.errors import FaceGalleryError, GalleryError, InputError, SystemFault, from_os_error


class Damaged(GalleryError):
    """The file itself is broken; `build-index --replace` makes a new one."""


class Busy(GalleryError):
    """Another process writes, or reads an older state."""


class Replaced(GalleryError):
    """The index has the vectors of another model now: what was opened before it must be opened again."""


class Unknown(GalleryError):
    """There is no such person, face or photo."""


def one_line(error: Exception, path: Path) -> FaceGalleryError | Exception:
    """An error of SQLite as one of ours; a fault of our own stays what it was."""
    reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    match error:
        case apsw.FullError():
            return from_os_error(OSError(errno.ENOSPC, "", str(path)))
        case apsw.CantOpenError() | apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.AuthError():
            return from_os_error(OSError(errno.EACCES, "", str(path)))
        case apsw.IOError():
            return SystemFault(
                f"{path}: could not be read or written ({reason}): check the disk, its free space and limits on file sizes"
            )
        case apsw.BusyError() | apsw.LockedError() | apsw.ProtocolError():
            return Busy(
                f"expected {path} to be free, another process is writing to it: wait until it has ended and try again"
            )
        case apsw.CorruptError() | apsw.NotADBError() | apsw.FormatError() | apsw.SQLError() | UnicodeDecodeError():
            return damaged(path, reason)
        case apsw.NoMemError():
            return MemoryError()
        case UnicodeEncodeError(object=text):
            return InputError(f"expected text, received {text!r:.120}, which is not valid UTF-8: spell it in UTF-8")
    return error


def damaged(path: Path, reason: str) -> Damaged:
    return Damaged(
        f"expected a sound gallery, {path} is damaged ({reason}): make it again with `build-index --replace` or `restore`"
    )


@contextlib.contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into ours."""
    try:
        yield
    except (apsw.Error, UnicodeError) as error:
        ours = one_line(error, path)
        if ours is error:
            raise
        raise ours from None
