"""Decode photos in a process that can be killed; `process` runs it, `decoder` asks it.

A question is a frame: the length of its head (four bytes, little-endian), the head (JSON: `id`, `name`, `size`,
`is_file`), then `size` bytes: a photo, or the path of its file. An answer is a frame, too: its head repeats the `id`
and has `outcome`, `why`, `sha256`, `shape`, `taken` and `place`; the pixels follow where there is a shape. A question
with `beside`, the fields of `drawn.Beside`, asks for the faces that somebody drew: the answer's head then has `turn`,
too, and `drawn`, the bytes of those faces (JSON), which come last.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
from typing import Any

from facegallery.embedder.outcomes import OK, UNREADABLE
from facegallery.embedder.photos.bounds import MAX_PIXELS
from facegallery.embedder.photos.drawn import Beside, drawn_in
from facegallery.embedder.photos.kinds import PhotoRefused
from facegallery.embedder.photos.pixels import decode_all, read
from facegallery.embedder.photos.regions import to_record
from facegallery.embedder.process import WHY, channel, frame, greet

MEMORY, MEMORY_A_PIXEL = 512 << 20, 28  # bytes: of the program, and of all copies of a pixel that exist at once
OPEN_FILES = 64
FORBIDDEN = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "pty.spawn",
    "socket.",
)


def memory_for(most_pixels: int) -> int:
    """Return the bytes of address space that decoding photos of at most so many pixels needs."""
    return MEMORY + MEMORY_A_PIXEL * most_pixels


def answer(
    name: str, data: bytes | None = None, most: int = MAX_PIXELS, beside: Beside | None = None
) -> tuple[dict[str, Any], bytes | memoryview, bytes]:
    """Return the head, the pixels and the drawn faces of the answer to a photo.

    data: its bytes; without them, `name` is its path. beside: None where the drawn faces are not asked for.
    """
    digest = None
    try:
        data, digest = read(name) if data is None else (data, hashlib.sha256(data).hexdigest())
        if not data:
            raise PhotoRefused(UNREADABLE, "the file is empty")
        photo = decode_all(data, most)
    except PhotoRefused as error:
        why = str(error).splitlines()[0][:WHY] if str(error) else error.outcome
        more = {} if beside is None else {"turn": 1, "drawn": 0}
        refused = {"outcome": error.outcome, "why": why, "sha256": digest, "shape": None, "taken": None, "place": None}
        return refused | more, b"", b""
    time = photo.taken and photo.taken.isoformat(timespec="microseconds")
    said = {"taken": time, "place": photo.place}
    head = {"outcome": OK, "why": "", "sha256": digest, "shape": photo.pixels.shape} | said
    if beside is None:
        return head, photo.pixels.data, b""
    drawn = json.dumps(to_record(drawn_in(photo, beside))).encode()
    return head | {"turn": photo.turn, "drawn": len(drawn)}, photo.pixels.data, drawn


def limit(most_pixels: int) -> None:
    """Limit this process to what decoding photos needs; see `limit_memory`."""
    limit_memory(memory_for(most_pixels))


def limit_memory(memory: int) -> None:
    """Limit this process to what decoding needs: `memory` bytes of address space, no sockets or child processes."""
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    sys.dont_write_bytecode = True
    sys.addaudithook(_refuse)


def _refuse(event: str, _: tuple[Any, ...]) -> None:
    if event.startswith(FORBIDDEN):
        raise PermissionError(f"a decoder may not use {event}")


def main() -> None:
    """Answer questions until the other program closes its pipe."""
    questions, answers, (most,) = channel()
    limit(int(most))
    greet(answers)
    while length := read_from(questions, 4):
        question = json.loads(read_from(questions, int.from_bytes(length, "little")))
        data = read_from(questions, question["size"])
        name = os.fsdecode(data) if question["is_file"] else question["name"]
        photo = None if question["is_file"] else data
        beside = Beside(**question["beside"]) if "beside" in question else None
        head, *parts = answer(name, photo, int(most), beside)
        write_to(answers, frame({"id": question["id"]} | head))
        for part in parts:
            write_to(answers, part)


def read_from(end: int, size: int) -> bytes:
    """Read exactly `size` bytes; return b"" where the other program has closed its end."""
    with memoryview(data := bytearray(size)) as view:
        left = view
        while left:
            if not (got := os.readv(end, [left])):
                return b""
            left = left[got:]
    return bytes(data)


def write_to(end: int, data: bytes | memoryview) -> None:
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(end, left) :]


if __name__ == "__main__":
    main()
