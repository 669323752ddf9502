"""Measure a model by the official pairs of photos."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from facegallery.embedder.dataset.dataset import DataSet, is_data_set
from facegallery.embedder.errors import DataError
from facegallery.indexer.evaluation.pair_lists import Pairs, read_pairs
from facegallery.indexer.evaluation.verification import Verification, compare_folds, verify_folds
from facegallery.indexer.metrics import Paired
from facegallery.workflows.evaluate import check_folder, trained_people
from facegallery.workflows.probes import SEVERAL


@dataclass(frozen=True)
class PairsMeasured:
    """LFW's protocol on one set of vectors, and beside another."""

    vectors: str
    verification: Verification
    pairs: int
    without_vector: int  # pairs
    against: str | None
    other: Verification | None
    comparison: Paired | None
    seen: dict[str, int] | None
    warnings: list[str]

    def result(self) -> dict[str, Any]:
        """As `evaluate-pairs --json` prints it."""
        against = (
            {"vectors": self.against, **_verified(self.other), **asdict(self.comparison)}
            if self.comparison and self.other
            else None
        )
        return {
            "vectors": self.vectors,
            "pairs": self.pairs,
            "without_vector": self.without_vector,
            **_verified(self.verification),
            "against": against,
            "trained_on": self.seen,
            "warnings": self.warnings,
        }


def _verified(found: Verification) -> dict[str, Any]:
    return {
        "accuracy": found.accuracy,
        "std": found.std,
        "folds": found.accuracies.tolist(),
        "thresholds": found.thresholds.tolist(),
        "auc": found.roc.auc,
        "eer": found.roc.eer,
        "tar": [asdict(t) for t in found.tars],
    }


@dataclass(frozen=True)
class _Faces:
    """What a data set has of the photos of pairs."""

    vectors: dict[str, np.ndarray | None]  # by the pairs' names; None without a face
    people: frozenset[str]
    several: int  # photos with more than one face


def evaluate_pairs(
    vectors: Path, file: Path, against: Path | None = None, report: Path | None = None, command: str = ""
) -> PairsMeasured:
    """Verify listed pairs of photos on a data set of vectors.

    file: a list of pairs, as `indexer.evaluation.pair_lists` reads them. against: another model's vectors of the same
    photos. report: the folder of a page. command: what the page says it comes from. Raises DataError for lists that
    cannot be read, and for photos that are missing or of which there are two.
    """
    check_folder(report)
    pairs = read_pairs(file)
    faces = _faces_of(vectors, pairs)
    scores = pairs.scores(faces.vectors)
    found = verify_folds(scores, pairs.same, pairs.folds)
    other = comparison = None
    if against is not None:
        other = verify_folds(pairs.scores(_faces_of(against, pairs).vectors), pairs.same, pairs.folds)
        comparison = compare_folds(found, other)
    spec = DataSet(vectors).spec
    seen, warnings = trained_people(spec, {"pairs": faces.people})
    warnings += [SEVERAL.format(faces.several)] if faces.several else []
    measured = PairsMeasured(
        str(vectors),
        found,
        len(scores),
        int(np.isinf(scores).sum()),
        str(against) if against else None,
        other,
        comparison,
        seen,
        warnings,
    )
    if report is not None:
        from facegallery.indexer.evaluation import report as pages

        pages.write(
            report, pages.pairs_page(measured.result(), found.roc, pages.facts(datetime.now(UTC), command, spec))
        )
    return measured


def _faces_of(folder: Path, pairs: Pairs) -> _Faces:
    """Find the photos of pairs in a data set.

    Raises DataError where two photos have one name of the pairs, or one photo has two.
    """
    if not is_data_set(folder):
        raise DataError(f"expected vectors of the pairs' photos, {folder} is no data set: run `embed` with --out")
    found: dict[str, tuple[str, np.ndarray | None]] = {}
    people: set[str] = set()
    several = 0
    for table in DataSet(folder).shards(["image", "image_sha256", "identity", "face", "vector"]):
        columns = (column.to_pylist() for column in table.columns)
        for image, sha256, identity, face, vector in zip(*columns, strict=True):
            if not (names := pairs.named(image)):
                continue
            several += face == 1
            if face > 0:
                continue
            name = _one_name(folder, image, names)
            if name in found and found[name][0] != sha256:
                raise DataError(
                    f"expected one photo called {name}, {folder} has two: embed the folder of the pairs' photos alone"
                )
            found[name] = sha256, None if vector is None else np.asarray(vector, np.float32)
            people.update([name.rsplit("_", 1)[0]] if pairs.stems else [identity] if identity else [])
    return _Faces({name: vector for name, (_, vector) in found.items()}, frozenset(people), several)


def _one_name(folder: Path, image: str, names: list[str]) -> str:
    if len(names) > 1:
        raise DataError(
            f"expected a photo for each path of the pairs, {names[0]} and {names[1]} both end like {image} of "
            f"{folder}: embed a folder above those that the paths begin with"
        )
    return names[0]
