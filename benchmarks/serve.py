"""How many photos a second does a server answer, when 1, 8 or 32 clients ask at once: with shared batches, and with each photo alone?

    python benchmarks/serve.py PHOTOS --json benchmarks/results/serve.json

10,000 made-up faces of the model's dimensions are enrolled (`synthetic`). Two servers of the same code run side by side, with `--batch 16` and
with `--batch 1 --wait-ms 0`, and are asked in turns, by clients that each send a photo when the last one is answered; the other one rests
meanwhile. Then the same with vectors. Median over rounds of photos a second, and of the 50th and 99th percentile of the times.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gallery  # noqa: E402
import synthetic  # noqa: E402
from rounds import evenly, files_of  # noqa: E402
from served import Server, load  # noqa: E402

from embedder.weights import open_model  # noqa: E402

SERVERS = {"batched": ("--batch", "16"), "one at a time": ("--batch", "1", "--wait-ms", "0")}
CLIENTS = (1, 8, 32)


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
