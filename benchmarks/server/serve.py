"""How many photos a second does a server answer to 1, 8 or 32 clients? In shared batches, each alone, and peers.

    python benchmarks/server/serve.py PHOTOS --model casia --vectors-python ENV/bin/python \\
        --deepface-python ENV2/bin/python --json FILE

Enrolled are 10,000 made-up faces of the model's dimensions (`benchmarks/common/synthetic.py`). The servers run side
by side, ours with `--batch 16` and with `--batch 1 --wait-ms 0`. They are asked in turns, while the others rest; each
client sends a photo when the last one is answered. Then the same with vectors. Figures are medians over rounds:
photos a second, and the 50th and 99th percentile of the times.

ENV has fastapi, uvicorn, pymilvus, milvus-lite, qdrant-client and qdrant-edge-py: other engines over the same faces,
served in the same way (`peers/serve_vectors.py`). Each must find the nearest person that ours finds before it is
timed. ENV2 has deepface, flask, flask_cors, gunicorn, python-dotenv, tf-keras, tensorflow-cpu, mtcnn and faiss-cpu:
DeepFace's API with MTCNN and Facenet512, over as many faces of 512 dimensions (`peers/serve_deepface.py`).
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import galleries, synthetic  # noqa: E402
from benchmarks.common.rounds import evenly, files_of  # noqa: E402
from benchmarks.common.served import PeerServer, Program, Server, load  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402

OURS, JSON = "batched", "application/json"
SERVERS = {OURS: ("--batch", "16"), "one at a time": ("--batch", "1", "--wait-ms", "0")}
ENGINES = ("milvus_lite", "qdrant_local", "qdrant_edge")
DEEPFACE = {
    "model_name": "Facenet512",
    "detector_backend": "mtcnn",
    "enforce_detection": False,
    "l2_normalize": True,
    "search_method": "ann",
    "similarity_search": True,
    "k": 5,
}
CLIENTS = (1, 8, 32)
SAME = 20  # questions to which all must give the same person


class Asked(NamedTuple):
    """Hold a server that takes part, and its questions."""

    server: Program
    path: str
    bodies: Sequence[bytes]
    kind: str

    def nearest(self, i: int) -> str:
        """Return the first person in the answer to the i-th question."""
        answer = self.server.answer(self.server.connect(), "POST", self.path, self.bodies[i], self.kind)
        if answer.status != 200:
            raise SystemExit(
                f"expected an answer of {self.server.port}{self.path}, "
                f"received {answer.status}: {answer.body.decode()[:500]}"
            )
        return json.loads(answer.body)["answers"][0]["hits"][0]["identity"]


def save(file: Path, n: int, d: int) -> str:
    """Write the faces that `galleries.make` enrols, for peers."""
    rows = list(galleries.rows(n, d))
    np.savez(file, vectors=np.array([row.vector for row in rows]), names=np.array([row.identity for row in rows]))
    return str(file)


def deepface_question(photo: bytes) -> bytes:
    return json.dumps(DEEPFACE | {"img": f"data:image/jpeg;base64,{base64.b64encode(photo).decode()}"}).encode()


def check(asked: Mapping[str, Asked]) -> None:
    """Raise SystemExit where a peer finds other people than ours."""
    right = [asked[OURS].nearest(i) for i in range(SAME)]
    for name, one in asked.items():
        if (same := sum(one.nearest(i) == person for i, person in enumerate(right))) != SAME:
            raise SystemExit(
                f"expected {name} to find the nearest person that ours finds, it does for {same} of {SAME} questions"
            )


def measure(asked: Mapping[str, Asked], clients: int, seconds: float, rounds: int) -> dict[str, dict[str, float]]:
    """Return the medians of each server, and how many times as fast ours is."""
    told: dict[str, list[dict[str, float]]] = {name: [] for name in asked}
    for turn in range(rounds + 1):
        for name, one in asked.items():
            answer = load(one.server, clients, seconds if turn else 2, one.path, one.bodies, one.kind)
            if turn:
                told[name].append(answer)
    medians = {name: {key: statistics.median(one[key] for one in got) for key in got[0]} for name, got in told.items()}
    return {name: m | {"times": medians[OURS]["rate"] / m["rate"]} for name, m in medians.items()}


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True))
@click.option("--model", default="msceleb", show_default=True)
@click.option("--faces", default=10_000, show_default=True, help="Enrolled.")
@click.option("--seconds", default=8.0, show_default=True, help="Of a round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--port", default=8700, show_default=True, help="The first one; the others follow.")
@click.option("--vectors-python", help="Python of an environment with other engines.")
@click.option("--deepface-python", help="Python of an environment with deepface.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write all figures.")
def main(
    photos: Path,
    model: str,
    faces: int,
    seconds: float,
    rounds: int,
    port: int,
    vectors_python: str | None,
    deepface_python: str | None,
    out: Path | None,
) -> None:
    bodies = [Path(file).read_bytes() for file in evenly(files_of(photos), 400)]
    d, ports = synthetic.profile(model).d, itertools.count(port)
    questions = [
        json.dumps({"vectors": [x.tolist()], "k": 5}).encode() for x in synthetic.probes(np.arange(500), model, d)
    ]
    found: dict[str, Any] = {
        "command": " ".join(sys.argv),
        "photos": len(bodies),
        "faces": faces,
        "model": model,
        "load": os.getloadavg(),
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        root = Path(folder)
        galleries.make(root / "made", faces, d, open_model(model).spec)

        ours: dict[str, Program] = {
            name: running.enter_context(Server(root, "made", next(ports), options)) for name, options in SERVERS.items()
        }
        by_photo = {name: Asked(server, server.path, bodies, "image/jpeg") for name, server in ours.items()}
        by_vector = {name: Asked(server, server.path + "/vectors", questions, JSON) for name, server in ours.items()}
        if vectors_python:
            same = save(root / "faces.npz", faces, d)
            for engine in ENGINES:
                peer = running.enter_context(
                    PeerServer(root, vectors_python, "serve_vectors.py", [engine, same, folder], next(ports), "/readyz")
                )
                by_vector[engine] = Asked(peer, peer.path, questions, JSON)
        if deepface_python:
            wide = save(root / "faces-512.npz", faces, 512)
            peer = running.enter_context(
                PeerServer(root, deepface_python, "serve_deepface.py", [wide, folder], next(ports), "/")
            )
            by_photo["deepface"] = Asked(peer, peer.path, [deepface_question(body) for body in bodies], JSON)
        check(by_vector)
        for what, asked in {"photos": by_photo, "vectors": by_vector}.items():
            for clients in CLIENTS:
                medians = found[f"{what}, {clients} clients"] = measure(asked, clients, seconds, rounds)
                for name, m in medians.items():
                    ratio = "" if name == OURS else f"; {OURS} is {m['times']:.2f} x as fast"
                    times = f"p50 {m['p50']:.1f} ms, p99 {m['p99']:.1f} ms"
                    click.echo(f"{what}, {clients} clients, {name}: {m['rate']:.1f}/s, {times}{ratio}")
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
