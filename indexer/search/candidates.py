"""A gallery's faces as a searcher holds them: the built index, and what was added, removed or given to others since.

Positions number the faces: those of the built index first, then the tail, in the order of ids.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facegallery.indexer.derived import flat
from facegallery.indexer.derived.codes import Codes
from facegallery.indexer.derived.derive import (
    CODES,
    HASHED_AT_OPEN,
    OWNERS,
    built_folder,
    centred,
    make_index,
    position_of,
    read_report,
    unsound,
)
from facegallery.indexer.store.database import LINK
from facegallery.indexer.store.errors import Replaced
from facegallery.indexer.store.reader import Faces

ROOM = 1024  # faces by which the tail's arrays grow at least
GATHER = 1 << 14  # rows that are copied at once
# Faces that a filter keeps are scanned by a matrix product of their copies where there are many queries, or few such faces, else by FAISS
# with a selector, which copies nothing but multiplies one pair at a time; measured: benchmarks/gallery.py, docs/gallery.md
MANY, SCAN_SHARE = 16, 0.001

log = logging.getLogger(__name__)


class Shortlist(NamedTuple):
    """Of one query: its best candidates, best first, and what no other face's score exceeds."""

    scores: np.ndarray  # float32 (c,)
    positions: np.ndarray  # int64 (c,)
    bound: float


class Candidates:
    """Faces by approximate score (float32 sums in any order). Call `refresh` at the start of each snapshot."""

    def __init__(self, store: Faces):
        self.store, self.spec, self.generation = store, store.spec, 0
        self._mark: object = None

    # what is loaded

    def refresh(self) -> None:
        """Catches up with the open snapshot; where its files have just been replaced, with a newer one."""
        if self.generation and self._mark == self.store.mark:
            return
        failed = 0
        while (generation := self.store.generation) != self.generation:
            if self.store.spec.fingerprint != self.spec.fingerprint:
                raise Replaced(
                    f"expected {self.store.folder.name} to keep its contract, it was replaced meanwhile: start again"
                )
            if not self._load_built(generation):
                if failed != generation:
                    failed = generation
                    self.store.end_reading()
                    self.store.begin_reading()
                    continue
                self.load_anew()
        self._read_tail()
        self._read_changes()
        self.removed = self.built - int(np.count_nonzero(self.alive[: self.built]))
        self.enrolled = self.built - self.removed + int(np.count_nonzero(self.alive[self.built : self.count]))
        self._mark = self.store.mark

    def _load_built(self, generation: int) -> bool:
        """Maps the derived files; False where they are missing or damaged."""
        import faiss

        if self.store.encrypted:
            self.load_anew()
            return True
        folder = built_folder(self.store.folder, generation)
        try:
            report = read_report(self.store)
            if report is None or unsound(self.store, HASHED_AT_OPEN):
                return False
            ids, owners = np.load(folder / OWNERS, allow_pickle=False)
            if not _says(folder / LINK, len(ids)):
                return False
            index = flat.opened(folder / LINK)
            codes = _codes(folder / CODES, flat.inner(index), report["setting"]) if CODES in report["files"] else None
        except (RuntimeError, OSError, ValueError):  # removed just now, or damaged
            return False
        if not np.array_equal(faiss.vector_to_array(index.id_map), ids):
            return False
        self._use(index, ids, owners, report["people"], self.store.needed_fact("built_to"), 0, codes)
        return True

    def load_anew(self) -> None:
        """An index made in memory from the snapshot."""
        if not self.store.encrypted:
            path = built_folder(self.store.folder, self.store.generation)
            log.warning(
                "%s is missing or damaged: searching an index made in memory; `verify` or `compact` mends it", path
            )
        position = position_of(self.store)
        self._use(make_index(self.store), *self.store.owners(), self.store.people, position.newest, position.seq)

    def _use(
        self,
        index: Any,
        ids: np.ndarray,
        owners: np.ndarray,
        people: int,
        newest: int,
        seq: int,
        codes: Codes | None = None,
    ) -> None:
        self._index = index  # it owns the next one
        self._flat: Any = flat.inner(index)
        self.codes = codes
        self.built = self.count = len(ids)
        self._newest, self._seq, self.mean = newest, seq, self.store.mean
        self._chain = (self.store.fact("changes") or b"") if seq else b""
        self.ids, self.owners, self.alive = ids.copy(), owners.copy(), np.ones(len(ids), bool)
        self.removed, self.enrolled = 0, len(ids)
        self._tail = np.empty((0, self.spec.dimension), np.float32)
        self.per_person = math.ceil(len(ids) / max(1, people))  # faces, about
        self.generation, self._mark = self.store.generation, None

    def _read_tail(self) -> None:
        owners = self.store.owners_after(self._newest)
        if not owners:
            return
        for ids, xb in self.store.vectors(after=self._newest):
            self._append(ids, centred(xb, self.mean), np.array([owners[int(id)] for id in ids], np.int64))
        self._newest = int(self.ids[self.count - 1])

    def _append(self, ids: np.ndarray, xb: np.ndarray, owners: np.ndarray) -> None:
        start, self.count = self.count, self.count + len(ids)
        if self.count > len(self.ids):
            room = self.count + max(ROOM, (self.count - self.built) // 2)
            self.ids, self.owners, self.alive = (_grown(a, room) for a in (self.ids, self.owners, self.alive))
            self._tail = _grown(self._tail, room - self.built)
        self.ids[start : self.count], self.owners[start : self.count], self.alive[start : self.count] = (
            ids,
            owners,
            True,
        )
        self._tail[start - self.built : self.count - self.built] = xb

    def _read_changes(self) -> None:
        changes = self.store.changes(self._seq, self._chain)
        if not changes.ids:
            return
        owners = self.store.owners_of(changes.ids)
        for id in changes.ids:
            position = int(np.searchsorted(self.ids[: self.count], id))
            if position < self.count and self.ids[position] == id:
                self.alive[position] = id in owners
                self.owners[position] = owners.get(id, -1)
        self._seq, self._chain = changes.seq, changes.chain

    def positions_of(self, ids: np.ndarray) -> np.ndarray:
        """int64 (m,): where enrolled faces stand, by their ids."""
        return np.searchsorted(self.ids[: self.count], ids)

    @property
    def compressed(self) -> bool:
        """Whether codes find the candidates, so that a person's best face may be missed."""
        return self.codes is not None

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """float32 (m, d): the vectors at these positions, centred where the gallery is."""
        xb, in_built = np.empty((len(positions), self.spec.dimension), np.float32), positions < self.built
        xb[in_built] = flat.rows(self._flat)[positions[in_built]]
        xb[~in_built] = self._tail[positions[~in_built] - self.built]
        return xb

    # candidates

    def nearest(self, xq: np.ndarray, c: int, kept: np.ndarray | None = None, effort: float = 1) -> Iterator[Shortlist]:
        """About c candidates for each query of xq float32 (n, d), or all there are.

        kept: bool (count,), the faces that a filter lets through (none that was removed); None for all. effort: how much deeper than
        it was tuned a compressed index is to be searched.
        """
        parts = [self._of_built(xq, c, kept, effort), self._of_tail(xq, c, kept)]
        for i in range(len(xq)):
            scores, positions = (np.concatenate([part[j][i] for part in parts]) for j in (0, 1))
            present = self.alive[positions] & (scores > -np.inf)
            scores, positions = scores[present], positions[present]
            order = np.argsort(-scores, kind="stable")
            yield Shortlist(scores[order], positions[order], max(part[2][i] for part in parts))

    def _of_built(self, xq: np.ndarray, c: int, kept: np.ndarray | None, effort: float) -> tuple:
        import faiss

        library: Any = faiss  # its stubs lag behind
        if kept is None:
            c = min(self.built, c + min(self.removed, 2 * math.ceil(c * self.removed / max(1, self.built)) + 8))
            if self.codes and self.codes.covers(effort):
                return self._looked_up(xq, c, effort)
            return self._searched(xq, c, c == self.built, None)
        n = int(np.count_nonzero(kept[: self.built]))
        if len(xq) >= MANY or n <= SCAN_SHARE * self.built:
            return self._scanned(xq, c, np.flatnonzero(kept[: self.built]))
        bitmap = np.packbits(kept[: self.built], bitorder="little")
        selector = library.IDSelectorBitmap(bitmap)
        return self._searched(xq, min(c, n), c >= n, library.SearchParameters(sel=selector))

    def _searched(self, xq: np.ndarray, c: int, complete: bool, params: Any) -> tuple:
        if not c:
            return _nothing(len(xq))
        D, I = self._flat.search(xq, c, params=params)  # noqa: E741
        return D, I, np.full(len(xq), -np.inf) if complete else D[:, -1]

    def _looked_up(self, xq: np.ndarray, c: int, effort: float) -> tuple:
        assert self.codes
        D, I = self.codes.search(xq, c, effort)  # noqa: E741
        return D, I, np.where(I[:, -1] < 0, np.inf, D[:, -1])  # too few were found: any other may be better

    def _scanned(self, xq: np.ndarray, c: int, positions: np.ndarray) -> tuple:
        if not len(positions):
            return _nothing(len(xq))
        xb, blocks = flat.rows(self._flat), [positions[i : i + GATHER] for i in range(0, len(positions), GATHER)]
        best = [_best(xq @ xb[block].T, np.broadcast_to(block, (len(xq), len(block))), c) for block in blocks]
        scores, at = (np.concatenate([part[j] for part in best], axis=1) for j in (0, 1))
        return _best(scores, at, c) if c < len(positions) else (scores, at, np.full(len(xq), -np.inf))

    def _of_tail(self, xq: np.ndarray, c: int, kept: np.ndarray | None) -> tuple:
        n = self.count - self.built
        present = self.alive[self.built : self.count] if kept is None else kept[self.built : self.count]
        if not n or not present.any():
            return _nothing(len(xq))
        scores = _products(xq, self._tail[:n])
        scores[:, ~present] = -np.inf
        return _best(scores, np.broadcast_to(np.arange(self.built, self.count), scores.shape), c)


def _codes(path: Path, exact: Any, setting: dict[str, Any]) -> Codes:
    """What `choose` chose, read from its file; exact: the IndexFlatIP of the same rows."""
    import faiss

    return Codes(faiss.read_index(str(path)), exact, setting["nprobe"], setting["depth"])


def _says(path: Path, n: int) -> bool:
    """Whether a FAISS file has the number n before its ids, which are its end: FAISS makes room for as many as it says."""
    with open(path, "rb") as file:
        file.seek(-8 * (n + 1), os.SEEK_END)
        return int.from_bytes(file.read(8), "little") == n


def _products(xq: np.ndarray, xb: np.ndarray) -> np.ndarray:
    """float32 (q, n): every query times every row. A few queries are not left to NumPy's threads, which would fight with those of FAISS."""
    import faiss

    library: Any = faiss  # its stubs lag behind
    if len(xq) >= MANY:
        return xq @ xb.T
    scores = np.empty((len(xq), len(xb)), np.float32)
    for q, line in zip(xq, scores, strict=True):
        library.fvec_inner_products_ny(*map(faiss.swig_ptr, (line, q, xb)), xb.shape[1], len(xb))
    return scores


def _best(scores: np.ndarray, positions: np.ndarray, c: int) -> tuple:
    """The c best of scores (n, m), in any order, their positions, and for each query the least of them, or -inf where all are in."""
    m = scores.shape[1]
    if c >= m:
        return scores, positions, np.full(len(scores), -np.inf)
    at = np.argpartition(scores, m - c, axis=1)[:, -c:]
    best = np.take_along_axis(scores, at, axis=1)
    return best, np.take_along_axis(positions, at, axis=1), best.min(axis=1)


def _nothing(n: int) -> tuple:
    return np.empty((n, 0), np.float32), np.empty((n, 0), np.int64), np.full(n, -np.inf)


def _grown(array: np.ndarray, room: int) -> np.ndarray:
    larger = np.zeros((room, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger
