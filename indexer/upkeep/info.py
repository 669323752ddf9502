"""The state of an index."""

from __future__ import annotations

from typing import Any

from facegallery.indexer.calibrate import Calibration, staleness
from facegallery.indexer.derived.choose import wish_of
from facegallery.indexer.derived.derive import behind, read_report
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep.pending import PENDING
from facegallery.indexer.upkeep.switch import other_spec
from facegallery.indexer.upkeep.traces import files_below, size_of


def info(store: Store) -> dict[str, Any]:
    """Return counts, model, distance from the last build, calibration and sizes, all of one snapshot."""
    with store.reading():
        spec, (built, added, changed), other = store.spec, behind(store), other_spec(store)
        text, wish, report, kinds = (
            store.fact("calibration"),
            wish_of(store),
            read_report(store) or {},
            store.kinds,
        )
        calibration = None if text is None else Calibration.from_json(text)
        return {
            "index": store.folder.name,
            "faces": store.faces,
            "people": store.people,
            **store.counts(),
            "dimensions": spec.dimension,
            "model": spec.model_name,
            "fingerprint": spec.fingerprint,
            "centred": store.mean is not None,
            "encrypted": store.encrypted,
            "generation": store.generation,
            "built": built,
            "added_since": added,
            "changed_since": changed,
            "kind": report.get("kind", "exact"),
            "reason": report.get("reason"),
            "recall": wish.recall,
            "memory": wish.memory,
            "columns": store.columns,
            "column_kinds": {column: kinds.kind(column) for column in store.columns},
            "changes_kept": len(store.lines()),
            "other_model": None if other is None else other.model_name,
            "threshold": calibration and calibration.threshold,
            "fpir": calibration and calibration.fpir,
            "calibration_stale": calibration and staleness(calibration, store),
            "calibration_weak": calibration and calibration.weak,
            "forgotten": store.execute("SELECT count(*) FROM forgotten")[0][0],
            "forgetting_pending": store.fact(PENDING) is not None,
            "bytes": sum(map(size_of, files_below(store.folder))),
        }
