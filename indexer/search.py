"""Queries -> hits: candidates by FAISS, exact scores from the truth. And what a set of answers is worth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedder.errors import DataError, GalleryError, InputError
from embedder.spec import FaceSpec
from embedder.table import UNIT_TOLERANCE, Row, write_atomic
from indexer.build import built_folder, centred, is_sound, make_index
from indexer.gallery import LINK, Face, Gallery, normal
from indexer.metrics import hits_at, top_k, wilson

ANSWERS = 5  # of `evaluate`
SPARE = 16  # candidates beyond the first guess
GROWTH = 4
FLOAT_STEP = 2.0**-23  # of float32 at 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hit:
    """One answer: a person by the best of their faces, or a face."""

    rank: int  # from 1
    identity: str
    score: float  # cosine, the float32 dot product of the stored vectors (of the centred ones where the gallery is centred)
    face_id: str
    image: str


class Searcher:
    """A gallery and its index, open for questions. Use it as a context manager, from one thread at a time."""

    def __init__(self, folder: str | Path):
        """Raises GalleryError where there is no index or it is damaged; damage to derived files is logged and worked around."""
        self.gallery = Gallery.open(folder)
        self.warnings: list[str] = []  # differences that are allowed, from `check_spec`
        self._generation = 0
        try:
            self.spec = self.gallery.spec
            self._answer(lambda: None)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.gallery.close()

    # contract

    def check_spec(self, spec: FaceSpec) -> None:
        """Raises GalleryError naming the field in which vectors of `spec` are not comparable; notes lesser differences in `warnings`."""
        if difference := self.spec.difference(spec):
            raise GalleryError(
                f"expected vectors made as those of {self.gallery.folder.name}, they differ in {difference}: embed them with the gallery's "
                "model and options, or build another index"
            )
        for field in ("detector", "runtime", "precision"):
            mine, theirs = getattr(self.spec, field), getattr(spec, field)
            line = f"{field}: the gallery's faces were made with {mine}, these with {theirs}"
            if mine and theirs and mine != theirs and line not in self.warnings:
                self.warnings.append(line)

    # what is loaded

    def _answer(self, question: Callable[[], Any]) -> Any:
        """Asks a question of one snapshot, with the index of that snapshot loaded."""
        try:
            self.gallery.begin_reading()
            self._refresh()
            return question()
        finally:
            self.gallery.end_reading()

    def _refresh(self) -> None:
        """Loads the index of the snapshot's generation; where a build has just removed it, takes a newer snapshot."""
        failed = 0
        while (generation := self.gallery.generation) != self._generation:
            if self.gallery.spec.fingerprint != self.spec.fingerprint:
                raise GalleryError(f"expected {self.gallery.folder.name} to keep its contract, it was replaced meanwhile: start again")
            index = self._read_index()
            if index is None and failed != generation:
                failed = generation
                self.gallery.end_reading()
                self.gallery.begin_reading()
                continue
            self._use(index or self._rebuild(), generation)

    def _read_index(self) -> Any | None:
        """The FAISS index as it was written, or None where it is not that or holds other faces than the gallery."""
        import faiss

        path = built_folder(self.gallery.folder, self.gallery.generation) / LINK
        try:
            index: Any = faiss.read_index(str(path)) if is_sound(self.gallery) else None
        except RuntimeError:  # removed just now
            return None
        fits = index is not None and np.array_equal(faiss.vector_to_array(index.id_map), self.gallery.owners()[0])
        return index if fits else None

    def _rebuild(self) -> Any:
        path = built_folder(self.gallery.folder, self.gallery.generation)
        log.warning("%s is missing or damaged: searching an index made in memory; `build-index` with the same inputs mends it", path)
        return make_index(self.gallery)

    def _use(self, index: Any, generation: int) -> None:
        self._index, self._generation, self._mean = index, generation, self.gallery.mean
        self._ids, self._owners = self.gallery.owners()
        self._per_person = -(-len(self._ids) // max(1, len(np.unique(self._owners))))

    # questions

    def search(self, xq: np.ndarray, k: int = ANSWERS, faces: bool = False) -> list[list[Hit]]:
        """The k people (or faces) nearest to each query, all there are where there are fewer.

        xq float32 (n, d) of unit length. Scores are exact and the same however queries are batched; equal ones are in the
        order of face_id. Raises InputError for k < 1, DataError for vectors of another size or length, GalleryError naming
        a face that was changed on disk.
        """
        if k < 1:
            raise InputError(f"expected k of at least 1, received {k}: give a larger one")
        xq = _checked(xq, self.spec.dimension)
        return self._answer(lambda: self._search(xq, k, faces)) if len(xq) else []

    def _search(self, xq: np.ndarray, k: int, faces: bool) -> list[list[Hit]]:
        xq = centred(xq, self._mean)
        shortlists = self._shortlists(xq, k, faces)
        found = self.gallery.fetch(np.unique(np.concatenate(shortlists)))
        return [self._ranked(q, [found[id] for id in ids.tolist()], k, faces) for q, ids in zip(xq, shortlists, strict=True)]

    def _shortlists(self, xq: np.ndarray, k: int, faces: bool) -> list[np.ndarray]:
        """For each query the ids of all faces that could be among its answers."""
        n = len(self._ids)
        c = min(n, 2 * k * (1 if faces else self._per_person) + SPARE)
        done: list[np.ndarray | None] = [None] * len(xq)
        while pending := [i for i, ids in enumerate(done) if ids is None]:
            D, I = self._index.search(xq[pending], c)  # noqa: E741
            for i, scores, ids in zip(pending, D, I, strict=True):
                owners = ids if faces else self._owners[np.searchsorted(self._ids, ids)]
                done[i] = self._settled(scores, ids, owners, k, c == n)
            c = min(n, c * GROWTH)
        return [ids for ids in done if ids is not None]

    def _settled(self, scores: np.ndarray, ids: np.ndarray, owners: np.ndarray, k: int, complete: bool) -> np.ndarray | None:
        """The candidates (c,) that could be the best face of one of the k best owners; None where faces beyond them could be too.

        FAISS's float32 sums are at most `slack` from the exact score, so that 2 * slack below the k-th owner nothing counts.
        """
        slack = (self.spec.dimension + 2) * FLOAT_STEP
        _, first, owner = np.unique(owners, return_index=True, return_inverse=True)  # scores fall: the first is the best
        best = scores[first]
        floor = np.sort(best)[-k] - 2 * slack if len(best) >= k else -np.inf
        if not complete and not scores[-1] < floor:
            return None
        return ids[(scores >= floor) & (scores >= best[owner] - 2 * slack)]

    def _ranked(self, q: np.ndarray, candidates: Sequence[Face], k: int, faces: bool) -> list[Hit]:
        scores = exact_scores(q, centred(np.stack([face.vector for face in candidates]), self._mean))
        hits: dict[str, tuple[float, Face]] = {}
        for score, face in sorted(zip(map(float, scores), candidates, strict=True), key=lambda pair: (-pair[0], pair[1].face_id)):
            hits.setdefault(face.face_id if faces else face.identity, (score, face))
        return [Hit(i + 1, face.identity, score, face.face_id, face.image) for i, (score, face) in enumerate(list(hits.values())[:k])]

    def crop(self, face_id: str) -> bytes | None:
        """The PNG of an enrolled face, where it was kept."""
        return self.gallery.crop(face_id)


def exact_scores(q: np.ndarray, xb: np.ndarray) -> np.ndarray:
    """float32 (n,): q (d,) times each row of xb (n, d), summed in float64, a row at a time, so that batches give the same bits."""
    return np.sum(xb.astype(np.float64) * q.astype(np.float64), axis=1).astype(np.float32)


def _checked(xq: np.ndarray, d: int) -> np.ndarray:
    xq = np.asarray(xq)
    if xq.ndim != 2 or xq.shape[1] != d:
        raise DataError(f"expected vectors (n, {d}), received {xq.shape}: embed the probes with the gallery's model")
    xq = np.ascontiguousarray(xq, np.float32)
    norms = np.linalg.norm(xq.astype(np.float64), axis=1)
    bad = np.flatnonzero(~(np.abs(norms - 1) <= UNIT_TOLERANCE))
    if len(bad):
        raise DataError(f"expected vectors of length 1, received {norms[bad[0]]:.6g} in query {bad[0]}: embed the probes again")
    return xq


# evaluation -----------------------------------------------------------------

Answered = tuple[Row, Sequence[Hit]]  # a probe photo's row, and its hits (none where it has no vector)


def evaluate_answers(found: Sequence[Answered], searcher: Searcher) -> dict[str, Any]:
    """top-1 and top-5 with 95 % intervals over the probes of enrolled people; one without a vector is a miss.

    Raises DataError where no probe is of an enrolled person.
    """
    named = [(normal(row.identity), row, hits) for row, hits in found if row.identity]
    enrolled = searcher.gallery.enrolled([name for name, _, _ in named])
    counted = [(name, row, hits) for name, row, hits in named if name in enrolled]
    if not counted:
        raise DataError(
            f"expected probes of people enrolled in {searcher.gallery.folder.name}, none of {len(found)} is: check the folder and --split"
        )
    ranked = np.full((len(counted), ANSWERS), None, object)
    for i, (_, _, hits) in enumerate(counted):
        ranked[i, : len(hits)] = [hit.identity for hit in hits[:ANSWERS]]
    right = hits_at(ranked, np.array([name for name, _, _ in counted], object))
    n = len(counted)
    result: dict[str, Any] = {f"top{k}": top_k(right, k) for k in (1, ANSWERS)}
    result |= {f"top{k}_interval": list(wilson(int(right[:, k - 1].sum()), n)) for k in (1, ANSWERS)}
    return result | {
        "probes": n,
        "gallery": searcher.gallery.faces,
        "people": searcher.gallery.people,
        "without_vector": sum(row.vector is None for _, row, _ in counted),
        "strangers": len(named) - n,
        "no_identity": len(found) - len(named),
    }


def predictions(found: Iterable[Answered], result: dict[str, Any]) -> str:
    """A line for each probe: `image<TAB>true name` and up to five times `<TAB>name score`; then `top1 0.9542` and `top5 0.9875`.

    Probes that `evaluate_answers` does not count (strangers, photos without a name) have their lines too.
    """
    lines = []
    for row, hits in found:
        cells = [row.image, row.identity or "", *(f"{hit.identity} {hit.score:.6f}" for hit in hits[:ANSWERS])]
        lines.append("\t".join(cell.translate(BREAKS) for cell in cells))
    lines += [f"top{k} {result[f'top{k}']:.4f}" for k in (1, ANSWERS)]
    return "\n".join(lines) + "\n"


BREAKS = dict.fromkeys(map(ord, "\t\n\r"), " ")


def write_predictions(path: Path, found: Iterable[Answered], result: dict[str, Any]) -> None:
    """`predictions` to a file that only its owner may read."""
    write_atomic(Path(path), predictions(found, result).encode())
