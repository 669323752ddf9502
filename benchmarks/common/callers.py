"""Ask one server over connections that are opened again now and then, and check what searches and lists answer."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from benchmarks.common.ledger import Killed, Ledger, Tally, World, Wrong
from facegallery.client import Client, RequestRefused, ServerUnreachable
from facegallery.results import as_document

USES = (20, 200)  # requests after which a connection is made anew
IDLE_SECONDS = 10  # after which it is made anew, before the server ends it
SECONDS = 60  # within which an answer must come
REFUSED = ("429 rate", "503 busy")  # for now: asked again
SAME = 0.9  # at least the cosine of a picture with itself, with noise or without, by networks of whatever precision
STREAMED = 16
PNG = b"\x89PNG"


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    began: float

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def label(self) -> str:
        """Return the status, with the kind of a problem: '200', '404 unknown'."""
        if self.status < 400:
            return str(self.status)
        try:
            return f"{self.status} {self.json()['type'].rpartition(':')[2]}"
        except (ValueError, KeyError):
            return f"{self.status} {self.body[:80]!r}"


class Caller:
    """Ask by two connections in turns, with a key; send again what is refused for now."""

    def __init__(self, name: str, port: int, key: str, world: World, ledger: Ledger, tally: Tally):
        self.name, self.world, self.ledger, self.tally = name, world, ledger, tally
        self.ended, self.killed = threading.Event(), threading.Event()
        self.typed = Client(f"http://127.0.0.1:{port}", key, timeout=SECONDS)
        self.gallery = self.typed.gallery(world.index)
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
        """Send a request; raise Wrong for an unexpected answer, Killed where the server was killed."""
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
        """Repeat `step`; note what is wrong."""
        while not self.ended.is_set() and not self.killed.is_set():
            try:
                step(self)
            except Killed:
                return
            except Exception as error:
                if self.killed.is_set() and isinstance(error, OSError | http.client.HTTPException | ServerUnreachable):
                    return
                if isinstance(error, RequestRefused) and error.status in (429, 503):
                    self.tally.refuse(f"{error.status} {error.problem.get('type', '').rpartition(':')[2]}")
                    continue
                self.tally.note(self.name, error)
                self.ended.wait(1)
            self.ended.wait(pause * random.uniform(0.5, 1.5))


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
    """Return the hits of the photo's first face."""
    return next((face["hits"] for face in answer["faces"] if face["face"] == 0), [])


def search_photo(c: Caller, photo: bytes, expected: str) -> None:
    answer = c.ask("search, photo", "POST", f"{c.world.path}/search", photo)
    check_hits(c, hits_of(answer.json()), answer.began, expected)


def search(c: Caller) -> None:
    """Search for a person who stays, or for one who changes, and who is found unless changed meanwhile."""
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
    """Send a stream of photos by the Python client, which retries by itself, and compare two photos."""
    asked = random.sample(c.world.people, STREAMED)
    began = time.monotonic()
    found = c.gallery.search([photo for _, photo in asked])
    for (person, _), photo in zip(asked, found.photos, strict=True):
        check_hits(c, hits_of(as_document(photo)), began, person)
    c.tally.answered(f"stream of {STREAMED}", time.monotonic() - began)
    with c.tally.timed("verify, two photos"):
        score = c.gallery.compare(asked[0][1], asked[0][1]).score
    if score < SAME:
        raise Wrong(f"expected a photo to be as itself, received {score}")


def read(c: Caller) -> None:
    """Ask what a page and a supervisor ask."""
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
