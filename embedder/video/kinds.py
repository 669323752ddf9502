"""Identify the container of a video by its first bytes, and list the codecs that are decoded."""

from __future__ import annotations

import re
from pathlib import PurePath

from facegallery.embedder.outcomes import UNREADABLE
from facegallery.embedder.photos.kinds import PhotoRefused, identify

HEAD = 4096  # bytes of a file that `demuxer_of` needs
MP4 = (".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".f4v", ".qt")
MPEG = (".mpg", ".mpeg", ".vob", ".mts", ".m2ts", ".ts")
SUFFIXES = frozenset((*MP4, *MPEG, ".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".ogv"))
AMBIGUOUS = frozenset((".ts", ".qt"))  # suffixes of other files, too, such as programs in TypeScript
# The closed list of containers: the demuxer of FFmpeg, and how its files begin. No other demuxer sees a file, so that
# none that opens further files or addresses (playlists, concat) can be reached.
CONTAINERS = (
    ("mov", rb"(?s:....(?:ftyp|moov|mdat|wide|free|skip|pnot))"),
    ("matroska", rb"\x1aE\xdf\xa3"),
    ("avi", rb"(?s:RIFF....AVI )"),
    ("asf", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    ("flv", rb"FLV\x01"),
    ("mpeg", rb"\x00\x00\x01\xba"),
    ("ogg", rb"OggS"),
    ("mpegts", rb"(?s:(?:.{4})?\x47.{187}(?:.{4})?\x47)"),
)
_PATTERNS = [(name, re.compile(pattern)) for name, pattern in CONTAINERS]
# The closed list of decoders, by FFmpeg's names
CODECS = (
    *("h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "libvpx", "libvpx-vp9", "mpeg4", "msmpeg4v2", "msmpeg4"),
    *("mpeg1video", "mpeg2video", "mjpeg", "theora", "wmv1", "wmv2", "wmv3", "vc1", "h263", "flv", "prores", "dnxhd"),
    *("dvvideo", "ffv1", "vp6", "vp6f"),
)


def demuxer_of(head: bytes) -> str:
    """Return the name of FFmpeg's demuxer for a file that begins with `head`; raise PhotoRefused for no video."""
    if found := _demuxer(head):
        return found
    raise PhotoRefused(UNREADABLE, _what_else(head))


def _demuxer(head: bytes) -> str | None:
    return next((name for name, pattern in _PATTERNS if pattern.match(head)), None)


def _what_else(head: bytes) -> str:
    """Say what a file is that is no video."""
    if not head:
        return "the file is empty"
    try:
        return f"it is a photo ({identify(head)[0].name}), not a video"
    except PhotoRefused as error:
        return f"{str(error).partition(', not a photo')[0]}, not a video in a format that is read"


def has_video_suffix(name: str) -> bool:
    """Whether a file's name ends as that of a video."""
    return PurePath(name).suffix.lower() in SUFFIXES


def is_ambiguous(name: str) -> bool:
    """Whether a file with the suffix of a video may be something else, so that its first bytes have to tell."""
    return PurePath(name).suffix.lower() in AMBIGUOUS


def begins_as_video(head: bytes) -> bool:
    """Whether a file begins as a video."""
    return _demuxer(head) is not None
