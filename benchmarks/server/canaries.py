"""Check the answers to damaged photos, and those to photos that must always be answered alike: canaries."""

from __future__ import annotations

import http.client
import io
import itertools
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from pydantic import TypeAdapter, ValidationError

from benchmarks.common.mutants import sound
from benchmarks.common.served import Answer, Server
from facegallery.embedder.outcomes import REFUSED
from facegallery.results import PhotoResult
from facegallery.schemas import Problem

TYPES, PROBLEM = "urn:facegallery:problem:", "application/problem+json"
OUTCOMES = (*REFUSED, "invalid")
EXPECTED = {(413, "large"), *((422, kind) for kind in OUTCOMES)}
SURE = 0.8  # a score that only the person has
SECONDS = 120.0  # within which an answer must come
BUSY_SECONDS = 0.2
SAME_SCORE, SAME_PIXELS = 0.02, 2.0  # what batches of another size may change


@dataclass
class Told:
    """Hold how one photo was answered."""

    number: int
    kind: str
    answer: str  # status and outcome or type
    seconds: float
    busy: int = 0  # answers of 503 before it
    replaced: bool = False  # its decoder
    wrong: str = ""  # what is not as it should be


def ask(server: Server, connection: http.client.HTTPConnection, data: bytes) -> tuple[Answer, int]:
    """Send a photo until the answer is not `busy`; return it, and how many were."""
    for busy in itertools.count():
        answer = server.answer(connection, "POST", server.path, data, "application/octet-stream")
        if answer.status != 503 or _member(answer.body, "type") != f"{TYPES}busy":
            return answer, busy
        time.sleep(BUSY_SECONDS)
    raise AssertionError


def read(answer: Answer) -> tuple[str, str]:
    """Return status and outcome or type, and what is wrong with the answer ('' where nothing is)."""
    try:
        if answer.status == 200:
            return f"200 {_documented(PhotoResult, answer, 'application/json').outcome}", ""
        problem = _documented(Problem, answer, PROBLEM)
    except ValueError as error:
        return f"{answer.status}", f"{error}: {answer.body[:300]!r}"
    kind, named = problem.type.removeprefix(TYPES), f"{answer.status} {problem.type.removeprefix(TYPES)}"
    if (answer.status, kind) not in EXPECTED or problem.status != answer.status or not problem.detail:
        return named, f"not a problem that was expected: {answer.body[:300]!r}"
    return named, ""


def _documented(model: type, answer: Answer, kind: str) -> Any:
    """Parse an answer; raise ValueError where members are missing or added."""
    if answer.kind != kind:
        raise ValueError(f"expected {kind}, received {answer.kind!r}")
    try:
        found = TypeAdapter(model).validate_json(answer.body)
    except ValidationError as error:
        raise ValueError(str(error).replace("\n", " ")) from None
    if TypeAdapter(model).dump_python(found, mode="json") != json.loads(answer.body):
        raise ValueError("not the members that are documented")
    return found


def _member(body: bytes, name: str) -> Any:
    try:
        return json.loads(body).get(name)
    except (ValueError, AttributeError):
        return None


def difference(first: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, float]:
    """Return what differs between two answers to one photo, and the largest difference of scores."""
    plain = [
        {**answer, "faces": [(face["face"], face["face_id"]) for face in answer["faces"]]} for answer in (first, now)
    ]
    if plain[0] != plain[1]:
        return f"expected {plain[0]}, received {plain[1]}", 0
    worst = 0.0
    for old, new in zip(first["faces"], now["faces"], strict=True):
        if max(abs(a - b) for a, b in zip(old["box"], new["box"], strict=True)) > SAME_PIXELS:
            return f"expected the box {old['box']}, received {new['box']}", worst
        scores = [{hit["identity"]: hit["score"] for hit in face["hits"]} for face in (old, new)]
        apart = [abs(scores[0][name] - scores[1][name]) for name in scores[0].keys() & scores[1].keys()]
        worst = max([worst, *apart])
        if old["hits"][0]["identity"] != new["hits"][0]["identity"] or worst > SAME_SCORE:
            return f"expected {old['hits'][:2]}, received {new['hits'][:2]}", worst
    return "", worst


class Canaries:
    """Ask photos that must always get their first answer."""

    def __init__(self, server: Server, photos: Sequence[bytes]):
        """Enrol each photo, so that its first hit is sure, then ask it."""
        self._server, self._photos, connection = server, photos, server.connect(SECONDS)
        self.asked, self.worst, self._lock = 0, 0.0, threading.Lock()
        self.in_other_formats, self.missed = 0, list[str]()  # photos, and those in which the person was not found
        enrol = server.path.removesuffix("search") + "faces?face=0&identity=canary%20"
        for i, photo in enumerate(photos):
            if (status := server.ask(connection, "POST", f"{enrol}{i}", photo)) != 200:
                raise SystemExit(f"expected canary {i} to be enrolled, received {status}: choose other photos")
        self._first = [json.loads(ask(server, connection, photo)[0].body) for photo in photos]

    def ask(self, connection: http.client.HTTPConnection, number: int) -> Told:
        i, began = number % len(self._photos), time.monotonic()
        answer, busy = ask(self._server, connection, self._photos[i])
        named, wrong = read(answer)
        told = Told(number, "canary", named, time.monotonic() - began, busy, wrong=wrong)
        if not told.wrong:
            told.wrong, apart = difference(self._first[i], json.loads(answer.body))
            with self._lock:
                self.asked, self.worst = self.asked + 1, max(self.worst, apart)
        return told

    def ask_in_any_format(self, connection: http.client.HTTPConnection, seed: int, number: int) -> Told:
        whole, began = sound(self._photos, seed, number), time.monotonic()
        answer, busy = ask(self._server, connection, whole.data)
        named, wrong = read(answer)
        told = Told(
            number, "canary in " + whole.kind.partition(" sound")[0], named, time.monotonic() - began, busy, wrong=wrong
        )
        if not wrong and answer.status != 200:
            told.wrong = f"a photo that is whole, way {whole.kind[-1]}: {answer.body[:300]!r}"
        told.wrong = told.wrong or self.mistaken(answer, whole.source)
        if not told.wrong and not is_black_and_white(whole.data):
            with self._lock:
                self.in_other_formats += 1
                self.missed += [] if _sure(answer) else [f"{whole.kind} of canary {whole.source}"]
        return told

    def mistaken(self, answer: Answer, source: int) -> str:
        """Return who is surely found in a photo that shows another person."""
        others = _sure(answer) - {f"canary {source}"} if answer.status == 200 else set()
        alike = {hit["identity"] for face in self._first[source]["faces"] for hit in face["hits"]}
        return f"expected canary {source}, received {sorted(others - alike)}" if others - alike else ""


def is_black_and_white(data: bytes) -> bool:
    """Return whether a photo has one bit a pixel, in which no detector finds a small face."""
    with Image.open(io.BytesIO(data)) as image:
        return image.mode == "1"


def _sure(answer: Answer) -> set[str]:
    """Return the people who are in a photo without doubt."""
    hits = [hit for face in json.loads(answer.body)["faces"] for hit in face["hits"][:1]]
    return {hit["identity"] for hit in hits if hit["score"] >= SURE}
