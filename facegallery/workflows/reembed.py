"""Give a gallery another model, from its stored crops."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegallery.embedder.compute import Compute
from facegallery.embedder.faces import picture
from facegallery.embedder.progress import Progress, unseen
from facegallery.embedder.replaceable import check_replaceable, write_own
from facegallery.indexer.store import outputs
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep import switch
from facegallery.indexer.upkeep.switch import SwitchComparison
from facegallery.workflows.photos import load_embedder
from facegallery.workflows.session import Where, session_of

if TYPE_CHECKING:
    from facegallery.embedder.weights.store import Model

COST = (
    "%s sees faces by five points, and the gallery stores crops of their boxes: its vectors differ from those of the "
    "photos, by a cosine of 0.991 in the mean on LFW; where the photos are at hand, embed them again"
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReembedOptions:
    """How a gallery gets another model."""

    views: str = "plain"  # of each crop
    report: Path | None = None  # the file that says who would be answered differently
    switch: bool = True  # else the gallery keeps its own model, and the same call with `switch` switches


@dataclass(frozen=True)
class Reembedded:
    """What the other model changes, and whether the gallery has it now."""

    index: str
    comparison: SwitchComparison
    switched: bool

    @property
    def text(self) -> str:
        """One line for people."""
        now = f"{self.index} answers with {self.comparison.after} now" if self.switched else "nothing is switched yet"
        return f"{self.comparison.text}; {now}"

    def result(self) -> dict[str, Any]:
        """As `reembed --json` prints it."""
        return asdict(self.comparison) | {"switched": self.switched}


def reembed(
    where: Where,
    reference: str,
    options: ReembedOptions = ReembedOptions(),  # noqa: B008
    *,
    progress: Progress = unseen,
) -> Reembedded:
    """Make vectors by another model beside the gallery's own, report what changes, and switch.

    Where it was stopped, the same call resumes.
    """
    from facegallery.embedder.weights.store import open_model

    if options.report is not None:
        check_replaceable(options.report, "comparison")
    model = open_model(reference).with_views(options.views)
    with session_of(where) as session, session.store(write=True) as store:
        switch.prepare(store, model.spec.with_crop(store.spec))
        if model.spec.sees_points and not store.spec.crop.window:
            log.info(COST, model.spec.model_name)
        _embed_missing(store, model, session.compute, progress)
        comparison = switch.compare(store)
        if options.report is not None:
            text = json.dumps(asdict(comparison), ensure_ascii=False, indent=1)
            write_own(options.report, "comparison", text.encode())
            outputs.note(store.folder, "report", options.report)
        if options.switch:
            _embed_missing(store, model, session.compute, progress)  # of faces that came meanwhile
            switch.switch(store)
            session.let_go()
        return Reembedded(session.name, comparison, options.switch)


def _embed_missing(store: Store, model: Model, compute: Compute, progress: Progress) -> None:
    total = switch.missing(store)
    if not total:
        return
    embedder, done = load_embedder(model, compute), 0
    for block in switch.pending(store):
        rule = store.spec.crop
        faces = [picture.read(face.crop, face.box, face.landmarks, rule, f"face {face.face_id}") for face in block]
        switch.store_vectors(store, block, embedder(faces, rule))
        done += len(block)
        progress(done, total)
