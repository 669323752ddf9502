"""What a server is told when it starts; worker processes get it by one environment variable."""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import asdict, dataclass

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError

VARIABLE = "FACEGALLERY_SERVER"
MB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Addresses and limits."""

    names: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    hosts: tuple[str, ...] = ()  # names that clients may call it by, beside its address
    tls: bool = False
    start_key: bool = True  # on loopback: one for whoever starts it, in the address that is printed
    device: str = "auto"
    precision: str = "auto"
    batch: int = 16  # photos that go through detector and network together
    wait: float = 0.004  # seconds that a photo waits at most for others
    queue: int = 256  # photos that wait at most; more are refused
    photo_bytes: int = 20 * MB
    photo_pixels: int = 50_000_000
    photo_faces: int = 100  # the largest and most central ones are answered
    vectors: int = 256  # of one question
    json_bytes: int = 4 * MB
    held_bytes: int = 512 * MB  # of the bodies of all requests that are at work, of a process
    body_seconds: float = 30  # within which a body must have come
    stream_seconds: float = 3600
    session_seconds: float = 12 * 3600

    def __post_init__(self) -> None:
        is_loopback(self.host)

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def behind_proxy(self) -> bool:
        """Whether what comes from this machine may come from many: a proxy here passes on what is asked for by its own name."""
        return self.on_loopback and bool(self.hosts)

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Names that a request's Host may have, without the port. Any web page can make a browser ask loopback, by a name of its own."""
        own = {"127.0.0.1", "localhost", "[::1]"} if self.on_loopback else set()
        return frozenset(name.lower() for name in {*own, self.address, *self.hosts})

    @property
    def address(self) -> str:
        """As it stands in a URL."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def at(self) -> str:
        """Address and port."""
        return f"{self.address}:{self.port}"

    @property
    def compute(self) -> Compute:
        return Compute(self.device, self.precision)

    def to_environment(self) -> None:
        os.environ[VARIABLE] = json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> Settings:
        values = json.loads(os.environ[VARIABLE])
        return cls(**values | {"names": tuple(values["names"]), "hosts": tuple(values["hosts"])})


def is_loopback(host: str) -> bool:
    """Raises InputError for what is no address of a network card, such as a name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise InputError(
            f"expected an address such as 127.0.0.1 or 0.0.0.0 for --host, received {host!r}: mend it"
        ) from None
