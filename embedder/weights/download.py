"""Download a file from an address, by its hash, and resume interrupted downloads.

No other module of the program opens a connection.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from facegallery.embedder.errors import ModelError, SystemFault

log = logging.getLogger(__name__)

CHUNK = 1 << 20
LOG_EVERY = 10 << 20  # bytes
PATIENCE = 60  # seconds without a byte
RANGE_NOT_SATISFIABLE = 416


def download(url: str, sha256: str, size: int, file: Path) -> None:
    """Download the rest of `file`, which may hold the beginning from an earlier call.

    size: bytes. Raise SystemFault where the address cannot be reached or the connection is lost, ModelError where the
    content has another hash.
    """
    advice = f"run the same command again to resume, or download {url} on another machine and give it with --from"
    with open(file, "a+b", opener=lambda path, flags: os.open(path, flags, 0o600)) as sink:
        try:
            fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if sink.seek(0, os.SEEK_END) < size:
                _append(url, sink, size)
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
            f"expected {url} with sha256 {sha256}, received {found}: it is another file now; "
            "download the right one elsewhere"
        )


def _append(url: str, sink: IO[bytes], size: int) -> None:
    """Append the missing bytes to `sink`, or start again where the server cannot resume.

    At most one chunk more than `size` bytes is written.
    """
    have = sink.tell()
    with urlopen(Request(url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=PATIENCE) as answer:
        if have and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            sink.truncate(have := 0)
            sink.seek(0)
        logged = have
        while have <= size and (chunk := answer.read(CHUNK)):
            sink.write(chunk)
            have += len(chunk)
            if have - logged >= LOG_EVERY:
                log.info("%.0f of %.0f MB", have / 1e6, size / 1e6)
                logged = have
