"""List the outcomes that a photo may have, for decoders, data sets, commands and the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OK, NO_FACE, TOO_SMALL, UNREADABLE, TOO_LARGE = "ok", "no_face", "too_small", "unreadable", "too_large"
OUTSIDE, MISSING, NO_ACCESS = "outside", "missing", "no_access"
NEEDS_PLUGIN, TIMEOUT, DIED = "needs_plugin", "timeout", "decoder_died"


@dataclass(frozen=True)
class Outcome:
    """One outcome of a photo.

    kind: 'passing' outcomes are tried again by the same command, 'lasting' ones only on request (`--retry`). decoder:
    whether a process that decodes photos may answer with the outcome. status: HTTP status of the server's answer to a
    search; None where a photo that is sent as bytes cannot have the outcome.
    """

    name: str
    means: str
    kind: Literal["good", "lasting", "passing"]
    decoder: bool = False
    status: int | None = None


OUTCOMES = (
    Outcome(OK, "a face was found", "good", decoder=True, status=200),
    Outcome(NO_FACE, "decoded, no face found", "lasting", status=200),
    Outcome(TOO_SMALL, "no face that can be found fits in it", "lasting", status=200),
    Outcome(UNREADABLE, "no photo, or broken; the reason says what it is", "lasting", decoder=True, status=422),
    Outcome(TOO_LARGE, "more pixels, bytes or parts than the limits", "lasting", decoder=True, status=422),
    Outcome(OUTSIDE, "a link that leaves the folder", "lasting"),
    Outcome(MISSING, "the file is gone", "passing", decoder=True),
    Outcome(NO_ACCESS, "no permission, or the disk or network failed", "passing", decoder=True),
    Outcome(NEEDS_PLUGIN, "needs what is not installed; the reason names it", "passing", decoder=True, status=422),
    Outcome(TIMEOUT, "decoding took too long", "passing", status=422),
    Outcome(DIED, "the process that decodes it ended", "passing", status=422),
)
READ = frozenset(one.name for one in OUTCOMES if one.status == 200)  # outcomes of photos that have pixels
PASSING = frozenset(one.name for one in OUTCOMES if one.kind == "passing")
LASTING = tuple(one.name for one in OUTCOMES if one.kind == "lasting")
ANSWERS = frozenset(one.name for one in OUTCOMES if one.decoder)  # outcomes that a decoding process may answer with
OF_BYTES = tuple(one.name for one in OUTCOMES if one.status)  # outcomes of a photo that is sent as bytes
REFUSED = {one.name: one.status for one in OUTCOMES if one.status and one.status >= 400}  # the server does not search
