"""Say how far a long run is: the one form in which every function of the package reports it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A callable that receives how much is done, and of how much; a total of 0 means that nobody knows yet."""

    def __call__(self, done: int, total: int, /) -> None: ...


def unseen(done: int, total: int, /) -> None:
    """Receive progress that nobody watches."""
