"""What becomes of a photo: the one list of outcomes, from which decoders, data sets, commands and the server take theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OK, NO_FACE, TOO_SMALL, UNREADABLE, TOO_LARGE = "ok", "no_face", "too_small", "unreadable", "too_large"
OUTSIDE, MISSING, NO_ACCESS, NEEDS_PLUGIN, TIMEOUT, DIED = (
    "outside",
    "missing",
    "no_access",
    "needs_plugin",
    "timeout",
    "decoder_died",
)


@dataclass(frozen=True)
class Outcome:
    """One of the things that may become of a photo."""

    name: str
    means: str
    kind: Literal[
        "good", "lasting", "passing"
    ]  # passing: the same command tries again; lasting: only where it is asked to
    decoder: bool = False  # whether a process that decodes photos may answer with it
    status: int | None = None  # of the server's answer to a search; None where bytes that are sent cannot have it


OUTCOMES = (
    Outcome(OK, "a face was found", "good", True, 200),
    Outcome(NO_FACE, "decoded, no face found", "lasting", False, 200),
    Outcome(TOO_SMALL, "no face that can be found fits in it", "lasting", False, 200),
    Outcome(UNREADABLE, "no photo, or broken; the reason says what it is", "lasting", True, 422),
    Outcome(TOO_LARGE, "more pixels, bytes or parts than the limits", "lasting", True, 422),
    Outcome(OUTSIDE, "a link that leaves the folder", "lasting"),
    Outcome(MISSING, "the file is gone", "passing", True),
    Outcome(NO_ACCESS, "no permission, or the disk or network failed", "passing", True),
    Outcome(NEEDS_PLUGIN, "needs what is not installed; the reason names it", "passing", True, 422),
    Outcome(TIMEOUT, "decoding took too long", "passing", False, 422),
    Outcome(DIED, "the process that decodes it ended", "passing", False, 422),
)
READ = frozenset(one.name for one in OUTCOMES if one.status == 200)  # of photos that have pixels
PASSING = frozenset(one.name for one in OUTCOMES if one.kind == "passing")
LASTING = tuple(one.name for one in OUTCOMES if one.kind == "lasting")
ANSWERS = frozenset(one.name for one in OUTCOMES if one.decoder)  # of a process that decodes photos
OF_BYTES = tuple(one.name for one in OUTCOMES if one.status)  # of a photo that is sent
REFUSED = {
    one.name: one.status for one in OUTCOMES if one.status and one.status >= 400
}  # by the server, which searches for nobody then
