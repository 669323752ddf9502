"""Say whether two faces are one person's, by the calibration of an index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from facegallery.workflows.session import Where, session_of

TYPICAL = 0.5  # chance from which a score is an ordinary stranger's
NO_THRESHOLD = "no threshold is known"


@dataclass(frozen=True)
class Verdict:
    """Whether two faces are one person's, and why.

    same: the score reaches the threshold from which a hit counts. different: at least half of all strangers find
    somebody in the index who resembles them as much. cannot tell: the score lies between. None: no threshold is known.
    """

    verdict: Literal["same person", "different people", "cannot tell"] | None
    threshold: float | None
    chance: float | None  # that a stranger's best score among the people of the index is as high
    reason: str


UNKNOWN = Verdict(None, None, None, f"{NO_THRESHOLD}: give --name with a calibrated index")


def judge_pair(where: Where, score: float) -> Verdict:
    """Judge the cosine of two faces by the calibration of an index."""
    with session_of(where) as session:
        searcher, name = session.searcher, session.name
        calibration, stale = searcher.calibration()
        if calibration is None:
            return Verdict(None, None, None, f"{NO_THRESHOLD}: run `calibrate {name}`")
        if calibration.fingerprint != searcher.spec.fingerprint:
            return Verdict(
                None, None, None, f"{NO_THRESHOLD}: the calibration is of another model, run `calibrate {name}` again"
            )
        if searcher.store.mean is not None:
            return Verdict(
                None, None, None, f"{NO_THRESHOLD}: that of {name} is for centred vectors, which a pair of faces lacks"
            )
    threshold = calibration.threshold
    chance = max(calibration.chance(score), calibration.chance_limit)
    faults = "".join(
        f"; the calibration is {what}, {why}" for what, why in (("weak", calibration.weak), ("stale", stale)) if why
    )
    if calibration.known(score):
        return Verdict("same person", threshold, chance, f"a hit in {name} counts from {threshold:.4f} on{faults}")
    if chance >= TYPICAL:
        why = f"a stranger's nearest person in {name} resembles them as much with a chance of {chance:.2g}{faults}"
        return Verdict("different people", threshold, chance, why)
    why = (
        f"a hit in {name} counts from {threshold:.4f} on, strangers score as high with a chance of {chance:.2g}{faults}"
    )
    return Verdict("cannot tell", threshold, chance, why)
