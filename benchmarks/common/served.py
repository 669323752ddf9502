"""Start servers, ours and peers', measure what their processes hold, and ask one as fast as it answers."""

from __future__ import annotations

import http.client
import itertools
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from facegallery.embedder.weights.folder import data_root  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks" / "peers"
GROWTH = 1.1  # of memory that is flat, from the second quarter of a run to the last one, at most


@dataclass(frozen=True)
class Answer:
    """Hold the answer to one request."""

    status: int  # 0 where the connection ended before it
    kind: str = ""  # content type
    body: bytes = b""


class Program:
    """Hold a program that listens at a port of loopback; its messages go to a file."""

    key, path = "", ""

    def __init__(self, command: Sequence[str], port: int, environment: Mapping[str, str], log: Path):
        self.port, self._command, self._environment, self._log = port, command, environment, log
        if self.ask(self.connect(), "GET", "/"):
            raise SystemExit(f"expected nobody to listen at port {port}, somebody answers: choose another")

    def begin(self, output: int | None = None) -> None:
        """Start the program; output: where stdout goes, if not to the log."""
        with open(self._log, "a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=output or log, stderr=log, text=True, env=self._environment
            )

    def wait(self, path: str) -> None:
        """Wait until `path` is answered; raise SystemExit where the program ends before."""
        while self.ask(self.connect(), "GET", path) != 200:
            if self._process.poll() is not None:
                raise SystemExit(
                    f"expected a server at port {self.port} to get ready, it ended: {self._log.read_text()[-500:]}"
                )
            time.sleep(0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def connect(self, seconds: float | None = None) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)

    def answer(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "image/jpeg",
    ) -> Answer:
        """Send a request and return the answer, also where the server does not read the whole body."""
        try:
            with suppress(BrokenPipeError):
                connection.request(method, path, body, {"Authorization": f"Bearer {self.key}", "Content-Type": kind})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers.get_content_type(), answer.read())
        except (ConnectionError, http.client.ResponseNotReady):
            connection.close()
            return Answer(0)

    def ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "image/jpeg",
    ) -> int:
        return self.answer(connection, method, path, body, kind).status

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def kill(self) -> None:
        """Kill all processes (`kill -9`), the first one first, since it would start others again."""
        if self._process.poll() is not None:
            return
        killed = processes(self.pid)
        for pid in killed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        while any(map(_lives, killed)):
            time.sleep(0.01)


class Server(Program):
    """Start this project's server, with its own data root beside the indexes, and wait until it is ready."""

    def __init__(
        self,
        root: Path,
        name: str,
        port: int,
        options: Sequence[str] = (),
        log: Path | None = None,
        *,
        ready: bool = True,
    ):
        """Start the server; ready: wait until photos are answered at once, not only until the address is printed."""
        self.data, self.path = root / f"data-{port}", f"/v1/indexes/{name}/search"
        self.data.mkdir(exist_ok=True)
        if not (self.data / "models").exists():
            (self.data / "models").symlink_to((data_root() / "models").resolve())
        self.environment = os.environ | {
            "FACEGALLERY_DATA": str(self.data),
            "FACEGALLERY_INDEXES": str(root),
            "TMPDIR": str(root),
        }
        command = [sys.executable, str(ROOT / "cli.py"), "serve", name, "--port", str(port), *options]
        super().__init__(command, port, self.environment | {"PYTHONUNBUFFERED": "1"}, log or root / f"log-{port}")
        self.start(ready=ready)

    def start(self, *, ready: bool = True) -> None:
        """Start the server; raise SystemExit where it ends before it is ready."""
        self.begin(subprocess.PIPE)
        assert self._process.stdout
        self.key = self._process.stdout.readline().strip().rpartition("=")[2]
        if not self.key:
            raise SystemExit(
                f"expected a server to print an address with a key, it ended: {self._log.read_text()[-500:]}"
            )
        if ready:
            self.wait("/readyz")


class PeerServer(Program):
    """Start a peer's server in its own environment; it answers the path `ready` once it is ready."""

    def __init__(self, root: Path, python: str, script: str, arguments: Sequence[str], port: int, ready: str):
        super().__init__([python, str(PEERS / script), *arguments, str(port)], port, os.environ, root / f"log-{port}")
        self.path = "/search"
        self.begin()
        self.wait(ready)


def processes(pid: int) -> dict[int, str]:
    """Return id -> command line of a process and of all that it started, the first one first."""
    found: dict[int, str] = {}
    if _lives(pid):
        with suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in file.read_text().split():
                found |= processes(int(child))
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def held(pids: Iterable[int]) -> dict[str, float]:
    """Sum what processes hold: MB of memory with shared pages counted once (PSS), MB of it in no file, open files."""
    found = {"mb": 0.0, "anonymous_mb": 0.0, "files": 0.0}
    for pid in pids:
        try:
            lines = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
            files = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:  # it ended
            continue
        found["mb"] += int(lines["Pss"].split()[0]) / 1024
        found["anonymous_mb"] += int(lines["Pss_Anon"].split()[0]) / 1024
        found["files"] += files
    return found


def quarters(values: Sequence[float]) -> list[float]:
    """Return the medians of the quarters of a run, from 4 values or more."""
    cuts = [len(values) * i // 4 for i in range(5)]
    return [statistics.median(values[start:end]) for start, end in itertools.pairwise(cuts)]


def load(
    server: Program, clients: int, seconds: float, path: str, bodies: Sequence[bytes], kind: str
) -> dict[str, float]:
    """Return answers a second and the 50th and 99th percentile in ms; raise SystemExit where a request is refused."""
    times: list[list[float]] = [[] for _ in range(clients)]
    refused: list[int] = []
    until = time.monotonic() + seconds

    def work(number: int) -> None:
        connection, i = server.connect(), number
        while (began := time.monotonic()) < until:
            if (status := server.ask(connection, "POST", path, bodies[i % len(bodies)], kind)) != 200:
                return refused.append(status)
            times[number].append(time.monotonic() - began)
            i += clients

    threads = [threading.Thread(target=work, args=(n,)) for n in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if refused:
        raise SystemExit(f"expected every question to be answered, received {sorted(set(refused))}")
    every = np.concatenate(times)
    return {
        "rate": len(every) / (time.monotonic() - began),
        "p50": 1000 * float(np.median(every)),
        "p99": 1000 * float(np.quantile(every, 0.99)),
    }
