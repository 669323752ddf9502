"""The server's settings; worker processes read them from one environment variable."""

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
    """Addresses and limits of a server."""

    names: tuple[str, ...]  # of the indexes
    host: str = "127.0.0.1"
    port: int = 8000
    hosts: tuple[str, ...] = ()  # names that clients use for the server, besides its address
    tls: bool = False
    start_key: bool = True  # whether, on loopback, the printed address contains a key
    device: str = "auto"
    precision: str = "auto"
    batch: int = 16  # largest number of photos that go through detector and network together
    wait: float = 0.004  # seconds that a photo waits for others at most
    queue: int = 256  # photos that may wait; more are refused
    photo_bytes: int = 20 * MB
    photo_pixels: int = 50_000_000
    photo_faces: int = 100  # faces of a photo that are answered, the largest and most central ones
    vectors: int = 256  # of a request
    json_bytes: int = 4 * MB
    held_bytes: int = 512 * MB  # total size of the bodies that a process holds in memory
    body_seconds: float = 30  # time in which a body must arrive
    stream_seconds: float = 3600
    session_seconds: float = 12 * 3600

    def __post_init__(self) -> None:
        is_loopback(self.host)

    @property
    def on_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        return is_loopback(self.host)

    @property
    def behind_proxy(self) -> bool:
        """Whether connections from this machine may come from a proxy, which serves many clients."""
        return self.on_loopback and bool(self.hosts)

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Names that the Host header of a request may have, without the port.

        Any web page can make a browser connect to loopback by a name of that page's owner; such a name is refused.
        """
        own = {"127.0.0.1", "localhost", "[::1]"} if self.on_loopback else set()
        return frozenset(name.lower() for name in {*own, self.address, *self.hosts})

    @property
    def address(self) -> str:
        """The host as written in a URL."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def at(self) -> str:
        """The host and the port as written in a URL."""
        return f"{self.address}:{self.port}"

    @property
    def compute(self) -> Compute:
        return Compute(self.device, self.precision)

    def to_environment(self) -> None:
        """Write the settings to the environment variable that worker processes inherit."""
        os.environ[VARIABLE] = json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the settings that `to_environment` wrote."""
        values = json.loads(os.environ[VARIABLE])
        return cls(**values | {"names": tuple(values["names"]), "hosts": tuple(values["hosts"])})


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine only. Raises InputError for a name other than localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise InputError(
            f"expected an address such as 127.0.0.1 or 0.0.0.0, received {host!r}: change --host"
        ) from None
