"""How many photos a second does a server answer, when 1, 8 or 32 clients ask at once: with shared batches, and with each photo alone?

    python benchmarks/serve.py PHOTOS --json benchmarks/results/serve.json

10,000 made-up faces of the model's dimensions are enrolled (`synthetic`). Two servers of the same code run side by side, with `--batch 16` and
with `--batch 1 --wait-ms 0`, and are asked in turns, by clients that each send a photo when the last one is answered; the other one rests
meanwhile. Then the same with vectors. Median over rounds of photos a second, and of the 50th and 99th percentile of the times.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gallery  # noqa: E402
import synthetic  # noqa: E402
from rounds import evenly, files_of  # noqa: E402

from embedder.weights import data_root, open_model  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SERVERS = {"batched": ("--batch", "16"), "one at a time": ("--batch", "1", "--wait-ms", "0")}
CLIENTS = (1, 8, 32)


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


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True))
@click.option("--model", default="msceleb", show_default=True)
@click.option("--faces", default=10_000, show_default=True, help="Enrolled.")
@click.option("--seconds", default=8.0, show_default=True, help="Of a round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--port", default=8700, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write all figures.")
def main(photos: Path, model: str, faces: int, seconds: float, rounds: int, port: int, out: Path | None) -> None:
    bodies = [Path(file).read_bytes() for file in evenly(files_of(photos), 400)]
    profile = synthetic.profile(model)
    xq = synthetic.probes(np.arange(500), model, profile.d)
    questions = [json.dumps({"vectors": [x.tolist()], "k": 5}).encode() for x in xq]
    with tempfile.TemporaryDirectory() as folder:
        gallery.make(Path(folder) / "made", faces, profile.d, open_model(model).spec)
        servers = {name: Server(Path(folder), "made", port + i, options) for i, (name, options) in enumerate(SERVERS.items())}
        found: dict[str, Any] = {
            "command": " ".join(sys.argv),
            "photos": len(bodies),
            "faces": faces,
            "model": model,
            "load": os.getloadavg(),
        }
        for what, path, asked, kind in (("photos", "", bodies, "image/jpeg"), ("vectors", "/vectors", questions, "application/json")):
            for clients in CLIENTS:
                told: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
                for turn in range(rounds + 1):
                    for name, server in servers.items():
                        answer = load(server, clients, seconds if turn else 2, server.path + path, asked, kind)
                        if turn:
                            told[name].append(answer)
                medians = {name: {key: statistics.median(one[key] for one in got) for key in got[0]} for name, got in told.items()}
                found[f"{what}, {clients} clients"] = medians
                ratio = medians["batched"]["rate"] / medians["one at a time"]["rate"]
                for name, m in medians.items():
                    click.echo(f"{what}, {clients} clients, {name}: {m['rate']:.1f}/s, p50 {m['p50']:.0f} ms, p99 {m['p99']:.0f} ms")
                click.echo(f"{what}, {clients} clients: batched is {ratio:.2f} x as fast")
        for server in servers.values():
            server.stop()
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
