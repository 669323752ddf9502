"""Run the examples of the documentation as they stand, in a folder like a reader's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.conftest import DATA, ROOT
from tests.served import free_port

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^<!-- (run|server|client)\b[^\n]*-->\n```(bash|python)\n(.*?)^```", re.S | re.M)
SECONDS = 900


@dataclass(frozen=True)
class Example:
    """A block of a page that tests run: `run` in a folder, `server` and `client` beside a server."""

    kind: str
    language: str
    text: str


def examples(page: Path, kind: str) -> list[Example]:
    """Return the examples of this kind on a page, in order."""
    return [one for one in (Example(*found) for found in BLOCK.findall(page.read_text())) if one.kind == kind]


@dataclass(frozen=True)
class Folder:
    """A folder with photos and models, in which the command `facegallery` is this code."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        given = {name: value for name, value in os.environ.items() if not name.startswith("FACEGALLERY_")}
        path = f"{self.path / 'bin'}:{os.path.dirname(sys.executable)}:{given['PATH']}"
        return given | {"PATH": path, "PYTHONPATH": str(ROOT)}

    def run(self, example: Example, **environment: str) -> str:
        """Run an example; return what it printed on stdout. Fails where it fails."""
        text, serve = _without_serve(example.text)
        python = [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", text]
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", text] if example.language == "bash" else python,
            cwd=self.path,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        for line in serve:
            self._serve(line)
        return done.stdout

    def _serve(self, line: str) -> None:
        """Start a server by its line, at a port that is free, and stop it once it has printed its address."""
        command = [*line.split(), "--port", str(free_port())]
        with subprocess.Popen(
            command, cwd=self.path, env=self.environment, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout and "#key=" in server.stdout.readline()
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) in (0, -signal.SIGTERM)


def _without_serve(text: str) -> tuple[str, list[str]]:
    lines = text.splitlines()
    return "\n".join(one for one in lines if not _is_serve(one)), [one for one in lines if _is_serve(one)]


def _is_serve(line: str) -> bool:
    return line.startswith("facegallery serve ")


def make_folder(path: Path, att: Path) -> Folder:
    """Lay out what the pages name: `photos`, `known`, `albums`, `party.jpg`, ..., from AT&T's photos."""
    (path / "bin").mkdir()
    program = path / "bin" / "facegallery"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "cli.py"} "$@"\n')
    program.chmod(0o755)
    (path / "data").mkdir()
    (path / "data" / "models").symlink_to(DATA / "models")  # not to be fetched again
    (path / "data" / "att").symlink_to(att)
    for folder, people in (("photos", range(1, 13)), ("known", range(1, 13)), ("more", range(13, 15))):
        _link(path / folder, ((f"s{i}/{n}.pgm", att / f"s{i}" / f"{n}.pgm") for i in people for n in (1, 2, 3)))
    (path / "more.csv").write_text(
        "image,year,place\ns13/1.pgm,1999,Oslo\ns13/2.pgm,2001,Oslo\ns14/1.pgm,1990,Bergen\n"
    )
    unsorted = ((f"{i}-{n}.pgm", att / f"s{i}" / f"{n}.pgm") for i in range(20, 26) for n in range(1, 6))
    _link(path / "unsorted", unsorted)
    _link(path / "albums", ((f"{i}.pgm", att / f"s{i}" / "9.pgm") for i in range(1, 20)))
    for name, photo in (("party", "s5/9"), ("ann", "s33/1"), ("photo", "s7/2"), ("other", "s7/3")):
        Image.open(att / f"{photo}.pgm").save(path / f"{name}.jpg", quality=95)
    return Folder(path)


def _link(folder: Path, photos: Iterator[tuple[str, Path]]) -> None:
    for name, photo in photos:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(photo.read_bytes())
