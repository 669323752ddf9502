"""Check each request before a route receives it: host, origin, key, rate and size; and add headers to each response."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from facegallery.accounts import START, Accounts, Key
from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.text import printable, to_json
from facegallery.server.connections import ConnectionLimits
from facegallery.server.meters import Meters
from facegallery.server.problems import MEDIA, HttpProblem, busy, fault, of_error
from facegallery.server.settings import Settings

COOKIE, PAGE_HEADER = "facegallery", b"x-facegallery"
SAFE = ("GET", "HEAD", "OPTIONS")
OPEN = ("/", "/healthz", "/readyz", "/openapi.json", "/v1/session")  # need no key, like the files of the page
PROBES = ("/healthz", "/readyz")  # for a supervisor, whatever name it uses for the server
STREAMS = "/stream"  # end of the paths whose bodies have no limit
SMALL_BYTES = 4096  # body of a request that needs no key
NAMES_BYTES, IDS_BYTES = 16 << 10, 512 << 10  # JSON with a few names; with 10,000 ids, or metadata
HEADER_BYTES, HEADERS_BYTES, HEADERS_COUNT = 16 << 10, 32 << 10, 100  # of one, of all and the address; how many
HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::([0-9]{1,5}))?")
CACHE_SECONDS = 2.0  # time for which a process accepts a key without looking it up again
CACHE_SIZE = 1000
BEARER = {"WWW-Authenticate": "Bearer"}
CLOSE = {"Connection": "close"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src 'self' blob:; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
log = logging.getLogger("facegallery.server")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
T = TypeVar("T")


class Desk:
    """Asynchronous access to the accounts, through one thread."""

    def __init__(self, at: str):
        """at: where this server listens; start keys of other addresses are refused."""
        self._at = at
        self._thread = ThreadPoolExecutor(1, "accounts")
        self._accounts = self._thread.submit(Accounts).result()
        self._cache: dict[tuple[str, str], tuple[float, Key | None]] = {}

    async def ask(self, question: Callable[[Accounts], T]) -> T:
        """Call a function with the accounts, and wait for its result."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, question, self._accounts)

    def tell(self, news: Callable[[Accounts], None]) -> None:
        """Call a function with the accounts later, without waiting; from any thread."""
        self._thread.submit(news, self._accounts)

    async def key_of(self, secret: str) -> Key | None:
        """Return the key with a secret, or None; cached for CACHE_SECONDS."""
        return await self._cached((secret, "key"), lambda accounts: accounts.holder(secret))

    async def key_of_session(self, secret: str) -> Key | None:
        """Return the key of a session, or None; cached for CACHE_SECONDS."""
        return await self._cached((secret, "session"), lambda accounts: accounts.in_session(secret))

    async def _cached(self, mark: tuple[str, str], question: Callable[[Accounts], Key | None]) -> Key | None:
        now = time.monotonic()
        if (entry := self._cache.get(mark)) is None or entry[0] < now:
            key = await self.ask(question)
            if key and key.name.startswith(START) and key.name != START + self._at:
                key = None
            if len(self._cache) > CACHE_SIZE:
                self._cache.clear()
            self._cache[mark] = entry = now + CACHE_SECONDS, key
        return entry[1]

    async def admit(self, key: Key) -> None:
        """Count a photo of a stream. Raises HttpProblem where the key was revoked meanwhile or exceeds its rate."""
        if await self._cached((key.id, "id"), lambda accounts: accounts.key(key.id)) is None:
            detail = f"expected a valid key, the key {key.name!r} was revoked: make another with `keys make`"
            raise HttpProblem(401, "key", detail)
        await self.count(key)

    async def count(self, key: Key) -> None:
        """Count a request. Raises HttpProblem where the key exceeds its rate."""
        if key.rate and not await self.ask(lambda accounts: accounts.count_request(key)):
            detail = f"expected at most {key.rate:g} requests per second with the key {key.name!r}: wait a second"
            raise HttpProblem(429, "rate", detail, {"Retry-After": "1"})

    def forget_session(self, secret: str) -> None:
        """Remove a session from the cache."""
        self._cache.pop((secret, "session"), None)

    def close(self) -> None:
        """Finish what was asked, and close the accounts."""
        self._thread.submit(self._accounts.close)
        self._thread.shutdown()


class Guard:
    """ASGI middleware that lets a request through to the application, or responds with a problem."""

    def __init__(self, app: App, settings: Settings, desk: Callable[[], Desk], meters: Meters):
        self._app, self._settings, self._desk, self._meters = app, settings, desk, meters
        self._held = HeldBytes(settings.held_bytes)
        self.limits = ConnectionLimits(settings, meters)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # a websocket
            return await send({"type": "websocket.close", "code": 1008})
        began, method = time.monotonic(), scope["method"]
        response = _Response(send, is_page=scope["path"].startswith("/page/"), with_body=method != "HEAD")
        if method == "HEAD":  # every route of GET answers it; only the body is left out
            scope = {**scope, "method": "GET"}
        body = _Body(receive, self._limits_of(scope["path"]), self._held)
        try:
            _check_headers(scope)
            await self._admit(scope)
            scope.setdefault("state", {})["hold"] = body.hold
            await self._app(scope, body, response)
        except HttpProblem as problem:
            await response.problem(problem)
        except FaceGalleryError as error:
            await response.problem(of_error(error))
        except Exception:
            if not body.is_disconnected:
                log.exception("%s %s failed", method, scope["path"])
                await response.problem(fault())
        finally:
            body.release()
        route = scope.get("route")
        self._meters.request(getattr(route, "path", "none"), method, response.status, time.monotonic() - began)

    def _limits_of(self, path: str) -> BodyLimits:
        if path.endswith(STREAMS):  # each line has its limit
            return BodyLimits(sys.maxsize, self._settings.stream_seconds, is_stream=True)
        return BodyLimits(self._bytes_of(path), self._settings.body_seconds)

    def _bytes_of(self, path: str) -> int:
        if path.endswith("/search") or path.endswith("/faces"):
            return self._settings.photo_bytes
        if path.endswith("/verify"):
            return 2 * self._settings.photo_bytes
        if path.endswith("/search/vectors"):
            return self._settings.json_bytes
        if path.endswith(("/people/split", "/person", "/groups/name", "/groups/reject", "/groups/ignore")):
            return IDS_BYTES
        return NAMES_BYTES if path.startswith("/v1/indexes/") else SMALL_BYTES

    async def _admit(self, scope: Scope) -> None:
        """Check host, origin and key, and store the key as scope["state"]["key"]. Raises HttpProblem."""
        headers = dict(scope["headers"])
        if scope["path"] not in PROBES:
            self._check_host(headers.get(b"host", b""))
        is_safe = scope["method"] in SAFE
        if not is_safe:
            self._check_origin(headers)
        if scope["path"] in OPEN or scope["path"].startswith("/page/"):
            return
        if secret := bearer(headers):
            key = await self._desk().key_of(secret)
        elif secret := session_secret(headers):
            key = await self._desk().key_of_session(secret)
        else:
            key = None
        if key is None:
            detail = (
                "expected a key (`Authorization: Bearer KEY`) or a session, received none that is valid: make a key "
                "with `keys make`, or sign in again"
            )
            raise HttpProblem(401, "key", detail, BEARER)
        if not bearer(headers) and not is_safe and PAGE_HEADER not in headers:
            detail = "expected the header X-Facegallery on changes in a session, received none: send it, or a key"
            raise HttpProblem(403, "header", detail)
        await self._desk().count(key)
        scope.setdefault("state", {})["key"] = key

    def _check_host(self, header: bytes) -> None:
        """Refuse names that others point at this machine (DNS rebinding)."""
        found = HOST.fullmatch(header.lower())
        if not found or int(found[2] or 0) > 65535 or found[1].decode() not in self._settings.allowed_hosts:
            detail = (
                f"expected a Host of this server, received {header[:100].decode('latin-1')!r}: "
                "start the server with --allow-host to allow another name"
            )
            raise HttpProblem(421, "host", detail)

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """Refuse changes that a browser sends for a page of another server."""
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", b"none")
        own = (b"https://" if self._settings.tls else b"http://") + headers.get(b"host", b"")
        proxied = b"https://" + headers.get(b"host", b"")
        is_foreign = origin is not None and origin.lower() not in (own.lower(), proxied.lower())
        if is_foreign or site not in (b"none", b"same-origin"):
            detail = (
                "expected a change from this server's own page or from a program, received one from another page: "
                "open the page of this server"
            )
            raise HttpProblem(403, "origin", detail)


def _check_headers(scope: Scope) -> None:
    """Raise HttpProblem for headers and an address that are larger than any request needs, and for ambiguous ones."""
    sizes = [len(name) + len(value) + 4 for name, value in scope["headers"]]
    address = len(scope.get("raw_path") or scope["path"]) + len(scope.get("query_string", b""))
    if sum(sizes) + address > HEADERS_BYTES or max(sizes, default=0) > HEADER_BYTES or len(sizes) > HEADERS_COUNT:
        detail = (
            f"expected at most {HEADERS_COUNT} headers of {HEADER_BYTES:,} bytes each and {HEADERS_BYTES:,} with the "
            "address, received more: send fewer"
        )
        raise HttpProblem(431, "headers", detail, CLOSE)
    if sum(name == b"host" for name, _ in scope["headers"]) > 1:
        raise HttpProblem(400, "host", "expected one Host, received several: send one")
    lengths = {name.lower() for name, _ in scope["headers"]} & {b"content-length", b"transfer-encoding"}
    if len(lengths) > 1:  # a proxy may see the end of the body elsewhere
        detail = "expected Content-Length or Transfer-Encoding, received both: send one of them"
        raise HttpProblem(400, "length", detail, CLOSE)


class HeldBytes:
    """The total size of the bodies that a process holds in memory."""

    def __init__(self, most: int):
        self._most, self.bytes = most, 0

    def add(self, size: int) -> None:
        """Add bytes, or subtract them where size is negative. Raises HttpProblem where the total is too large."""
        if size > 0 and self.bytes + size > self._most:
            raise busy(f"expected bodies of at most {self._most:,} bytes in all, all requests have more: try again")
        self.bytes += size


@dataclass(frozen=True)
class BodyLimits:
    """The largest size of a body in bytes, and the time in which it must arrive."""

    bytes: int
    seconds: float
    is_stream: bool = False  # the route itself says what it holds


class _Body:
    """The body of a request, within its limits. What arrived counts as held until the request ends."""

    def __init__(self, receive: Receive, limits: BodyLimits, held: HeldBytes):
        self._receive, self._limits, self._all_held = receive, limits, held
        self._until = time.monotonic() + limits.seconds
        self._held, self._bytes, self._ended = 0, 0, False
        self.is_disconnected = False

    async def __call__(self) -> Message:
        message = await self._next()
        if message["type"] == "http.disconnect":
            self.is_disconnected = True
            return message
        self._bytes += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        if self._bytes > self._limits.bytes:
            detail = f"expected a body of at most {self._limits.bytes:,} bytes, received a larger one: send less"
            raise HttpProblem(413, "large", detail)
        if not self._limits.is_stream:
            self.hold(len(message.get("body", b"")))
        return message

    async def _next(self) -> Message:
        if self._ended:  # only the end of the connection can follow
            return await self._receive()
        try:
            return await asyncio.wait_for(self._receive(), max(0.0, self._until - time.monotonic()))
        except TimeoutError:
            detail = f"expected the whole body within {self._limits.seconds:g} s, received a part: send it faster"
            raise HttpProblem(408, "slow", detail, CLOSE) from None

    def hold(self, size: int) -> None:
        """Hold more bytes, or fewer, but not below none. Raises HttpProblem where all requests hold too many."""
        size = max(size, -self._held)
        self._all_held.add(size)
        self._held += size

    def release(self) -> None:
        """Hold nothing."""
        self.hold(-self._held)


class _Response:
    """A response, with the headers that all responses have."""

    def __init__(self, send: Send, *, is_page: bool, with_body: bool):
        self._send, self._is_page, self._with_body = send, is_page, with_body
        self.status, self._begun = 0, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun, self.status = True, message["status"]
            names = {name.lower() for name, _ in message["headers"]}
            common = HEADERS | {"Cache-Control": "no-cache" if self._is_page else "no-store"}
            encoded = [(name.lower().encode(), value.encode()) for name, value in common.items()]
            added = [(name, value) for name, value in encoded if name not in names]
            message = {**message, "headers": [*message["headers"], *added]}
        elif not self._with_body:
            message = {**message, "body": b""}
        await self._send(message)

    async def problem(self, problem: HttpProblem) -> None:
        """Send a problem, unless the response has begun already."""
        if self._begun:
            return
        body = to_json(problem.body).encode()
        headers = {"Content-Type": MEDIA, "Content-Length": str(len(body)), **(problem.headers or {})}
        encoded = [
            (name.lower().encode(), printable(value).encode("latin-1", "replace")) for name, value in headers.items()
        ]
        await self({"type": "http.response.start", "status": problem.status_code, "headers": encoded})
        await self({"type": "http.response.body", "body": body})


def bearer(headers: dict[bytes, bytes]) -> str:
    """Return the key of the Authorization header; empty where there is none."""
    scheme, _, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def session_secret(headers: dict[bytes, bytes]) -> str:
    """Return the session of the page's cookie; empty where there is none. Cookies of others may be malformed."""
    mark = f"{COOKIE}=".encode()
    parts = (part.strip() for part in headers.get(b"cookie", b"").split(b";"))
    return next((part.removeprefix(mark).decode("latin-1") for part in parts if part.startswith(mark)), "")
