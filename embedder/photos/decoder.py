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
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from facegallery.embedder.machine import cores
from facegallery.embedder.outcomes import ANSWERS, DIED, OK, OUTSIDE, TIMEOUT
from facegallery.embedder.photos.bounds import MAX_PIXELS
from facegallery.embedder.photos.listing import path_inside
from facegallery.embedder.process import HEAD_BYTES, WHY, Ended, Process, frame

KEYS = frozenset(("id", "outcome", "why", "sha256", "shape", "taken"))
SHA256 = re.compile("[0-9a-f]{64}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", re.ASCII)
SECONDS_TO_DECODE = 30.0
WORKERS = min(4, cores())
ONE_BLOCK = {"PILLOW_BLOCKS_MAX": "1", "MALLOC_ARENA_MAX": "2"}  # Pillow keeps one block of memory between photos


@dataclass
class Photo:
    """The outcome of one photo: pixels, uint8 RGB (h, w, 3), where it is ok, otherwise the reason why not.

    faces: how many faces the detector found; 0 before detection. taken: when, by the camera's clock, if EXIF says it.
    """

    name: str
    outcome: str
    why: str = ""
    sha256: str | None = None
    pixels: np.ndarray | None = None
    faces: int = 0
    taken: datetime | None = None


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

    def submit(self, root: Path, name: str) -> Future[Photo]:
        """Decode the file `name` in the folder `root`."""
        return self._threads.submit(self._decode, root, name)

    def stream(self, root: Path, names: Iterable[str], ahead: int = 2 * WORKERS) -> Iterator[Photo]:
        """Yield the photos in order; decoding begins at once, and at most `ahead` decoded photos wait."""
        todo = iter(names)
        waiting = deque(self.submit(root, name) for name in islice(todo, ahead))
        return self._stream(root, todo, waiting)

    def _stream(self, root: Path, todo: Iterator[str], waiting: deque[Future[Photo]]) -> Iterator[Photo]:
        for name in todo:
            waiting.append(self.submit(root, name))
            yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def submit_bytes(self, name: str, data: bytes) -> Future[Photo]:
        """Decode the bytes of a photo. name: of the result."""
        return self._threads.submit(self._asked, name, data, is_file=False)

    def _decode(self, root: Path, name: str) -> Photo:
        path = path_inside(root, name)
        if path is None:
            return Photo(name, OUTSIDE, "a link or path that leaves the folder")
        return self._asked(name, os.fsencode(path), is_file=True)

    def _asked(self, name: str, data: bytes, *, is_file: bool) -> Photo:
        """Return a photo by the next idle process; raise SystemFault where no process can be started."""
        before, idle, process = self._idle.get(), None, None
        try:
            process = self._sound(before)
            photo = self._ask(process, name, data, is_file=is_file)
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

    def _ask(self, process: Process, name: str, data: bytes, *, is_file: bool) -> Photo:
        """Ask a process; raise TimeoutError, Ended or Malformed, after which the process must be killed."""
        until, id = time.monotonic() + self._seconds, secrets.randbits(62)
        process.write(frame({"id": id, "name": name[-WHY:], "size": len(data), "is_file": is_file}), until)
        process.write(data, until)
        size = int.from_bytes(process.read(4, until), "little")
        if size > HEAD_BYTES:
            raise Malformed(f"a head of {size:,} bytes")
        head = _checked(process.read(size, until), id, self._most_pixels)
        pixels = None
        if head["shape"]:
            pixels = np.empty(head["shape"], np.uint8)
            process.read_into(pixels.data.cast("B"), until)
        return Photo(name, head["outcome"], head["why"], head["sha256"], pixels, taken=head["taken"])


def _checked(text: bytes | bytearray, id: int, most_pixels: int) -> dict[str, Any]:
    """Return the head of an answer, its time read; raise Malformed where it does not answer the question `id`."""
    try:
        head = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed("no JSON") from None
    if not isinstance(head, dict) or head.keys() != KEYS:
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
    return head | {"taken": _time(head["taken"])}


def _time(text: Any) -> datetime | None:
    if text is None:
        return None
    try:
        if isinstance(text, str) and TIME.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:  # no day, or no time of one
        pass
    raise Malformed("no time")


def _is_shape(shape: Any, most_pixels: int) -> bool:
    if not isinstance(shape, list) or len(shape) != 3 or any(type(side) is not int or side < 1 for side in shape):
        return False
    return shape[2] == 3 and shape[0] * shape[1] <= most_pixels
