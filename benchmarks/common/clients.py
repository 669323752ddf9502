"""Run clients of every kind against one server, and check every answer against a ledger of acknowledged changes.

Searches ask about people who stay, and about people whom other clients enrol, correct and forget meanwhile. A client
that changes a person holds that person alone (`Ledger.take`), so that the possible answers are always known. Every
client opens new connections now and then, so that one process makes a change and another one is asked about it.
"""

from __future__ import annotations

import io
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from benchmarks.common.callers import Answer, Caller, read, search, search_photo, search_vectors, stream, thumbnail
from benchmarks.common.ledger import NOBODY, Faces, Ledger, Tally, World, Write, Wrong
from facegallery.embedder.dataset.row import face_id

NOISE = 4  # of 255
JSON = {"Content-Type": "application/json"}


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
    """Send a change, note that it was acknowledged, and check that it is seen."""
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
    """Check that every person of an acknowledged change has the right faces, in the list and by a search."""
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
    """Enrol a photo under a new name, or, once in five times, under the name of a person who is there."""
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
    """Rename, merge, split or remove."""
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
    """Forget a person; no trace may be left, unless a reader of an older state holds the file."""
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
    """Check that a forgotten face cannot be enrolled again."""
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
    """Compact, each third time without what `undo` needs, and then calibrate: one job after the other."""
    third = random.random() < 1 / 3
    jobs: list[tuple[str, dict[str, Any]]] = [("compact", {"keep_undo_days": 0 if third else None})]
    if third:
        jobs.append(("calibrate", {}))
    for kind, asked in jobs:
        with c.tally.timed(kind):
            answer = c.ask(kind, "POST", f"{c.world.path}/{kind}", json.dumps(asked).encode(), ("202",), JSON)
            c.ledger.jobs.add(id := answer.json()["id"])
            while (job := c.typed.job(id)).state == "running":
                time.sleep(0.2)
        c.ledger.jobs.discard(id)
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
    """Run all clients."""

    def __init__(self, port: int, keys: dict[str, str], world: World, ledger: Ledger, tally: Tally):
        """Start a thread for each client; keys are by the names of `named`."""
        self._callers = {name: Caller(name, port, keys[name], world, ledger, tally) for name, _ in named()}
        self._threads = [
            threading.Thread(target=self._callers[name].work, args=(role.step, role.pause), daemon=True)
            for name, role in named()
        ]
        for thread in self._threads:
            thread.start()

    def kill(self, server: Callable[[], None]) -> None:
        """End the server by `server`; unanswered changes are in the ledger's flights."""
        for caller in self._callers.values():
            caller.killed.set()
        server()
        self._join()

    def end(self) -> None:
        """Let each client finish what it began."""
        for caller in self._callers.values():
            caller.ended.set()
        self._join()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
        for caller in self._callers.values():
            caller.close()


def named() -> list[tuple[str, Role]]:
    """List every client's name and role."""
    return [(f"{role.step.__name__} {i + 1}", role) for role in ROLES for i in range(role.count)]
