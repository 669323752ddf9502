"""A gallery's faces as a searcher holds them: the built index, and what was added, removed or moved since.

Positions number the faces: first those of the built index, then the tail, in the order of ids.
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

ROOM = 1024  # least number of faces by which the tail's arrays grow
GATHER = 1 << 14  # rows that are copied at once
# Filtered faces are scanned by a matrix product of their copies if there are many queries or few such faces. Otherwise
# FAISS scans them with a selector, which copies nothing but multiplies one pair at a time. Measured by
# benchmarks/scale/gallery.py, see docs/reference/filters.md.
MANY, SCAN_SHARE = 16, 0.001

log = logging.getLogger(__name__)


class Shortlist(NamedTuple):
    """Best candidates of one query, best first, and a bound that no other face's score exceeds."""

    scores: np.ndarray  # float32 (c,)
    positions: np.ndarray  # int64 (c,)
    bound: float


class _Loaded(NamedTuple):
    """An index, mapped or made in memory, and the state of the gallery that it holds."""

    index: Any  # faiss.IndexIDMap
    ids: np.ndarray  # int64 (n,)
    owners: np.ndarray  # int64 (n,): the person id of each face
    people: int
    newest: int  # id of the newest face
    seq: int  # of the last line of `changed`
    codes: Codes | None = None


class Candidates:
    """Faces by approximate score, float32 sums in any order. Call `refresh` at the start of each snapshot."""

    def __init__(self, store: Faces):
        self.store, self.spec, self.generation = store, store.spec, 0
        self._mark: object = None

    # what is loaded

    def refresh(self) -> None:
        """Catch up with the open snapshot; where its files were just replaced, with a newer one."""
        if self.generation and self._mark == self.store.mark:
            return
        failed = 0
        while (generation := self.store.generation) != self.generation:
            if self.store.spec.fingerprint != self.spec.fingerprint:
                raise Replaced(
                    f"expected {self.store.folder.name} to keep its contract, it was replaced: open it again"
                )
            if not self._load_built(generation):
                if failed != generation:
                    failed = generation
                    self.store.end_reading()
                    self.store.begin_reading()
                    continue
                self.load_from_store()
        self._read_tail()
        self._read_changes()
        self.removed = self.built - int(np.count_nonzero(self.alive[: self.built]))
        self.enrolled = self.built - self.removed + int(np.count_nonzero(self.alive[self.built : self.count]))
        self._mark = self.store.mark

    def _load_built(self, generation: int) -> bool:
        """Map the derived files; return False where they are missing or damaged."""
        import faiss

        if self.store.encrypted:
            self.load_from_store()
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
        except (RuntimeError, OSError, ValueError):  # removed meanwhile, or damaged
            return False
        if not np.array_equal(faiss.vector_to_array(index.id_map), ids):
            return False
        self._use(_Loaded(index, ids, owners, report["people"], self.store.needed_fact("built_to"), 0, codes))
        return True

    def load_from_store(self) -> None:
        """Build an index in memory from the snapshot."""
        if not self.store.encrypted:
            path = built_folder(self.store.folder, self.store.generation)
            log.warning(
                "%s is missing or damaged: searching an index made in memory; `verify` or `compact` rebuilds it", path
            )
        position = position_of(self.store)
        index = make_index(self.store)  # checks the owners
        ids, owners = self.store.owners()
        self._use(_Loaded(index, ids, owners, self.store.people, position.newest, position.seq))

    def _use(self, loaded: _Loaded) -> None:
        index, ids, owners, people, newest, seq, codes = loaded
        self._index = index  # it owns the next one
        self._flat: Any = flat.inner(index)
        self.codes = codes
        self.built = self.count = len(ids)
        self._newest, self._seq, self.mean = newest, seq, self.store.mean
        self._chain = (self.store.fact("changes") or b"") if seq else b""
        self.ids, self.owners, self.alive = ids.copy(), owners.copy(), np.ones(len(ids), bool)
        self.removed, self.enrolled = 0, len(ids)
        self._tail = np.empty((0, self.spec.dimension), np.float32)
        self.per_person = math.ceil(len(ids) / max(1, people))  # about how many faces a person has
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
        added = slice(start, self.count)
        self.ids[added], self.owners[added], self.alive[added] = ids, owners, True
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
        """Return the positions of enrolled faces by their ids, int64 (m,)."""
        return np.searchsorted(self.ids[: self.count], ids)

    @property
    def compressed(self) -> bool:
        """Whether codes find the candidates, so that a person's best face may be missed."""
        return self.codes is not None

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Return the vectors at these positions, float32 (m, d), centred where the gallery is."""
        xb, in_built = np.empty((len(positions), self.spec.dimension), np.float32), positions < self.built
        xb[in_built] = flat.rows(self._flat)[positions[in_built]]
        xb[~in_built] = self._tail[positions[~in_built] - self.built]
        return xb

    # candidates

    def nearest(self, xq: np.ndarray, c: int, kept: np.ndarray | None = None, effort: float = 1) -> Iterator[Shortlist]:
        """Yield about c candidates for each query of xq float32 (n, d), or all where there are fewer.

        kept: bool (count,), the faces that a filter keeps, none of them removed; None for all. effort: how much deeper
        than tuned a compressed index is searched.
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
            return self._searched(xq, c, None, complete=c == self.built)
        n = int(np.count_nonzero(kept[: self.built]))
        if len(xq) >= MANY or n <= SCAN_SHARE * self.built:
            return self._scanned(xq, c, np.flatnonzero(kept[: self.built]))
        bitmap = np.packbits(kept[: self.built], bitorder="little")
        selector = library.IDSelectorBitmap(bitmap)
        return self._searched(xq, min(c, n), library.SearchParameters(sel=selector), complete=c >= n)

    def _searched(self, xq: np.ndarray, c: int, params: Any, *, complete: bool) -> tuple:
        if not c:
            return _nothing(len(xq))
        D, I = self._flat.search(xq, c, params=params)  # noqa: E741
        return D, I, np.full(len(xq), -np.inf) if complete else D[:, -1]

    def _looked_up(self, xq: np.ndarray, c: int, effort: float) -> tuple:
        assert self.codes
        D, I = self.codes.search(xq, c, effort)  # noqa: E741
        return D, I, np.where(I[:, -1] < 0, np.inf, D[:, -1])  # too few were found: any other face may be better

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
    """Read the codes that `choose` chose; exact: the IndexFlatIP of the same rows."""
    import faiss

    return Codes(faiss.read_index(str(path)), exact, setting["nprobe"], setting["depth"])


def _says(path: Path, n: int) -> bool:
    """Return whether a FAISS file states n ids before its ids, which end the file.

    FAISS allocates memory for as many as the file states.
    """
    with open(path, "rb") as file:
        file.seek(-8 * (n + 1), os.SEEK_END)
        return int.from_bytes(file.read(8), "little") == n


def _products(xq: np.ndarray, xb: np.ndarray) -> np.ndarray:
    """Return every query times every row, float32 (q, n).

    A few queries are computed by FAISS, since NumPy's threads would compete with those of FAISS.
    """
    import faiss

    library: Any = faiss  # its stubs lag behind
    if len(xq) >= MANY:
        return xq @ xb.T
    scores = np.empty((len(xq), len(xb)), np.float32)
    for q, line in zip(xq, scores, strict=True):
        library.fvec_inner_products_ny(*map(faiss.swig_ptr, (line, q, xb)), xb.shape[1], len(xb))
    return scores


def _best(scores: np.ndarray, positions: np.ndarray, c: int) -> tuple:
    """Return the c best of scores (n, m), in any order, their positions, and the least of them for each query.

    The least is -inf where all are included.
    """
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
