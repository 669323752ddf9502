"""What many requests ask for at about the same time, done together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Full(Exception):
    """As many wait as may."""


class Batcher(Generic[T, R]):
    """Threads that take what waits, at most `most` at a time, and give it to a function together.

    An item waits for a free thread, and while `expects` says that others may come, for them `wait` seconds at most. make: called once in each
    thread, gives the function, from items to as many answers; where it raises, every item of the batch gets the error. observe: is told the
    size of each batch.
    """

    def __init__(
        self,
        make: Callable[[], Callable[[Sequence[T]], Sequence[R]]],
        threads: int,
        most: int,
        wait: float = 0,
        room: int = 1024,
        observe: Callable[[int], None] = lambda size: None,
        expects: Callable[[], bool] = lambda: True,
    ):
        self._make, self._most, self._wait, self._room, self._observe, self._expects = (
            make,
            most,
            wait,
            room,
            observe,
            expects,
        )
        self._waiting: deque[tuple[float, T, Future[R]]] = deque()
        self._changed, self._closed = threading.Condition(), False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def submit(self, item: T) -> Future[R]:
        """Raises Full where there is no room."""
        future: Future[R] = Future()
        with self._changed:
            if self._closed or len(self._waiting) >= self._room:
                raise Full
            self._waiting.append((time.monotonic(), item, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Does what waits, and ends."""
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
                self._observe(len(batch))
                run = run or self._make()
                answers = run([item for item, _ in batch])
                if len(answers) != len(batch):
                    raise AssertionError(f"{len(answers)} answers to {len(batch)} items")
            except BaseException as error:
                run = None  # what it holds may be broken: made anew
                for _, future in batch:
                    future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)

    def _is_enough(self) -> bool:
        return len(self._waiting) >= self._most or self._closed or not self._expects()

    def _next(self) -> list[tuple[T, Future[R]]]:
        """The items that go together; none at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return []
                until = self._waiting[0][0] + self._wait
                enough = self._changed.wait_for(self._is_enough, until - time.monotonic())
                if self._waiting and (enough or time.monotonic() >= until):
                    break
            taken = [self._waiting.popleft()[1:] for _ in range(min(self._most, len(self._waiting)))]
            if self._waiting:
                self._changed.notify()
            return taken
