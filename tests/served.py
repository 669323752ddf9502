"""A real server over an index of AT&T's photos, as a user starts it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from facegallery.embedder.photos.prepare import prepare
from facegallery.workflows.photos import embed, make_embedder
from facegallery.workflows.upkeep import build_index
from tests.conftest import DATA, ROOT

SECONDS = 120  # within which it must be ready, on a machine that does other things


@dataclass
class Running:
    url: str
    key: str  # admin
    process: subprocess.Popen
    root: Path  # data root: models, server.db
    indexes: Path
    photos: Path  # gallery/s1/1.pgm, probe/s1/2.pgm, ...

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"FACEGALLERY_DATA": str(self.root), "FACEGALLERY_INDEXES": str(self.indexes)}

    def client(self, key: str | None = None, **headers: str) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {key or self.key}"} | headers, timeout=SECONDS
        )

    def command(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *arguments], capture_output=True, text=True, env=self.environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def probe(self, person: int, number: int = 2) -> bytes:
        return (self.photos / "probe" / f"s{person}" / f"{number}.pgm").read_bytes()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def embed_first_photos(att: Path, folder: Path) -> None:
    """Write the photos by split to folder/photos, and vectors and crops of the gallery's to folder/vectors."""
    prepare("att", att, folder / "photos")
    embed(folder / "photos" / "gallery", folder / "vectors", make_embedder("msceleb"))


def build(made: Path, folder: Path, name: str = "att") -> Path:
    """Copy the photos and vectors of `embed_first_photos` to a folder and build their index in folder/indexes."""
    shutil.copytree(made, folder, dirs_exist_ok=True)
    before = os.environ.get("FACEGALLERY_INDEXES")
    os.environ["FACEGALLERY_INDEXES"] = str(folder / "indexes")
    try:
        build_index(folder / "vectors", name)
    finally:
        os.environ.pop("FACEGALLERY_INDEXES") if before is None else os.environ.update(FACEGALLERY_INDEXES=before)
    return folder


@contextmanager
def running(
    folder: Path,
    *options: str,
    names: tuple[str, ...] = ("att",),
    port: int | None = None,
    program: tuple[str, ...] = (str(ROOT / "cli.py"),),
) -> Iterator[Running]:
    """The server over folder/indexes, ready; program: what Python runs."""
    root = folder / "data"
    root.mkdir(exist_ok=True)
    if not (root / "models").exists():
        (root / "models").symlink_to(DATA / "models")
    port = port or free_port()
    environment = os.environ | {
        "FACEGALLERY_DATA": str(root),
        "FACEGALLERY_INDEXES": str(folder / "indexes"),
        "PYTHONUNBUFFERED": "1",
    }
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, *program, "serve", *names, "--port", str(port), *options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
    try:
        assert process.stdout
        line = process.stdout.readline()
        key = re.search(r"#key=(\S+)", line)
        assert key, line + (folder / "log").read_text()[-2000:]
        server = Running(line.split("/#")[0].split()[-1], key[1], process, root, folder / "indexes", folder / "photos")
        wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
        process.stdout.close()


def wait_until_ready(server: Running) -> None:
    until = time.monotonic() + SECONDS
    while True:
        try:
            if httpx.get(f"{server.url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < until and server.process.poll() is None, (server.indexes.parent / "log").read_text()[
            -2000:
        ]
        time.sleep(0.1)
