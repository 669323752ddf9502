"""Decode photos in processes that can be killed; each photo gets a typed outcome."""

from __future__ import annotations

import json
import os
import queue
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from facegallery.embedder.machine import cores
from facegallery.embedder.outcomes import ANSWERS, DIED, OK, OUTSIDE, TIMEOUT
from facegallery.embedder.photos.bounds import MAX_PIXELS
from facegallery.embedder.photos.drawn import Beside
from facegallery.embedder.photos.listing import path_inside
from facegallery.embedder.photos.place import Place, on_earth
from facegallery.embedder.photos.regions import Drawn, from_record
from facegallery.embedder.photos.sidecars import beside
from facegallery.embedder.process import HEAD_BYTES, WHY, Ended, Process, frame

KEYS = frozenset(("id", "outcome", "why", "sha256", "shape", "taken", "place"))
MORE_KEYS = frozenset(("turn", "drawn"))  # of an answer to a question about drawn faces, too
MOST_DRAWN = 8 << 20  # bytes of a photo's drawn faces
SHA256 = re.compile("[0-9a-f]{64}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", re.ASCII)
SECONDS_TO_DECODE = 30.0
WORKERS = min(4, cores())
ONE_BLOCK = {"PILLOW_BLOCKS_MAX": "1", "MALLOC_ARENA_MAX": "2"}  # Pillow keeps one block of memory between photos


@dataclass
class Photo:
    """The outcome of one photo: pixels, uint8 RGB (h, w, 3), where it is ok, otherwise the reason why not.

    faces: how many faces the detector found; 0 before detection. taken: when, by the camera's clock, if EXIF says it.
    place: where, likewise. size: its width and height in pixels, turned upright, None where it was not decoded.
    turn: how the stored pixels were turned, 1 to 8, and drawn: the faces that somebody drew, both where they were asked
    for. named: how many of the drawn faces named a row. drawn_outcomes: what became of them, by `drawn.OUTCOMES`.
    """

    name: str
    outcome: str
    why: str = ""
    sha256: str | None = None
    pixels: np.ndarray | None = None
    faces: int = 0
    taken: datetime | None = None
    turn: int = 1
    drawn: Drawn | None = None
    named: int = 0
    drawn_outcomes: dict[str, int] = field(default_factory=dict)
    place: Place | None = None
    size: tuple[int, int] | None = None


class Malformed(Exception):
    """A decoder's answer does not answer its question."""


class Decoder:
    """A small pool of processes that decode photos.

    A process that takes too long, ends or answers wrongly is killed and replaced, and its photo's outcome is `timeout`
    or `decoder_died`.
    """

    program = "facegallery.embedder.photos.decode"

    def __init__(self, workers: int = WORKERS, seconds: float = SECONDS_TO_DECODE, most_pixels: int = MAX_PIXELS):
        """Start no process yet. seconds: longest time for a photo. most_pixels: larger photos are refused."""
        self._seconds, self._most_pixels = seconds, most_pixels
        self._idle: queue.SimpleQueue[Process | None] = queue.SimpleQueue()
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers)
        self._running: set[Process] = set()
        self._lock, self._closed = threading.Lock(), False
        for _ in range(workers):
            self._idle.put(None)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes at once; photos that are being decoded are dropped."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in list(self._running):
            self._drop(process)

    def submit(self, root: Path, name: str, *, drawn: bool = False) -> Future[Photo]:
        """Decode the file `name` in the folder `root`. drawn: read which faces somebody drew, too."""
        return self._threads.submit(self._decode, root, name, drawn=drawn)

    def stream(
        self, root: Path, names: Iterable[str], ahead: int = 2 * WORKERS, *, drawn: bool = False
    ) -> Iterator[Photo]:
        """Yield the photos in order; decoding begins at once, and at most `ahead` decoded photos wait."""
        todo = iter(names)
        submit = partial(self.submit, root, drawn=drawn)
        return self._stream(submit, todo, deque(submit(name) for name in islice(todo, ahead)))

    def _stream(
        self, submit: Callable[[str], Future[Photo]], todo: Iterator[str], waiting: deque[Future[Photo]]
    ) -> Iterator[Photo]:
        for name in todo:
            waiting.append(submit(name))
            yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def submit_bytes(self, name: str, data: bytes, *, drawn: bool = False) -> Future[Photo]:
        """Decode the bytes of a photo. name: of the result. drawn: as for `submit`."""
        more: dict[str, Any] = {"beside": asdict(Beside())} if drawn else {}
        return self._threads.submit(self._asked, name, data, {"is_file": False} | more)

    def _decode(self, root: Path, name: str, *, drawn: bool) -> Photo:
        path = path_inside(root, name)
        if path is None:
            return Photo(name, OUTSIDE, "a link or path that leaves the folder")
        more: dict[str, Any] = {"beside": asdict(beside(root, name))} if drawn else {}
        return self._asked(name, os.fsencode(path), {"is_file": True} | more)

    def _asked(self, name: str, data: bytes, asked: dict[str, Any]) -> Photo:
        """Return a photo by the next idle process; raise SystemFault where no process can be started."""
        before, idle, process = self._idle.get(), None, None
        try:
            process = self._sound(before)
            photo = self._ask(process, name, data, asked)
            idle = process
        except TimeoutError:
            photo = Photo(name, TIMEOUT, f"took longer than {self._seconds:g} s")
        except Malformed as error:
            photo = Photo(name, DIED, f"the decoder's answer was malformed ({error})")
        except (Ended, MemoryError):
            photo = Photo(name, DIED, "the decoder ended in the middle of it")
        finally:
            if process and not idle:
                self._drop(process)
            self._idle.put(idle)
        return photo

    def _sound(self, process: Process | None) -> Process:
        """Return the process if it waits for a question, otherwise a new one."""
        if process is not None:
            if process.is_quiet():
                return process
            self._drop(process)
        process = Process(self.program, str(self._most_pixels), environment=ONE_BLOCK, folder="/")
        with self._lock:
            self._running.add(process)
            if self._closed:
                process.kill()
        return process

    def _drop(self, process: Process) -> None:
        with self._lock:
            self._running.discard(process)
        process.close()

    def _ask(self, process: Process, name: str, data: bytes, asked: dict[str, Any]) -> Photo:
        """Ask a process; raise TimeoutError, Ended or Malformed, after which the process must be killed."""
        until, id = time.monotonic() + self._seconds, secrets.randbits(62)
        process.write(frame({"id": id, "name": name[-WHY:], "size": len(data)} | asked), until)
        process.write(data, until)
        size = int.from_bytes(process.read(4, until), "little")
        if size > HEAD_BYTES:
            raise Malformed(f"a head of {size:,} bytes")
        keys = KEYS | MORE_KEYS if "beside" in asked else KEYS
        head = _checked(process.read(size, until), id, keys, self._most_pixels)
        pixels = None
        if head["shape"]:
            pixels = np.empty(head["shape"], np.uint8)
            process.read_into(pixels.data.cast("B"), until)
        photo = Photo(name, head["outcome"], head["why"], head["sha256"], pixels, taken=head["taken"])
        if pixels is not None:
            photo.place, photo.size = head["place"], (pixels.shape[1], pixels.shape[0])
        if head.get("drawn"):
            photo.turn = head["turn"]
            photo.drawn = _drawn(process.read(head["drawn"], until), head["shape"])
        return photo


def _drawn(text: bytes | bytearray, shape: Sequence[int] | None) -> Drawn:
    """Return the drawn faces of an answer; raise Malformed where they are none of a photo of this shape."""
    height, width, _ = shape or (0, 0, 0)
    try:
        return from_record(json.loads(text), width, height)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"drawn faces: {error}"[:WHY]) from None


def _checked(text: bytes | bytearray, id: int, keys: Set[str], most_pixels: int) -> dict[str, Any]:
    """Return the head of an answer, its time read; raise Malformed where it does not answer the question `id`."""
    try:
        head = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed("no JSON") from None
    if not isinstance(head, dict) or head.keys() != keys:
        raise Malformed("other keys")
    if type(head["id"]) is not int or head["id"] != id:
        raise Malformed("an answer to another question")
    if not isinstance(head["outcome"], str) or head["outcome"] not in ANSWERS:
        raise Malformed("no outcome")
    if not isinstance(head["why"], str) or len(head["why"]) > WHY:
        raise Malformed("no reason")
    if head["sha256"] is not None and not (isinstance(head["sha256"], str) and SHA256.fullmatch(head["sha256"])):
        raise Malformed("no hash")
    if not (_is_shape(head["shape"], most_pixels) if head["outcome"] == OK else head["shape"] is None):
        raise Malformed("no shape that was asked for")
    if "drawn" in keys and not (_is_in(head["turn"], 1, 8) and _is_in(head["drawn"], 0, MOST_DRAWN)):
        raise Malformed("no drawn faces")
    return head | {"taken": _time(head["taken"]), "place": _place(head["place"])}


def _time(text: Any) -> datetime | None:
    if text is None:
        return None
    try:
        if isinstance(text, str) and TIME.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:  # no day, or no time of one
        pass
    raise Malformed("no time")


def _place(place: Any) -> Place | None:
    if place is None:
        return None
    if isinstance(place, list) and len(place) == 2 and all(type(angle) is float for angle in place):
        found = on_earth(*place)
        if found is not None:
            return found
    raise Malformed("no place")


def _is_in(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_shape(shape: Any, most_pixels: int) -> bool:
    if not isinstance(shape, list) or len(shape) != 3 or any(type(side) is not int or side < 1 for side in shape):
        return False
    return shape[2] == 3 and shape[0] * shape[1] <= most_pixels
