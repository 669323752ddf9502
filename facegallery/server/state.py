"""What a server process holds while it serves: its indexes, the networks and the accounts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from facegallery.accounts import AuditEntry, Key
from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.progress import Progress
from facegallery.embedder.spec import FaceSpec
from facegallery.embedder.text import to_json
from facegallery.indexer.store.store import Store
from facegallery.results import as_document
from facegallery.server.guard import Desk
from facegallery.server.intake import Intake
from facegallery.server.meters import Meters
from facegallery.server.problems import FAULT, HttpProblem
from facegallery.server.served_index import ServedIndex
from facegallery.server.settings import Settings
from facegallery.workflows.probes import open_index

RETIRE_SECONDS = 30.0  # for photos that still wait for networks which no index needs any more
CLOSE_SECONDS = 1.0  # for photos that nobody waits for any more
log = logging.getLogger("facegallery.server")


class ServerState:
    """The indexes by name, and one intake for all indexes with the same contract."""

    def __init__(self, settings: Settings, meters: Meters):
        self.settings, self.meters = settings, meters
        self.desk = Desk(settings.at)
        self.indexes = {name: ServedIndex(name) for name in settings.names}
        self._loader, self._jobs = ThreadPoolExecutor(1, "load"), ThreadPoolExecutor(1, "job")
        self._intakes: dict[str, Intake] = {}  # by contract
        self._contracts: dict[str, str] = {}  # by index; `reembed` changes the contract of an index
        self._faults: dict[str, str] = {}  # by index: why it has no intake
        self._ready = asyncio.create_task(self._load_all())

    async def _load_all(self) -> None:
        for index in self.indexes.values():
            try:
                await self.intake(index)
            except FaceGalleryError as error:
                log.warning("%s: %s", index.name, error)
                self._faults[index.name] = str(error)

    def why_not_ready(self) -> str | None:
        """Say why photos cannot be answered yet; None where they can."""
        if missing := self.indexes.keys() - self._contracts.keys():
            return "; ".join(self._faults.get(name, "the networks are being loaded") for name in sorted(missing))
        return None

    async def intake(self, index: ServedIndex) -> Intake:
        """Return the intake for the contract that an index has now."""
        contract = await asyncio.wrap_future(index.read(lambda store: _contract(store.spec)))
        found = self._intakes.get(contract)
        if found is None or self._contracts.get(index.name) != contract:
            found = await asyncio.get_running_loop().run_in_executor(self._loader, self._load, index.name)
        return found

    def is_current(self, intake: Intake) -> bool:
        """Tell whether an intake is still in use, and not closed because its index has another contract."""
        return any(one is intake for one in list(self._intakes.values()))

    def _load(self, name: str) -> Intake:
        """Load what an index needs now, on one thread, and close the intakes that no index needs any more."""
        with open_index(name) as searcher:
            contract = _contract(searcher.spec)
            if (found := self._intakes.get(contract)) is None:
                found = self._intakes[contract] = Intake(searcher, self.settings, self.meters.batch)
        self._contracts[name] = contract
        for old in self._intakes.keys() - set(self._contracts.values()):
            self._intakes.pop(old).close(RETIRE_SECONDS)
        return found

    async def begin_job(
        self, key: Key, index: ServedIndex, kind: str, work: Callable[[Progress], tuple[Any, str]]
    ) -> dict[str, Any]:
        """Start a job and return its document. Raises HttpProblem while one of that kind is running on the index.

        work: receives a function that reports progress; returns the result and a line of text about it.
        """
        id = await self.desk.ask(lambda accounts: accounts.begin_job(index.name, kind))
        entry = AuditEntry(key.name, kind, index.name, 202 if id else 409)
        await self.desk.ask(lambda accounts: accounts.note(entry))
        if id is None:
            detail = f"expected no running {kind} of {index.name}, one is running: wait until it has ended"
            raise HttpProblem(409, "in-work", detail)
        self._jobs.submit(self._run_job, id, f"{kind} of {index.name}", work)
        found = await self.desk.ask(lambda accounts: accounts.job(id))
        assert found is not None
        return found

    def _run_job(self, id: str, title: str, work: Callable[[Progress], tuple[Any, str]]) -> None:
        def report(done: int, total: int) -> None:
            self.desk.tell(lambda accounts: accounts.report_job(id, done, total))

        result = None
        try:
            found, detail = work(report)
            state, result = "done", to_json(as_document(found))
        except FaceGalleryError as error:
            state, detail = "failed", str(error)
        except Exception:
            log.exception("%s failed", title)
            state, detail = "failed", FAULT
        self.desk.tell(lambda accounts: accounts.end_job(id, state, detail, result))

    async def metrics(self) -> bytes:
        """Write what Prometheus reads."""

        def read(store: Store) -> dict[str, int]:
            with store.reading():
                return {"faces": store.faces, "people": store.people, "generation": store.generation}

        found = {name: await asyncio.wrap_future(index.read(read)) for name, index in self.indexes.items()}
        return self.meters.text(found)

    async def close(self) -> None:
        """Finish what has begun, and release all resources."""
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
