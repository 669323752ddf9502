"""Measure a model by the official pairs of photos."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from facegallery.embedder.dataset.dataset import DataSet, is_data_set
from facegallery.embedder.errors import DataError
from facegallery.indexer.evaluation.verification import Verification, compare_folds, read_pairs, verify_folds
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


def evaluate_pairs(
    vectors: Path, file: Path, against: Path | None = None, report: Path | None = None, command: str = ""
) -> PairsMeasured:
    """Verify the official pairs on a data set of vectors.

    against: another model's vectors of the same photos. report: the folder of a page. command: what the page says it
    comes from.
    """
    check_folder(report)
    pairs = read_pairs(file)
    faces = _by_stem(vectors, {*pairs.first, *pairs.second})
    several = _several(vectors, faces.keys())
    scores = pairs.scores(faces)
    found = verify_folds(scores, pairs.same, pairs.folds)
    other = comparison = None
    if against is not None:
        other = verify_folds(pairs.scores(_by_stem(against, faces.keys())), pairs.same, pairs.folds)
        comparison = compare_folds(found, other)
    people = {stem.rsplit("_", 1)[0] for stem in faces}
    spec = DataSet(vectors).spec
    seen, warnings = trained_people(spec, {"pairs": people})
    warnings += [SEVERAL.format(several)] if several else []
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


def _several(folder: Path, stems: Collection[str]) -> int:
    """How many photos with these stems have more than one face in a data set."""
    tables = DataSet(folder).shards(["image", "face"])
    rows = (row for table in tables for row in zip(*(column.to_pylist() for column in table.columns), strict=True))
    return sum(face == 1 and Path(image).stem in stems for image, face in rows)


def _by_stem(folder: Path, stems: Iterable[str]) -> dict[str, np.ndarray | None]:
    """The vectors of photos by their stems, None where one has no face.

    Raises DataError where two photos share a stem.
    """
    if not is_data_set(folder):
        raise DataError(f"expected vectors of LFW's photos, {folder} is no data set: run `embed` with --out")
    wanted = set(stems)
    found: dict[str, tuple[str, np.ndarray | None]] = {}
    for table in DataSet(folder).shards(["image", "image_sha256", "face", "vector"]):
        for image, sha256, face, vector in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if (stem := Path(image).stem) in wanted and face <= 0:
                if stem in found and found[stem][0] != sha256:
                    raise DataError(f"expected one photo called {stem}, {folder} has two: embed LFW's folder alone")
                found[stem] = sha256, None if vector is None else np.asarray(vector, np.float32)
    return {stem: vector for stem, (_, vector) in found.items()}
