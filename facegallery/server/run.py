"""Start the server processes, and print the address that they listen at."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import uvicorn

from facegallery.accounts import START, Accounts
from facegallery.embedder.errors import InputError, SystemFault
from facegallery.embedder.process import ROOT, search_path
from facegallery.server.meters import FOLDER
from facegallery.server.settings import Settings
from facegallery.workflows.probes import open_index

DRAIN_SECONDS = 6  # for requests in progress when the server receives SIGTERM
CONNECTIONS = 1000  # per process; more are refused
HEADER_BYTES = 32 << 10
NO_TLS = "; without TLS others on the network can read keys and photos: give --tls-cert and --tls-key, or use a proxy"


@dataclass(frozen=True)
class Certificate:
    """A TLS certificate and its key, PEM files without a password."""

    file: Path
    key: Path


def serve(settings: Settings, workers: int, certificate: Certificate | None, show: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests in progress.

    show: receives the line with the address, once. Raises InputError for a certificate that cannot be used, and where
    others could reach the server and there are no keys; GalleryError where an index is missing; SystemFault where the
    port is taken.
    """
    for name in settings.names:
        open_index(name).close()
    _check_port(settings)
    if certificate:
        _check_tls(certificate)
    settings.to_environment()
    if workers > 1:
        _isolate()
    with contextlib.closing(Accounts()) as accounts, _shared_meters(workers):
        show(_address_line(settings, accounts))
        end = _End()
        signal.signal(signal.SIGTERM, end)  # uvicorn raises it again once all requests have ended
        try:
            _run(settings, workers, certificate)
        except RuntimeError:
            if not end.came:
                raise
            raise SystemExit(0) from None  # an import that is interrupted cannot release its lock
        finally:
            accounts.end_start_key(settings.at)


def _run(settings: Settings, workers: int, certificate: Certificate | None) -> None:
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
        ssl_certfile=certificate.file if certificate else None,
        ssl_keyfile=certificate.key if certificate else None,
    )


def _isolate() -> None:
    """Keep code of the working folder, and of environment variables, from the processes that uvicorn starts.

    They inherit `sys.path`, but until they have read it Python would look in the working folder first.
    """
    for name in [name for name in os.environ if name.startswith("PYTHON") and name != "PYTHONUTF8"]:
        del os.environ[name]
    os.environ |= {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}
    sys.path[:] = dict.fromkeys([str(ROOT), *search_path()])


class _End:
    """Ends the process at a signal.

    came: whether the signal has come.
    """

    came = False

    def __call__(self, *_: object) -> NoReturn:
        self.came = True
        raise SystemExit(0)


def _address_line(settings: Settings, accounts: Accounts) -> str:
    """Make the line that is printed: on loopback with a key that is valid until the server ends."""
    scheme = "https" if settings.tls else "http"
    if settings.on_loopback and settings.start_key:
        return f"open {scheme}://{settings.at}/#key={accounts.start_key(settings.at)}"
    accounts.end_start_key(settings.at)  # left by a server that was killed
    if not settings.on_loopback and all(key["name"].startswith(START) for key in accounts.list_keys()):
        raise InputError(
            f"expected keys before others can reach the server at {settings.host}, there are none: make one with "
            "`keys make NAME`"
        )
    return f"listening at {scheme}://{settings.at}{'' if settings.tls else NO_TLS}"


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


def _check_tls(certificate: Certificate) -> None:
    """Raise InputError for a certificate that cannot be used: worker processes would fail and be started for ever."""
    try:  # with a password, because OpenSSL would ask for one at the terminal
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate.file, certificate.key, password="")
    except OSError as error:
        raise InputError(
            f"expected a certificate and its key without a password (PEM), received {certificate.file} and "
            f"{certificate.key} ({error.strerror}): change --tls-cert or --tls-key"
        ) from None


@contextlib.contextmanager
def _shared_meters(workers: int) -> Iterator[None]:
    """Give several processes a folder in which they count together."""
    if workers == 1:
        yield
        return
    folder = tempfile.mkdtemp(prefix="facegallery-meters-")
    os.environ[FOLDER] = folder
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
