"""Searching the bytes of files for a forgotten person: names, ids, and each 32-byte piece of vectors and crops."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from facegallery.embedder.names import spelling
from facegallery.indexer.store.forgotten import Forgotten
from facegallery.indexer.store.kinds import number_of
from facegallery.indexer.store.outputs import WrittenFile
from facegallery.indexer.store.reader import name_key, normal

PIECE = 32
BLOCK = 16 << 20
PNG_HEAD = 64  # bytes that many PNGs of one size share
VARIED = 16  # least number of different bytes in a piece of a crop: plainer pieces occur in many pictures
SHORTEST = 5  # bytes of a text that is unlikely to occur by chance in gigabytes of numbers
LONG_TEXT = 8  # bytes of a note, or a value of metadata, that is searched for
ESCAPED = re.compile(r'[\x00-\x1f"\\]')  # what JSON writes in another way
HASH_BITS = 20
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def files_below(folder: Path) -> list[Path]:
    """Return the files in a folder and its subfolders, by name, without links; skip files that disappear meanwhile."""
    paths = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def size_of(path: Path) -> int:
    """Return the size in bytes; 0 for a file that disappeared."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def without_names(path: str, names: Iterable[str]) -> str:
    """Replace each part of a path that is one of the names, with or without an ending, by `*`."""
    spelt = set(map(normal, names))
    parts = []
    for part in path.split("/"):
        stem, dot, ending = part.rpartition(".")
        parts.append("*" if normal(part) in spelt else f"*{dot}{ending}" if stem and normal(stem) in spelt else part)
    return "/".join(parts)


@dataclass
class Traces:
    """What one person left; kept in memory only."""

    names: set[str] = field(default_factory=set)
    face_ids: set[str] = field(default_factory=set)
    photos: set[str] = field(default_factory=set)  # hashes of photos that show nobody else
    pieces: set[bytes] = field(default_factory=set)  # of PIECE bytes
    heads: set[bytes] = field(default_factory=set)  # the first PIECE bytes of each vector
    before: Forgotten = field(default_factory=Forgotten)  # hashes of the person, of this and of earlier calls
    sources: list[str] = field(default_factory=list)  # paths that the gallery named before the person was erased
    outputs: list[WrittenFile] = field(default_factory=list)  # likewise
    person_ids: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)  # notes, and values of metadata
    alike: list[str] | None = field(default_factory=list)  # unnamed faces that stay; None: not known

    def add_face(self, face_id: str, vectors: Sequence[bytes], png: bytes | None) -> None:
        """Add everything to search for of one face."""
        self.face_ids.add(face_id)
        self.pieces.update(_pieces(face_id.encode()))
        for vector in vectors:
            self.heads.add(vector[:PIECE])
            self.pieces.update(_pieces(vector))
        self.pieces.update(piece for piece in _pieces((png or b"")[PNG_HEAD:]) if len(set(piece)) >= VARIED)

    def add_photo(self, image_sha256: str) -> None:
        """Add the hash of a photo that shows nobody else."""
        self.photos.add(image_sha256)
        self.pieces.update(_pieces(image_sha256.encode()))

    @property
    def short_names(self) -> set[str]:
        """Names too short to be searched for among numbers."""
        return {name for name in self.names if len(name.encode()) < SHORTEST}

    @property
    def spellings(self) -> set[str]:
        """Every text to search for: names, ids, and each stretch of the notes that JSON leaves as it is."""
        said = {part for text in self.texts for part in ESCAPED.split(text)}
        long = {part for part in said if len(part.encode()) >= LONG_TEXT and number_of(part) is None}
        return (self.names - self.short_names) | self.person_ids | long

    def is_named(self, identity: str | None) -> bool:
        """Return whether `identity` is a name of the person, or was when they were forgotten."""
        return identity is not None and any(
            name in self.names or self.before.holds(name_key(name))
            for name in dict.fromkeys((normal(identity), spelling(identity)))
        )

    def count(self, path: Path, elsewhere: Sequence[str] = ()) -> int:
        """Count the traces in a file. elsewhere: texts of others that contain a name, and may."""
        finder = _Finder(self.pieces)
        names = [text.encode() for text in self.spellings]
        longer = [text.encode() for text in elsewhere]
        margin = max([PIECE, *map(len, names), *map(len, longer)])
        found = 0
        for block, start, end in _blocks(path, margin):
            found += sum(start <= at < end for at in finder.places(block))
            found += sum(
                start <= at < end and not _within(block, at, at + len(name), longer)
                for name in names
                for at in _places(block, name)
            )
        return found


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[i : i + PIECE] for i in range(0, len(data) - PIECE + 1, PIECE))


def _blocks(path: Path, margin: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (bytes, start, end): blocks of a file with `margin` more bytes on both sides.

    What begins in [start, end) belongs to this block.
    """
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:  # a deleted file holds nothing
        size = os.fstat(file.fileno()).st_size
        for at in range(0, size, BLOCK):
            first = max(0, at - margin)
            file.seek(first)
            yield file.read(at + BLOCK + margin - first), at - first, min(at + BLOCK, size) - first


def _places(block: bytes, text: bytes) -> Iterator[int]:
    at = block.find(text)
    while at >= 0:
        yield at
        at = block.find(text, at + 1)


def _within(block: bytes, at: int, end: int, longer: Sequence[bytes]) -> bool:
    """Return whether block[at:end] is inside one of the longer texts."""
    for text in longer:
        first = max(0, end - len(text))
        if any(first + start <= at for start in _places(block[first : at + len(text)], text)):
            return True
    return False


class _Finder:
    """Search for pieces at every offset, by a hash of their first eight bytes."""

    def __init__(self, pieces: set[bytes]):
        self._pieces = pieces
        heads = np.array([int.from_bytes(piece[:8], "little") for piece in pieces], np.uint64)
        self._heads = np.unique(heads)
        self._seen = np.zeros(1 << HASH_BITS, bool)
        self._seen[_hash(self._heads)] = True

    def places(self, block: bytes) -> Iterator[int]:
        """Yield the offsets at which a piece begins."""
        if not len(self._heads):
            return
        for shift in range(min(8, max(0, len(block) - PIECE + 1))):
            words = np.frombuffer(block, "<u8", (len(block) - shift) // 8, shift)
            maybe = np.flatnonzero(self._seen[_hash(words)])
            for i in maybe[np.isin(words[maybe], self._heads)].tolist():
                if block[8 * i + shift : 8 * i + shift + PIECE] in self._pieces:
                    yield 8 * i + shift


def _hash(words: np.ndarray) -> np.ndarray:
    return (words * MULTIPLIER) >> np.uint64(64 - HASH_BITS)
