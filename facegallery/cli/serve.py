"""The commands of the server: start it, and its keys."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Where it listens.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes; each holds the networks."
)
@click.option("--allow-host", "hosts", multiple=True, help="A name that clients call the server by.")
@click.option("--tls-cert", type=PATH, help="Certificate (PEM).")
@click.option("--tls-key", type=PATH, help="Its key (PEM).")
@click.option(
    "--no-start-key", is_flag=True, help="Print no address that signs in; as a service, whose output is kept."
)
@click.option(
    "--batch",
    default=16,
    show_default=True,
    type=click.IntRange(min=1),
    help="Photos that go through the networks together; 1: each alone.",
)
@click.option("--wait-ms", default=4.0, show_default=True, help="How long a photo waits for others.")
@computing
@common
def serve(
    out: Output,
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
    """Serve the indexes NAMES over HTTP: an API under /v1, and a page. Needs the extra `server`."""
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
    """What the server is told; raises SystemFault where its packages are missing."""
    try:
        from facegallery.server.run import Settings
    except ModuleNotFoundError as error:
        raise SystemFault(
            f"expected the extra `server`, {error.name} is missing: run `pip install -e '.[server]'` where the code is"
        ) from None
    return Settings(tuple(dict.fromkeys(names)), device=compute.device, precision=compute.precision, **others)


def start(settings: Settings, workers: int = 1, tls_cert: Path | None = None, tls_key: Path | None = None) -> None:
    """Serves until it is told to end; the address is printed."""
    from facegallery.server.run import Certificate, serve

    logging.getLogger("facegallery").setLevel(logging.WARNING)  # of a server's lines only what went wrong
    certificate = Certificate(tls_cert, tls_key) if tls_cert and tls_key else None
    serve(settings, workers, certificate, click.echo)


@click.group()
def keys() -> None:
    """Keys of the server: make, list, revoke."""


@keys.command("make")
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(("read", "write", "admin")),
    default="read",
    show_default=True,
    help="read: search and look; write: enrol and correct too; admin: forget, calibrate and compact too.",
)
@click.option("--rate", default=50.0, show_default=True, help="Requests a second; 0 for no limit.")
@common
def keys_make(out: Output, name: str, scope: str, rate: float) -> None:
    """A new key; it is shown once, and kept as a hash."""
    from facegallery.accounts import Accounts

    key = Accounts().make_key(name, scope, rate)
    out.result({"name": name, "scope": scope, "rate": rate, "key": key}, key)


@keys.command("list")
@common
def keys_list(out: Output) -> None:
    """Names, scopes and rates; the keys themselves are nowhere."""
    from facegallery.accounts import Accounts

    found = Accounts().list_keys()
    lines = [
        f"{time.strftime('%Y-%m-%d', time.localtime(key['made']))}  {key['scope']:<5}  {key['name']}" for key in found
    ]
    out.result(found, lines or "there are no keys")


@keys.command("revoke")
@click.argument("name")
@common
def keys_revoke(out: Output, name: str) -> None:
    """End a key and its sessions; a server knows within two seconds."""
    from facegallery.accounts import Accounts

    Accounts().revoke(name)
    out.result({"revoked": name}, f"{name}: revoked")


@keys.command("audit")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(min=1), help="Lines.")
@common
def keys_audit(out: Output, limit: int) -> None:
    """The last changes that were asked for over HTTP: when, by which key, what, of which index and faces."""
    from facegallery.accounts import Accounts

    found = Accounts().audit(limit)
    lines = [
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(one['time']))}  {one['status']}  {one['key']}  {one['what']} {one['index']} "
        f"({len(one['faces'])} faces)"
        for one in found
    ]
    out.result(found, lines or "no changes are kept")


def register(group: click.Group) -> None:
    """Adds these commands to the program's."""
    group.add_command(serve)
    group.add_command(keys)
