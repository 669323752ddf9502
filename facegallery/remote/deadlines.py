"""Limit the time of a whole request, not only of each read and write."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpcore
import httpx

UNTIL = "facegallery.until"  # extension of a request: its deadline, by time.monotonic()
WRITE_BYTES = 64 << 10
KEEP_ALIVE_SECONDS = 5.0

Left = Callable[[float | None], float | None]  # seconds of an operation -> seconds, at most those until the deadline


class DeadlineTransport(httpx.HTTPTransport):
    """A transport whose reads and writes end at the deadline of their request.

    httpx alone limits each read, so that a server that sends a byte now and then could hold a program for ever.
    (Asynchronous programs need no such transport: `asyncio.timeout` limits the whole.)
    """

    def __init__(self) -> None:
        context = httpx.create_ssl_context()
        super().__init__(verify=context)
        self._own = threading.local()
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=_Backend(self._left),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._own.until = request.extensions[UNTIL]  # the body is read by the same thread, before its next request
        return super().handle_request(request)

    def _left(self, timeout: float | None) -> float | None:
        until: float = getattr(self._own, "until", float("inf"))
        if (left := until - time.monotonic()) <= 0:
            raise httpcore.ReadTimeout("the deadline has passed")
        return left if timeout is None else min(timeout, left)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, left: Left):
        self._inner, self._left = httpcore.SyncBackend(), left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._inner.connect_tcp(host, port, self._left(timeout), local_address, socket_options)
        return _Stream(stream, self._left)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, left: Left):
        self._inner, self._left = inner, left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), WRITE_BYTES):
            self._inner.write(buffer[start : start + WRITE_BYTES], self._left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, self._left(timeout)), self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
