"""What a set of answers is worth: top-1 and top-5 of probes, and the file of predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedder.errors import DataError
from embedder.table import Row, write_atomic
from indexer.faces import normal
from indexer.metrics import hits_at, top_k, wilson
from indexer.search import ANSWERS, Hit, Searcher

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
