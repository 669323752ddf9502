"""A process that decodes photos, so that a bad one can be killed: run as `python -m embedder.decode [MOST_PIXELS]`.

Reads one line of JSON a photo from stdin: its path, or a name and a number of bytes, which then follow. Answers each on stdout with a length
(four bytes, little-endian), so much JSON, then the pixels where there are any.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
from typing import Any

from embedder.pixels import MAX_MEMORY, MAX_PIXELS, Refused, decode, load_formats, read


def answer(name: str, data: bytes | None = None, most: int = MAX_PIXELS) -> tuple[dict[str, Any], bytes | memoryview]:
    """The line and the pixels that a photo is answered with; without its bytes, `name` is the path where they are."""
    digest = None
    try:
        data, digest = read(name) if data is None else (data, hashlib.sha256(data).hexdigest())
        if not data:
            raise Refused("unreadable", "the file is empty")
        pixels = decode(data, name, most)
    except Refused as error:
        why = str(error).splitlines()[0][:200] if str(error) else error.outcome
        return {"outcome": error.outcome, "why": why, "sha256": digest, "shape": None}, b""
    return {"outcome": "ok", "why": "", "sha256": digest, "shape": pixels.shape}, pixels.data


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    load_formats()
    most = int(sys.argv[1]) if len(sys.argv) > 1 else MAX_PIXELS
    for line in sys.stdin.buffer:
        match json.loads(line):
            case [str(name), int(size)]:
                head, pixels = answer(name, sys.stdin.buffer.read(size), most)
            case path:
                head, pixels = answer(path, most=most)
        text = json.dumps(head).encode()
        sys.stdout.buffer.write(len(text).to_bytes(4, "little") + text)
        sys.stdout.buffer.write(pixels)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
