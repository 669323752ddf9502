"""One served index: searches and reads have threads of their own, changes have one; readers do not wait for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from facegallery.embedder.errors import FaceGalleryError, SystemFault
from facegallery.embedder.machine import cores
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store.database import FILE
from facegallery.indexer.store.errors import Damaged, Replaced
from facegallery.indexer.store.reader import index_folder
from facegallery.indexer.store.store import Store
from facegallery.results import VectorResult
from facegallery.server.batches import Batcher, BatchOptions, QueueFull
from facegallery.workflows.probes import Question, indexes_root, open_index, open_store
from facegallery.workflows.search import Judge

T = TypeVar("T")
READERS = 4
BATCH = 64  # questions of one search
WAITING_VECTORS = 10_000  # of all questions that wait
Answers = list[VectorResult] | FaceGalleryError


@dataclass(frozen=True)
class PendingQuestion:
    """Vectors float32 (n, d), the question about each, and the contract that made them, where it is known."""

    vectors: np.ndarray
    question: Question
    contract: str | None = None


class ServedIndex:
    """An index, by its name."""

    def __init__(self, name: str):
        self.name = name
        options = BatchOptions(threads=cores(), size=BATCH)
        self._searches: Batcher[PendingQuestion, Answers] = Batcher(self._make_search, options)
        self._readers = ThreadPoolExecutor(READERS, f"read-{name}")
        self._writer = ThreadPoolExecutor(1, f"write-{name}")
        self._long = ThreadPoolExecutor(1, f"long-{name}")
        self._own, self._path = threading.local(), index_folder(indexes_root(), name) / FILE
        self._lock, self._vectors = threading.Lock(), 0

    def ask(self, vectors: np.ndarray, question: Question, contract: str | None = None) -> Future[Answers]:
        """Answer a question about each vector; the result is an error where the question has none.

        Raises QueueFull where too many vectors wait. The future raises Replaced where the index was opened for another
        file or for another model's vectors than it has now, or than `contract` names.
        """
        with self._lock:
            if self._vectors + len(vectors) > WAITING_VECTORS:
                raise QueueFull
            self._vectors += len(vectors)
        try:
            future = self._searches.submit(PendingQuestion(vectors, question, contract))
        except QueueFull:
            self._uncount(len(vectors))
            raise
        future.add_done_callback(lambda _: self._uncount(len(vectors)))
        return future

    def _uncount(self, vectors: int) -> None:
        with self._lock:
            self._vectors -= vectors

    def read(self, question: Callable[[Store], T]) -> Future[T]:
        """Call a function with the newest commit."""
        return self._readers.submit(self._with_store, question, write=False)

    def write(self, change: Callable[[Store], T]) -> Future[T]:
        """Call a function that changes the index, after all earlier ones."""
        return self._writer.submit(self._with_store, change, write=True)

    def write_apart(self, change: Callable[[], T]) -> Future[T]:
        """Call a function that takes long and opens the index itself; other changes wait only for its transactions."""
        return self._long.submit(change)

    def close(self) -> None:
        """Finish what has begun, and end the threads."""
        self._searches.close()
        for pool in (self._writer, self._readers, self._long):
            pool.shutdown(cancel_futures=True)

    def _with_store(self, work: Callable[[Store], T], *, write: bool) -> T:
        """Call a function with this thread's store, which is opened again after damage or where the file is another."""
        file = self._file()
        if hasattr(self._own, "store") and self._own.file != file:
            self._close_store()
        if not hasattr(self._own, "store"):
            self._own.store, self._own.file = open_store(self.name, write=write), file
        try:
            return work(self._own.store)
        except (Damaged, SystemFault):
            self._close_store()
            raise

    def _close_store(self) -> None:
        self._own.store.close()
        del self._own.store

    def _file(self) -> tuple[int, int] | None:
        """Identify the file: `restore` and `build-index` replace a damaged one by another."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _make_search(self) -> Callable[[Sequence[PendingQuestion]], list[Answers]]:
        import faiss

        faiss.omp_set_num_threads(1)  # of this thread: there is one such thread per core, and waking others is slower
        file, searcher = self._file(), open_index(self.name)

        def search(asked: Sequence[PendingQuestion]) -> list[Answers]:
            if self._file() != file or not {one.contract for one in asked} <= {None, searcher.spec.fingerprint}:
                raise Replaced(f"expected {self.name} as it was opened, it was replaced meanwhile: ask again")
            return _answer_all(searcher, asked)

        return search


def _answer_all(searcher: Searcher, asked: Sequence[PendingQuestion]) -> list[Answers]:
    """Answer each question; equal questions about vectors of one dimension are one search."""
    found: list[Answers] = [[] for _ in asked]
    kinds = [(one.question, one.vectors.shape[1]) for one in asked]
    for kind in dict.fromkeys(kinds):
        alike = [i for i, other in enumerate(kinds) if other == kind]
        try:
            xq = np.concatenate([asked[i].vectors for i in alike])
            answers = iter(Judge(searcher, kind[0]).answers(xq))
            for i in alike:
                found[i] = [next(answers) for _ in asked[i].vectors]
        except (Damaged, Replaced, SystemFault):
            raise  # the searcher is opened again
        except FaceGalleryError as error:
            for i in alike:
                found[i] = error
    return found
