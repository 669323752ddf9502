"""One served index: questions on threads with a searcher each, changes on one thread; no reader waits for a writer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from embedder.compute import cores
from embedder.errors import FaceDBError, SystemFault
from galleries import open_gallery
from indexer.database import Damaged
from indexer.gallery import Gallery
from indexer.search import Hit, Searcher
from server.batches import Batcher
from workflows import Judge, Question, open_index

T = TypeVar("T")
READERS = 4
TOGETHER = 64  # questions of one search


@dataclass(frozen=True)
class Answer:
    """To one vector."""

    verdict: dict[str, Any]  # known, chance, margin
    hits: list[Hit]


@dataclass(frozen=True)
class Asked:
    """Vectors float32 (n, d), and what is asked of each."""

    vectors: np.ndarray
    question: Question


Answers = list[Answer] | FaceDBError


class Served:
    """An index by name."""

    def __init__(self, name: str):
        self.name = name
        self._searches: Batcher[Asked, Answers] = Batcher(self._searcher, cores(), TOGETHER)
        self._readers = ThreadPoolExecutor(READERS, f"read-{name}")
        self._writer = ThreadPoolExecutor(1, f"write-{name}")
        self._own = threading.local()

    def ask(self, vectors: np.ndarray, question: Question) -> Future[Answers]:
        """The answers to each vector, or why there are none. Raises Full where too many wait."""
        return self._searches.submit(Asked(vectors, question))

    def read(self, question: Callable[[Gallery], T]) -> Future[T]:
        """`question` of the newest commit."""
        return self._readers.submit(self._with_gallery, question, False)

    def write(self, change: Callable[[Gallery], T]) -> Future[T]:
        """`change`, one after the other."""
        return self._writer.submit(self._with_gallery, change, True)

    def close(self) -> None:
        """Does what was begun, and ends."""
        self._searches.close()
        for pool in (self._writer, self._readers):
            pool.shutdown()

    def _with_gallery(self, work: Callable[[Gallery], T], write: bool) -> T:
        """By this thread's own connection, which is opened anew after damage."""
        if not hasattr(self._own, "gallery"):
            self._own.gallery = open_gallery(self.name, write)
        try:
            return work(self._own.gallery)
        except (Damaged, SystemFault):
            self._own.gallery.close()
            del self._own.gallery
            raise

    def _searcher(self) -> Callable[[Sequence[Asked]], list[Answers]]:
        searcher = open_index(self.name)

        def answer(asked: Sequence[Asked]) -> list[Answers]:
            found: list[Answers] = [[] for _ in asked]
            for question in dict.fromkeys(one.question for one in asked):
                alike = [i for i, one in enumerate(asked) if one.question == question]
                try:
                    answers = iter(_answers(searcher, np.concatenate([asked[i].vectors for i in alike]), question))
                    for i in alike:
                        found[i] = [next(answers) for _ in asked[i].vectors]
                except (Damaged, SystemFault):
                    raise  # the searcher is made anew
                except FaceDBError as error:
                    for i in alike:
                        found[i] = error
            return found

        return answer


def _answers(searcher: Searcher, xq: np.ndarray, question: Question) -> list[Answer]:
    judge = Judge(searcher, question, lambda line: None)
    asked = judge.question
    found = searcher.search(xq, asked.k, asked.faces, asked.score, asked.where, asked.min_score)
    return [Answer(judge(hits), hits[: question.k]) for hits in found]
