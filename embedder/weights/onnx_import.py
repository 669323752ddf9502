"""Store a user's ONNX face network, once a trial on faces has accepted it."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, fields
from pathlib import Path

from facegallery.embedder.errors import InputError, ModelError
from facegallery.embedder.network.onnx_network import LEAST_DIMENSION, LEAST_SIDE, MOST_SIDE, USUAL_SIDE
from facegallery.embedder.network.shapes import check_size
from facegallery.embedder.spec import BOXED, Part, box_at
from facegallery.embedder.weights import onnx_check
from facegallery.embedder.weights.known import KNOWN
from facegallery.embedder.weights.onnx_check import Finding, Trial
from facegallery.embedder.weights.store import write_part

log = logging.getLogger(__name__)
CROPS = {"points": "arcface", "box": "box"}  # as the user says it -> as the contract has it, without a zoom
USUAL_MEAN = USUAL_SCALE = 127.5  # -1 to 1, as most networks that were trained with InsightFace's code


@dataclass(frozen=True)
class Seen:
    """What an ONNX network sees of a face; None where the user does not say.

    crop: 'points' or 'box'. size: pixels. colour: 'rgb' or 'bgr'. mean, scale: the network sees (x - mean) / scale.
    """

    crop: str | None = None
    size: int | None = None
    colour: str | None = None
    mean: float | None = None
    scale: float | None = None

    @property
    def given(self) -> list[str]:
        """The options that the user gave."""
        return [f"--{field.name}" for field in fields(self) if getattr(self, field.name) is not None]


def import_onnx(file: Path, name: str, seen: Seen, zoom: float | None = None) -> Part:
    """Store an ONNX network under its own hash as `name`; return the network.

    Raise InputError for options that no network has, ModelError for a file that is refused (`onnx_check.check`).
    """
    unknown = Finding(seen.size or USUAL_SIDE, LEAST_DIMENSION, together=False, pictures="")
    draft = _part(name, "0" * 64, seen, unknown, zoom)
    if not LEAST_SIDE <= draft.size <= MOST_SIDE:
        raise InputError(f"expected --size of {LEAST_SIDE} to {MOST_SIDE} pixels, received {draft.size}")
    if draft.zoom != 1 and draft.crop not in BOXED:
        raise InputError("expected --zoom with --crop box, received --crop points: leave --zoom out")
    check_size(file)
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    _check_unknown(file, digest)
    finding = onnx_check.check(data, str(file), Trial(seen.size, draft.mean, draft.scale))
    part = _part(name, digest, seen, finding, zoom)
    write_part(part, data)
    onnx_check.note(part, finding)
    _report(part, seen, finding)
    return part


def _check_unknown(file: Path, digest: str) -> None:
    """Raise ModelError for the file of known weights, which another command converts."""
    known = next((known.name for known in KNOWN.values() if known.file_sha256 == digest), None)
    if known:
        raise ModelError(
            f"expected a network that is not known, {file} is {known}: run `weights fetch {known} --from {file}`"
        )


def _part(name: str, sha256: str, seen: Seen, finding: Finding, zoom: float | None) -> Part:
    mean, scale = (USUAL_MEAN if seen.mean is None else seen.mean), (USUAL_SCALE if seen.scale is None else seen.scale)
    crop, zoom = CROPS[seen.crop or "points"], zoom or 1.0
    return Part(
        name,
        sha256,
        finding.dimension,
        "affine",
        zoom=zoom,
        network="onnx",
        crop=box_at(zoom) if crop in BOXED else crop,
        size=finding.side,
        colour=(seen.colour or "rgb").upper(),
        mean=mean,
        scale=scale,
    )


def _report(part: Part, seen: Seen, finding: Finding) -> None:
    """Log what was assumed and what was checked."""
    crop = "box" if part.crop in BOXED else "points"
    taken = {"crop": crop, "size": part.size, "colour": part.colour.lower(), "mean": part.mean, "scale": part.scale}
    said = [option.removeprefix("--") for option in seen.given]
    assumed = [
        f"--{option} {value:g}" if isinstance(value, float) else f"--{option} {value}"
        for option, value in taken.items()
        if option not in said
    ]
    if assumed:
        log.info("%s: assumed %s; import it again with others if its source says so", part.name, " ".join(assumed))
    how = "the same alone and in a batch" if finding.together else "run one at a time, as a batch of 1 is burnt in"
    log.info("%s: checked on %s: finite, the same twice, %s", part.name, finding.pictures, how)
