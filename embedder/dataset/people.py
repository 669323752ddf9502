"""What a data set says of people beside their names: one file, a line of JSON for each person, written by `export`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from facegallery.embedder.errors import DataError
from facegallery.embedder.files import write_atomic

FILE = "_people.jsonl"
MOST_BYTES = 1 << 30


def read_people(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the name of each person, and what is said of them; nothing where a data set has no such file.

    Raises DataError for a file of something else.
    """
    path = folder / FILE
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        lines = path.read_bytes().splitlines()
        found = [dict(json.loads(line)) for line in lines]
        return [(str(said.pop("identity")), said) for said in found]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f"expected a line of JSON for each person in {path}, it is damaged ({error}): export again, or delete it"
        ) from None


def write_people(folder: Path, people: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Replace the file."""
    lines = (json.dumps({"identity": name, **said}, ensure_ascii=False) + "\n" for name, said in people)
    write_atomic(folder / FILE, "".join(lines).encode())


def drop_people(folder: Path, is_doomed: Callable[[str], bool]) -> int:
    """Delete the lines of people whose name is doomed; return how many."""
    people = read_people(folder)
    kept = [(name, said) for name, said in people if not is_doomed(name)]
    if len(kept) < len(people):
        write_people(folder, kept)
    return len(people) - len(kept)
