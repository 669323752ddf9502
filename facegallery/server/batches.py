"""Answer requests that arrive at about the same time together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class QueueFull(Exception):
    """No more items may wait."""


@dataclass(frozen=True)
class BatchOptions:
    """How a Batcher forms batches.

    threads: number of threads; size: largest batch; wait: seconds that an item waits for others at most, while
    `expects` returns true; room: items that may wait; observe: receives the size of each batch.
    """

    threads: int
    size: int
    wait: float = 0
    room: int = 1024
    observe: Callable[[int], None] = lambda size: None
    expects: Callable[[], bool] = lambda: True


class Batcher(Generic[T, R]):
    """Threads that take waiting items in batches and pass each batch to a function.

    make: called once in each thread, returns the function, which maps a sequence of items to as many results. Where
    the function raises, every item of the batch gets the error, and the thread calls `make` again.
    """

    def __init__(self, make: Callable[[], Callable[[Sequence[T]], Sequence[R]]], options: BatchOptions):
        self._make, self._options = make, options
        self._waiting: deque[tuple[float, T, Future[R]]] = deque()
        self._changed, self._closed = threading.Condition(), False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(options.threads)]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Return the number of waiting items."""
        return len(self._waiting)

    def submit(self, item: T) -> Future[R]:
        """Add an item to the queue. Raises QueueFull where there is no room."""
        future: Future[R] = Future()
        with self._changed:
            if self._closed or len(self._waiting) >= self._options.room:
                raise QueueFull
            self._waiting.append((time.monotonic(), item, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Finish the waiting items and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        run: Callable[[Sequence[T]], Sequence[R]] | None = None
        while batch := self._next():
            batch = [(item, future) for item, future in batch if future.set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                self._options.observe(len(batch))
                run = run or self._make()
                results = run([item for item, _ in batch])
                if len(results) != len(batch):
                    raise AssertionError(f"{len(results)} results for {len(batch)} items")
            except BaseException as error:
                run = None  # what it holds may be broken
                for _, future in batch:
                    future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)

    def _is_enough(self) -> bool:
        return len(self._waiting) >= self._options.size or self._closed or not self._options.expects()

    def _next(self) -> list[tuple[T, Future[R]]]:
        """Wait for the next batch; an empty list once the queue is closed and empty."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return []
                until = self._waiting[0][0] + self._options.wait
                enough = self._changed.wait_for(self._is_enough, until - time.monotonic())
                if self._waiting and (enough or time.monotonic() >= until):
                    break
            taken = [self._waiting.popleft()[1:] for _ in range(min(self._options.size, len(self._waiting)))]
            if self._waiting:
                self._changed.notify()
            return taken
