"""Read lists of pairs of photos for verification: LFW's pairs.txt, CFP's folders, and plain lists such as AgeDB-30's.

The format follows from what is given:

a folder     CFP: `Protocol/Split/FF` or `FP`, with a folder for each fold, each with same.txt and diff.txt. Their lines
             `i,j` are numbers in `Protocol/Pair_list_F.txt` and, for the second photo in FP, `Pair_list_P.txt`.
a file       LFW's, where the first line is two whole numbers (`10 300`). Else a plain list with a pair a line,
             `path1 path2 label` or `path1,path2,label`, label 1 for one person and 0 for two. A CSV may have a header.

LFW names photos by stems (`Ann_Lee_0001`). The others name them by paths; a path and a photo of a data set are the same
where one path ends with the other, folder by folder.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from facegallery.embedder.errors import DataError

LIST_FOLDS = 10  # of a plain list
ONE_OF = {"1": True, "0": False}
Line = tuple[int, str]  # its number from 1, and its text


@dataclass(frozen=True)
class Pairs:
    """Pairs of photos by the names that their list gives them."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    same: np.ndarray  # bool (n,)
    folds: np.ndarray  # int (n,), from 0
    stems: bool = False  # names are stems of files, such as Abel_Pacheco_0001, instead of paths

    @cached_property
    def names(self) -> frozenset[str]:
        """All photos of the pairs."""
        return frozenset((*self.first, *self.second))

    @cached_property
    def _by_last(self) -> dict[str, list[tuple[str, ...]]]:
        """The folders and names of the paths, by the name of the file."""
        found: dict[str, list[tuple[str, ...]]] = {}
        for name in sorted(self.names):
            found.setdefault(parts_of(name)[-1], []).append(parts_of(name))
        return found

    def named(self, image: str) -> list[str]:
        """Return the names in the pairs that the photo `image` of a data set has; several where paths are too short."""
        if self.stems:
            return [stem] if (stem := PurePosixPath(image).stem) in self.names else []
        there = parts_of(image)
        same = (found for found in self._by_last.get(there[-1], []) if _ends(found, there))
        return ["/".join(found) for found in same]

    def scores(self, vectors: dict[str, np.ndarray | None]) -> np.ndarray:
        """Return the cosine of each pair, float64 (n,); -inf where a photo has no vector.

        vectors: unit vectors by name, None without a face. Raises DataError where a photo is missing.
        """
        if missing := sorted(self.names - vectors.keys()):
            raise DataError(
                f"expected vectors of all photos of the pairs, {len(missing)} are missing, such as {missing[0]}: "
                "embed all photos"
            )
        return np.array([_cosine(vectors[a], vectors[b]) for a, b in zip(self.first, self.second, strict=True)])


def parts_of(path: str) -> tuple[str, ...]:
    """Return the folders and the file of a path, without what says where it starts ('/', './', '../')."""
    found = tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", ".", ".."))
    return found or (path,)


def _ends(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    n = min(len(a), len(b))
    return a[-n:] == b[-n:]


def _cosine(a: np.ndarray | None, b: np.ndarray | None) -> float:
    return -np.inf if a is None or b is None else float(np.dot(a.astype(np.float64), b.astype(np.float64)))


# reading --------------------------------------------------------------------


def read_pairs(path: Path) -> Pairs:
    """Read a list of pairs in the format that the module's docstring tells by what it is.

    Raises DataError, naming the line, where it is none of these.
    """
    path = Path(path)
    if path.is_dir():
        return _read_cfp(path)
    lines = _lines(path)
    if not lines:
        raise DataError(f"expected pairs (LFW's, or `path1 path2 1` a line), {path} is empty: check the file")
    return _read_lfw(path, lines) if _are_numbers(lines[0][1]) else _read_list(path, lines)


def _lines(path: Path) -> list[Line]:
    """Return the lines of a text that are not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise DataError(f"expected a list of pairs, {path} cannot be read ({why}): check the path") from None
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _bad(path: Path, line: Line, expected: str) -> DataError:
    return DataError(f"expected {expected}, line {line[0]} of {path} is {line[1].strip()[:80]!r}: check the file")


def _are_numbers(line: str) -> bool:
    return len(line.split()) <= 2 and all(field.isdecimal() for field in line.split())


def _read_lfw(path: Path, lines: list[Line]) -> Pairs:
    """Read pairs.txt: `folds n`, then for each fold n lines `name i j` (one person) and n `name i name j` (two)."""
    try:
        folds, n = map(int, lines[0][1].split())
    except ValueError:
        raise _bad(path, lines[0], "folds and pairs (`10 300`) above LFW's pairs") from None
    pairs = [_lfw_pair(path, line) for line in lines[1:]]
    if folds < 2 or len(pairs) != 2 * n * folds:
        raise DataError(
            f"expected two folds or more of 2 x {n} pairs, {path} states {folds} folds and has {len(pairs)} pairs: "
            "check the file"
        )
    first, second, same = zip(*pairs, strict=True)
    return Pairs(first, second, np.array(same), np.arange(len(pairs)) // (2 * n), stems=True)


def _lfw_pair(path: Path, line: Line) -> tuple[str, str, bool]:
    match line[1].split():
        case [name, i, j] if i.isdecimal() and j.isdecimal():
            return _stem(name, i), _stem(name, j), True
        case [name, i, other, j] if i.isdecimal() and j.isdecimal():
            return _stem(name, i), _stem(other, j), False
    raise _bad(path, line, "one of LFW's pairs (`name 1 4` or `name 1 other 2`)")


def _stem(name: str, number: str) -> str:
    return f"{name}_{int(number):04d}"


def _read_list(path: Path, lines: list[Line]) -> Pairs:
    """Read `path1 path2 label` lines: ten folds of equal size in their order, the first ones larger by a pair."""
    pairs = list(_listed(path, lines))
    if len(pairs) < 2 * LIST_FOLDS:
        raise DataError(
            f"expected {LIST_FOLDS} folds, of a pair of one person and one of two at least, {path} has {len(pairs)} "
            "pairs: check the file"
        )
    first, second, same = zip(*pairs, strict=True)
    sizes = [len(fold) for fold in np.array_split(np.arange(len(pairs)), LIST_FOLDS)]
    return Pairs(first, second, np.array(same), np.repeat(np.arange(LIST_FOLDS), sizes))


def _listed(path: Path, lines: list[Line]) -> Iterator[tuple[str, str, bool]]:
    """Yield the pairs of a list; its first line may be the header of a CSV."""
    comma = "," in lines[0][1]
    for i, line in enumerate(lines):
        fields = [field.strip() for field in next(csv.reader([line[1]]))] if comma else line[1].split()
        if i == 0 and comma and len(fields) == 3 and not fields[2].lstrip("-").isdecimal():
            continue
        if len(fields) != 3 or fields[2] not in ONE_OF or not (fields[0] and fields[1]):
            lfw = "" if i else "`10 300` above LFW's pairs, or "
            raise _bad(path, line, f"{lfw}two paths and 1 (one person) or 0 (two), such as `a/1.jpg b/2.jpg 0`")
        yield "/".join(parts_of(fields[0])), "/".join(parts_of(fields[1])), ONE_OF[fields[2]]


# CFP ------------------------------------------------------------------------


def _read_cfp(folder: Path) -> Pairs:
    """Read the folds of `Protocol/Split/FF` or `FP`."""
    kind = folder.resolve().name
    if kind not in ("FF", "FP"):
        raise DataError(f"expected CFP's folder Protocol/Split/FF or FP, or a file, received {folder}: check the path")
    protocol = folder.resolve().parents[1]
    left, right = (_numbered(protocol / f"Pair_list_{letter}.txt") for letter in kind)
    folds = sorted(fold for fold in folder.iterdir() if fold.is_dir())
    if len(folds) < 2:
        raise DataError(f"expected folders of two folds or more in {folder}, found {len(folds)}: check the path")
    found = [
        (*_cfp_pair(file, line, left, right), name == "same", i)
        for i, fold in enumerate(folds)
        for name in ("same", "diff")
        for file in (fold / f"{name}.txt",)
        for line in _lines(file)
    ]
    if not found:
        raise DataError(f"expected pairs in {folder}, all of its files are empty: check the path")
    first, second, same, numbers = zip(*found, strict=True)
    return Pairs(first, second, np.array(same), np.array(numbers))


def _numbered(file: Path) -> dict[int, str]:
    """Read the lines `number path` of a Pair_list."""
    found: dict[int, str] = {}
    for line in _lines(file):
        number, _, path = line[1].strip().partition(" ")
        if not number.isdecimal() or not path.strip():
            raise _bad(file, line, "a number and a path, such as `1 Data/Images/001/frontal/01.jpg`")
        found[int(number)] = "/".join(parts_of(path.strip()))
    return found


def _cfp_pair(file: Path, line: Line, left: dict[int, str], right: dict[int, str]) -> tuple[str, str]:
    numbers = line[1].replace(",", " ").split()
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise _bad(file, line, "two numbers of photos, such as `1,2`")
    i, j = map(int, numbers)
    if i not in left or j not in right:
        raise _bad(file, line, f"numbers that CFP's lists of photos have ({len(left)} and {len(right)} photos)")
    return left[i], right[j]
