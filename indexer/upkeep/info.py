"""How an index stands."""

from __future__ import annotations

from typing import Any

from facegallery.indexer.calibrate import Calibration, staleness
from facegallery.indexer.derived.choose import wish_of
from facegallery.indexer.derived.derive import behind, read_report
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep.forget import PENDING
from facegallery.indexer.upkeep.switch import other_spec
from facegallery.indexer.upkeep.traces import files_below, size_of


def info(gallery: Store) -> dict[str, Any]:
    """Faces, people, model, how far it is behind its last build, calibration, sizes; of one snapshot."""
    with gallery.reading():
        spec, (built, added, changed), other = gallery.spec, behind(gallery), other_spec(gallery)
        text, wish, report, kinds = (
            gallery.fact("calibration"),
            wish_of(gallery),
            read_report(gallery) or {},
            gallery.kinds,
        )
        calibration = None if text is None else Calibration.from_json(text)
        return {
            "index": gallery.folder.name,
            "faces": gallery.faces,
            "people": gallery.people,
            "dimensions": spec.dimension,
            "model": spec.model_name,
            "fingerprint": spec.fingerprint,
            "centred": gallery.mean is not None,
            "encrypted": gallery.encrypted,
            "generation": gallery.generation,
            "built": built,
            "added_since": added,
            "changed_since": changed,
            "kind": report.get("kind", "exact"),
            "reason": report.get("reason"),
            "recall": wish.recall,
            "memory": wish.memory,
            "columns": gallery.columns,
            "column_kinds": {column: kinds.kind(column) for column in gallery.columns},
            "changes_kept": len(gallery.lines()),
            "other_model": None if other is None else other.model_name,
            "threshold": calibration and calibration.threshold,
            "fpir": calibration and calibration.fpir,
            "calibration_stale": calibration and staleness(calibration, gallery),
            "calibration_weak": calibration and calibration.weak,
            "forgotten": gallery.execute("SELECT count(*) FROM forgotten")[0][0],
            "forgetting_pending": gallery.fact(PENDING) is not None,
            "bytes": sum(map(size_of, files_below(gallery.folder))),
        }
