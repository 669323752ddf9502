"""What every request passes before a route sees it: host, origin, who asks, how often, how much; and what every answer carries."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from facegallery.accounts import START, Accounts, Key
from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.text import printable, to_json
from facegallery.server.connections import ConnectionLimits
from facegallery.server.meters import Meters
from facegallery.server.problems import MEDIA, RETRY_SECONDS, HttpProblem, fault, of_error
from facegallery.server.settings import Settings

COOKIE, PAGE_HEADER = "facegallery", b"x-facegallery"
SAFE = ("GET", "HEAD", "OPTIONS")
OPEN = ("/", "/healthz", "/readyz", "/openapi.json", "/v1/session")  # without a key; and the page's files
PROBES = ("/healthz", "/readyz")  # by whatever name a supervisor knows the server; they tell nothing
STREAMS = "/stream"  # how the paths end whose bodies are as long as they are
SMALL_BYTES = 4096  # of what is no photo, and needs no key
NAMES_BYTES, IDS_BYTES = 16 << 10, 512 << 10  # of JSON with a few names, and with 10,000 ids
HEADER_BYTES, HEADERS_BYTES, HEADERS_COUNT = 16 << 10, 32 << 10, 100  # of one, of all with the address, and how many
HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::([0-9]{1,5}))?")
REMEMBERED = 2.0  # seconds that a worker takes a key for good without asking again
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
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
    """The accounts, from the event loop: one thread asks them."""

    def __init__(self, at: str):
        """at: where this server listens; the key of another one's start is none of ours."""
        self._at = at
        self._thread = ThreadPoolExecutor(1, "accounts")
        self._accounts = self._thread.submit(Accounts).result()
        self._seen: dict[tuple[str, str], tuple[float, Key | None]] = {}

    async def ask(self, question: Callable[[Accounts], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, question, self._accounts)

    def tell(self, news: Callable[[Accounts], None]) -> None:
        """From any thread, without waiting."""
        self._thread.submit(news, self._accounts)

    async def who(self, secret: str, in_session: bool) -> Key | None:
        """Kept for REMEMBERED seconds."""
        mark, now = (secret, "session" if in_session else "key"), time.monotonic()
        if (seen := self._seen.get(mark)) is None or seen[0] < now:
            key = await self.ask(lambda accounts: (accounts.in_session if in_session else accounts.holder)(secret))
            if key and key.name.startswith(START) and key.name != START + self._at:
                key = None
            if len(self._seen) > 1000:
                self._seen.clear()
            self._seen[mark] = seen = now + REMEMBERED, key
        return seen[1]

    async def admit(self, key: Key) -> None:
        """One more photo of a stream; raises Problem where the key was revoked meanwhile, or asks too often."""
        mark, now = (key.id, "id"), time.monotonic()
        if (seen := self._seen.get(mark)) is None or seen[0] < now:
            self._seen[mark] = seen = now + REMEMBERED, await self.ask(lambda accounts: accounts.key(key.id))
        if seen[1] is None:
            raise HttpProblem(
                401, "key", f"expected a key that is valid, {key.name!r} was revoked: make another with `keys make`"
            )
        await self.count(key)

    async def count(self, key: Key) -> None:
        """Raises Problem where a key asks more often than it may."""
        if key.rate and not await self.ask(lambda accounts: accounts.may_ask(key)):
            raise HttpProblem(
                429,
                "rate",
                f"expected at most {key.rate:g} requests a second with the key {key.name!r}: wait a second",
                {"Retry-After": "1"},
            )

    def forget_session(self, secret: str) -> None:
        self._seen.pop((secret, "session"), None)

    def close(self) -> None:
        self._thread.submit(self._accounts.close)
        self._thread.shutdown()


class Guard:
    """ASGI middleware."""

    def __init__(self, app: App, settings: Settings, desk: Callable[[], Desk], meters: Meters):
        self._app, self._settings, self._desk, self._meters = app, settings, desk, meters
        self._held = Held(settings.held_bytes)
        self.lines = ConnectionLimits(settings, meters)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # websockets: there are none
            return await send({"type": "websocket.close", "code": 1008})
        began, method = time.monotonic(), scope["method"]
        answer = _Answer(send, scope["path"], with_body=method != "HEAD")
        if method == "HEAD":  # whatever answers GET answers it, and only the body stays away
            scope = {**scope, "method": "GET"}
        body = _Body(
            receive,
            self._limit(scope["path"]),
            self._seconds(scope["path"]),
            self._held,
            scope["path"].endswith(STREAMS),
        )
        try:
            _check_headers(scope)
            await self._admit(scope)
            scope.setdefault("state", {})["hold"] = body.hold
            await self._app(scope, body, answer)
        except HttpProblem as problem:
            await answer.problem(problem)
        except FaceGalleryError as error:
            await answer.problem(of_error(error))
        except Exception:
            if not body.gone:
                log.exception("%s %s failed", method, scope["path"])
                await answer.problem(fault())
        finally:
            body.release()
        route = scope.get("route")
        self._meters.request(getattr(route, "path", "none"), method, answer.status, time.monotonic() - began)

    def _limit(self, path: str) -> int:
        if path.endswith(STREAMS):
            return sys.maxsize  # each line has its limit
        if path.endswith("/search") or path.endswith("/faces"):
            return self._settings.photo_bytes
        if path.endswith("/verify"):
            return 2 * self._settings.photo_bytes
        if path.endswith("/search/vectors"):
            return self._settings.json_bytes
        if path.endswith("/people/split"):
            return IDS_BYTES
        return NAMES_BYTES if path.startswith("/v1/indexes/") else SMALL_BYTES

    def _seconds(self, path: str) -> float:
        return self._settings.stream_seconds if path.endswith(STREAMS) else self._settings.body_seconds

    async def _admit(self, scope: Scope) -> None:
        """Raises Problem for a request that is not let in; leaves the key in scope['state']['key']."""
        headers = dict(scope["headers"])
        if scope["path"] not in PROBES:
            self._check_host(headers.get(b"host", b""))
        is_safe = scope["method"] in SAFE
        if not is_safe:
            self._check_origin(headers)
        if scope["path"] in OPEN or scope["path"].startswith("/page/"):
            return
        key_given = bearer(headers)
        secret = key_given or session_secret(headers)
        key = await self._desk().who(secret, not key_given) if secret else None
        if key is None:
            raise HttpProblem(
                401,
                "key",
                "expected a key (`Authorization: Bearer KEY`) or a session, received none that is valid: make one with "
                "`keys make`, or sign in again",
                {"WWW-Authenticate": "Bearer"},
            )
        if not key_given and not is_safe and PAGE_HEADER not in headers:
            raise HttpProblem(
                403,
                "header",
                "expected the header X-Facegallery on changes in a session, received none: send it, or a key",
            )
        await self._desk().count(key)
        scope.setdefault("state", {})["key"] = key

    def _check_host(self, header: bytes) -> None:
        """DNS rebinding: a page's own name that leads here is none of ours."""
        found = HOST.fullmatch(header.lower())
        if not found or int(found[2] or 0) > 65535 or found[1].decode() not in self._settings.allowed_hosts:
            raise HttpProblem(
                421,
                "host",
                f"expected a Host that this server is known by, received {header[:100].decode('latin-1')!r}: "
                "start the server with --allow-host for another name",
            )

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """A browser says which page asks: another one than ours may not change anything."""
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", b"none")
        own = (b"https://" if self._settings.tls else b"http://") + headers.get(b"host", b"")
        proxied = b"https://" + headers.get(b"host", b"")
        if (origin is not None and origin.lower() not in (own.lower(), proxied.lower())) or site not in (
            b"none",
            b"same-origin",
        ):
            raise HttpProblem(
                403,
                "origin",
                "expected a change asked for by this server's own page or a program, received one from another page",
            )


def _check_headers(scope: Scope) -> None:
    """Raise Problem for an address and headers of more bytes than a request needs, however they came in over the network."""
    sizes = [len(name) + len(value) + 4 for name, value in scope["headers"]]
    address = len(scope.get("raw_path") or scope["path"]) + len(scope.get("query_string", b""))
    if sum(sizes) + address > HEADERS_BYTES or max(sizes, default=0) > HEADER_BYTES or len(sizes) > HEADERS_COUNT:
        raise HttpProblem(
            431,
            "headers",
            f"expected at most {HEADERS_COUNT} headers of {HEADER_BYTES:,} bytes, {HEADERS_BYTES:,} with the address, received more: send fewer",
            {"Connection": "close"},
        )
    if sum(name == b"host" for name, _ in scope["headers"]) > 1:
        raise HttpProblem(400, "host", "expected one Host, received several: send one")
    if {b"content-length", b"transfer-encoding"} <= {
        name.lower() for name, _ in scope["headers"]
    }:  # a proxy may end the body elsewhere
        raise HttpProblem(
            400,
            "length",
            "expected Content-Length or Transfer-Encoding, received both: send one of them",
            {"Connection": "close"},
        )


class Held:
    """Bytes of bodies, of all requests that are at work."""

    def __init__(self, most: int):
        self._most, self.bytes = most, 0

    def add(self, size: int) -> None:
        """Fewer, where size is negative; raises Problem where they would be too many."""
        if size > 0 and self.bytes + size > self._most:
            raise HttpProblem(
                503,
                "busy",
                f"expected bodies of at most {self._most:,} bytes at once, all together are more: try again",
                {"Retry-After": str(RETRY_SECONDS)},
            )
        self.bytes += size


class _Body:
    """A request's body, of at most so many bytes, within so many seconds. What came of it is held until the request ends; of a stream what its
    route says."""

    def __init__(self, receive: Receive, most: int, seconds: float, held: Held, is_stream: bool):
        self._receive, self._most, self._until = receive, most, time.monotonic() + seconds
        self._all_held, self._held, self._is_stream = held, 0, is_stream
        self._bytes, self._ended = 0, False
        self._seconds = seconds
        self.gone = False

    async def __call__(self) -> Message:
        if self._ended:  # what comes now is only that the client goes
            message = await self._receive()
        else:
            try:
                message = await asyncio.wait_for(self._receive(), max(0.0, self._until - time.monotonic()))
            except TimeoutError:
                raise HttpProblem(
                    408,
                    "slow",
                    f"expected the whole body within {self._seconds:g} s: send it faster",
                    {"Connection": "close"},
                ) from None
        if message["type"] == "http.disconnect":
            self.gone = True
            return message
        self._bytes += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        if self._bytes > self._most:
            raise HttpProblem(413, "large", f"expected a body of at most {self._most:,} bytes: send a smaller one")
        if not self._is_stream:
            self.hold(len(message.get("body", b"")))
        return message

    def hold(self, size: int) -> None:
        """So many bytes more, or fewer, down to none; raises Problem where all requests together hold too many."""
        size = max(size, -self._held)
        self._all_held.add(size)
        self._held += size

    def release(self) -> None:
        self.hold(-self._held)


class _Answer:
    """An answer with the headers that all have."""

    def __init__(self, send: Send, path: str, with_body: bool = True):
        self._send, self._kept, self._with_body = send, path.startswith("/page/"), with_body
        self.status, self._begun = 0, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun, self.status = True, message["status"]
            names = {name.lower() for name, _ in message["headers"]}
            own = HEADERS | {"Cache-Control": "no-cache" if self._kept else "no-store"}
            added = [(k.lower().encode(), v.encode()) for k, v in own.items() if k.lower().encode() not in names]
            message = message | {"headers": [*message["headers"], *added]}  # type: ignore[operator]
        elif not self._with_body:
            message = message | {"body": b""}  # type: ignore[operator]
        await self._send(message)

    async def problem(self, problem: HttpProblem) -> None:
        if self._begun:  # too late to say so
            return
        body = to_json(problem.body).encode()
        headers = {"Content-Type": MEDIA, "Content-Length": str(len(body)), **(problem.headers or {})}
        await self(
            {
                "type": "http.response.start",
                "status": problem.status_code,
                "headers": [
                    (k.lower().encode(), printable(v).encode("latin-1", "replace")) for k, v in headers.items()
                ],
            }
        )
        await self({"type": "http.response.body", "body": body})


def bearer(headers: dict[bytes, bytes]) -> str:
    """The key of an Authorization header; empty where there is none."""
    scheme, _, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def session_secret(headers: dict[bytes, bytes]) -> str:
    """Of the page's cookie, as it stands there; what others set at this host may look like anything."""
    mark = f"{COOKIE}=".encode()
    parts = (part.strip() for part in headers.get(b"cookie", b"").split(b";"))
    return next((part.removeprefix(mark).decode("latin-1") for part in parts if part.startswith(mark)), "")
