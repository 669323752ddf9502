"""Choosing how a gallery is searched: exactly, or by the fastest compressed index that keeps the requested recall."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from facegallery.embedder.errors import InputError
from facegallery.indexer.derived import codes, flat
from facegallery.indexer.derived.codes import Codes, Setting
from facegallery.indexer.store.database import Database

EXACT_BYTES = 100 << 20  # one core reads as many bytes of vectors in about 7 ms: comparing all of them is fast enough
TRAINING = 1 << 17  # faces, at most: 256 MiB at 512 dimensions
EXACT_TIMED = 5  # queries
SEED = 0


@dataclass(frozen=True)
class Wish:
    """What the user requests of an index; the gallery keeps it for later builds."""

    recall: float = 0.99  # of the 5 best faces by exact search; 1: exact, however long it takes
    memory: int | None = None  # bytes of codes that a searching process may hold

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise InputError(f"expected a recall above 0 and up to 1, received {self.recall:g}: give one such as 0.99")
        if self.memory is not None and self.memory < 1:
            raise InputError(f"expected memory of at least 1 byte, received {self.memory}: give a size such as 4G")


def wish_of(store: Database) -> Wish:
    """Return what was requested when the gallery was built."""
    recall = store.fact("recall")
    return Wish(Wish.recall if recall is None else float(recall), store.fact("memory"))


def keep(store: Database, wish: Wish) -> None:
    """Store what differs from the defaults, within a transaction of `writing`."""
    store.set_fact("recall", None if wish.recall == Wish.recall else repr(wish.recall))
    store.set_fact("memory", wish.memory)


@dataclass
class Choice:
    """The chosen way to search, and the reason."""

    kind: str  # exact, compressed
    reason: str
    setting: Setting | None = None
    tried: list[Setting] = field(default_factory=list)
    index: Any = None  # the filled index of codes

    def report(self) -> dict[str, Any]:
        """Return the choice as report.json has it."""
        return {
            "kind": self.kind,
            "reason": self.reason,
            "setting": self.setting and _line(self.setting),
            "tried": [_line(setting) for setting in self.tried],
        }


def choose(path: Path, n: int, d: int, owners: np.ndarray, wish: Wish) -> Choice:
    """Choose how to search n vectors of d numbers.

    path: file of the exact index. owners: int64 (n,), the person id of each vector.
    """
    if wish.recall == 1:
        return Choice("exact", "every vector is compared: recall 1 was asked for")
    if 4 * n * d <= EXACT_BYTES:
        return Choice("exact", f"every vector is compared: {4 * n * d / 1e6:.0f} MB are read fast enough")
    mapped = flat.opened(path)
    return _measured(flat.inner(mapped), owners, wish)


def _measured(exact: Any, owners: np.ndarray, wish: Wish) -> Choice:
    """Choose by measurement on held-out faces."""
    rows, order = flat.rows(exact), np.random.default_rng(SEED).permutation(len(owners))
    at = order[np.unique(owners[order], return_index=True)[1]]  # one face of each person
    at = np.random.default_rng(SEED).permutation(at)[: codes.PROBES]
    sample = order[~np.isin(order, at)][: min(TRAINING, codes.PER_LIST * codes.lists_of(len(rows)))]
    xt = rows[np.sort(sample)]
    moments, axes = codes.second_moment(xt)
    codings = codes.codings(moments, len(rows))
    fitting = [coding for coding in codings if wish.memory is None or coding.memory(len(rows)) <= wish.memory]
    if not fitting:
        return Choice("exact", _too_large(min(coding.memory(len(rows)) for coding in codings), len(rows), wish))
    choice, held = Choice("exact", ""), codes.held_out(exact, rows, np.sort(at))
    ways: list[tuple[Setting, Any]] = []
    for coding in fitting:
        index = codes.train(xt, axes, coding)
        codes.fill(index, rows)
        tried = list(codes.settings(index, exact, held, coding, wish.recall))
        choice.tried += tried
        ways += [(setting, index) for setting in codes.frontier(tried, wish.recall)]
    if ways:
        times = codes.in_turns([Codes(index, exact, s.nprobe, s.depth) for s, index in ways], held.xq[: codes.SINGLE])
        timed = {setting: replace(setting, ms=ms) for (setting, _), ms in zip(ways, times, strict=True)}
        choice.tried = [timed.get(setting, setting) for setting in choice.tried]
        setting, choice.index = ways[int(np.argmin(times))]
        choice.kind, choice.setting = "compressed", timed[setting]
    exact_ms = codes.milliseconds(lambda q: exact.search(q, codes.K), held.xq[:EXACT_TIMED])
    choice.reason = _reason(choice, len(at), exact_ms, wish)
    return choice


def _too_large(least: int, n: int, wish: Wish) -> str:
    assert wish.memory is not None
    return (
        f"every vector is compared: the smallest codes of {n} faces take {least / 1e6:.1f} MB, "
        f"--memory allows {wish.memory / 1e6:.1f} MB"
    )


def _reason(choice: Choice, probes: int, exact_ms: float, wish: Wish) -> str:
    if (s := choice.setting) is None:
        reached = max(setting.bound for setting in choice.tried)
        return (
            f"every vector is compared: no compressed index reached recall@5 {wish.recall:g} "
            f"over {probes} held-out faces (at best {reached:.4f})"
        )
    return (
        f"{s.coding}, {s.nprobe} lists and {s.depth} exact scores a query: "
        f"recall@5 {s.recall:.4f} over {probes} held-out faces, at least {s.bound:.4f} "
        f"with 99 % confidence; {s.ms:.2f} ms a query, exact search {exact_ms:.1f} ms"
    )


def _line(setting: Setting) -> dict[str, Any]:
    return {**setting.coding._asdict(), **{key: value for key, value in asdict(setting).items() if key != "coding"}}
