"""Run clients of every kind against one server, and check every answer against a ledger of acknowledged changes.

Searches ask about people who stay, and about people whom other clients enrol, correct and forget meanwhile. A client
that changes a person holds that person alone (`Ledger.take`), so that the possible answers are always known. Every
client opens new connections now and then, so that one process makes a change and another one is asked about it.
"""

from __future__ import annotations

import http.client
import io
import itertools
import json
import random
import threading
import time
import uuid
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
from PIL import Image

from facegallery.client import Client, RequestRefused
from facegallery.embedder.dataset.row import face_id

SAME = 0.9  # at least the cosine of a picture with itself, with noise or without, by networks of whatever precision
NOISE = 4  # of 255
USES = (20, 200)  # requests after which a connection is made anew
IDLE_SECONDS = 10  # after which it is made anew, before the server ends it
SECONDS = 60  # within which an answer must come
WRONG = 100  # that are spelt out
REFUSED = ("429 rate", "503 busy")  # for now: asked again
STREAMED = 16
PNG = b"\x89PNG"


class Wrong(Exception):
    """An answer that may not be."""


class Killed(Exception):
    """The server was, as the run wanted it."""


class Tally:
    """What clients were answered."""

    def __init__(self) -> None:
        self.times: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        self.refused: Counter[str] = Counter()  # for now, by kind of refusal
        self.checks: Counter[str] = Counter()  # that held
        self.wrong: list[str] = []
        self.wrongs = 0
        self._lock = threading.Lock()

    def summary(self) -> dict[str, dict[str, float]]:
        """How many answers of each kind, and the 50th and 99th percentile of their times."""
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


# what is known --------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """What there is to ask about; photos are JPEGs."""

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
    """A change, with the faces of all whom it is about, before it and after."""

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
    """Whose faces are which, by what was acknowledged."""

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
        """Everybody may be taken again, and every photo that is nobody's: when no client is at work."""
        self._idle = sorted(self.faces)
        used = {self.photo_of[face][0] for faces in self.faces.values() for face in faces}
        self._free = deque(random.sample(rest := [n for n in range(self._photos) if n not in used], len(rest)))

    def number(self) -> int:
        """A new one."""
        return next(self._numbers)

    def name(self) -> str:
        """One that nobody ever had; as long as all others, so that none is a part of another."""
        return f"soak {self.number():08d}"

    def take(self) -> str | None:
        """Somebody whom nobody else has, to be changed."""
        with self._lock:
            if not self._idle:
                return None
            i = random.randrange(len(self._idle))
            self._idle[i], self._idle[-1] = self._idle[-1], self._idle[i]
            name = self._idle.pop()
            self._takes[name] += 1
            return name

    def give(self, *names: str) -> None:
        """Takes back those who are still there, and of whom that is known."""
        with self._lock:
            unknown = {name for write in self.flights.values() for name in write.before}
            self._idle += [name for name in names if name in self.faces and name not in unknown]

    def take_photo(self) -> int | None:
        with self._lock:
            return self._free.popleft() if self._free else None

    def look(self) -> tuple[str, int, int] | None:
        """Somebody whom nobody changes now, one of their photos, and a mark for `unchanged`."""
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
        """Keeps what else a person was called, which `forget` must find too."""
        names = set().union(*({name, *self._former.pop(name, ())} for name, faces in write.after.items() if not faces))
        if write.verb == "forget":
            self.forgotten_names |= names
            self.forgotten_faces |= write.lost
        elif write.verb in ("rename", "merge"):
            (name,) = (name for name, faces in write.after.items() if faces)
            self._former[name] |= names

    def is_gone(self, name: str, at: float) -> bool:
        return self.gone.get(name, float("inf")) < at


# asking ---------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    began: float

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def label(self) -> str:
        """'200', '404 unknown'."""
        if self.status < 400:
            return str(self.status)
        try:
            return f"{self.status} {self.json()['type'].rpartition(':')[2]}"
        except (ValueError, KeyError):
            return f"{self.status} {self.body[:80]!r}"


class Caller:
    """A client with a key: two connections, asked in turns. What is refused for now is asked again."""

    def __init__(self, name: str, port: int, key: str, world: World, ledger: Ledger, tally: Tally):
        self.name, self.world, self.ledger, self.tally = name, world, ledger, tally
        self.ended, self.killed = threading.Event(), threading.Event()
        self.typed = Client(f"http://127.0.0.1:{port}", key, SECONDS)
        self._port, self._key = port, key
        self._connections: list[http.client.HTTPConnection | None] = [None, None]
        self._uses, self._last = [0, 0], [0.0, 0.0]
        self._turn = 0

    def ask(
        self,
        kind: str,
        method: str,
        path: str,
        body: bytes | None = None,
        expected: Collection[str] = ("200",),
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Raises Wrong for another answer than those, Killed where the server was."""
        while True:
            answer = self._once(method, path, body, headers or {})
            if answer.label not in REFUSED:
                break
            self.tally.refuse(answer.label)
            if self.killed.wait(1):
                raise Killed
        if answer.label not in expected:
            raise Wrong(
                f"{method} {path}: expected {' or '.join(expected)}, received {answer.label} {answer.body[:500]!r}"
            )
        self.tally.answered(kind, time.monotonic() - answer.began)
        return answer

    def _once(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        self._turn = turn = 1 - self._turn
        connection, began = self._connections[turn], time.monotonic()
        if connection is None or self._uses[turn] <= 0 or began - self._last[turn] > IDLE_SECONDS:
            if connection:
                connection.close()
            self._connections[turn] = connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
            self._uses[turn] = random.randint(*USES)
        self._uses[turn] -= 1
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {self._key}", **headers})
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(), began)
        except (OSError, http.client.HTTPException):
            self._uses[turn] = 0
            raise
        finally:
            self._last[turn] = time.monotonic()

    def close(self) -> None:
        self.typed.close()
        for connection in self._connections:
            if connection:
                connection.close()

    def work(self, step: Callable[[Caller], None], pause: float) -> None:
        """`step`, again and again; what is wrong is noted."""
        while not self.ended.is_set() and not self.killed.is_set():
            try:
                step(self)
            except Killed:
                return
            except Exception as error:
                if self.killed.is_set() and isinstance(
                    error, OSError | http.client.HTTPException | httpx.TransportError
                ):
                    return
                if isinstance(error, RequestRefused) and error.status in (429, 503):
                    self.tally.refuse(f"{error.status} {error.problem.get('type', '').rpartition(':')[2]}")
                    continue
                self.tally.note(self.name, error)
                self.ended.wait(1)
            self.ended.wait(pause * random.uniform(0.5, 1.5))


# clients that look ----------------------------------------------------------


def check_hits(c: Caller, hits: Sequence[Any], began: float, expected: str | None) -> None:
    """Check hits as the API has them: `expected` is among them, with the score of one picture twice.

    Nobody among them may have been gone at `began`.
    """
    if back := [hit["identity"] for hit in hits if c.ledger.is_gone(hit["identity"], began)]:
        since = began - c.ledger.gone[back[0]]
        raise Wrong(f"a search answered {back[0]!r}, who was gone for {since:.3f} s when it was asked")
    c.tally.held("no answer named somebody who was gone")
    if expected is None:
        return
    if not any(hit["identity"] == expected and hit["score"] > SAME for hit in hits):
        raise Wrong(
            f"expected {expected!r} among the hits, received "
            f"{[(hit['identity'], round(hit['score'], 3)) for hit in hits]}"
        )
    c.tally.held("a search found who it had to")


def hits_of(answer: Any) -> list[Any]:
    """Of the photo's first face."""
    return next((face["hits"] for face in answer["faces"] if face["face"] == 0), [])


def search_photo(c: Caller, photo: bytes, expected: str) -> None:
    answer = c.ask("search, photo", "POST", f"{c.world.path}/search", photo)
    check_hits(c, hits_of(answer.json()), answer.began, expected)


def search(c: Caller) -> None:
    """Somebody who stays, or one of those who change: found, unless they were changed meanwhile."""
    seen = c.ledger.look() if random.random() < 0.5 else None
    if seen is None:
        person, photo = random.choice(c.world.people)
        return search_photo(c, photo, person)
    name, number, mark = seen
    answer = c.ask("search, photo", "POST", f"{c.world.path}/search", c.world.photos[number])
    check_hits(c, hits_of(answer.json()), answer.began, name if c.ledger.unchanged(name, mark) else None)


def search_vectors(c: Caller) -> None:
    asked = random.sample(c.world.vectors, random.choice((1, 1, 1, 16)))
    body = json.dumps({"vectors": [vector for _, vector in asked], "k": 5}).encode()
    answer = c.ask(
        f"search, {len(asked)} vectors",
        "POST",
        f"{c.world.path}/search/vectors",
        body,
        headers={"Content-Type": "application/json"},
    )
    for (person, _), found in zip(asked, answer.json()["answers"], strict=True):
        check_hits(c, found["hits"], answer.began, person)


def stream(c: Caller) -> None:
    """By the client in Python, which tries again by itself: a stream of photos, and two photos compared."""
    asked = random.sample(c.world.people, STREAMED)
    began = time.monotonic()
    for (person, _), (_, found) in zip(asked, c.typed.search_many(c.world.index, asked), strict=True):
        if isinstance(found, RequestRefused):
            raise Wrong(f"a photo of a stream was answered with {found.problem}")
        check_hits(c, hits_of(found.model_dump()), began, person)
    c.tally.answered(f"stream of {STREAMED}", time.monotonic() - began)
    with c.tally.timed("verify, two photos"):
        score = c.typed.verify(c.world.index, asked[0][1], asked[0][1]).score
    if score < SAME:
        raise Wrong(f"expected a photo to be as itself, received {score}")


def read(c: Caller) -> None:
    """What a page and a supervisor ask for."""
    c.ask("metrics", "GET", "/metrics")
    c.ask("index", "GET", c.world.path)
    name = random.choice(c.world.people)[0]
    people = c.ask("people", "GET", f"{c.world.path}/people?limit=50&containing={quote(name)}").json()["people"]
    if not (found := [one for one in people if one["identity"] == name]):
        raise Wrong(f"expected {name!r} in the list of people, received {people}")
    c.ask("people", "GET", f"{c.world.path}/people?limit=50&containing=soak")
    for face in found:
        thumbnail(c, face["face_id"], is_there=True)


def thumbnail(c: Caller, face: str, *, is_there: bool) -> None:
    expected = ("200",) if is_there else ("404 unknown",)
    answer = c.ask("thumbnail", "GET", f"{c.world.path}/faces/{face}/thumbnail", expected=expected)
    if is_there and not answer.body.startswith(PNG):
        raise Wrong(f"expected a PNG of the face {face}, received {answer.body[:20]!r}")


# clients that change --------------------------------------------------------


def stamped(photo: bytes, number: int) -> bytes:
    """Add a little noise to a picture, so that its crop shares no bytes with one that was enrolled before."""
    pixels = np.asarray(Image.open(io.BytesIO(photo)).convert("RGB")).astype(np.int16)
    pixels += np.random.default_rng(number).integers(-NOISE, NOISE, pixels.shape, np.int16, endpoint=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(written := io.BytesIO(), "JPEG", quality=95)
    return written.getvalue()


def enrolment(c: Caller, name: str, photo: int, stamp: int) -> Write:
    body = stamped(c.world.photos[photo], stamp)
    face = face_id(sha256(body).hexdigest(), 0)
    before = c.ledger.faces.get(name, NOBODY)
    return Write(
        "enrol", f"{c.world.path}/faces?identity={quote(name)}&face=0", body, {name: before}, {name: before | {face}}
    )


def change(c: Caller, verb: str, asked: dict[str, Any], before: dict[str, Faces], after: dict[str, Faces]) -> Write:
    return Write(verb, f"{c.world.path}/people/{verb}", json.dumps(asked).encode(), before, after)


def headers_of(write: Write, mark: str) -> dict[str, str]:
    return {"Idempotency-Key": mark, "Content-Type": "image/jpeg" if write.verb == "enrol" else "application/json"}


def do(c: Caller, write: Write) -> Answer:
    """Asks for it, keeps that it was acknowledged, and looks whether it can be seen."""
    c.ledger.begin(write)
    answer = c.ask(write.verb, "POST", write.path, write.body, headers=headers_of(write, write.mark))
    c.ledger.acknowledge(write)
    check_seen(c, write)
    if random.random() < 0.1:
        again = c.ask(
            f"{write.verb} again", "POST", write.path, write.body, ("200", "409 done"), headers_of(write, write.mark)
        )
        if again.status == 200 and again.body != answer.body:
            raise Wrong(
                f"{write.verb} sent again: expected the same answer {answer.body[:300]!r}, "
                f"received {again.body[:300]!r}"
            )
        check_seen(c, write)
        c.tally.held("a change sent again was done once")
    return answer


def faces_of(c: Caller, name: str) -> Faces:
    answer = c.ask("faces", "GET", f"{c.world.path}/faces?identity={quote(name)}", expected=("200", "404 unknown"))
    return frozenset(face["face_id"] for face in answer.json()["faces"]) if answer.status == 200 else NOBODY


def check_seen(c: Caller, write: Write) -> None:
    """Every name of a change that was acknowledged has the faces it must have: in the list, and by a search."""
    for name, faces in write.after.items():
        if (found := faces_of(c, name)) != faces:
            raise Wrong(
                f"{write.verb} was acknowledged: expected {name!r} to have {sorted(faces)}, received {sorted(found)}"
            )
        for face in random.sample(sorted(faces), min(1, len(faces))):
            search_photo(c, c.world.photos[c.ledger.photo_of[face][0]], name)
            thumbnail(c, face, is_there=True)
    for face in write.lost:
        thumbnail(c, face, is_there=False)
    c.tally.held("a change was seen at once")


def enrol(c: Caller) -> None:
    """A photo that is nobody's, of somebody new; of five one is of somebody who is there."""
    if (photo := c.ledger.take_photo()) is None:
        return
    name, stamp = (c.ledger.take() if random.random() < 0.2 else None) or c.ledger.name(), c.ledger.number()
    write = enrolment(c, name, photo, stamp)
    c.ledger.photo_of |= dict.fromkeys(write.after[name] - write.before[name], (photo, stamp))
    try:
        do(c, write)
    finally:
        c.ledger.give(name)


def correct(c: Caller) -> None:
    """Renames, merges, splits, removes."""
    if (name := c.ledger.take()) is None:
        return
    faces, others = c.ledger.faces[name], []
    try:
        verb = random.choice(("rename", "merge", "split", "remove"))
        if verb == "merge" and (into := c.ledger.take()) is not None:
            others.append(into)
            theirs = c.ledger.faces[into]
            do(
                c,
                change(
                    c,
                    verb,
                    {"source": name, "into": into},
                    {name: faces, into: theirs},
                    {name: NOBODY, into: faces | theirs},
                ),
            )
        elif verb == "split" and len(faces) > 1:
            others.append(new := c.ledger.name())
            some = frozenset(random.sample(sorted(faces), len(faces) // 2))
            asked = {"face_ids": sorted(some), "to": new}
            do(c, change(c, verb, asked, {name: faces, new: NOBODY}, {name: faces - some, new: some}))
        elif verb == "remove" and len(faces) > 1 and random.random() < 0.5:
            face = random.choice(sorted(faces))
            do(c, change(c, verb, {"face_id": face}, {name: faces}, {name: faces - {face}}))
        elif verb == "remove":
            do(c, change(c, verb, {"identity": name}, {name: faces}, {name: NOBODY}))
        else:
            others.append(new := c.ledger.name())
            do(
                c,
                change(c, "rename", {"old": name, "new": new}, {name: faces, new: NOBODY}, {name: NOBODY, new: faces}),
            )
    finally:
        c.ledger.give(name, *others)


def forget(c: Caller) -> None:
    """For good: no trace may be left, unless a reader of an older state holds the file up."""
    if (name := c.ledger.take()) is None:
        return
    try:
        write = change(c, "forget", {"identity": name}, {name: c.ledger.faces[name]}, {name: NOBODY})
        photo, stamp = c.ledger.photo_of[min(write.lost)]
        check_receipt(c, write.lost, do(c, write))
        c.ledger.refused.append((photo, stamp))
        check_refused(c, photo, stamp)
    finally:
        c.ledger.give(name)


def check_refused(c: Caller, photo: int, stamp: int) -> None:
    """What was forgotten may not be enrolled again."""
    write = enrolment(c, c.ledger.name(), photo, stamp)
    c.ask("enrol, forgotten", "POST", write.path, write.body, ("409 forgotten",))
    c.tally.held("a forgotten face was refused")


def check_receipt(c: Caller, faces: Faces, answer: Answer) -> None:
    receipt = answer.json()
    if not faces <= set(receipt["face_ids"]):
        raise Wrong(f"expected a receipt for {sorted(faces)}, received one for {receipt['face_ids']}")
    if receipt["found"] and not receipt["pending"]:
        files = {path.rpartition(f"/{c.world.index}/")[2]: n for path, n in receipt["files"].items() if n}
        raise Wrong(
            "expected a receipt that tells of no trace, or that forgetting is pending, "
            f"received one of traces in {files}"
        )
    c.tally.held(
        "a receipt told of no trace" if not receipt["pending"] else "a receipt told that a reader holds the file"
    )


def look_after(c: Caller) -> None:
    """Compacts, each third time without what `undo` needs, and calibrates then: jobs, one after the other."""
    third = random.random() < 1 / 3
    jobs = [("compact", lambda: c.typed.compact(c.world.index, 0 if third else None))]
    if third:
        jobs.append(("calibrate", lambda: c.typed.calibrate(c.world.index)))
    for kind, begin in jobs:
        with c.tally.timed(kind):
            job = begin()
            c.ledger.jobs.add(job.id)
            job = c.typed.wait(job)
        c.ledger.jobs.discard(job.id)
        if job.state != "done":
            raise Wrong(f"expected {kind} to be done, it is {job.state}: {job.detail}")


@dataclass(frozen=True)
class Role:
    step: Callable[[Caller], None]
    scope: str
    count: int
    pause: float  # seconds between, on average
    rate: float = 0  # requests a second that the key may ask; 0: without limit


ROLES = (
    Role(search, "read", 4, 0),
    Role(stream, "read", 1, 0),
    Role(search_vectors, "read", 2, 0.02),
    Role(read, "read", 1, 0.1, rate=15),
    Role(enrol, "write", 2, 0.1),
    Role(correct, "write", 1, 0.2),
    Role(forget, "admin", 1, 1),
    Role(look_after, "admin", 1, 8),
)


class Clients:
    """All of them, at work."""

    def __init__(self, port: int, keys: dict[str, str], world: World, ledger: Ledger, tally: Tally):
        """keys: by the names of `named`."""
        self._callers = {name: Caller(name, port, keys[name], world, ledger, tally) for name, _ in named()}
        self._threads = [
            threading.Thread(target=self._callers[name].work, args=(role.step, role.pause), daemon=True)
            for name, role in named()
        ]
        for thread in self._threads:
            thread.start()

    def kill(self, server: Callable[[], None]) -> None:
        """Ends the server by `server`; what was not answered is in the ledger's flights."""
        for caller in self._callers.values():
            caller.killed.set()
        server()
        self._join()

    def end(self) -> None:
        """Lets each do what it began."""
        for caller in self._callers.values():
            caller.ended.set()
        self._join()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
        for caller in self._callers.values():
            caller.close()


def named() -> list[tuple[str, Role]]:
    """Every client's name and what it does."""
    return [(f"{role.step.__name__} {i + 1}", role) for role in ROLES for i in range(role.count)]
