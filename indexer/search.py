"""Candidates from FAISS -> exact scores from the gallery -> hits."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from embedder.errors import DataError, GalleryError, InputError
from embedder.spec import FaceSpec
from embedder.table import UNIT_TOLERANCE, Row, write_atomic
from indexer.build import INDEX, REPORT, built_folder, centred, exact_index
from indexer.gallery import Gallery, Stored, check_name
from indexer.metrics import hits_at, wilson

EXTRA_CANDIDATES = 16
SCORE_SLACK = 1e-5  # FAISS adds in another order: candidates this close to the last hit are scored too
ANSWERS = 5


@dataclass(frozen=True)
class Hit:
    """One answer."""

    rank: int  # from 1
    identity: str
    score: float  # cosine, exact
    face_id: str
    image: str


class Searcher:
    """An open index; every answer comes from one commit of its gallery."""

    def __init__(self, folder: Path):
        """Raises GalleryError where there is no such index, or a damaged one."""
        check_name(folder.name)
        self._gallery = Gallery.open(folder)
        try:
            with self._gallery.snapshot():
                self._load()
        except BaseException:
            self._gallery.close()
            raise

    def _load(self) -> None:
        """What the snapshot's commit names; once more where another process has replaced the index since."""
        self.spec: FaceSpec = self._gallery.spec
        self._generation, self._mean = self._gallery.generation, self._gallery.centre
        self._faces, _ = self._gallery.count()
        self._index = self._read_index()

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._gallery.close()

    @property
    def faces(self) -> int:
        """Faces enrolled."""
        return self._faces

    @property
    def people(self) -> set[str]:
        """Everyone who is enrolled."""
        return self._gallery.names()

    def crop(self, face_id: str) -> bytes | None:
        """The PNG of an enrolled face, or None where none was kept."""
        return self._gallery.crop(face_id)

    def check_spec(self, spec: FaceSpec) -> None:
        """Raises GalleryError, naming the field, where vectors of `spec` cannot be compared with the gallery's; warns of lesser differences."""
        difference = self.spec.difference(spec)
        if difference:
            raise GalleryError(
                f"expected vectors of the contract that index {self._gallery.folder.name} was built with, they differ in {difference}: "
                "embed the probes with the index's model and crops, or build an index with theirs"
            )
        for what in ("detector", "runtime", "precision"):
            if getattr(self.spec, what) != getattr(spec, what) and spec.parts:
                warnings.warn(f"{what} of the index and of the probes differ; scores may differ slightly", stacklevel=2)

    def _read_index(self) -> faiss.Index:
        """The built index; one that is missing or does not fit its hash is made again from the gallery, which is the truth."""
        folder = built_folder(self._gallery.folder, self._generation)
        try:
            report = json.loads((folder / REPORT).read_bytes())
            data = (folder / INDEX).read_bytes()
            if hashlib.sha256(data).hexdigest() == report["sha256"]:
                index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
                if index.ntotal == self._faces and index.d == self.spec.dimension:
                    return index
            why = "does not fit its report"
        except FileNotFoundError:
            why = "is missing"
        except (ValueError, KeyError, RuntimeError):
            why = "is damaged"
        warnings.warn(f"{folder / INDEX} {why}; it is made again from the gallery", stacklevel=2)
        index = exact_index(self._gallery, self.spec.dimension, self._mean)
        self._mend(folder, index)
        return index

    def _mend(self, folder: Path, index: faiss.Index) -> None:
        """Puts a remade index in the place of the damaged one, where that may be written and its report can be read."""
        try:
            report = json.loads((folder / REPORT).read_bytes())
            data = faiss.serialize_index(index).tobytes()
            write_atomic(folder / INDEX, data)
            report["sha256"] = hashlib.sha256(data).hexdigest()
            write_atomic(folder / REPORT, json.dumps(report, indent=1).encode())
        except (OSError, ValueError):
            return

    # searching

    def search(self, xq: np.ndarray, k: int, faces: bool = False) -> list[list[Hit]]:
        """The k nearest people (each by the best face), or faces, of each probe.

        xq: (n, d) of unit length. Always k answers where k exist; equal scores by face_id; the same answer alone and in a batch.
        Raises InputError for k < 1, DataError for vectors of another size, length, or not finite.
        """
        if k < 1:
            raise InputError(f"expected --k of at least 1, received {k}: ask for one answer or more")
        with self._gallery.snapshot():
            if self._gallery.generation != self._generation:
                self._load()
            xq = self._checked(xq)
            candidates = self._candidates(xq, min(self._faces, k + EXTRA_CANDIDATES))
            return [self._answer(q, found, scores, k, faces) for q, found, scores in zip(xq, *candidates, strict=True)]

    def _checked(self, xq: np.ndarray) -> np.ndarray:
        xq = np.ascontiguousarray(xq, np.float32)
        if xq.ndim != 2 or xq.shape[1] != self.spec.dimension:
            raise DataError(
                f"expected probes of {self.spec.dimension} numbers, received an array of shape {xq.shape}: embed them with the index's model"
            )
        lengths = np.linalg.norm(xq.astype(np.float64), axis=1)
        if not (np.abs(lengths - 1) <= UNIT_TOLERANCE).all():
            raise DataError("expected probes of length 1 without NaN, received others: embed them again")
        return centred(xq, self._mean)

    def _candidates(self, xq: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """ids (m, n) and FAISS's scores (m, n), falling."""
        scores, ids = self._index.search(xq, n)
        return ids, scores

    def _answer(self, q: np.ndarray, ids: np.ndarray, scores: np.ndarray, k: int, faces: bool) -> list[Hit]:
        """Exact hits of one probe; asks for more candidates until k stand and none that follows could change them."""
        while True:
            hits = self._rank(q, ids, faces)[:k]
            complete = len(ids) >= self._faces
            if complete or (len(hits) == k and scores[-1] < hits[-1][0] - SCORE_SLACK):
                break
            more, found = self._candidates(q[None], min(self._faces, 4 * len(ids)))
            ids, scores = more[0], found[0]
        return [Hit(rank, s.identity, float(score), s.face_id, s.image) for rank, (score, s) in enumerate(hits, 1)]

    def _rank(self, q: np.ndarray, ids: np.ndarray, faces: bool) -> list[tuple[np.float32, Stored]]:
        """(score, face) by falling score and rising face_id; one a person unless `faces`."""
        stored = list(self._gallery.faces(ids.tolist()).values())
        xb = centred(np.stack([s.vector for s in stored]), self._mean)
        exact = (xb.astype(np.float64) * q.astype(np.float64)).sum(axis=1).astype(np.float32)
        ranked = sorted(zip(exact, stored, strict=True), key=lambda pair: (-pair[0], pair[1].face_id))
        if faces:
            return ranked
        best: dict[str, tuple[np.float32, Stored]] = {}
        for score, face in ranked:
            best.setdefault(face.identity, (score, face))
        return list(best.values())


# evaluation -----------------------------------------------------------------


def evaluate_answers(found: Sequence[tuple[Row, list[Hit]]], searcher: Searcher) -> dict[str, Any]:
    """top-1 and top-5 with 95 % intervals over every probe row with an enrolled identity; one without a vector is a miss.

    People who are not enrolled are strangers, counted apart; rows without an identity too.
    """
    enrolled = searcher.people
    asked = [(row, hits) for row, hits in found if row.identity in enrolled]
    result: dict[str, Any] = {}
    for k in (1, ANSWERS):
        hit = hits_at([[h.identity for h in hits] for _, hits in asked], [row.identity or "" for row, _ in asked], k)
        result[f"top{k}"] = round(float(hit.mean()), 6) if len(hit) else 0.0
        result[f"top{k}_interval"] = [round(v, 6) for v in wilson(int(hit.sum()), len(hit))]
    return result | {
        "probes": len(asked),
        "gallery": searcher.faces,
        "people": len(enrolled),
        "without_vector": sum(row.vector is None for row, _ in asked),
        "strangers": sum(row.identity is not None and row.identity not in enrolled for row, _ in found),
        "without_identity": sum(row.identity is None for row, _ in found),
    }


def write_predictions(path: Path, found: Sequence[tuple[Row, list[Hit]]], result: dict[str, Any]) -> None:
    """A line a probe: image, true name, and five times name and score; then the two figures."""
    lines = []
    for row, hits in found:
        cells = [row.image, row.identity or ""] + [f"{hit.identity} {hit.score:.6f}" for hit in hits[:ANSWERS]]
        lines.append("\t".join(cells))
    lines += [f"top1 {result['top1']:.4f}", f"top5 {result['top5']:.4f}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"._tmp-{os.getpid()}-{path.name}")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(temporary, path)
