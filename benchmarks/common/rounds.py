"""Run programs that do the same work in turns, each in its own environment and in a process that stays.

A program prints a line when it is ready. It then does its work once for every line on its stdin, and answers with a
line of JSON that has `seconds`. So packages that cannot be installed together are measured in one run, under the same
load.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facegallery.embedder.photos.listing import Listing

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks" / "peers"


def files_of(photos: Path) -> list[str]:
    """List the absolute paths of the photos of a folder or a CSV."""
    from facegallery.embedder.photos.listing import list_photos

    listing = list_photos(photos)
    return [str((listing.root / entry.path).resolve()) for entry in listing.entries]


def listing_of(files: list[str]) -> Listing:
    """Make a listing of absolute paths."""
    from facegallery.embedder.dataset.row import Entry
    from facegallery.embedder.photos.listing import Listing

    return Listing(Path("/"), [Entry(file.lstrip("/"), os.stat(file).st_size, 0) for file in files])


def evenly(files: list[str], n: int) -> list[str]:
    """Take n files, spread evenly; all where there are fewer."""
    return files[:: max(1, len(files) // n)][:n]


def serve(work: Callable[[], dict[str, Any]]) -> None:
    """Run a program's side: `work` does the work once and returns further figures, such as how much was done."""
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        told = work()
        print(json.dumps({"seconds": time.perf_counter() - began, **told}), flush=True)


class Peer:
    """Hold one program."""

    def __init__(self, python: str, script: str, arguments: Sequence[str]):
        command = [python, str(PEERS / script), *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        if self._line() != "ready":
            raise SystemExit(f"expected {script} to get ready, it ended: run `{' '.join(command)}` to see why")

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def go(self) -> dict[str, Any]:
        """Do the work once."""
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


def alternate(
    peers: Mapping[str, Peer], rounds: int, medians: Sequence[str] = ("seconds",)
) -> dict[str, dict[str, Any]]:
    """Run each peer in turn, after one round to warm up.

    Return the last answer of each, with the numbers in `medians` at their median, and all seconds.
    """
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
    for i in range(rounds + 1):
        for name, peer in peers.items():
            answer = peer.go()
            if i:
                answers[name].append(answer)
    for peer in peers.values():
        peer.stop()
    return {
        name: got[-1]
        | {key: statistics.median(a[key] for a in got) for key in medians}
        | {"all": [round(a["seconds"], 3) for a in got]}
        for name, got in answers.items()
    }


def whole_processes(commands: Mapping[str, Sequence[str]], rounds: int, warm: int = 1) -> dict[str, dict[str, Any]]:
    """Run each command in turn, after `warm` rounds.

    Return the median of its seconds from start to end, all of them, and its peak memory in MB.
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    peaks: dict[str, float] = {}
    for i in range(warm + rounds):
        for name, command in commands.items():
            began = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            assert process.stderr
            told = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
            taken = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise SystemExit(
                    f"expected `{' '.join(command)}` to end well, it ended with {process.returncode}: {told[-500:]}"
                )
            peaks[name] = usage.ru_maxrss / 1024
            if i >= warm:
                seconds[name].append(taken)
    return {
        name: {"seconds": statistics.median(taken), "peak_mb": peaks[name], "all": [round(s, 3) for s in taken]}
        for name, taken in seconds.items()
    }


def tell(found: Mapping[str, dict[str, Any]], ours: str, what: str, out: Path | None) -> None:
    """Print what each did a second (`what` counts it), and how many times as fast `ours` is; write all to JSON."""
    for name, answer in found.items():
        times = answer["seconds"] / found[ours]["seconds"]
        crops = f", {answer['crops']} crops" if what != "crops" else ""
        print(f"{name}: {answer[what] / answer['seconds']:.1f} {what}/s{crops}; {ours} is {times:.2f} x as fast")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({what: found[ours][what], "load": os.getloadavg(), "answers": found}, indent=1))
