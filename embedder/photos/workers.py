"""Run a function in a pool of processes, one a core.

Threads would wait for the interpreter's lock and move each other's memory from core to core. `process` runs this module
with the number of a core. It reads pickles: first the function, then pairs of a number and the arguments of each call.
It answers each with the same number, the function's result and its exception. Only these two programs have the pipes;
no file is unpickled.
"""

from __future__ import annotations

import itertools
import os
import pickle
import queue
import random
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO

from facegallery.embedder.errors import FaceGalleryError, SystemFault
from facegallery.embedder.machine import cores, memory_gb, usable
from facegallery.embedder.process import Ended, Process, channel, greet

FOREVER = float("inf")  # work has no time limit; the process ends with this one


class Workers:
    """Runs `work` in as many processes as there are cores, and GiB of memory.

    A process starts when it is first needed and ends with this object.
    """

    def __init__(self, work: Callable[..., Any]):
        self._work = pickle.dumps(work)
        self.count = max(1, min(cores(), memory_gb()))
        self._threads = ThreadPoolExecutor(self.count)
        self._idle: queue.SimpleQueue[tuple[int, Process | None]] = queue.SimpleQueue()
        # at random, since several containers that may use a few cores each should not all take the same ones
        for core in random.sample(usable(), self.count):
            self._idle.put((core, None))
        self._numbers = itertools.count(random.getrandbits(32))
        self._running = Running()
        weakref.finalize(self, self._running.close)

    def submit(self, *arguments: Any) -> Future[Any]:
        """Call `work` with these arguments in a process.

        The future holds what `work` returns or raises; SystemFault where its process ended.
        """
        return self._threads.submit(self._ask, arguments)

    def close(self) -> None:
        """End the processes at once, whatever they do."""
        self._running.end()
        self._threads.shutdown(cancel_futures=True)
        self._running.close()

    def _ask(self, arguments: tuple[Any, ...]) -> Any:
        core, process = self._idle.get()
        try:
            process = process or self._running.started(core, self._work)
            number = next(self._numbers)
            _send(process, (number, arguments))
            answered, returned, raised = _receive(process)
            if answered != number:
                raise Ended
        except BaseException as error:  # the process is dropped: its next bytes would not answer the next question
            code = self._running.drop(process)
            process = None
            if not isinstance(error, (Ended, EOFError, pickle.UnpicklingError)):
                raise
            raise SystemFault(
                f"expected a process that works on photos to answer, it ended ({code}): "
                "it may have run out of memory, run the same command again to resume"
            ) from None
        finally:
            self._idle.put((core, process))
        if raised is not None:
            raise raised
        return returned


class Running:
    """The processes of a pool."""

    def __init__(self) -> None:
        self._processes: set[Process] = set()
        self._lock, self._ended = threading.Lock(), False

    def started(self, core: int, work: bytes) -> Process:
        """Start a process and send it `work`; raise SystemFault where it does not start."""
        process = Process("facegallery.embedder.photos.workers", str(core))
        with self._lock:
            self._processes.add(process)
            if self._ended:
                process.kill()
        try:
            process.write(_length(work) + work, FOREVER)
        except BaseException:
            self.drop(process)
            raise
        return process

    def drop(self, process: Process | None) -> int | None:
        """Kill a process; return its exit code, None where there is none."""
        with self._lock:
            if process not in self._processes:
                return None
            self._processes.discard(process)
        return process.close() if process else None

    def end(self) -> None:
        """Kill all processes; a thread that waits for one gets Ended and drops it."""
        with self._lock:
            self._ended = True
            for process in self._processes:
                process.kill()

    def close(self) -> None:
        """Kill and reap all processes, once no thread uses one."""
        self.end()
        for process in list(self._processes):
            self.drop(process)


def _length(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little")


def _send(process: Process, what: Any) -> None:
    data = pickle.dumps(what, 5)
    process.write(_length(data), FOREVER)
    process.write(data, FOREVER)


def _receive(process: Process) -> Any:
    size = int.from_bytes(process.read(8, FOREVER), "little")
    return pickle.loads(process.read(size, FOREVER))


# in the process that was started ---------------------------------------------


def main() -> None:
    """Call the function with the arguments that arrive, until the other program closes its pipe."""
    questions, answers, (core,) = channel()
    os.sched_setaffinity(0, {int(core)})  # `machine.cores` then returns 1
    with os.fdopen(questions, "rb") as incoming, os.fdopen(answers, "wb", closefd=False) as outgoing:
        greet(answers)
        work = _next(incoming)
        with suppress(EOFError):
            while True:
                number, arguments = _next(incoming)
                data = pickle.dumps((number, *_done(work, arguments)), 5)
                outgoing.write(_length(data))
                outgoing.write(data)
                outgoing.flush()


def _next(incoming: BinaryIO) -> Any:
    """Read the next pickle; raise EOFError where the other program has closed its end."""
    size = int.from_bytes(incoming.read(8), "little")
    return pickle.loads(incoming.read(size))


def _done(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, FaceGalleryError | None]:
    """Call a function; return its result and its exception."""
    try:
        return work(*arguments), None
    except FaceGalleryError as error:
        return None, error
    except Exception as error:
        return None, FaceGalleryError(f"{type(error).__name__}: {error}")  # other exceptions may not be picklable


if __name__ == "__main__":
    main()
