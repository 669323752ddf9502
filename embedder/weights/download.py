"""A file from an address, by its hash; what an interrupted download left is gone on with. Nothing else in the program opens a connection."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from facegallery.embedder.errors import ModelError, SystemFault

CHUNK = 1 << 20
SAID_EVERY = 10 << 20  # bytes
PATIENCE = 60  # seconds without a byte
RANGE_NOT_SATISFIABLE = 416


def download(url: str, sha256: str, size: int, file: Path, say: Callable[[str], None]) -> None:
    """Completes `file`, of which an earlier call may have left a part.

    Raises SystemFault where the address cannot be reached or the connection is lost, ModelError where another file came.
    """
    advice = f"run the same command again, it goes on; or download {url} on another machine and give it with --from"
    with open(file, "a+b", opener=lambda path, flags: os.open(path, flags, 0o600)) as sink:
        try:
            fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if sink.seek(0, os.SEEK_END) < size:
                _go_on(url, sink, size, lambda done: say(f"{done / 1e6:.0f} of {size / 1e6:.0f} MB"))
        except BlockingIOError:
            raise SystemFault(f"expected to download {url} alone, another process does so now: wait for it") from None
        except (URLError, HTTPException, ConnectionError, TimeoutError, SSLError) as error:
            if isinstance(error, HTTPError) and error.code == RANGE_NOT_SATISFIABLE:
                sink.truncate(0)
            raise SystemFault(
                f"expected to download {url}, received {str(error) or type(error).__name__}: {advice}"
            ) from None
        if sink.tell() < size:
            raise SystemFault(f"expected {size} bytes of {url}, the connection was lost after {sink.tell()}: {advice}")
        sink.seek(0)
        found = hashlib.file_digest(sink, "sha256").hexdigest()
    if found != sha256:
        file.unlink()
        raise ModelError(
            f"expected {url} with sha256 {sha256}, received {found}: it is another file now; download the right one elsewhere"
        )


def _go_on(url: str, sink: IO[bytes], size: int, on_progress: Callable[[int], None]) -> None:
    """Appends what `sink` lacks, or starts it anew where the server cannot go on; never writes much more than `size` bytes."""
    have = sink.tell()
    with urlopen(Request(url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=PATIENCE) as answer:
        if have and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            sink.truncate(have := 0)
            sink.seek(0)
        said = have
        while have <= size and (chunk := answer.read(CHUNK)):
            sink.write(chunk)
            have += len(chunk)
            if have - said >= SAID_EVERY:
                on_progress(said := have)
