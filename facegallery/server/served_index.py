"""One served index: questions on threads with a searcher each, changes on one thread; no reader waits for a writer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from facegallery.embedder.errors import FaceGalleryError, SystemFault
from facegallery.embedder.machine import cores
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store.database import FILE
from facegallery.indexer.store.errors import Damaged, Replaced
from facegallery.indexer.store.reader import index_folder
from facegallery.indexer.store.store import Store
from facegallery.results import as_document
from facegallery.server.batches import Batcher, Full
from facegallery.workflows.probes import Question, indexes_root, open_index, open_store
from facegallery.workflows.search import Judge

T = TypeVar("T")
READERS = 4
TOGETHER = 64  # questions of one search
WAITING_VECTORS = 10_000  # of all questions together


@dataclass(frozen=True)
class PendingQuestion:
    """Vectors float32 (n, d), what is asked of each, and the contract that they were made by, where that is known."""

    vectors: np.ndarray
    question: Question
    contract: str | None = None


Answer = dict[str, Any]  # to one vector: `facegallery.results.VectorResult` as JSON
Answers = list[Answer] | FaceGalleryError


class Served:
    """An index by name."""

    def __init__(self, name: str):
        self.name = name
        self._searches: Batcher[PendingQuestion, Answers] = Batcher(self._searcher, cores(), TOGETHER)
        self._readers = ThreadPoolExecutor(READERS, f"read-{name}")
        self._writer = ThreadPoolExecutor(1, f"write-{name}")
        self._long = ThreadPoolExecutor(1, f"long-{name}")
        self._own, self._path = threading.local(), index_folder(indexes_root(), name) / FILE
        self._lock, self._vectors = threading.Lock(), 0

    def ask(self, vectors: np.ndarray, question: Question, contract: str | None = None) -> Future[Answers]:
        """The answers to each vector, or why there are none. Raises Full where too many wait; what is to come raises Replaced where the index
        was opened for another file or for another model's vectors than it has now, or than these are."""
        with self._lock:
            if self._vectors + len(vectors) > WAITING_VECTORS:
                raise Full
            self._vectors += len(vectors)
        try:
            future = self._searches.submit(PendingQuestion(vectors, question, contract))
        except Full:
            self._answered(len(vectors))
            raise
        future.add_done_callback(lambda _: self._answered(len(vectors)))
        return future

    def _answered(self, vectors: int) -> None:
        with self._lock:
            self._vectors -= vectors

    def read(self, question: Callable[[Store], T]) -> Future[T]:
        """`question` of the newest commit."""
        return self._readers.submit(self._with_gallery, question, False)

    def write(self, change: Callable[[Store], T]) -> Future[T]:
        """`change`, one after the other."""
        return self._writer.submit(self._with_gallery, change, True)

    def write_apart(self, change: Callable[[], T]) -> Future[T]:
        """Run a change that takes long and opens the index for itself; others do not wait for it but where SQLite makes them."""
        return self._long.submit(change)

    def close(self) -> None:
        """Does what was begun, and ends."""
        self._searches.close()
        for pool in (self._writer, self._readers, self._long):
            pool.shutdown(cancel_futures=True)

    def _with_gallery(self, work: Callable[[Store], T], write: bool) -> T:
        """By this thread's own connection, which is opened anew after damage, and where there is another file."""
        file = self._file()
        if hasattr(self._own, "gallery") and self._own.file != file:
            self._leave()
        if not hasattr(self._own, "gallery"):
            self._own.gallery, self._own.file = open_store(self.name, write=write), file
        try:
            return work(self._own.gallery)
        except (Damaged, SystemFault):
            self._leave()
            raise

    def _leave(self) -> None:
        self._own.gallery.close()
        del self._own.gallery

    def _file(self) -> tuple[int, int] | None:
        """Which one it is: `restore` and `build-index` put another in the place of one that is damaged."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _searcher(self) -> Callable[[Sequence[PendingQuestion]], list[Answers]]:
        import faiss

        faiss.omp_set_num_threads(
            1
        )  # of this thread's searches: there are as many such threads as cores, and waking others takes longer
        file, searcher = self._file(), open_index(self.name)

        def answer(asked: Sequence[PendingQuestion]) -> list[Answers]:
            if self._file() != file or not {one.contract for one in asked} <= {None, searcher.spec.fingerprint}:
                raise Replaced(f"expected {self.name} to stay as it was opened, it was replaced: ask again")
            found: list[Answers] = [[] for _ in asked]
            kinds = [(one.question, one.vectors.shape[1]) for one in asked]
            for kind in dict.fromkeys(kinds):
                alike = [i for i, other in enumerate(kinds) if other == kind]
                try:
                    answers = iter(_answers(searcher, np.concatenate([asked[i].vectors for i in alike]), kind[0]))
                    for i in alike:
                        found[i] = [next(answers) for _ in asked[i].vectors]
                except (Damaged, Replaced, SystemFault):
                    raise  # the searcher is made anew
                except FaceGalleryError as error:
                    for i in alike:
                        found[i] = error
            return found

        return answer


def _answers(searcher: Searcher, xq: np.ndarray, question: Question) -> list[Answer]:
    return [as_document(answer) for answer in Judge(searcher, question).answers(xq)]
