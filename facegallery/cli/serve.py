"""The commands of the server: start it, and manage its keys."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facegallery.cli.groups import SectionGroup
from facegallery.cli.options import PATH, Output, at_least, common, computing
from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError, SystemFault

if TYPE_CHECKING:
    from facegallery.server.settings import Settings


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen at; others than loopback need keys."
)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen at.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes; each loads the networks."
)
@click.option("--allow-host", "hosts", multiple=True, help="A host name that clients use; may be repeated.")
@click.option("--tls-cert", type=PATH, help="Certificate (PEM).")
@click.option("--tls-key", type=PATH, help="Key of the certificate (PEM).")
@click.option(
    "--no-start-key", is_flag=True, help="Print no address that signs in: for a service, whose output is kept."
)
@click.option(
    "--batch",
    default=16,
    show_default=True,
    type=click.IntRange(min=1),
    help="Photos that go through the networks together; 1: each alone.",
)
@click.option("--wait-ms", default=4.0, show_default=True, help="Milliseconds that a photo waits for others.")
@computing
@common
def serve(
    out: Output,
    *,
    names: tuple[str, ...],
    host: str,
    port: int,
    workers: int,
    hosts: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    batch: int,
    wait_ms: float,
    no_start_key: bool,
    compute: Compute,
) -> None:
    """Serve indexes over HTTP, with a page for the browser.

    The API lies under /v1. Needs the extra `server`.
    """
    if (tls_cert is None) != (tls_key is None):
        raise InputError("expected --tls-cert and --tls-key, received one of them: give both")
    start(
        settings(
            names,
            compute,
            host=host,
            port=port,
            hosts=hosts,
            tls=tls_cert is not None,
            start_key=not no_start_key,
            batch=at_least(1, batch, "--batch"),
            wait=max(0.0, wait_ms) / 1000,
        ),
        at_least(1, workers, "--workers"),
        tls_cert,
        tls_key,
    )


def settings(names: Sequence[str], compute: Compute, **others: Any) -> Settings:
    """Return the settings of a server; raise SystemFault where its packages are missing."""
    try:
        from facegallery.server.run import Settings
    except ModuleNotFoundError as error:
        raise SystemFault(
            f"expected the extra `server`, {error.name} is missing: run `pip install 'facegallery[server]'`"
        ) from None
    return Settings(tuple(dict.fromkeys(names)), device=compute.device, precision=compute.precision, **others)


def start(settings: Settings, workers: int = 1, tls_cert: Path | None = None, tls_key: Path | None = None) -> None:
    """Print the address and serve until SIGTERM or Ctrl-C."""
    from facegallery.server.run import Certificate, serve

    logging.getLogger("facegallery").setLevel(logging.WARNING)  # of a server's lines only what went wrong
    certificate = Certificate(tls_cert, tls_key) if tls_cert and tls_key else None
    serve(settings, workers, certificate, click.echo)


@click.group(cls=SectionGroup)
def keys() -> None:
    """Make, list and revoke the keys of the server."""


@keys.command("make")
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(("read", "write", "admin")),
    default="read",
    show_default=True,
    help="read: search and look; write: also enrol and correct; admin: also forget, calibrate and compact.",
)
@click.option("--rate", default=50.0, show_default=True, help="Requests a second; 0 for no limit.")
@common
def keys_make(out: Output, *, name: str, scope: str, rate: float) -> None:
    """Make a key and print it.

    The key is shown once; only its hash is stored.
    """
    from facegallery.accounts import Accounts

    key = Accounts().make_key(name, scope, rate)
    out.result({"name": name, "scope": scope, "rate": rate, "key": key}, key)


@keys.command("list")
@common
def keys_list(out: Output) -> None:
    """List names, scopes and rates of the keys."""
    from facegallery.accounts import Accounts

    found = Accounts().list_keys()
    lines = [
        f"{time.strftime('%Y-%m-%d', time.localtime(key['made']))}  {key['scope']:<5}  {key['name']}" for key in found
    ]
    out.result(found, lines or "there are no keys")


@keys.command("revoke")
@click.argument("name")
@common
def keys_revoke(out: Output, *, name: str) -> None:
    """Revoke a key and end its sessions.

    A running server refuses the key within two seconds.
    """
    from facegallery.accounts import Accounts

    Accounts().revoke(name)
    out.result({"revoked": name}, f"{name}: revoked")


@keys.command("audit")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(min=1), help="Lines at most.")
@common
def keys_audit(out: Output, *, limit: int) -> None:
    """List the last changes requested over HTTP.

    When, by which key, what, and of which index and faces.
    """
    from facegallery.accounts import Accounts

    found = Accounts().audit(limit)
    lines = [
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(one['time']))}  {one['status']}  {one['key']}  "
        f"{one['what']} {one['index']} ({len(one['faces'])} faces)"
        for one in found
    ]
    out.result(found, lines or "no changes are kept")
