"""What a worker process holds while it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from facegallery.accounts import Key
from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.spec import FaceSpec
from facegallery.indexer.store.store import Store
from facegallery.server.guard import Desk
from facegallery.server.intake import Intake
from facegallery.server.meters import Meters
from facegallery.server.problems import HttpProblem
from facegallery.server.served_index import Served
from facegallery.server.settings import Settings
from facegallery.workflows.probes import open_index

RETIRE_SECONDS = 30.0  # for photos that still wait for networks which no index needs any more
CLOSE_SECONDS = 1.0  # for photos that nobody waits for any more
log = logging.getLogger("facegallery.server")


class ServerState:
    """Indexes by name, and one intake for those that share a contract."""

    def __init__(self, settings: Settings, meters: Meters):
        self.settings, self.meters = settings, meters
        self.desk = Desk(settings.at)
        self.indexes = {name: Served(name) for name in settings.names}
        self._loader, self._jobs = ThreadPoolExecutor(1, "load"), ThreadPoolExecutor(1, "job")
        self._intakes: dict[str, Intake] = {}
        self._contracts: dict[str, str] = {}  # of the indexes, by name: a `reembed` changes it
        self._faults: dict[str, str] = {}  # why an index has no intake
        self._ready = asyncio.create_task(self._load_all())

    async def _load_all(self) -> None:
        for index in self.indexes.values():
            try:
                await self.intake(index)
            except FaceGalleryError as error:
                log.warning("%s: %s", index.name, error)
                self._faults[index.name] = str(error)

    def why_not_ready(self) -> str | None:
        """Why photos are not answered at once; None where they are."""
        if missing := self.indexes.keys() - self._contracts.keys():
            return "; ".join(self._faults.get(name, "the networks are being loaded") for name in sorted(missing))
        return None

    async def intake(self, index: Served) -> Intake:
        """Return the intake for the contract that the index has now."""
        contract = await asyncio.wrap_future(index.read(lambda gallery: _contract(gallery.spec)))
        found = self._intakes.get(contract)
        if found is None or self._contracts.get(index.name) != contract:
            found = await asyncio.get_running_loop().run_in_executor(self._loader, self._load, index.name)
        return found

    def is_current(self, intake: Intake) -> bool:
        """Whether an intake is not, or not yet, closed because its index has another contract."""
        return any(one is intake for one in list(self._intakes.values()))

    def _load(self, name: str) -> Intake:
        """Load what an index needs as it is now, on one thread, and close what no index needs any more."""
        with open_index(name) as searcher:
            contract = _contract(searcher.spec)
            if (found := self._intakes.get(contract)) is None:
                found = self._intakes[contract] = Intake(searcher, self.settings, log.info, self.meters.batch)
        self._contracts[name] = contract
        for old in self._intakes.keys() - set(self._contracts.values()):
            self._intakes.pop(old).close(RETIRE_SECONDS)
        return found

    async def begin_job(
        self, key: Key, index: Served, kind: str, work: Callable[[Callable[[int, int], None]], str]
    ) -> dict[str, Any]:
        """Starts `work`, which tells how far it is; raises Problem where one of that kind is at work on the index."""
        id = await self.desk.ask(lambda accounts: accounts.begin_job(index.name, kind))
        await self.desk.ask(lambda accounts: accounts.note(key.name, kind, index.name, 202 if id else 409, ()))
        if id is None:
            raise HttpProblem(
                409, "in-work", f"expected no {kind} of {index.name} to be at work, one is: wait until it has ended"
            )

        def run() -> None:
            def tell(done: int, total: int) -> None:
                self.desk.tell(lambda accounts: accounts.tell_job(id, done, total))

            try:
                ended = "done", work(tell)
            except FaceGalleryError as error:
                ended = "failed", str(error)
            except Exception:
                log.exception("%s of %s failed", kind, index.name)
                ended = "failed", "a fault of ours: the log of the server says more"
            self.desk.tell(lambda accounts: accounts.end_job(id, *ended))

        self._jobs.submit(run)
        found = await self.desk.ask(lambda accounts: accounts.job(id))
        assert found is not None
        return found

    async def metrics(self) -> bytes:
        def read(gallery: Store) -> dict[str, int]:
            with gallery.reading():
                return {"faces": gallery.faces, "people": gallery.people, "generation": gallery.generation}

        found = {name: await asyncio.wrap_future(index.read(read)) for name, index in self.indexes.items()}
        return self.meters.text(found)

    async def close(self) -> None:
        """Ends what was begun."""
        await asyncio.wait([self._ready])
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        for intake in self._intakes.values():
            intake.close(CLOSE_SECONDS)
        for index in self.indexes.values():
            index.close()
        for pool in (self._loader, self._jobs):
            pool.shutdown(cancel_futures=True)
        self.desk.close()


def _contract(spec: FaceSpec) -> str:
    return f"{spec.fingerprint} {spec.crop} {sorted(spec.detector.items(), key=str)}"
