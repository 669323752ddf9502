"""How long after `serve NAME` starts does it answer the first photo, and the first vector?

    python benchmarks/server/serve_start.py PHOTO --json benchmarks/results/serve_start.json

Enrolled are 100,000 made-up faces of the model's dimensions, two a person on average
(`benchmarks/common/synthetic.py`). Each round starts a process and asks as soon as its port takes a connection, with
the key of the line that it prints; photos and vectors in turns, after one round to warm up. Figures are medians of
seconds from the start to three moments: the line is printed (program and packages are read, the index was opened
once), the port listens (the server's packages, too), the first answer (networks, index); and the CPU seconds until
then, which other work on the machine does not change. The aim is less than 3 s.

--cold: before each start, drop the files of the index, of the models and of Python with its packages from the page
cache. Files that another process has mapped stay.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import galleries, synthetic  # noqa: E402
from benchmarks.common.served import ROOT, Server, processes  # noqa: E402
from facegallery.embedder.weights.folder import data_root  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402

ASKED, MOST = 3.0, 120.0  # seconds
STAGES = ("printed", "listening", "answered")


def started(root: Path, name: str, port: int, path: str, body: bytes, kind: str) -> dict[str, float]:
    """Start a process; return seconds to each of STAGES, CPU seconds, and MB read from the disk."""
    began = time.perf_counter()
    with Server(root, name, port, ready=False) as server:
        printed = time.perf_counter() - began
        while not _listens(port):
            if (taken := time.perf_counter() - began) > MOST:
                raise SystemExit(f"expected port {port} to listen within {MOST:g} s, it does not after {taken:.0f}")
            time.sleep(0.005)
        listening, connection = time.perf_counter() - began, server.connect(MOST)
        while (status := server.ask(connection, "POST", server.path + path, body, kind)) == 503:
            time.sleep(0.005)
        if status != 200:
            raise SystemExit(f"expected an answer to the first question, received {status}")
        answered = time.perf_counter() - began
        pids = processes(server.pid)
        return {
            "printed": printed,
            "listening": listening,
            "answered": answered,
            "cpu_s": _cpu_s(pids),
            "read_mb": _read_mb(pids),
        }


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _cpu_s(pids: Iterable[int]) -> float:
    ticks = [line.rsplit(")", 1)[1].split()[11:13] for line in (Path(f"/proc/{pid}/stat").read_text() for pid in pids)]
    return sum(int(user) + int(system) for user, system in ticks) / os.sysconf("SC_CLK_TCK")


def _read_mb(pids: Iterable[int]) -> float:
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/io").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("read_bytes")) / 1e6


def drop(folders: Iterable[Path]) -> None:
    """Drop these files from the page cache."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@click.command()
@click.argument("photo", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--model", default="msceleb", show_default=True)
@click.option("--faces", default=100_000, show_default=True, help="Enrolled.")
@click.option("--per-person", default=2.0, show_default=True, help="Faces of a person, on average.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--cold", is_flag=True, help="With files that are not in the page cache.")
@click.option("--seed", default=0, show_default=True, help="Of the vector that is asked.")
@click.option("--port", default=8720, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write all figures.")
def main(
    photo: Path,
    model: str,
    faces: int,
    per_person: float,
    rounds: int,
    *,
    cold: bool,
    seed: int,
    port: int,
    out: Path | None,
) -> None:
    d = synthetic.profile(model).d
    vector = synthetic.probes(np.arange(1), model, d, take=seed)[0]
    questions = {
        "photo": ("", photo.read_bytes(), "image/jpeg"),
        "vector": ("/vectors", json.dumps({"vectors": [vector.tolist()]}).encode(), "application/json"),
    }
    told: dict[str, list[dict[str, float]]] = {what: [] for what in questions}
    with tempfile.TemporaryDirectory() as folder:
        made = galleries.make(Path(folder) / "made", faces, d, open_model(model).spec, per_person)
        files = (
            Path(folder),
            data_root() / "models",
            ROOT,
            *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")),
        )
        for i in range(rounds + 1):
            for what, question in questions.items():
                if cold:
                    drop(files)
                found = started(Path(folder), "made", port, *question)
                if i:
                    told[what].append(found)
    figures: dict[str, Any] = {
        "command": " ".join(sys.argv),
        "seed": seed,
        "model": model,
        "faces": faces,
        "per_person": per_person,
        "cold": cold,
        "asked_s": ASKED,
        "made_s": made,
        "load": os.getloadavg(),
    }
    for what, rows in told.items():
        median = {key: statistics.median(row[key] for row in rows) for key in (*STAGES, "cpu_s", "read_mb")}
        figures[what] = median | {"all": [round(row["answered"], 3) for row in rows]}
        stages = ", ".join(f"{key} {median[key]:.2f} s" for key in STAGES)
        used = f"{median['cpu_s']:.2f} s of the cores, {median['read_mb']:.0f} MB from the disk"
        click.echo(
            f"first {what}: {stages}; {used}; {'less' if median['answered'] < ASKED else 'NOT less'} than {ASKED:g} s"
        )
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
