"""Keep what a server has acknowledged, what it answered, and which answers are wrong."""

from __future__ import annotations

import itertools
import random
import threading
import time
import uuid
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

WRONG = 100  # that are spelt out


class Wrong(Exception):
    """An unexpected answer."""


class Killed(Exception):
    """The run killed the server."""


class Tally:
    """Count the answers that clients received."""

    def __init__(self) -> None:
        self.times: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        self.refused: Counter[str] = Counter()  # for now, by kind of refusal
        self.checks: Counter[str] = Counter()  # that held
        self.wrong: list[str] = []
        self.wrongs = 0
        self._lock = threading.Lock()

    def summary(self) -> dict[str, dict[str, float]]:
        """Return the number of answers of each kind, and the 50th and 99th percentile of their times."""
        with self._lock:
            taken = {kind: np.array(seconds) for kind, seconds in sorted(self.times.items())}
        return {
            kind: {
                "answers": len(one),
                "p50_ms": 1000 * float(np.median(one)),
                "p99_ms": 1000 * float(np.quantile(one, 0.99)),
            }
            for kind, one in taken.items()
        }

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.answered(kind, time.monotonic() - began)

    def answered(self, kind: str, seconds: float) -> None:
        with self._lock:
            self.times[kind].append(seconds)

    def refuse(self, label: str) -> None:
        with self._lock:
            self.refused[label] += 1

    def held(self, check: str) -> None:
        with self._lock:
            self.checks[check] += 1

    def note(self, who: str, error: BaseException) -> None:
        with self._lock:
            self.wrongs += 1
            if len(self.wrong) < WRONG:
                self.wrong.append(
                    f"{time.strftime('%H:%M:%S')} {who}: {error if isinstance(error, Wrong) else repr(error)}"
                )


@dataclass(frozen=True)
class World:
    """Hold what clients can ask about; photos are JPEGs."""

    index: str
    people: Sequence[tuple[str, bytes]]  # enrolled photos of people whom nobody changes, each with its person
    vectors: Sequence[tuple[str, list[float]]]
    photos: Sequence[bytes]  # with a face each, of people who are enrolled and forgotten again

    @property
    def path(self) -> str:
        return f"/v1/indexes/{self.index}"


Faces = frozenset[str]  # by their ids
NOBODY: Faces = frozenset()


@dataclass(frozen=True)
class Write:
    """Hold a change, with the faces of all people concerned before it and after."""

    verb: str
    path: str
    body: bytes
    before: dict[str, Faces]
    after: dict[str, Faces]
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def lost(self) -> Faces:
        return frozenset().union(*self.before.values()) - frozenset().union(*self.after.values())


class Ledger:
    """Hold the faces of each person, as the server acknowledged them."""

    def __init__(self, photos: int):
        self.faces: dict[str, Faces] = {}
        self.photo_of: dict[str, tuple[int, int]] = {}  # by face_id: which, and the number of its noise
        self.gone: dict[str, float] = {}  # names that may not come again, and since when
        self.flights: dict[str, Write] = {}  # by mark: begun, and not acknowledged
        self.acknowledged: Counter[str] = Counter()
        self.forgotten_names: set[str] = set()
        self.forgotten_faces: set[str] = set()
        self.refused: deque[tuple[int, int]] = deque(
            maxlen=10
        )  # photos of the last who were forgotten, with their stamps
        self.jobs: set[str] = set()  # that were begun and not seen to end
        self._former: defaultdict[str, set[str]] = defaultdict(set)  # names before renaming and merging
        self._numbers, self._lock = itertools.count(1), threading.Lock()
        self._photos = photos
        self._takes: Counter[str] = Counter()
        self.lay_open()

    def lay_open(self) -> None:
        """Make every person and every free photo available again, when no client runs."""
        self._idle = sorted(self.faces)
        used = {self.photo_of[face][0] for faces in self.faces.values() for face in faces}
        self._free = deque(random.sample(rest := [n for n in range(self._photos) if n not in used], len(rest)))

    def number(self) -> int:
        """Return a new number."""
        return next(self._numbers)

    def name(self) -> str:
        """Return a name that was never used; all have the same length, so that none is a part of another."""
        return f"soak {self.number():08d}"

    def take(self) -> str | None:
        """Take a person whom no other client holds, to change them."""
        with self._lock:
            if not self._idle:
                return None
            i = random.randrange(len(self._idle))
            self._idle[i], self._idle[-1] = self._idle[-1], self._idle[i]
            name = self._idle.pop()
            self._takes[name] += 1
            return name

    def give(self, *names: str) -> None:
        """Give back the people who are still there, and for whom that is known."""
        with self._lock:
            unknown = {name for write in self.flights.values() for name in write.before}
            self._idle += [name for name in names if name in self.faces and name not in unknown]

    def take_photo(self) -> int | None:
        with self._lock:
            return self._free.popleft() if self._free else None

    def look(self) -> tuple[str, int, int] | None:
        """Return a person whom no client changes now, one of their photos, and a mark for `unchanged`."""
        with self._lock:
            if not self._idle:
                return None
            name = random.choice(self._idle)
            return name, self.photo_of[random.choice(list(self.faces[name]))][0], self._takes[name]

    def unchanged(self, name: str, mark: int) -> bool:
        with self._lock:
            return name in self.faces and self._takes[name] == mark

    def begin(self, write: Write) -> None:
        with self._lock:
            self.flights[write.mark] = write

    def acknowledge(self, write: Write) -> None:
        with self._lock:
            del self.flights[write.mark]
            self.acknowledged[write.verb] += 1
            for name, faces in write.after.items():
                if faces:
                    self.faces[name] = faces
                else:
                    self.faces.pop(name, None)
                    self._takes.pop(name, None)
                    self.gone[name] = time.monotonic()
            self._free.extend(self.photo_of.pop(face)[0] for face in write.lost)
            self._trace(write)

    def _trace(self, write: Write) -> None:
        """Note the other names of a person, which `forget` must find too."""
        names = set().union(*({name, *self._former.pop(name, ())} for name, faces in write.after.items() if not faces))
        if write.verb == "forget":
            self.forgotten_names |= names
            self.forgotten_faces |= write.lost
        elif write.verb in ("rename", "merge"):
            (name,) = (name for name, faces in write.after.items() if faces)
            self._former[name] |= names

    def is_gone(self, name: str, at: float) -> bool:
        return self.gone.get(name, float("inf")) < at
