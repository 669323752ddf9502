"""A server of ours for benchmarks, what its processes hold, and clients that ask it as fast as it answers."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from embedder.weights import data_root  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


class Server:
    """One that is ready."""

    def __init__(self, root: Path, name: str, port: int, options: Sequence[str], log: Path | None = None):
        """log: a file for what it says of faults, in the place of stderr."""
        self.data = root / f"data-{port}"
        self.data.mkdir(exist_ok=True)
        if not (self.data / "models").exists():
            (self.data / "models").symlink_to((data_root() / "models").resolve())
        self.environment = os.environ | {"FACEDB_DATA": str(self.data), "FACEDB_INDEXES": str(root), "TMPDIR": str(root)}
        self.port, self.path, self._log = port, f"/v1/indexes/{name}/search", log
        self._command = [sys.executable, str(ROOT / "cli.py"), "serve", name, "--port", str(port), *options]
        self.start()

    def start(self) -> None:
        """Raises SystemExit where it ends before it is ready."""
        environment = self.environment | {"PYTHONUNBUFFERED": "1"}
        said = self._log.open("ab") if self._log else None
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment)
        if said:
            said.close()
        assert self._process.stdout
        self.key = self._process.stdout.readline().strip().rpartition("=")[2]
        while self.ask(http.client.HTTPConnection("127.0.0.1", self.port), "GET", "/readyz") != 200:
            if self._process.poll() is not None:
                raise SystemExit(f"expected a server that gets ready, it ended: run `{' '.join(self._command)}` to see why")
            time.sleep(0.1)

    @property
    def processes(self) -> list[int]:
        """Of the whole tree, the first one first."""
        parents = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":  # those are dead already
                parents[int(folder.name)] = int(fields[1])
        found = [self._process.pid]
        for process in found:
            found += [child for child, parent in parents.items() if parent == process]
        return found

    def kill(self) -> None:
        """`kill -9` of all its processes, the first one first, which would start others anew."""
        if self._process.poll() is not None:
            return
        killed = self.processes
        for process in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()
        while any(map(_lives, killed)):
            time.sleep(0.01)

    def ask(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None, kind: str = "image/jpeg"
    ) -> int:
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {self.key}", "Content-Type": kind})
            answer = connection.getresponse()
            answer.read()
        except ConnectionError:
            return 0
        return answer.status

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def held(processes: Sequence[int]) -> dict[str, float]:
    """What processes hold together: MB of memory, shared pages counted once (PSS), MB of it that is in no file, and open files."""
    found = {"mb": 0.0, "anonymous_mb": 0.0, "files": 0.0}
    for process in processes:
        try:
            lines = dict(line.split(":") for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
            files = len(os.listdir(f"/proc/{process}/fd"))
        except OSError:  # it ended
            continue
        found["mb"] += int(lines["Pss"].split()[0]) / 1024
        found["anonymous_mb"] += int(lines["Pss_Anon"].split()[0]) / 1024
        found["files"] += files
    return found


def load(server: Server, clients: int, seconds: float, path: str, bodies: Sequence[bytes], kind: str) -> dict[str, float]:
    """Answers a second, and milliseconds of the 50th and 99th percentile; raises SystemExit where one was refused."""
    times: list[list[float]] = [[] for _ in range(clients)]
    refused: list[int] = []
    until = time.monotonic() + seconds

    def work(number: int) -> None:
        connection, i = http.client.HTTPConnection("127.0.0.1", server.port), number
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
