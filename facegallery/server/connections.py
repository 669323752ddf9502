"""Limit the connections of each address, and close connections on which no request arrives in time."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from facegallery.server.meters import Meters
    from facegallery.server.settings import Settings

HEAD_SECONDS = 10.0  # time for the head of a request, from the connection or, later, from its first byte
ADDRESS_CONNECTIONS = 256  # per address and process; further ones are closed at once


class Loop(asyncio.SelectorEventLoop):
    """The event loop, which limits the time of a TLS handshake: HttpConnection exists only after it."""

    async def create_server(self, *arguments: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = HEAD_SECONDS
        return await super().create_server(*arguments, **options)


class ConnectionLimits:
    """Counts the connections of each address."""

    def __init__(self, settings: Settings, meters: Meters):
        self.body_seconds, self.closed = settings.body_seconds, meters.closed
        self._proxied = settings.behind_proxy
        self._open: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Count one more connection of an address; return False, and count nothing, where it has too many."""
        who = self._who(address)
        if who and self._open[who] >= ADDRESS_CONNECTIONS:
            return False
        self._open[who] += 1
        return True

    def leave(self, address: str) -> None:
        """Count one connection of an address less."""
        who = self._who(address)
        self._open[who] -= 1
        if not self._open[who]:
            del self._open[who]

    def _who(self, address: str) -> str:
        """Name the owner of an address, who has 64 bits of them in IPv6; empty for a proxy, which serves many."""
        found = ipaddress.ip_address(address)
        if isinstance(found, ipaddress.IPv6Address):
            found = found.ipv4_mapped or found
        if self._proxied and found.is_loopback:
            return ""
        return str(found) if found.version == 4 else found.packed[:8].hex()


class HttpConnection(H11Protocol):
    """A connection with time limits. uvicorn alone closes one only where nothing arrives after a response."""

    _is_counted = False
    _due: asyncio.TimerHandle | None = None  # set while the client should send something

    @property
    def _limits(self) -> ConnectionLimits:
        return self.app.limits  # type: ignore[union-attr]  # the Guard

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        address = transport.get_extra_info("peername")
        if not address or not self._limits.enter(address[0]):  # None: the client has gone already
            self.transport = transport
            if address:
                self._limits.closed("many")
            return transport.abort()
        self._is_counted, self._address = True, address[0]
        super().connection_made(transport)
        self._expect(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_counted:
            self._limits.leave(self._address)
            self._expect_nothing()
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answering:
            self._expect_nothing()
        elif not self._due and not self.transport.is_closing():
            self._expect(HEAD_SECONDS if self.conn.their_state is h11.IDLE else self._limits.body_seconds)

    def on_response_complete(self) -> None:
        super().on_response_complete()  # which may start the next request
        self._expect_nothing()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect(self, seconds: float) -> None:
        self._due = self.loop.call_later(seconds, self._end)

    def _expect_nothing(self) -> None:
        if self._due:
            self._due.cancel()
            self._due = None

    def _end(self) -> None:
        self._due = None
        if self.transport.is_closing():
            return
        self._limits.closed("slow")
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._say_slow()
        self.transport.close()

    def _say_slow(self) -> None:
        from facegallery.embedder.text import to_json  # imported late, see worker.py
        from facegallery.server.problems import MEDIA, HttpProblem

        detail = f"expected the head of a request within {HEAD_SECONDS:g} s, received a part of it: send it faster"
        body = to_json(HttpProblem(408, "slow", detail).body).encode()
        headers = [("Content-Type", MEDIA), ("Content-Length", str(len(body))), ("Connection", "close")]
        for event in (
            h11.Response(status_code=408, headers=headers, reason=b"Request Timeout"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
