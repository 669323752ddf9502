"""Processes of this package that answer questions over pipes; and a pool of them, one a core, for work in which threads would wait for the
interpreter's lock and move each other's memory from core to core.

`python -m embedder.workers CORE` is one of the pool: it reads pickles from stdin, first what does the work, then the arguments of each call,
and answers each on stdout with a pickled pair of what it returned and what it raised. Only these two programs have the pipes; no file is unpickled.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import queue
import random
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from embedder.compute import cores, memory_gb, usable
from embedder.errors import FaceDBError, SystemFault

PIPE_BYTES = 1 << 20
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# memory is kept from photo to photo: glibc would give it back each time, and new pages cost as much as decoding
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20)}


def start(module: str, *arguments: str, environment: Mapping[str, str] | None = None, buffered: bool = True) -> subprocess.Popen:
    """A module of this package as a process with pipes; it is not reached by the terminal's Ctrl-C, and ends with its stdin."""
    paths = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    whole = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)} | ONE_THREAD | KEPT | dict(environment or {})
    command, pipe = [sys.executable, "-m", module, *arguments], subprocess.PIPE
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=whole, start_new_session=True, bufsize=-1 if buffered else 0
    )
    for stream in (process.stdin, process.stdout):
        _widen(stream)
    return process


def _widen(stream: Any) -> None:
    """A photo is more than a pipe holds: fewer turns from one process to the other."""
    with suppress(AttributeError, OSError):  # not on this system, or not so much
        fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def stop(process: subprocess.Popen) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream:
            with suppress(OSError):  # what it did not read any more
                stream.close()
    process.wait()


class Workers:
    """`work` in as many processes as there are cores, and memory for; a process starts when it is first needed and ends with this object."""

    def __init__(self, work: Callable[..., Any]):
        self._work = pickle.dumps(work)
        self.count = max(1, min(cores(), memory_gb()))
        self._threads = ThreadPoolExecutor(self.count)
        self._idle: queue.SimpleQueue[tuple[int, subprocess.Popen | None]] = queue.SimpleQueue()
        for core in random.sample(usable(), self.count):  # where a container may use a few, others should not take the same
            self._idle.put((core, None))
        self._running: set[subprocess.Popen] = set()
        weakref.finalize(self, _stop_all, self._running)

    def submit(self, *arguments: Any) -> Future[Any]:
        """What `work` returns or raises; SystemFault where its process ended."""
        return self._threads.submit(self._ask, arguments)

    def _ask(self, arguments: tuple[Any, ...]) -> Any:
        core, process = self._idle.get()
        try:
            process = process or self._started(core)
            assert process.stdin and process.stdout
            pickle.dump(arguments, process.stdin, 5)
            process.stdin.flush()
            returned, raised = pickle.load(process.stdout)
        except BaseException as error:  # what it would say next is no answer to the next question
            code = self._stopped(process)
            process = None
            if not isinstance(error, (OSError, EOFError, pickle.UnpicklingError)):
                raise
            raise SystemFault(
                f"expected a process that works on photos to answer, it ended ({code}): was memory short? run the same command again, it goes on"
            ) from None
        finally:
            self._idle.put((core, process))
        if raised is not None:
            raise raised
        return returned

    def _stopped(self, process: subprocess.Popen | None) -> int | None:
        """With what code a process ended, or is ended now; None where it could not start."""
        if process is None:
            return None
        self._running.discard(process)
        stop(process)
        return process.returncode

    def _started(self, core: int) -> subprocess.Popen:
        process = start("embedder.workers", str(core))
        self._running.add(process)
        assert process.stdin
        process.stdin.write(self._work)
        return process


def _stop_all(processes: set[subprocess.Popen]) -> None:
    for process in processes:
        stop(process)


def main() -> None:
    os.sched_setaffinity(0, {int(sys.argv[1])})  # so that `cores` is 1, too
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    work = pickle.load(sys.stdin.buffer)
    while True:
        try:
            arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: tuple[Any, FaceDBError | None]
        try:
            answer = work(*arguments), None
        except FaceDBError as error:
            answer = None, error
        except Exception as error:
            answer = None, FaceDBError(f"{type(error).__name__}: {error}")  # others may not survive the pipe
        pickle.dump(answer, answers, 5)
        answers.flush()


if __name__ == "__main__":
    main()
