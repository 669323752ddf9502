"""Tell photos from other files, by their suffix, or by their first bytes where the suffix is missing or unknown."""

from __future__ import annotations

import os
import stat

from facegallery.embedder.photos.kinds import SUFFIXES, begins_as_photo

RAW = frozenset(
    [
        ".3fr",
        ".arw",
        ".cr2",
        ".cr3",
        ".crw",
        ".dcr",
        ".dng",
        ".erf",
        ".iiq",
        ".kdc",
        ".mos",
        ".mrw",
        ".nef",
        ".nrw",
        ".orf",
        ".pef",
        ".raf",
        ".raw",
        ".rw2",
        ".rwl",
        ".sr2",
        ".srf",
        ".srw",
        ".x3f",
    ]
)
# Suffixes of files beside photos, and of copies that programs keep of them; such files are never opened to look
BESIDE = frozenset(
    [
        ".aae",
        ".avi",
        ".bak",
        ".crdownload",
        ".csv",
        ".db",
        ".download",
        ".html",
        ".ini",
        ".json",
        ".lrv",
        ".m4v",
        ".md",
        ".mkv",
        ".mov",
        ".mp4",
        ".mts",
        ".part",
        ".partial",
        ".pdf",
        ".py",
        ".swp",
        ".thm",
        ".tmp",
        ".txt",
        ".wav",
        ".xml",
        ".xmp",
        ".zip",
    ]
)
COPIES = ("~", "_original")  # ends of the names of an editor's, or exiftool's, copies
HEAD = 256  # bytes that suffice to identify a format


def has_photo_suffix(name: str) -> bool:
    """Whether a name has the suffix of a supported format."""
    return suffix_of(name) in SUFFIXES


def suffix_of(name: str) -> str:
    """Return the suffix in lower case, with its point; '' where there is none."""
    return os.path.splitext(name)[1].lower()


def may_be_photo(name: str) -> bool:
    """Whether a file without a photo's suffix should be opened to look at its first bytes."""
    return suffix_of(name) not in BESIDE | RAW and not name.lower().endswith(COPIES)


def is_photo(path: str) -> bool:
    """Whether a regular file begins as a supported format; links, pipes and devices are not opened."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and begins_as_photo(os.read(fd, HEAD))
    except OSError:
        return False
    finally:
        os.close(fd)
