"""Make the detector that a contract's record names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facegallery.embedder.compute import AUTO, Compute
from facegallery.embedder.errors import InputError
from facegallery.embedder.faces.both import BothDetector
from facegallery.embedder.faces.mtcnn import MAX_SIDE, MIN_FACE, Detector, MtcnnDetector
from facegallery.embedder.faces.names import BOTH, DEFAULT_DETECTOR, DETECTORS, MTCNN, YUNET
from facegallery.embedder.faces.turned import TurnedDetector
from facegallery.embedder.faces.yunet import PlacedYunet

CLASSES = {MTCNN: MtcnnDetector, YUNET: PlacedYunet, BOTH: BothDetector}


def make(settings: Mapping[str, Any], compute: Compute = AUTO) -> Detector:
    """Make the detector of a record, or of those of its settings that are given.

    settings: `algorithm`, one of DETECTORS, DEFAULT_DETECTOR where there is none; `min_face` and `max_side` in pixels;
    `turned`, which if true looks at turned photos too. The thresholds follow from the algorithm. Raise InputError for
    an algorithm that is not known here.
    """
    algorithm = settings.get("algorithm", DEFAULT_DETECTOR)
    if algorithm not in CLASSES:
        raise InputError(
            f"expected a detector of {', '.join(DETECTORS)}, received {str(algorithm)[:40]!r}: "
            "choose one of these, or update facegallery for a newer gallery"
        )
    found: Detector = CLASSES[algorithm](
        settings.get("min_face", MIN_FACE), settings.get("max_side", MAX_SIDE), compute
    )
    return TurnedDetector(found) if settings.get("turned") else found
