"""A server of ours for benchmarks, and clients that ask it as fast as it answers."""

from __future__ import annotations

import http.client
import os
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

    def __init__(self, root: Path, name: str, port: int, options: Sequence[str]):
        (folder := root / f"data-{port}").mkdir()
        (folder / "models").symlink_to((data_root() / "models").resolve())
        environment = os.environ | {"FACEDB_DATA": str(folder), "FACEDB_INDEXES": str(root), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, str(ROOT / "cli.py"), "serve", name, "--port", str(port), *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self._process.stdout
        self.key, self.port, self.path = self._process.stdout.readline().strip().rpartition("=")[2], port, f"/v1/indexes/{name}/search"
        while self.ask(http.client.HTTPConnection("127.0.0.1", port), "GET", "/readyz") != 200:
            time.sleep(0.1)

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
