"""See which programs a command starts: by strace, and by programs on the PATH that leave a mark when they start."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# what decoders of photos start, or once did: Pillow's plugins, and those of others
PROGRAMS = (
    "gs",
    "gswin64c",
    "djpeg",
    "giftopnm",
    "ppmquant",
    "ppmtogif",
    "pdftoppm",
    "convert",
    "magick",
    "display",
    "xv",
    "inkscape",
    "ffmpeg",
    "heif-convert",
)
CALLS = "execve,execveat,fork,vfork,clone,clone3"
OURS = "facegallery/embedder/launch.py"
FORGED = 'import json, sys; t = json.dumps({"outcome": "ok", "why": "", "sha256": None, "shape": [1, 1, 3]}).encode()'


@dataclass
class Started:
    """Hold the processes that a traced command started."""

    programs: list[str] = field(default_factory=list)  # command lines that are none of ours
    by_decoders: list[str] = field(default_factory=list)  # calls of decoders that start a process
    decoders: int = 0


def traced(command: Sequence[str], log: Path) -> list[str]:
    """Put a command under strace, where that is installed; strace writes to `log`."""
    if not (strace := shutil.which("strace")):
        return list(command)
    return [
        strace,
        "-f",
        "-qq",
        "--seccomp-bpf",
        "-s",
        "300",
        "-e",
        f"trace={CALLS}",
        "-e",
        "signal=none",
        "-o",
        str(log),
        *command,
    ]


def started(log: Path, allowed: Sequence[str] = ()) -> Started:
    """Read a log of `traced`; allowed: parts of other command lines that may be there."""
    found, decoders = Started(), set[str]()
    for number, (pid, call) in enumerate(_calls(log)):
        if call.startswith(("execve", "execveat")) and "ENOENT" not in call:
            if OURS in call and "facegallery.embedder.photos.decode" in call:
                decoders.add(pid)
            elif number and OURS not in call and not any(each in call for each in allowed):
                found.programs.append(call)
        elif pid in decoders and (made := re.search(r"= (\d+)$", call)):
            if "CLONE_THREAD" in call:
                decoders.add(made[1])
            else:
                found.by_decoders.append(call)
        elif pid in decoders and call.startswith(("fork", "vfork")):
            found.by_decoders.append(call)
    found.decoders = len(decoders)
    return found


def _calls(log: Path) -> Iterator[tuple[str, str]]:
    """Yield process and call, with calls joined that strace wrote in two lines."""
    begun: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[pid] = call.removesuffix("<unfinished ...>")
        elif resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", call):
            yield pid, begun.pop(pid, "") + resumed[1]
        else:
            yield pid, call


def trap_programs(folder: Path) -> tuple[str, Path]:
    """Return a PATH whose first programs leave a mark in a folder and forge an answer, and that folder, empty."""
    programs, marks = folder / "programs", folder / "marks"
    programs.mkdir()
    marks.mkdir()
    for name in PROGRAMS:
        script = programs / name
        script.write_text(
            f"#!/bin/sh\n: > '{marks}/{name}'\n"
            f"python3 -c '{FORGED}; sys.stdout.buffer.write(len(t).to_bytes(4, \"little\") + t + bytes(3))'\n"
        )
        script.chmod(0o755)
    return f"{programs}{os.pathsep}{os.environ['PATH']}", marks
