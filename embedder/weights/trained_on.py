"""Record how a model was trained: its epochs, and its people as salted hashes, to warn that a test is no test.

A name can be guessed: whoever has the file can try names, at a millisecond each. The hashes are short: of a thousand
million names that are tried, about one for each thousand people matches by chance. They hide names from a reader, not
from a search.

metrics.jsonl    a line for each epoch of the training that made the weights; it names nobody
people.json      [{"salt": hex, "trained": [hex, ...], "validated": [hex, ...]}, ...], an entry for each training
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from facegallery.embedder.errors import ModelError
from facegallery.embedder.files import write_atomic
from facegallery.embedder.machine import cores
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.embedder.weights.folder import stored_file, stored_specs

FILE, EPOCHS = "people.json", "metrics.jsonl"
SALT_BYTES, HASH_BYTES = 16, 5
COST = 1 << 9  # scrypt's n: half a megabyte and a millisecond a name


@dataclass(frozen=True)
class Training:
    """The people of one training, as salted hashes. validated: people by whom the best epoch was chosen."""

    salt: str
    trained: tuple[str, ...]
    validated: tuple[str, ...]

    @classmethod
    def of(cls, trained: Iterable[str], validated: Iterable[str] = ()) -> Training:
        """Hash the names of a training's people with a new salt."""
        salt = os.urandom(SALT_BYTES).hex()
        lists = [tuple(sorted(_hashes(names, salt).values())) for names in (trained, validated)]
        return cls(salt, *lists)


def _hashes(names: Iterable[str], salt: str) -> dict[str, str]:
    """Return the hash of each distinct name, computed on all cores."""

    def one(name: str) -> str:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).encode()
        return hashlib.scrypt(key, salt=bytes.fromhex(salt), n=COST, r=8, p=1, dklen=HASH_BYTES).hex()

    distinct = list(dict.fromkeys(names))
    with ThreadPoolExecutor(cores()) as threads:
        return dict(zip(distinct, threads.map(one, distinct), strict=True))


def write(folder: Path, trainings: Sequence[Training]) -> None:
    """Write people.json into a folder."""
    write_atomic(folder / FILE, (json.dumps([asdict(t) for t in trainings]) + "\n").encode())


def read(folder: Path) -> list[Training]:
    """Read people.json; return [] where there is none: the model is pretrained, or was trained elsewhere."""
    path = folder / FILE
    try:
        return [Training(t["salt"], tuple(t["trained"]), tuple(t["validated"])) for t in json.loads(path.read_bytes())]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ModelError(
            f"expected hashes of the people that a model was trained on, {path} is damaged: delete it, or train again"
        ) from None


def of_part(part: Part) -> list[Training]:
    """Return the trainings of a stored network."""
    return read(stored_file(part).parent)


def of_model(spec: FaceSpec, folder: Path | None = None) -> list[Training]:
    """Return the trainings of all networks of a model, and of its folder where one is given."""
    found = [t for part in spec.parts for t in of_part(part)] + (read(folder) if folder else [])
    return list({t.salt: t for t in found}.values())


def history(spec: FaceSpec, folder: Path | None = None) -> list[dict[str, Any]]:
    """Return a line for each epoch, of the model's folder or else of its stored networks; [] without a record."""
    for paths in ([folder / EPOCHS] if folder else [], [stored_file(part).parent / EPOCHS for part in spec.parts]):
        if lines := [line for path in paths if path.is_file() for line in _epochs(path)]:
            return lines
    return []


def _epochs(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (ValueError, RecursionError):
        raise ModelError(
            f"expected a line of JSON for each epoch of a training, {path} is damaged: delete it, or train again"
        ) from None


def known(names: Iterable[str], trainings: Sequence[Training]) -> tuple[set[str], set[str]]:
    """Return the names that were trained on, and those that only chose the best epoch."""
    names = set(names)
    trained: set[str] = set()
    validated: set[str] = set()
    for training in trainings:
        hashes = _hashes(names, training.salt)
        for found, kept in ((trained, set(training.trained)), (validated, set(training.validated))):
            found |= {name for name, value in hashes.items() if value in kept}
    return trained, validated - trained


def stored() -> list[tuple[Part, list[Training]]]:
    """Return every stored network that has a record, with its trainings."""
    return [(spec.parts[0], found) for spec in stored_specs() if (found := of_part(spec.parts[0]))]
