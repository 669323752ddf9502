"""The command line as tests run it: in this process, or in one of its own."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 600


@dataclass
class Done:
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong; fails where there are more, or a traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in self.err, self.err
        return lines[0]


def run_in_own_process(*arguments: object, **environment: str) -> Done:
    """Run `python cli.py ARGUMENTS` in a process of its own, with more environment variables."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=SECONDS,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def run_in_this_process(*arguments: object, **environment: str) -> Done:
    """Run the command as `run_in_own_process` does, without starting Python anew.

    What is written to the descriptors 1 and 2 counts, by child processes and C libraries too. What a process has and a
    function does not is put back: environment, working folder, signal handlers, log handlers, `sys.argv`.
    """
    from facegallery.cli.main import main

    with contextlib.ExitStack() as stack:
        stack.enter_context(_as_a_process(["cli.py", *map(str, arguments)], environment))
        out, err = (stack.enter_context(_captured(number)) for number in (1, 2))
        try:
            code = main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        sys.stdout.flush(), sys.stderr.flush()
        return Done(code, _text(out), _text(err))


@contextlib.contextmanager
def _as_a_process(argv: list[str], environment: dict[str, str]) -> Iterator[None]:
    """Give this process an environment and a command line, no input and no log handlers, and put all of it back."""
    variables, folder, root = dict(os.environ), os.getcwd(), logging.getLogger()
    kept = sys.argv, sys.stdin, sys.modules["__main__"], root.handlers[:], root.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)}
    os.environ |= environment
    with open(os.devnull) as nothing:
        sys.argv, sys.stdin, sys.modules["__main__"] = argv, nothing, type(sys)("__main__")
        root.handlers[:] = []
        try:
            yield
        finally:
            sys.argv, sys.stdin, sys.modules["__main__"], root.handlers[:], root.level = kept
            for number, handler in signals.items():
                if signal.getsignal(number) is not handler:
                    signal.signal(number, handler)
            os.chdir(folder)
            for name in set(os.environ) - set(variables):
                del os.environ[name]
            os.environ |= variables


@contextlib.contextmanager
def _captured(number: int) -> Iterator[IO[bytes]]:
    """Write the descriptor 1 or 2, and `sys.stdout` or `sys.stderr`, to a temporary file."""
    name = {1: "stdout", 2: "stderr"}[number]
    stream = getattr(sys, name)
    stream.flush()
    kept = os.dup(number)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), number)
        errors = {1: "strict", 2: "backslashreplace"}[number]
        ours = io.TextIOWrapper(
            os.fdopen(os.dup(number), "wb"), encoding="utf-8", errors=errors, line_buffering=number == 2
        )
        setattr(sys, name, ours)
        try:
            yield file
        finally:
            ours.close()
            setattr(sys, name, stream)
            os.dup2(kept, number)
            os.close(kept)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()
