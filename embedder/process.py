"""Start and end the processes of this package.

Each process is isolated from the working folder and the environment, and has one pipe to it and one from it that no
other process has. A process ends together with all processes that it started.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from facegallery.embedder.errors import SystemFault

LAUNCHER = Path(__file__).absolute().with_name("launch.py")
ROOT = LAUNCHER.parents[2]  # folder of the package facegallery
PIPE_BYTES = 1 << 20
# One thread each. Memory is kept from photo to photo: glibc would return it each time, and new pages cost as much as
# decoding.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}
GREETING = b"ready\n"
HEAD_BYTES = 64 << 10  # most bytes of the head of a question or an answer
WHY = 200  # most characters of a reason
START_SECONDS = 60.0  # longest time from the start of a process to its greeting
LOOK_SECONDS = 0.25  # how often a waiting thread looks whether the process was killed
END_SECONDS = 2.0  # longest wait for a killed process, which the kernel may hold in a read from a dead network drive
SYSTEM_FOLDERS = tuple(os.path.join(folder, "") for folder in {sys.prefix, sys.base_prefix, sys.exec_prefix})
PR_SET_PDEATHSIG = 1

Child = subprocess.Popen[bytes]
_unreaped: list[Child] = []


class Ended(Exception):
    """The other process has ended or closed its pipe."""


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of this package, or an installed one, isolated; see `search_path`."""
    flags = ["-I", "-X", f"utf8={sys.flags.utf8_mode}"]
    return [sys.executable, *flags, str(LAUNCHER), module, json.dumps(search_path()), *arguments]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of this process without those that tell Python what to run. more: variables to add."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | dict(more or {})


def search_path() -> list[str]:
    """Return this process's `sys.path` for another process.

    The standard library and installed packages come first, then the folder of this package, then all others, such as
    those of PYTHONPATH, which some installations need. The working folder is left out.
    """
    first = [path for path in sys.path if _is_installed(path)]
    others = [path for path in sys.path if os.path.isabs(path) and not _is_working_folder(path)]
    return list(dict.fromkeys([*first, str(ROOT), *others]))


def _is_working_folder(path: str) -> bool:
    try:
        return os.path.samefile(path, os.curdir)
    except OSError:  # one of the two folders is gone
        return False


def _is_installed(path: str) -> bool:
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if not os.path.isabs(path) or any(name and os.path.abspath(name) == path for name in given):
        return False
    return path.startswith(SYSTEM_FOLDERS) or ("PYTHONUSERBASE" not in os.environ and path == _user_site())


def _user_site() -> str:
    from site import getusersitepackages

    return getusersitepackages()


class Process:
    """A module of this package that runs in a process of its own and answers questions over two pipes.

    The process leads a session: Ctrl-C in the terminal does not reach it, and `kill` also ends all processes that it
    started. It ends with this process. One thread may ask at a time; any other thread may `kill`.
    """

    def __init__(
        self, module: str, *arguments: str, environment: Mapping[str, str] | None = None, folder: str | None = None
    ):
        """Start the process and wait for its greeting; raise SystemFault where it does not start.

        environment: variables to add. folder: its working folder; this process's by default.
        """
        their_input, self._input = os.pipe()
        self._output, their_output = os.pipe()
        try:
            ends = their_input, their_output
            line = command(module, *map(str, ends), *arguments)
            self._process = _started(line, ends, environment or {}, folder)
        except OSError as error:
            _close(self._input, self._output)
            raise SystemFault(
                f"expected to start a process, received {error.strerror or error}: try again later"
            ) from None
        finally:
            _close(their_input, their_output)
        self._killed = False
        for end in (self._input, self._output):
            os.set_blocking(end, False)
            _widen(end)
        self._await_greeting(module)

    def _await_greeting(self, module: str) -> None:
        try:
            greeting = self.read(len(GREETING), time.monotonic() + START_SECONDS)
        except (Ended, TimeoutError):
            greeting = bytearray()
        errors = self._process.stderr
        assert errors
        if greeting == GREETING:
            errors.close()
            return
        self.kill()
        os.set_blocking(errors.fileno(), False)
        lines = (errors.read() or b"").decode(errors="replace").split("\n")
        errors.close()
        why = next((line.strip()[:200] for line in reversed(lines) if line.strip()), "no reason given")
        code = self.close()
        raise SystemFault(
            f"expected {module} to start, it ended ({code}): {why}: see whether the installation is whole"
        )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def is_quiet(self) -> bool:
        """Whether the process runs and has written nothing unasked."""
        try:
            os.read(self._output, 1)
        except BlockingIOError:
            return not self._killed
        except OSError:
            pass
        return False

    def write(self, data: bytes | memoryview, until: float) -> None:
        """Write all of `data`; raise TimeoutError after the time `until` (of `time.monotonic`), or Ended."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._input, left) :]
            except BlockingIOError:
                self._wait(self._input, select.POLLOUT, until)
            except OSError:
                raise Ended from None

    def read(self, size: int, until: float) -> bytearray:
        """Read exactly `size` bytes; raise as `write`."""
        data = bytearray(size)
        self.read_into(memoryview(data), until)
        return data

    def read_into(self, view: memoryview, until: float) -> None:
        """Fill `view` with bytes from the process; raise as `write`."""
        while view:
            try:
                got = os.readv(self._output, [view])
            except BlockingIOError:
                self._wait(self._output, select.POLLIN, until)
                continue
            except OSError:
                raise Ended from None
            if not got:
                raise Ended
            view = view[got:]

    def _wait(self, end: int, event: int, until: float) -> None:
        poll = select.poll()
        poll.register(end, event)
        while not self._killed:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if poll.poll(1000 * min(left, LOOK_SECONDS)):
                return
        raise Ended

    def kill(self) -> None:
        """Kill the process and all that it started; threads that wait for it get Ended. Do not call after `close`."""
        self._killed = True
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> int | None:
        """Kill the process, close the pipes, and return its exit code; None where the kernel does not end it soon."""
        self.kill()
        _close(self._input, self._output)
        return _reap(self._process)


def _started(line: Sequence[str], ends: tuple[int, int], more: Mapping[str, str], folder: str | None) -> Child:
    return subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,  # read for the reason where the process does not greet
        pass_fds=ends,
        env=environment(ENVIRONMENT | dict(more)),
        cwd=folder,
        start_new_session=True,
    )


def _close(*ends: int) -> None:
    for end in ends:
        os.close(end)


def _reap(process: Child) -> int | None:
    _unreaped.append(process)
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    _unreaped[:] = [each for each in _unreaped if each.poll() is None]
    return process.returncode


def _widen(pipe: int) -> None:
    """Enlarge a pipe to hold a photo, so that the processes switch less often."""
    with suppress(AttributeError, OSError):  # the system cannot, or allows less
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


# in the process that was started ---------------------------------------------


def channel() -> tuple[int, int, list[str]]:
    """Return (pipe of questions, pipe of answers, further arguments) in a process that `Process` started.

    The values come from the command line.
    """
    end_with_parent()
    questions, answers, *arguments = sys.argv[1:]
    ends = int(questions), int(answers)
    for end in ends:
        os.set_inheritable(end, False)  # noqa: FBT003
    return *ends, arguments


def frame(head: dict[str, Any]) -> bytes:
    """Encode the head of a question or an answer: its length in four bytes, little-endian, then JSON."""
    text = json.dumps(head).encode()
    return len(text).to_bytes(4, "little") + text


def greet(answers: int) -> None:
    """Report that the process has started; from now on, what it writes to stderr is dropped."""
    os.write(answers, GREETING)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends, even by kill -9; Linux only."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


# this process ------------------------------------------------------------------


@contextmanager
def ending_within(seconds: float) -> Iterator[None]:
    """Ensure that this process ends within `seconds` of Ctrl-C or SIGTERM, whatever it is doing.

    Do nothing outside of the main thread. A signal without a Python handler is left alone: SIGTERM then ends the
    process at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_end_after, args=(reading, seconds), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


def _end_after(pipe: int, seconds: float) -> None:
    with open(pipe, "rb", buffering=0) as signals:
        while number := signals.read(1):
            if number[0] in (signal.SIGINT, signal.SIGTERM):
                time.sleep(seconds)
                _kill_children()
                os._exit(130 if number[0] == signal.SIGINT else 0)


def _kill_children() -> None:
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            for pid in file.read_text().split():
                os.kill(int(pid), signal.SIGKILL)
