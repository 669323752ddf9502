"""The pixels of photos, decoded in processes that can be killed: a typed outcome for each photo."""

from __future__ import annotations

import json
import queue
import select
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from embedder.compute import cores
from embedder.decode import MAX_PIXELS
from embedder.listing import path_inside
from embedder.workers import start, stop

OUTSIDE = "outside"
SECONDS_TO_DECODE = 30.0
WORKERS = min(4, cores())
ONE_BLOCK = {"PILLOW_BLOCKS_MAX": "1"}  # of Pillow's memory is kept from photo to photo


@dataclass
class Photo:
    """What became of one photo: pixels where the outcome is ok, else why not."""

    name: str
    outcome: str
    why: str = ""
    sha256: str | None = None
    pixels: np.ndarray | None = None  # uint8 RGB (h, w, 3)
    faces: int = 0  # found in it


class Decoder:
    """A small pool of processes that decode photos; one that hangs or dies is replaced and its photo is `unreadable`."""

    def __init__(self, workers: int = WORKERS, seconds: float = SECONDS_TO_DECODE, most_pixels: int = MAX_PIXELS):
        self._seconds, self._most_pixels = seconds, most_pixels
        self._idle: queue.SimpleQueue[subprocess.Popen | None] = queue.SimpleQueue()
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers)
        for _ in range(workers):
            self._idle.put(None)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for _ in range(self._workers):
            worker = self._idle.get()
            if worker is not None:
                stop(worker)

    def submit(self, root: Path, name: str) -> Future[Photo]:
        return self._threads.submit(self._decode, root, name)

    def stream(self, root: Path, names: Iterable[str], ahead: int = 2 * WORKERS) -> Iterator[Photo]:
        """The photos in order; at most `ahead` wait decoded, and decoding begins at once."""
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
        """A photo that is no file."""
        return self._threads.submit(self._decode_bytes, name, data)

    def _decode(self, root: Path, name: str) -> Photo:
        path = path_inside(root, name)
        if path is None:
            return Photo(name, OUTSIDE, "a link or path that leaves the folder")
        return self._asked(name, path, b"")

    def _decode_bytes(self, name: str, data: bytes) -> Photo:
        return self._asked(name, [name, len(data)], data)

    def _asked(self, name: str, question: str | list[Any], data: bytes) -> Photo:
        idle, worker = self._idle.get(), None
        try:
            worker = idle or start("embedder.decode", str(self._most_pixels), environment=ONE_BLOCK, buffered=False)
            photo, idle = _ask(worker, name, json.dumps(question).encode() + b"\n" + data, self._seconds), worker
        except (OSError, ValueError, TimeoutError, MemoryError) as error:
            if worker:
                stop(worker)
            idle = None
            why = f"took longer than {self._seconds:g} s" if isinstance(error, TimeoutError) else "the decoder died of it"
            photo = Photo(name, "unreadable", why)
        finally:
            self._idle.put(idle)
        return photo


def _ask(worker: subprocess.Popen, name: str, question: bytes, seconds: float) -> Photo:
    assert worker.stdin and worker.stdout
    left = memoryview(question)
    while left:  # a raw pipe takes what it has room for
        left = left[worker.stdin.write(left) :]
    if not select.select([worker.stdout], [], [], seconds)[0]:
        raise TimeoutError
    head = json.loads(_read_exactly(worker.stdout, int.from_bytes(_read_exactly(worker.stdout, 4), "little")))
    pixels = None
    if head["shape"]:
        pixels = np.frombuffer(_read_exactly(worker.stdout, int(np.prod(head["shape"]))), np.uint8).reshape(head["shape"])
    return Photo(name, head["outcome"], head["why"], head["sha256"], pixels)


def _read_exactly(stream, size: int) -> bytearray:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        n = stream.readinto(view[got:])
        if not n:
            raise ValueError("the decoder ended")
        got += n
    return data
