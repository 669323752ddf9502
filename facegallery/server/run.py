"""Starts worker processes and tells the user where they listen."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import uvicorn

from facegallery.accounts import START, Accounts
from facegallery.embedder.errors import InputError, SystemFault
from facegallery.embedder.process import ROOT, search_path
from facegallery.server.meters import FOLDER
from facegallery.server.settings import Settings
from facegallery.workflows.probes import open_index

Say = Callable[[str], None]
DRAIN_SECONDS = 6  # for requests that are in progress when the server is told to end
CONNECTIONS = 1000  # of a process; more are refused
HEADER_BYTES = 32 << 10


def serve(settings: Settings, workers: int, certificate: Path | None, private_key: Path | None, say: Say) -> None:
    """Serves until it is told to end (SIGTERM, Ctrl-C), then ends what was begun.

    Raises InputError where nobody but this machine could be let in safely: without keys off loopback, or by a certificate that is none;
    GalleryError for an index that is not there; SystemFault where the port is taken.
    """
    for name in settings.names:
        open_index(name).close()
    _check_port(settings)
    if certificate and private_key:
        _check_tls(certificate, private_key)
    settings.to_environment()
    if workers > 1:
        _isolate()
    with contextlib.closing(Accounts()) as accounts, _shared_meters(workers):
        say(_where(settings, accounts))
        signal.signal(signal.SIGTERM, _end)  # uvicorn raises it again once it has drained
        try:
            uvicorn.run(
                "facegallery.server.worker:create",
                factory=True,
                host=settings.host,
                port=settings.port,
                workers=workers,
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                ws="none",
                loop="facegallery.server.connections:Loop",
                http="facegallery.server.connections:HttpConnection",
                h11_max_incomplete_event_size=HEADER_BYTES,
                timeout_graceful_shutdown=DRAIN_SECONDS,
                timeout_keep_alive=30,
                limit_concurrency=CONNECTIONS,
                ssl_certfile=certificate,
                ssl_keyfile=private_key,
            )
        finally:
            accounts.end_start_key(settings.at)


def _isolate() -> None:
    """Keep code of the working folder, or of where environment variables point, from the processes that uvicorn starts: they take over `sys.path`,
    but before that Python would look in the working folder first."""
    for name in [name for name in os.environ if name.startswith("PYTHON") and name != "PYTHONUTF8"]:
        del os.environ[name]
    os.environ |= {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}
    sys.path[:] = dict.fromkeys([str(ROOT), *search_path()])


def _end(*_: object) -> NoReturn:
    raise SystemExit(0)


def _where(settings: Settings, accounts: Accounts) -> str:
    """The line that is printed: on loopback with a key that is good for this run."""
    scheme = "https" if settings.tls else "http"
    if settings.on_loopback and settings.start_key:
        return f"open {scheme}://{settings.at}/#key={accounts.start_key(settings.at)}"
    accounts.end_start_key(settings.at)  # of a server that was killed
    if not settings.on_loopback and all(key["name"].startswith(START) for key in accounts.list_keys()):
        raise InputError(
            f"expected keys before others may reach the server at {settings.host}, there are none: make one with `keys make NAME`"
        )
    hint = (
        ""
        if settings.tls
        else "; without TLS keys and photos can be read on the way: --tls-cert and --tls-key, or a proxy"
    )
    return f"listening at {scheme}://{settings.at}{hint}"


def _check_port(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise SystemFault(
                f"expected to listen at {settings.host}:{settings.port}, {error.strerror}: choose another --port"
            ) from None


def _check_tls(certificate: Path, private_key: Path) -> None:
    """Worker processes that cannot read them would be started again for ever."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            certificate, private_key, password=""
        )  # or OpenSSL asks at the terminal
    except OSError as error:
        raise InputError(
            f"expected a certificate and its key without a password (PEM), received {certificate} and {private_key} ({error.strerror}): "
            "mend --tls-cert or --tls-key"
        ) from None


@contextlib.contextmanager
def _shared_meters(workers: int) -> Iterator[None]:
    if workers == 1:
        yield
        return
    folder = tempfile.mkdtemp(prefix="facegallery-meters-")
    os.environ[FOLDER] = folder
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
