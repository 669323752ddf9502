"""A gallery under any sequence of changes and questions against a plain dict and NumPy loops.

A small dose takes 100 steps, the full one 2,000, always the same. FACEGALLERY_STEPS=20000 makes the full dose that many
steps, random ones (pytest's --hypothesis-seed chooses which).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.row import Row, to_rows
from facegallery.embedder.errors import DataError, FaceGalleryError, GalleryError, InputError
from facegallery.indexer.build import BuildOptions, build
from facegallery.indexer.derived import derive
from facegallery.indexer.opening import open_store
from facegallery.indexer.search import candidates
from facegallery.indexer.search import searcher as search
from facegallery.indexer.search import templates as people
from facegallery.indexer.search.searcher import Hit, Searcher
from facegallery.indexer.store import log as log_module
from facegallery.indexer.store import rows as rows_module
from facegallery.indexer.store.errors import Unknown
from facegallery.indexer.store.log import Change
from facegallery.indexer.store.rows import Added, Conflict
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep import forget as forgetting
from facegallery.indexer.upkeep import pending, transfer
from facegallery.indexer.upkeep import receipt as receipts
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic
from tests.doses import doses

STEPS_A_RUN = 50
Lists = tuple[set[str], set[str]]  # face_ids and names that were forgotten from indexes that had other names
STEPS = int(os.environ.get("FACEGALLERY_STEPS", "2000"))
GRID = 2.0**20  # vectors on this grid have products that float64 sums without a rounding, in any order
PIECE = 32

NAMES = (
    "Ada Byron",
    "Zoë Łódź",
    "Grace Murray Hopper",
    "Grace Murray",
    "李小龙老师",
    "x",
    'O\'Neil; "Tip" \\ Jr',
    "Edsger 🚲 Wybe",
)
EXTRAS: tuple[dict[str, str], ...] = (
    {},
    {"year": "1999"},
    {"year": " 2005"},
    {"year": "199", "tags": "beach; sea"},
    {"year": "1e3", "tags": "beach ;sun"},
    {"year": "unknown", "größe.x": "1.5"},
    {"tags": "", "größe.x": "1.50"},
    {"tags": "sea", "back\\slash": "a b"},
    {"year": "-0"},
    {"année": "007"},
)


# faces that are offered -----------------------------------------------------


@cache
def pool(d: int) -> tuple[Row, ...]:
    """Faces without a name, two of a photo; some share a vector. d = 4: the 24-cell, with ties everywhere."""
    rng = np.random.default_rng(d)
    if d == 4:
        eye, halves = np.eye(4), np.stack(np.meshgrid(*[[-0.5, 0.5]] * 4), axis=-1).reshape(-1, 4)
        xb = rng.permutation(np.concatenate([eye, -eye, halves]))
        xb = np.concatenate([xb, xb[:16]])
    else:
        near = rng.normal(size=(6, d)).repeat(4, axis=0)[rng.permutation(24)] + 0.5 * rng.normal(size=(24, d))
        xb = np.concatenate([near, near[:14], -near[14:16]])
        xb = np.round(xb / np.linalg.norm(xb, axis=1, keepdims=True) * GRID) / GRID
    return tuple(_face(i, x.astype(np.float32), rng) for i, x in enumerate(xb))


def _face(i: int, x: np.ndarray, rng: np.random.Generator) -> Row:
    return Row(
        f"album/{i // 2}.jpg",
        "ok",
        hashlib.sha256(b"photo %d" % (i // 2)).hexdigest(),
        None,
        (None, "gallery", "probe")[i % 3],
        i % 2,
        [i, 2, 30, 40.5],
        None,
        (None, 0.5, 0.875, 1.0)[i % 4],
        (0.25, 12.5)[i % 2],
        synthetic.png(rng.bytes(200)) if i % 3 else None,
        x,
    )


FACES = len(pool(4))


@cache
def queries(d: int) -> np.ndarray:
    """float32 (m, d) of unit length: the faces themselves, and as many others."""
    own = np.stack([row.vector for row in pool(d) if row.vector is not None])
    others = synthetic.unit(np.random.default_rng(9).normal(size=own.shape)).astype(np.float64)
    return np.concatenate([own, own[::-1] if d == 4 else (np.round(others * GRID) / GRID).astype(np.float32)])


def nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def pieces_of(row: Row, hashes: bool = True) -> set[bytes]:
    """Pieces of 32 bytes that no file may hold once the face is forgotten; with `hashes` also the photo's."""
    crop = (row.crop or b"").removeprefix(synthetic.png(b""))  # every crop begins so
    whole = [row.face_id.encode(), np.asarray(row.vector).tobytes(), crop, (row.image_sha256 or "").encode() * hashes]
    return {data[i : i + PIECE] for data in whole for i in range(0, len(data) - PIECE + 1, PIECE)}


# the oracle -----------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    person: str
    row: Row


@dataclass(frozen=True)
class Entry:
    """A line of the log. faces: whose each was before; trash: the removed ones."""

    command: object
    time: float
    verb: str
    faces: dict[str, str] = field(default_factory=dict)
    people: tuple[str, ...] = ()
    trash: tuple[Held, ...] = ()

    @property
    def change(self) -> Change:
        return Change(self.verb, len(self.faces), self.people)


@dataclass
class Gone:
    names: set[str] = field(default_factory=set)
    face_ids: set[str] = field(default_factory=set)
    pieces: set[bytes] = field(default_factory=set)


def without_ids(searcher: Searcher, found: list[list[Hit]]) -> list[list[Hit]]:
    """Hits without the ids of persons, which are drawn; each is the one that the gallery keeps for the name."""
    ids = searcher.store.person_ids({hit.identity for hits in found for hit in hits})
    assert all(hit.person_id == ids[hit.identity] for hits in found for hit in hits)
    return [[replace(hit, person_id=None) for hit in hits] for hits in found]


@dataclass
class Oracle:
    """What a gallery must be: faces in the order in which they were enrolled, and the log."""

    d: int
    centre: bool
    now: float = 0.0
    faces: dict[str, Held] = field(default_factory=dict)
    log: list[Entry] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)
    forgotten_names: set[str] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)
    mean: np.ndarray | None = None

    def copy(self) -> Oracle:
        return replace(
            self,
            faces=dict(self.faces),
            log=list(self.log),
            forgotten=set(self.forgotten),
            forgotten_names=set(self.forgotten_names),
            columns=set(self.columns),
        )

    # what it holds

    def of(self, person: str) -> list[Held]:
        """Raises Unknown where there is none."""
        if not (found := [held for held in self.faces.values() if held.person == nfc(person)]):
            raise Unknown(person)
        return found

    @property
    def people(self) -> dict[str, int]:
        names = sorted(held.person for held in self.faces.values())
        return {name: names.count(name) for name in names}

    def list_faces(self, person: str) -> list[dict[str, Any]]:
        return [
            {"face_id": row.face_id, "image": row.image, "split": row.split, "box": row.box, **row.extra}
            for row in (held.row for held in self.of(person))
        ]

    @property
    def removed(self) -> list[Held]:
        return [held for entry in self.log for held in entry.trash]

    def pieces(self, hashes: bool = True) -> set[bytes]:
        return {piece for held in (*self.faces.values(), *self.removed) for piece in pieces_of(held.row, hashes)}

    @property
    def texts(self) -> set[str]:
        """Every name that stands somewhere."""
        held = [*self.faces.values(), *self.removed]
        return {h.person for h in held} | {
            name for entry in self.log for name in (*entry.people, *entry.faces.values())
        }

    # verbs

    def add(self, rows: Iterable[Row], readmit: bool = False, command: object = None) -> Added:
        done, new = Added(), []
        for row in rows:
            name, face_id = nfc(row.identity or ""), row.face_id
            if not name.strip():
                raise DataError(row.image)
            if face_id in self.forgotten and not readmit:
                done.forgotten += 1
            elif face_id not in self.faces:
                self._check(row)
                self.faces[face_id] = Held(name, row)
                self.columns |= set(row.extra)
                self.forgotten.discard(face_id)
                self.forgotten_names -= {name} if readmit else set()
                new.append(face_id)
            elif (kept := self.faces[face_id].person) == name:
                done.again += 1
            else:
                done.conflicts.append(Conflict(face_id, row.image, kept, name))
        if new or command is None:
            self._note("add", dict.fromkeys(new, ""), command=command)
        done.added = len(new)
        return done

    def _check(self, row: Row) -> None:
        if row.vector is None or row.vector.shape != (self.d,):
            raise DataError(row.image)
        if not abs(math.sqrt(sum(float(x) ** 2 for x in row.vector)) - 1) < 1e-5:
            raise DataError(row.image)

    def _note(
        self,
        verb: str,
        faces: dict[str, str],
        people: Iterable[str] = (),
        trash: Iterable[Held] = (),
        command: object = None,
    ):
        self.log.append(Entry(command or object(), self.now, verb, faces, tuple(people), tuple(trash)))

    def remove(self, identity: str | None = None, face_id: str | None = None, image: str | None = None) -> Change:
        if identity is not None:
            found = self.of(identity)
        else:
            found = [held for held in self.faces.values() if face_id == held.row.face_id or image == held.row.image]
        if not found:
            raise Unknown("none")
        for held in found:
            del self.faces[held.row.face_id]
        self._note(
            "remove", dict.fromkeys((h.row.face_id for h in found), ""), sorted({h.person for h in found}), found
        )
        return self.log[-1].change

    def rename(self, old: str, new: str) -> Change:
        old, new = nfc(old), nfc(new)
        if not new.strip():
            raise DataError(new)
        n = len(self.of(old))
        if old == new:
            self._note("rename", {}, (old, new))
            return Change("rename", 0, (new,))
        if new in self.people:
            raise GalleryError(new)
        self._note("rename", {}, (old, new))
        self._rename(old, new)
        return Change("rename", n, (old, new))

    def _rename(self, old: str, new: str) -> None:
        self.faces = {f: Held(new, held.row) if held.person == old else held for f, held in self.faces.items()}

    def merge(self, source: str, into: str) -> Change:
        source, into = nfc(source), nfc(into)
        self.of(into)
        if source == into:
            raise InputError(source)
        return self._move("merge", self.of(source), into)

    def split(self, face_ids: Sequence[str], to: str) -> Change:
        to = nfc(to)
        if not to.strip():
            raise DataError(to)
        if not set(face_ids) <= set(self.faces):
            raise Unknown("none")
        return self._move("split", [self.faces[f] for f in dict.fromkeys(face_ids) if self.faces[f].person != to], to)

    def _move(self, verb: str, found: Sequence[Held], to: str) -> Change:
        people = tuple(dict.fromkeys([*(held.person for held in found), to]))
        if found or verb == "split":
            self._note(verb, {held.row.face_id: held.person for held in found}, people)
        for held in found:
            self.faces[held.row.face_id] = Held(to, held.row)
        return Change(verb, len(found), people)

    def undo(self) -> list[Change]:
        if not self.log:
            raise GalleryError("nothing")
        command = self.log[-1].command
        lines = [entry for entry in reversed(self.log) if entry.command == command]
        changes = []
        for entry in lines:
            people = {self.faces[f].person for f in entry.faces if f in self.faces}
            changes.append(replace(entry.change, people=entry.change.people or tuple(sorted(people))))
            self._take_back(entry)
        self.log = [entry for entry in self.log if entry.command != command]
        return changes

    def _take_back(self, entry: Entry) -> None:
        match entry.verb:
            case "add":
                self.faces = {f: held for f, held in self.faces.items() if f not in entry.faces}
            case "remove":
                self.faces |= {
                    h.row.face_id: h
                    for h in entry.trash
                    if h.row.face_id not in self.faces | dict.fromkeys(self.forgotten)
                }
            case "rename" if entry.people[1] in self.people and entry.people[0] != entry.people[1]:
                if entry.people[0] in self.people:
                    raise GalleryError(entry.people[0])
                self._rename(entry.people[1], entry.people[0])
            case "merge" | "split":
                self.faces |= {
                    f: Held(person, self.faces[f].row) for f, person in entry.faces.items() if f in self.faces
                }

    def drop_log(self, before: float) -> int:
        n = len(self.log)
        self.log = [entry for entry in self.log if entry.time >= before]
        return n - len(self.log)

    def replace_all(self, rows: Sequence[Row], readmit: bool) -> Added:
        """`build --replace`."""
        if any(row.split == "gallery" for row in rows):
            rows = [row for row in rows if row.split == "gallery"]
        self.faces, self.log, self.columns = {}, [], set()
        done = self.add(rows, readmit)
        self.log.clear()
        if not done.added:
            raise DataError("none")
        if self.centre:
            xb = [np.asarray(held.row.vector, np.float64) for held in self.faces.values()]
            self.mean = sum(xb) / len(xb)
            if any(np.linalg.norm(x - self.mean) < 1e-6 for x in xb):
                raise DataError("flat")
        return done

    def restored(self, backup: Oracle, others: Lists) -> tuple[Oracle, int]:
        """Restore a backup here or beside it; how many of its faces were forgotten, here or from other indexes."""
        new = backup.copy()
        faces, names = (
            (self.forgotten | others[0]) - backup.forgotten,
            (self.forgotten_names | others[1]) - backup.forgotten_names,
        )
        new.forgotten |= faces
        new.forgotten_names |= names
        held = (*new.faces.values(), *new.removed)
        doomed = {h.row.face_id for h in held if h.row.face_id in faces or h.person in names}
        if faces or names:
            new.faces = {f: held for f, held in new.faces.items() if f not in doomed}
            new.log = []
        return new, len(doomed)

    # forgetting

    def forget(self, name: str) -> Gone:
        name = nfc(name)
        if name not in {*self.people, *self.forgotten_names, *(held.person for held in self.removed)}:
            raise Unknown(name)
        names = self._names(name)
        gone = Gone(names - (set(self.people) - {name}))  # an old name may be another's by now
        mine = [held for held in self.faces.values() if held.person == name]
        gone.face_ids = {held.row.face_id for held in mine}
        others = set(self.faces) - gone.face_ids
        mine += [h for h in self.removed if h.person in gone.names or h.row.face_id in gone.face_ids]
        gone.face_ids |= {held.row.face_id for held in mine} - others
        gone.pieces = {piece for held in mine if held.row.face_id in gone.face_ids for piece in pieces_of(held.row)}
        self.faces = {f: held for f, held in self.faces.items() if f not in gone.face_ids}
        self.log = [left for entry in self.log if (left := _without(entry, gone)) is not None]
        self.forgotten |= gone.face_ids
        self.forgotten_names |= gone.names
        return gone

    def _names(self, name: str) -> set[str]:
        """Of the person, old ones too."""
        names = {name}
        for entry in reversed(self.log):
            if entry.verb == "rename" and entry.people[1] in names:
                names.add(entry.people[0])
            elif entry.verb == "merge" and entry.people[-1] in names:
                names |= set(entry.faces.values())
        return names

    # answers

    def search(
        self,
        q: np.ndarray,
        k: int,
        faces: bool = False,
        score: str = "best",
        where: Sequence[Condition] = (),
        min_score: float | None = None,
    ) -> list[Hit]:
        for condition in where:
            if condition.column not in {*self.columns, *OWN}:
                raise InputError(condition.column)
        numeric = {condition.column: is_numeric([*self.faces.values()], condition.column) for condition in where}
        if any(is_refused(condition, numeric[condition.column]) for condition in where):
            raise InputError("two kinds")
        kept = [held for held in self.faces.values() if meets_all(held, where, numeric)]
        x = self._centred(q)
        ranked = sorted(
            ((-_dot(self._centred(held.row.vector), x), held.row.face_id, held) for held in kept),
            key=lambda line: line[:2],
        )
        if not faces:
            best: dict[str, tuple] = {}
            for line in ranked:
                best.setdefault(line[2].person, line)
            ranked = list(best.values())
            if score != "best":
                ranked = sorted(
                    ((-self._of_person(person, kept, x, score), f, held) for person, (_, f, held) in best.items()),
                    key=lambda line: line[:2],
                )
        hits = [Hit(i + 1, held.person, float(-s), f, held.row.image) for i, (s, f, held) in enumerate(ranked[:k])]
        return [hit for hit in hits if min_score is None or hit.score >= min_score]

    def _of_person(self, person: str, kept: Sequence[Held], q: np.ndarray, score: str) -> np.float32:
        xb = [self._centred(held.row.vector).astype(np.float64) for held in kept if held.person == person]
        total = sum(xb, np.zeros(self.d))
        length = len(xb) if score == "mean" else math.sqrt(np.sum(total * total))
        return np.float32(np.sum(total * q.astype(np.float64)) / length) if length else np.float32(0)

    def _centred(self, x: np.ndarray | None) -> np.ndarray:
        assert x is not None
        if self.mean is None:
            return x
        moved = x.astype(np.float64) - self.mean
        return (moved / np.sqrt(np.sum(moved * moved))).astype(np.float32)


def _dot(x: np.ndarray, q: np.ndarray) -> np.float32:
    return np.float32(np.sum(x.astype(np.float64) * q.astype(np.float64)))


def _without(entry: Entry, gone: Gone) -> Entry | None:
    """A line of the log without a person; None where nothing is left of it."""
    trash = tuple(h for h in entry.trash if h.person not in gone.names and h.row.face_id not in gone.face_ids)
    match entry.verb:
        case "rename":
            return None if gone.names & set(entry.people) else entry
        case "add":
            faces = {f: "" for f in entry.faces if f not in gone.face_ids}
            return replace(entry, faces=faces) if faces else None
        case "remove":
            faces = {held.row.face_id: "" for held in trash}
            people = tuple(name for name in entry.people if name not in gone.names)
            return replace(entry, faces=faces, people=people, trash=trash) if faces else None
    to = entry.people[-1]
    faces = {f: person for f, person in entry.faces.items() if f not in gone.face_ids and person not in gone.names}
    return (
        replace(entry, faces=faces, people=tuple(dict.fromkeys([*faces.values(), to])))
        if faces and to not in gone.names
        else None
    )


# filters --------------------------------------------------------------------

OWN = ("identity", "image", "split", "face", "face_id", "confidence", "sharpness")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda x, y: x == y,
    "!=": lambda x, y: x != y,
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
}


@dataclass(frozen=True)
class Condition:
    column: str
    operator: str
    value: str
    space: str = ""

    @property
    def text(self) -> str:
        return f"{self.space}{self.column}{self.space}{self.operator}{self.space}{self.value}{self.space}"


def number(text: str) -> Fraction | None:
    with contextlib.suppress(ValueError):
        return Fraction(text.strip()) if not set(text.strip()) - set("0123456789+-.eE") else None
    return None


def value_of(held: Held, column: str) -> str | None:
    """None where it is missing or blank; a test's columns hold no dates."""
    found = (
        held.person
        if column == "identity"
        else getattr(held.row, column)
        if column in OWN
        else held.row.extra.get(column)
    )
    return None if found is None or found != found or not str(found).strip() else str(found)


def is_numeric(faces: Sequence[Held], column: str) -> bool:
    values = [value for held in faces if (value := value_of(held, column)) is not None]
    if column in OWN:
        return column in ("face", "confidence", "sharpness")
    return bool(values) and all(number(value) is not None for value in values)


def is_refused(condition: Condition, numeric: bool) -> bool:
    """Whether it has no value, orders text by a number, or compares numbers with text."""
    operator, value = condition.operator, condition.value
    if not value:
        return operator != "!="
    mixed = numeric != (number(value) is not None)
    return mixed and (operator in ("<", "<=", ">", ">=") or numeric and operator != ":")


def meets(held: Held, condition: Condition, numeric: bool) -> bool:
    column, value = condition.column, condition.value
    if (text := value_of(held, column)) is None:
        return False
    value = nfc(value) if column == "identity" else value
    if condition.operator == ":":
        return f";{value};" in f";{text.replace('; ', ';').replace(' ;', ';')};"
    if not numeric:
        return COMPARE[condition.operator](text, value)
    x, y = number(text), number(value)
    return COMPARE[condition.operator](x, y) if y is not None else condition.operator == "!="


def meets_all(held: Held, where: Sequence[Condition], numeric: Mapping[str, bool]) -> bool:
    """Conditions with `=` on one column are alternatives."""
    anyway = [meets(held, c, numeric[c.column]) for c in where if c.operator != "="]
    groups = {
        c.column: [
            meets(held, other, numeric[c.column])
            for other in where
            if (other.column, other.operator) == (c.column, "=")
        ]
        for c in where
        if c.operator == "="
    }
    return all(anyway) and all(map(any, groups.values()))


# what may happen ------------------------------------------------------------

names = st.builds(unicodedata.normalize, st.sampled_from(("NFC", "NFD")), st.sampled_from(NAMES))
some_face = st.integers(0, FACES - 1)
offers = st.lists(st.tuples(some_face, names, st.sampled_from(EXTRAS)), min_size=1, max_size=5)
commands = st.sampled_from((None, "first", "second"))
writers = st.integers(0, 1)
seldom = st.integers(0, 3).map(lambda n: n == 3)
VALUES = {
    "identity": NAMES,
    "image": ("album/3.jpg", "album/10.jpg", "b"),
    "split": ("gallery", "probe", "Gallery"),
    "face": ("0", "1", "x"),
    "confidence": ("0.5", "0.875", "1", "0.5 x", "zz"),
    "sharpness": ("12.5", "1e2"),
    "face_id": [row.face_id for row in pool(4)[:4]],
    "year": ("1999", "2005", "199", "1e3", "0", "unknown", "1999.0", "abc", ""),
    "tags": ("beach", "sea", "beach;sea", "sun", "", "bea"),
    "größe.x": ("1.5", "1.50", "x"),
    "back\\slash": ("a b", "a"),
    "année": ("007", "7"),
    "nope": ("1",),
}
conditions = st.sampled_from(sorted(VALUES)).flatmap(
    lambda column: st.builds(
        Condition,
        st.just(column),
        st.sampled_from((*COMPARE, ":")),
        st.sampled_from(VALUES[column]),
        st.sampled_from(("", " ")),
    )
)
filters = st.one_of(st.just([]), st.lists(conditions, min_size=1, max_size=3))
BAD = {
    "no name": {"identity": None},
    "a blank name": {"identity": " \u2003"},
    "no vector": {"vector": None},
    "NaN": {"vector": np.full(4, np.nan, np.float32)},
    "infinity": {"vector": np.full(4, np.inf, np.float32)},
    "length 2": {"vector": np.ones(4, np.float32)},
    "five numbers": {"vector": np.eye(5, dtype=np.float32)[0]},
}


# so that a gallery of 40 faces is large: rebuilt after six changes, read and searched in several blocks
SMALL = (
    (derive, "LEAST", 5),
    (search, "SPARE", 1),
    (candidates, "ROOM", 1),
    (candidates, "GATHER", 3),
    (people, "GATHER", 3),
    (people, "PEOPLE", 2),
    (rows_module, "BLOCK", 3),
)


def outcome(call: Callable[[], Any]) -> Any:
    """What it returns, or the class of the error that a user would see."""
    try:
        return call()
    except FaceGalleryError as error:
        return type(error)


def agree(oracle: Oracle, of_gallery: Callable[[], Any], of_oracle: Callable[[Oracle], Any]) -> Oracle:
    """The oracle after what both did; where both had the same error, as it was."""
    trial = oracle.copy()
    want, got = outcome(lambda: of_oracle(trial)), outcome(of_gallery)
    assert got == want, (got, want)
    return oracle if isinstance(want, type) else trial


class Warnings(logging.Handler):
    """Of files that are damaged, rebuilds that failed: there must be none."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Model(RuleBasedStateMachine):
    """One gallery with two writers and two searchers, and the oracle beside it."""

    steps = 0  # of all runs

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.root = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="facegallery-model-")))
        self.warnings = Warnings()
        logging.getLogger("facegallery.indexer").addHandler(self.warnings)
        self.stack.callback(logging.getLogger("facegallery.indexer").removeHandler, self.warnings)
        self.stack.enter_context(mock.patch.object(log_module, "time", SimpleNamespace(time=lambda: self.oracle.now)))
        self.stack.enter_context(mock.patch.dict(os.environ, {"FACEGALLERY_KEY": "a key"}))
        self.made = 0
        self.ids: dict[str, int] = {}
        self.newest_id = 0
        self.gone = Gone()
        self.frozen: tuple[Store, Any] | None = None
        self.backups: list[tuple[Path, Oracle]] = []
        self.others: Lists = (set(), set())
        self.exports: dict[tuple[str, ...], Path] = {}
        self.where: list[Condition] = []  # of the last search, for the one after each step

    @initialize(
        d=st.sampled_from((4, 16)),
        centre=seldom,
        encrypt=seldom,
        small=st.booleans(),
        n=st.integers(3, FACES // 2),
        offered=offers,
    )
    def begin(self, d: int, centre: bool, encrypt: bool, small: bool, n: int, offered: list) -> None:
        for module, constant, value in SMALL if small else ():
            self.stack.enter_context(mock.patch.object(module, constant, value))
        self.oracle, self.encrypt = Oracle(d, centre), encrypt
        self.folder = self.root / "indexes" / "i"
        first = [
            replace(row, split="gallery") for row in self._rows((i, NAMES[i % 5], EXTRAS[i % 7]) for i in range(n))
        ]
        self._build([*first, *self._rows(offered)], False)
        self._open()

    def teardown(self) -> None:
        if hasattr(self, "writers"):
            self._close()
        self.stack.close()

    def _open(self) -> None:
        self.writers = [open_store(self.folder, write=True) for _ in range(2)]
        self.searchers = [Searcher(self.folder) for _ in range(2)]

    def _close(self) -> None:
        for one in (*self.writers, *self.searchers, *(self.frozen or ())[:1]):
            one.close()
        self.frozen = None

    def _new_path(self, kind: str) -> Path:
        self.made += 1
        return self.root / f"{kind}-{self.made}"

    def _rows(self, offered: Iterable[tuple[int, str, dict[str, str]]]) -> list[Row]:
        return [replace(pool(self.oracle.d)[i], identity=name, extra=extra) for i, name, extra in offered]

    def _agree(self, of_gallery: Callable[[], Any], of_oracle: Callable[[Oracle], Any]) -> None:
        self.oracle = agree(self.oracle, of_gallery, of_oracle)

    # verbs

    @rule(batches=st.lists(offers, min_size=1, max_size=3), readmit=seldom, command=commands, writer=writers)
    def add(self, batches: list, readmit: bool, command: str | None, writer: int) -> None:
        for rows in map(self._rows, batches):
            self._agree(
                lambda rows=rows: self.writers[writer].add(iter(rows), readmit=readmit, command=command),
                lambda o, rows=rows: o.add(rows, readmit, command),
            )

    @rule(offered=offers, face=some_face, name=names, bad=st.sampled_from(sorted(BAD)))
    def add_with_a_row_that_cannot_be(self, offered: list, face: int, name: str, bad: str) -> None:
        rows = [*self._rows(offered), *(replace(row, **BAD[bad]) for row in self._rows([(face, name, {})]))]
        self._agree(lambda: self.writers[0].add(rows), lambda o: o.add(rows))

    @rule(name=names, face=some_face, by=st.sampled_from(("identity", "image", "face_id")), writer=writers)
    def remove(self, name: str, face: int, by: str, writer: int) -> None:
        row = self._rows([(face, name, {})])[0]
        which = {by: getattr(row, by)}
        self._agree(lambda: self.writers[writer].remove(**which), lambda o: o.remove(**which))

    @rule(old=names, new=st.one_of(names, st.just(" ")), writer=writers)
    def rename(self, old: str, new: str, writer: int) -> None:
        self._agree(lambda: self.writers[writer].rename(old, new), lambda o: o.rename(old, new))

    @rule(source=names, into=names, writer=writers)
    def merge(self, source: str, into: str, writer: int) -> None:
        self._agree(lambda: self.writers[writer].merge(source, into), lambda o: o.merge(source, into))

    @rule(
        faces=st.lists(some_face, max_size=4),
        to=st.one_of(names, st.just("")),
        enrolled=st.sampled_from((True, True, False)),
        writer=writers,
    )
    def split(self, faces: list[int], to: str, enrolled: bool, writer: int) -> None:
        known = (
            sorted(self.oracle.faces)
            if enrolled and self.oracle.faces
            else [row.face_id for row in pool(self.oracle.d)]
        )
        face_ids = [known[face % len(known)] for face in faces]
        self._agree(lambda: self.writers[writer].split(face_ids, to), lambda o: o.split(face_ids, to))

    @rule(times=st.integers(1, 4), writer=writers)
    def undo(self, times: int, writer: int) -> None:
        for _ in range(times):
            self._agree(self.writers[writer].undo, Oracle.undo)

    # questions

    @rule(
        at=st.lists(st.integers(0, 2 * FACES - 1), min_size=1, max_size=3),
        k=st.integers(1, FACES + 2),
        faces=st.booleans(),
        where=filters,
        min_score=st.sampled_from((None, None, 0.0, 0.5, 1.0)),
        one=st.integers(0, 1),
    )
    def search(
        self, at: list[int], k: int, faces: bool, where: list[Condition], min_score: float | None, one: int
    ) -> None:
        self.where = where
        self._ask(self.searchers[one], at, k, faces=faces, where=where, min_score=min_score)

    @rule(
        at=st.integers(0, 2 * FACES - 1),
        k=st.integers(1, len(NAMES) + 1),
        score=st.sampled_from(("mean", "template")),
        where=filters,
    )
    def search_by_all_faces(self, at: int, k: int, score: str, where: list[Condition]) -> None:
        for searcher in self.searchers:
            self._ask(searcher, [at], k, score=score, where=where)

    @rule(k=st.sampled_from((0, -1)), one=st.integers(0, 1))
    def search_that_cannot_be(self, k: int, one: int) -> None:
        xq = queries(self.oracle.d)[:2]
        ask = self.searchers[one].search
        assert (
            outcome(lambda: ask(xq, k)) is InputError
            and outcome(lambda: ask(xq, 1, faces=True, score="mean")) is InputError
        )
        assert outcome(lambda: ask(xq, 1, where=["year"])) is InputError
        for damaged in (xq * 2, xq[:, :3], xq[0], np.where(np.arange(2)[:, None] == 1, np.nan, xq), np.zeros_like(xq)):
            assert outcome(lambda damaged=damaged: ask(damaged, 1)) is DataError
        assert ask(xq[:0], 1) == []

    def _ask(
        self, searcher: Searcher, at: Sequence[int], k: int, where: Sequence[Condition] = (), **options: Any
    ) -> None:
        xq, texts = queries(self.oracle.d)[list(at)], [condition.text for condition in where]
        got = outcome(lambda: without_ids(searcher, searcher.search(xq, k, where=texts, **options)))
        assert got == outcome(lambda: [self.oracle.search(q, k, where=where, **options) for q in xq])

    @rule(after=names, limit=st.sampled_from((-1, 1, 2)), writer=writers)
    def list_all(self, after: str, limit: int, writer: int) -> None:
        gallery, people = self.writers[writer], list(self.oracle.people.items())
        assert (
            gallery.list_people(after, limit)
            == [line for line in people if line[0] > nfc(after)][: limit if limit > 0 else None]
        )
        assert gallery.columns == sorted(self.oracle.columns) and gallery.enrolled(NAMES) == set(self.oracle.people)
        face_ids = [row.face_id for row in pool(self.oracle.d)]
        assert gallery.forgotten().refused(face_ids) == self.oracle.forgotten
        assert gallery.known(face_ids) == {f: held.person for f, held in self.oracle.faces.items()}
        assert [gallery.crop(f) for f in face_ids] == [
            held and held.row.crop for held in map(self.oracle.faces.get, face_ids)
        ]
        self._compare(gallery, self.oracle)

    def _compare(self, gallery: Store, oracle: Oracle) -> None:
        assert (gallery.faces, gallery.people) == (len(oracle.faces), len(oracle.people))
        assert [name for name, _ in gallery.list_people()] == list(oracle.people)
        for name in NAMES:
            assert outcome(lambda name=name: gallery.list_faces(name)) == outcome(
                lambda name=name: oracle.list_faces(name)
            )
        lines = gallery.list_log(1000)
        assert [(line["time"], line["verb"], line["faces"], tuple(line["people"])) for line in lines] == [
            (entry.time, entry.verb, entry.change.faces, entry.people) for entry in reversed(oracle.log)
        ]
        assert _grouped([line["command"] for line in lines]) == _grouped(
            [entry.command for entry in reversed(oracle.log)]
        )

    # files

    @rule(dropped=st.sampled_from((0, 0, 0, 0.5, 2)), writer=writers)
    def compact(self, dropped: float, writer: int) -> None:
        """dropped: up to which share of the time since the beginning changes can no longer be taken back."""
        gallery = self.writers[writer]
        with gallery.writing():
            self._agree(lambda: gallery.drop_log(dropped * self.oracle.now), lambda o: o.drop_log(dropped * o.now))
        assert derive.compact(gallery)

    @rule(offered=offers, face=some_face, name=names)
    def compact_while_another_writes(self, offered: list, face: int, name: str) -> None:
        write, rows, face_id = derive._write, self._rows(offered), pool(self.oracle.d)[face].face_id

        def write_and_wait(gallery: Store, generation: int, *rest: Any) -> Path:
            written = write(gallery, generation, *rest)
            with mock.patch.object(derive, "LEAST", 1000):  # this process has one temporary folder
                self._agree(lambda: self.writers[1].add(rows), lambda o: o.add(rows))
                self._agree(lambda: self.writers[1].split([face_id], name), lambda o: o.split([face_id], name))
                self._agree(
                    lambda: self.writers[1].remove(face_id=rows[0].face_id), lambda o: o.remove(face_id=rows[0].face_id)
                )
            return written

        with mock.patch.object(derive, "_write", write_and_wait):
            assert derive.compact(self.writers[0])

    @rule()
    def reopen_one_of_each(self) -> None:
        self.writers[0].close()
        self.searchers[1].close()
        self.writers[0], self.searchers[1] = open_store(self.folder, write=True), Searcher(self.folder)

    @rule(writer=writers)
    def verify(self, writer: int) -> None:
        done = verify(self.writers[writer])
        assert (done.faces, done.people, done.problems, done.rebuilt) == (
            len(self.oracle.faces),
            len(self.oracle.people),
            [],
            [],
        )

    @rule(writer=writers)
    def backup(self, writer: int) -> None:
        path = self._new_path("backup")
        done = transfer.backup(self.writers[writer], path)
        assert (done.faces, done.people) == (len(self.oracle.faces), len(self.oracle.people))
        assert outcome(lambda: transfer.backup(self.writers[writer], path)) is InputError
        self.backups = [*self.backups[-2:], (path, self.oracle.copy())]

    @precondition(lambda self: self.backups)
    @rule(which=st.integers(0, 2), at=st.integers(0, 2 * FACES - 1), stay=st.booleans())
    def restore_under_a_new_name(self, which: int, at: int, stay: bool) -> None:
        path, backup = self.backups[which % len(self.backups)]
        folder = self.root / "indexes" / f"restored-{self._new_path('index').name}"
        done = transfer.restore(path, folder)
        backup, left_out = self.oracle.restored(backup, self.others)
        assert (done.faces, done.people, done.forgotten) == (len(backup.faces), len(backup.people), left_out)
        assert outcome(lambda: transfer.restore(path, folder)) is GalleryError
        now = self.oracle.now
        with open_store(folder, write=True) as gallery, Searcher(folder) as searcher:
            self._compare(gallery, backup)
            assert verify(gallery).problems == []
            for _ in range(3):
                backup = agree(backup, gallery.undo, Oracle.undo)
            found = without_ids(searcher, searcher.search(queries(backup.d)[[at]], 50))
            assert found == [backup.search(queries(backup.d)[at], 50)]
        left = backup if not stay else self.oracle  # the list of an index that is removed stays
        self.others = self.others[0] | left.forgotten, self.others[1] | left.forgotten_names
        if not stay:
            shutil.rmtree(folder)
            return
        self._close()
        shutil.rmtree(self.folder)
        self.folder, self.oracle, self.oracle.now, self.gone = folder, backup, now, Gone()
        self.ids, self.newest_id = {}, 0
        self._open()

    @precondition(lambda self: self.backups)
    @rule(which=st.integers(0, 2))
    def restore_in_place(self, which: int) -> None:
        path, backup = self.backups[which % len(self.backups)]
        new, left_out = self.oracle.restored(backup, self.others)
        new.now = self.oracle.now
        done = transfer.restore(path, self.folder, replace=True)
        assert (done.faces, done.people, done.forgotten) == (len(new.faces), len(new.people), left_out)
        self.oracle, self.ids = new, dict(self.writers[0].execute("SELECT face_id, id FROM faces"))

    @rule(crops=st.booleans())
    def export(self, crops: bool) -> None:
        key = (str(crops), *sorted(self.oracle.columns))
        out = self.exports.setdefault(key, self._new_path("export"))
        held = list(self.oracle.faces.values())
        done = transfer.export(self.writers[0], out, crops=crops)
        assert done.without_crop == sum(h.row.crop is None for h in held) * crops
        got = [row for table in DataSet(out).shards() for row in to_rows(table)] if any(out.glob("part-*")) else []
        want = [replace(h.row, identity=h.person, split="gallery", crop=h.row.crop if crops else None) for h in held]
        assert sorted(map(_plain, got)) == sorted(map(_plain, want))

    @rule(
        offered=st.lists(
            st.tuples(some_face, st.sampled_from(NAMES), st.sampled_from(EXTRAS)), min_size=1, max_size=12
        ),
        readmit=seldom,
        really=seldom,
    )
    def build_anew(self, offered: list, readmit: bool, really: bool) -> None:
        if really:
            self._build(self._rows(offered), readmit)

    def _build(self, rows: Sequence[Row], readmit: bool) -> None:
        images = list(dict.fromkeys(row.image for row in rows))
        rows = sorted(rows, key=lambda row: images.index(row.image))
        columns = sorted({column for row in rows for column in row.extra})
        data = synthetic.write(self._new_path("vectors"), rows, synthetic.spec(self.oracle.d), columns)

        def run() -> tuple:
            report = build(
                data,
                self.folder,
                BuildOptions(centre=self.oracle.centre, replace=True, readmit=readmit, encrypt=self.encrypt),
            )
            left = report.left_out
            return report.n, left.get("the same face again", 0), left.get("of a forgotten face", 0), report.conflicts

        def expected(oracle: Oracle) -> tuple:
            done = oracle.replace_all(rows, readmit)
            return done.added, done.again, done.forgotten, done.conflicts

        self._agree(run, expected)

    # forgetting

    @rule(name=names, writer=writers)
    def forget(self, name: str, writer: int) -> None:
        gallery, before = self.writers[writer], self.oracle

        def run() -> tuple:
            traces = forgetting.forget(gallery, name)
            finished = pending.finish_pending(gallery)
            receipt = receipts.receipt_of(gallery, traces, {}, pending=not finished)
            return traces.names, traces.face_ids, finished, finished and receipt.found > 0

        def expected(oracle: Oracle) -> tuple:
            gone = oracle.forget(name)
            self.gone.names |= gone.names
            self.gone.pieces |= gone.pieces
            finished, twins = self.frozen is None, bool(gone.pieces & oracle.pieces(hashes=False))
            return gone.names, gone.face_ids, finished, finished and twins and not self.encrypt

        self._agree(run, expected)
        self._keep_what_came_back()
        if self.oracle is not before and self.frozen is None:
            self._look_for_the_gone()

    def _keep_what_came_back(self) -> None:
        if self.gone.names:
            self.gone.names -= self.oracle.texts
            self.gone.pieces -= self.oracle.pieces()

    def _look_for_the_gone(self) -> None:
        """In every byte of the index."""
        oracle = self.oracle
        gone = [name for name in self.gone.names if len(name.encode()) >= 5]
        wanted = [
            *self.gone.pieces,
            *(text.encode() for name in gone for text in {name, json.dumps(name, ensure_ascii=False)[1:-1]}),
        ]
        longer = sorted(
            (text.encode() for text in oracle.texts if any(name in text for name in gone)), key=len, reverse=True
        )
        for path in self.folder.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                for text in longer:
                    data = data.replace(text, b"")
                left = [text for text in wanted if text in data]
                assert left == [], (path.name, left)

    @precondition(lambda self: self.frozen is None)
    @rule()
    def freeze(self) -> None:
        gallery = open_store(self.folder)
        gallery.begin_reading()
        self.frozen = gallery, self._picture(gallery)

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def thaw(self) -> None:
        assert self.frozen is not None
        gallery, picture = self.frozen
        assert self._picture(gallery) == picture
        gallery.close()
        self.frozen = None
        with open_store(self.folder) as gallery:
            assert gallery.fact(pending.PENDING) is None
        self._look_for_the_gone()

    @staticmethod
    def _picture(gallery: Store) -> Any:
        return [(name, gallery.list_faces(name)) for name, _ in gallery.list_people()], gallery.list_log(1000)

    # at all times

    @invariant()
    def nothing_is_out_of_step(self) -> None:
        if not hasattr(self, "writers"):
            return
        Model.steps += 1
        gallery, oracle = self.writers[1], self.oracle
        assert self.warnings.lines == []
        assert gallery.list_people() == list(oracle.people.items())
        found = gallery.execute("SELECT face_id, id FROM faces ORDER BY id")
        assert [face_id for face_id, _ in found] == list(oracle.faces)
        assert all(self.ids.get(face_id) == id or id > self.newest_id for face_id, id in found)
        self.ids, self.newest_id = dict(found), max([self.newest_id, *(id for _, id in found)])
        assert len(gallery.list_log(1000)) == len(oracle.log)
        now = int(oracle.now)
        self._ask(
            self.searchers[0], [now % (2 * FACES)], 1 + now % 9, faces=now % 2 == 0, where=self.where if now % 3 else []
        )
        self._keep_what_came_back()
        oracle.now += 1.0


def _grouped(commands: Sequence[object]) -> list[int]:
    return [commands.index(command) for command in commands]


def _plain(row: Row) -> tuple:
    assert row.vector is not None and row.box is not None
    sharpness = None if row.sharpness is None or math.isnan(row.sharpness) else row.sharpness
    return (
        row.face_id,
        row.image,
        row.image_sha256,
        row.identity,
        str(row.split),
        row.outcome,
        row.face,
        tuple(row.box),
        str(row.confidence),
        str(sharpness),
        row.crop or b"",
        np.asarray(row.vector, np.float32).tobytes(),
        sorted(row.extra.items()),
    )


@pytest.mark.parametrize("steps", doses(100, STEPS))
def test_a_gallery_answers_as_a_dict_and_numpy_do(steps):
    long_run, before = "FACEGALLERY_STEPS" in os.environ and steps == STEPS, Model.steps
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=max(1, steps // STEPS_A_RUN),
            stateful_step_count=STEPS_A_RUN,
            deadline=None,
            database=None,
            derandomize=not long_run,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
    taken = Model.steps - before
    print(f"{taken} steps, no difference")
    assert taken >= steps * 0.75
