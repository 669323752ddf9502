"""Use the galleries of a server, from synchronous and from asynchronous programs.

    import facegallery as fg

    with fg.connect("https://host:8000", key) as client:
        gallery = client.gallery("people")
        print(gallery.search("party.jpg")[0].hits[0].identity)

A gallery of a server has the methods of a local one (`facegallery.Gallery`) and returns the same results.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import httpx

from facegallery import results, schemas
from facegallery.embedder.errors import InputError
from facegallery.remote import flows
from facegallery.remote.deadlines import UNTIL, DeadlineTransport
from facegallery.remote.errors import (
    Disconnected,
    GalleryRefused,
    InvalidRequest,
    JobFailed,
    RequestRefused,
    ServerFault,
    ServerUnreachable,
    UnusablePhoto,
)
from facegallery.remote.galleries import AsyncRemoteGallery, RemoteGallery
from facegallery.remote.steps import Call, Flow, Gather, Pause, Request, Response, Step

__all__ = [
    "AsyncClient",
    "AsyncRemoteGallery",
    "Client",
    "GalleryRefused",
    "JobFailed",
    "UnusablePhoto",
    "RemoteGallery",
    "InvalidRequest",
    "RequestRefused",
    "ServerFault",
    "ServerUnreachable",
    "connect",
]

T = TypeVar("T")
PARALLEL = 4  # requests of one call
CUT_OFF = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)  # the server may have received the request


@dataclass(frozen=True)
class Limits:
    """Time limits in seconds, as `Client` has them."""

    timeout: float
    deadline: float

    def left(self, began: float) -> float:
        """Return the seconds until the deadline. Raises ServerUnreachable once it has passed."""
        if (left := began + self.deadline - time.monotonic()) <= 0:
            raise ServerUnreachable(
                f"expected the server to finish within {self.deadline:g} s, it has not: give a longer deadline"
            )
        return left


def connect(url: str, key: str, *, timeout: float = 60, deadline: float = 3600) -> Client:
    """Return a client for the server at an address such as "https://host:8000". Nothing is sent yet.

    key: made by the command `keys make`. timeout: seconds in which the server must accept a connection, and send or
    receive some bytes; deadline: seconds in which it must answer a request, all tries counted, or finish a job. Raises
    InputError for an address or a key that cannot be one.
    """
    return Client(url, key, timeout=timeout, deadline=deadline)


class _Connection:
    """What the two clients share: the address, the key and the time limits."""

    def __init__(self, url: str, key: str, *, timeout: float, deadline: float):
        if not url.startswith(("http://", "https://")):
            raise InputError(
                f"expected the address of a server such as https://host:8000, received {url!r}: add the rest"
            )
        if not (key and key.isascii() and key.isprintable()):
            given = "text that cannot be one" if key else "an empty text"
            raise InputError(f"expected the key of a server, received {given}: see `keys make`")
        self.url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._limits = Limits(timeout, deadline)
        self._users = 0  # blocks that the client is used in

    def _options(self, request: Request) -> dict[str, Any]:
        """Return the arguments of httpx for a request. Raises ServerUnreachable after the deadline."""
        seconds = min(self._limits.timeout, self._limits.left(request.began))
        return {**request.content, "headers": request.headers, "timeout": seconds}

    def _error(self, error: Exception, request: Request) -> ServerUnreachable:
        """Return the error for one of httpx. Raises the one of the deadline where that has passed."""
        self._limits.left(request.began)
        kind = Disconnected if isinstance(error, CUT_OFF) else ServerUnreachable
        reason = str(error) or type(error).__name__
        return kind(f"expected a server at {self.url}, {reason}: check the address and whether it is running")


def _response(response: httpx.Response) -> Response:
    return Response(response.status_code, response.reason_phrase, response.headers, response.content, response.url.host)


# synchronous ----------------------------------------------------------------


class Client(_Connection):
    """A server, by its address and a key. Use it as a context manager; threads may share it.

    A request that the server refuses for the moment, or that is cut off, is sent again after as long as the server
    says; a change is made once all the same. Methods raise RequestRefused for what the server refuses, and
    ServerUnreachable where it does not answer.
    """

    def __init__(self, url: str, key: str, *, timeout: float = 60, deadline: float = 3600):
        """url: address of the server; key: made by the command `keys make`.

        timeout, deadline: seconds without a byte, and for a whole request or job, as `connect` has them.
        """
        super().__init__(url, key, timeout=timeout, deadline=deadline)
        self._http: httpx.Client | None = None
        self._lock = threading.Lock()

    def gallery(self, name: str) -> RemoteGallery:
        """Return a gallery of the server by its name. Nothing is sent yet."""
        return RemoteGallery(self, name)

    def indexes(self) -> list[str]:
        """List the names of the galleries that the server has."""
        return self.run(flows.indexes())

    def health(self) -> schemas.ServerHealth:
        """Return whether the server is ready to answer photos, and if not, why."""
        return self.run(flows.health())

    def session(self) -> schemas.Session:
        """Return the name and the scope of the key."""
        return self.run(flows.session())

    def job(self, id: str) -> results.Job:
        """Return how a job stands. Raises GalleryRefused where there is none with this id."""
        return self.run(flows.job(id))

    def close(self) -> None:
        """Close the connections; a later request opens others."""
        with self._lock:
            http, self._http = self._http, None
        if http is not None:
            http.close()

    def __enter__(self) -> Client:
        with self._lock:
            self._users += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            is_last = self._users == 0
        if is_last:
            self.close()

    def run(self, flow: Flow[T]) -> T:
        """Run a flow and return its result."""
        try:
            step = next(flow)
            while True:
                try:
                    outcome = self._perform(step)
                except Disconnected as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as ended:
            result: T = ended.value
            return result
        finally:
            flow.close()

    def _perform(self, step: Step) -> Any:
        match step:
            case Request():
                return self._send(step)
            case Pause(seconds, began):
                return time.sleep(min(seconds, self._limits.left(began)))
            case Call(function):
                return function()
            case Gather():
                return self._gather(step)

    def _send(self, request: Request) -> Response:
        until = request.began + self._limits.deadline
        try:
            options = self._options(request) | {"extensions": {UNTIL: until}}
            return _response(self._open().request(request.method, request.path, **options))
        except httpx.RequestError as error:
            raise self._error(error, request) from error

    def _open(self) -> httpx.Client:
        with self._lock:
            if self._http is None:
                self._http = httpx.Client(base_url=self.url, headers=self._headers, transport=DeadlineTransport())
            return self._http

    def _gather(self, step: Gather) -> list[Any]:
        with ThreadPoolExecutor(PARALLEL) as pool:
            futures = [pool.submit(self.run, flow) for flow in step.flows]
            try:
                found = []
                for future in futures:
                    found.append(future.result())
                    step.on_result(found[-1])
                return found
            finally:
                for future in futures:
                    future.cancel()


# asynchronous ---------------------------------------------------------------


class AsyncClient(_Connection):
    """A server, by its address and a key, for asynchronous programs. Use it as a context manager, in one event loop.

    It has the methods of `Client`, to be awaited. Files are read in threads, so that the event loop is not blocked.
    """

    def __init__(self, url: str, key: str, *, timeout: float = 60, deadline: float = 3600):
        """url: address of the server; key: made by the command `keys make`.

        timeout, deadline: seconds without a byte, and for a whole request or job, as `connect` has them.
        """
        super().__init__(url, key, timeout=timeout, deadline=deadline)
        self._http: httpx.AsyncClient | None = None

    def gallery(self, name: str) -> AsyncRemoteGallery:
        """Return a gallery of the server by its name. Nothing is sent yet."""
        return AsyncRemoteGallery(self, name)

    async def indexes(self) -> list[str]:
        """List the names of the galleries that the server has."""
        return await self.run(flows.indexes())

    async def health(self) -> schemas.ServerHealth:
        """Return whether the server is ready to answer photos, and if not, why."""
        return await self.run(flows.health())

    async def session(self) -> schemas.Session:
        """Return the name and the scope of the key."""
        return await self.run(flows.session())

    async def job(self, id: str) -> results.Job:
        """Return how a job stands. Raises GalleryRefused where there is none with this id."""
        return await self.run(flows.job(id))

    async def close(self) -> None:
        """Close the connections; a later request opens others."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def __aenter__(self) -> AsyncClient:
        self._users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if self._users == 0:
            await self.close()

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow and return its result."""
        try:
            step = next(flow)
            while True:
                try:
                    outcome = await self._perform(step)
                except Disconnected as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as ended:
            result: T = ended.value
            return result
        finally:
            flow.close()

    async def _perform(self, step: Step) -> Any:
        match step:
            case Request():
                return await self._send(step)
            case Pause(seconds, began):
                return await asyncio.sleep(min(seconds, self._limits.left(began)))
            case Call(function):
                return await asyncio.to_thread(function)
            case Gather():
                return await self._gather(step)

    async def _send(self, request: Request) -> Response:
        if self._http is None:
            self._http = httpx.AsyncClient(base_url=self.url, headers=self._headers)
        try:
            async with asyncio.timeout(self._limits.left(request.began)):
                return _response(await self._http.request(request.method, request.path, **self._options(request)))
        except (httpx.RequestError, TimeoutError) as error:
            raise self._error(error, request) from error

    async def _gather(self, step: Gather) -> list[Any]:
        places = asyncio.Semaphore(PARALLEL)

        async def run(flow: Flow[Any]) -> Any:
            async with places:
                return await self.run(flow)

        tasks = [asyncio.create_task(run(flow)) for flow in step.flows]
        try:
            found = []
            for task in tasks:
                found.append(await task)
                step.on_result(found[-1])
            return found
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
