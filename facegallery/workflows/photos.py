"""Find, crop and embed the faces of photos, to data sets."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegallery.embedder.compute import Compute
from facegallery.embedder.dataset.dataset import DataSet, is_data_set
from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.faces.names import FOLDERS, WITH_REGIONS, WITHOUT_FOLDERS
from facegallery.embedder.photos.listing import Listing, list_photos
from facegallery.embedder.photos.understood import Understood
from facegallery.embedder.progress import Progress, unseen
from facegallery.embedder.spec import CropRule, FaceSpec

if TYPE_CHECKING:
    from facegallery.embedder.faces.mtcnn import Detector
    from facegallery.embedder.network.runtime import Embedder
    from facegallery.embedder.pipeline import Options, Summary
    from facegallery.embedder.weights.store import Model

ANYWHERE = Compute()
LEVEL_OF_NOTHING = "expected --identity-level with names from folders, received --names-from {}: leave one out"
DEFAULT_MODEL = "sface"  # of new vectors and galleries
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbedOptions:
    """What `embed` does with each photo, and what it knows of it beside its path."""

    all_faces: bool = False  # a row for every face; face 0 keeps the folder's name
    keep_crops: bool = True
    prune: bool = False  # drop the rows of photos that are gone
    retry: frozenset[str] = frozenset()  # lasting outcomes of earlier runs whose photos are processed again
    metadata: Path | None = None  # a CSV `image,...` whose other columns go into the rows
    level: int | None = None  # which folder names the person, as `embedder.photos.folders.labels_of` has it
    algorithm: str | None = None  # the name of the detector; None: DEFAULT_DETECTOR
    turned: bool = False  # look at turned photos too, where no face is sure
    names_from: str = FOLDERS  # what names the people: FOLDERS, REGIONS that somebody drew, EITHER or NOBODY

    @property
    def detector(self) -> dict[str, Any]:
        """The settings of the detector that are given."""
        return _given(algorithm=self.algorithm, turned=self.turned or None)

    @property
    def each(self) -> Options:
        """What is done with each photo."""
        from facegallery.embedder.pipeline import Options  # takes half a second

        regions = self.names_from in WITH_REGIONS
        return Options(self.all_faces, self.keep_crops, self.prune, retry=self.retry, regions=regions)

    def listed(self, photos: Path) -> Listing:
        """Return the photos; log whose they are where folders or a CSV say so.

        Raise InputError for a level where no folder names anybody.
        """
        if self.names_from in WITHOUT_FOLDERS and self.level is not None:
            raise InputError(LEVEL_OF_NOTHING.format(self.names_from))
        listing = list_photos(photos, self.metadata, self.level)
        if self.names_from in WITHOUT_FOLDERS:
            return listing.nameless()
        log_understood(listing.understood())
        return listing


@dataclass(frozen=True)
class AlignOptions(EmbedOptions):
    """What `align` does with each photo, and what it knows of it beside its path."""

    rule: CropRule = CropRule()
    min_face: int | None = None  # pixels; None: the detector's own
    max_side: int | None = None  # pixels of the copy on which larger photos are detected; None: the detector's own

    @property
    def detector(self) -> dict[str, Any]:
        """The settings of the detector that are given."""
        return _given(algorithm=self.algorithm, min_face=self.min_face, max_side=self.max_side)


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def make_detector(settings: Mapping[str, Any], compute: Compute = ANYWHERE) -> Detector:
    """Make the detector of a contract's record, or of those of its settings that are given.

    settings: `algorithm` (one of DETECTORS), `min_face` and `max_side`. Raise InputError for another algorithm.
    """
    from facegallery.embedder.faces.detectors import make

    return make(settings, compute)


def make_embedder(reference: str, compute: Compute = ANYWHERE, views: str = "plain") -> Embedder:
    """Make the network of the model called `reference`, and log what runs where."""
    from facegallery.embedder.weights.store import open_model

    return load_embedder(open_model(reference).with_views(views), compute)


def model_spec(reference: str) -> FaceSpec:
    """Return the contract of the vectors that the model called `reference` makes here."""
    from facegallery.embedder.network.runtime import Embedder
    from facegallery.embedder.weights.store import open_model

    return Embedder(open_model(reference)).spec


def load_embedder(model: Model, compute: Compute, *, few: bool = False) -> Embedder:
    """Make the network of an opened model, and log what runs where; few: ready sooner, but slower for many crops."""
    from facegallery.embedder.network.runtime import Embedder

    embedder = Embedder(model, compute, few=few)
    log.info(embedder.where)
    return embedder


def align(
    photos: Path,
    out: Path,
    options: AlignOptions = AlignOptions(),  # noqa: B008
    *,
    compute: Compute = ANYWHERE,
    progress: Progress = unseen,
) -> Summary:
    """Crop the faces of photos to a data set."""
    from facegallery.embedder.pipeline import PhotoStage, process_photos

    listing = options.listed(photos)
    detector = make_detector(options.detector, compute)
    log.info(detector.where)
    stage = PhotoStage(FaceSpec(crop=options.rule), detector, None, options.each)
    return process_photos(listing, out, stage, "align", progress)


def embed(
    source: Path,
    out: Path,
    embedder: Embedder,
    options: EmbedOptions = EmbedOptions(),  # noqa: B008
    *,
    progress: Progress = unseen,
) -> Summary:
    """Embed photos, or the crops of a data set, to a data set of unit vectors.

    Where `out` has vectors of the same networks, they see faces as they did then.
    """
    from facegallery.embedder.pipeline import PhotoStage, process_crops, process_photos

    with suppress(DataError):  # nothing is finished
        embedder = _as_before(embedder, out)
    if is_data_set(source):
        _check_for_crops(options)
        return process_crops(DataSet(source), out, embedder, progress, keep_crops=options.keep_crops)
    embedder.spec.check_turned({"turned": options.turned})
    listing = options.listed(source)
    stage = PhotoStage(embedder.spec, make_detector(options.detector, embedder.compute), embedder, options.each)
    return process_photos(listing, out, stage, "embed", progress)


def _as_before(embedder: Embedder, out: Path) -> Embedder:
    """Return the embedder as it made the data set `out`; raise DataError where there is none."""
    other = embedder.seeing_as(DataSet(out).spec)
    if other is not embedder:
        name = embedder.spec.model_name
        log.info(f"{out} keeps the crops that {name} saw in an earlier version: a new --out has the new ones")
    return other


def _check_for_crops(options: EmbedOptions) -> None:
    """Raise InputError for options that only photos can have."""
    if options.metadata or options.all_faces or options.retry or options.level is not None or options.algorithm:
        raise InputError(
            "expected photos for --metadata, --all-faces, --retry, --identity-level and --detector, received crops: "
            "give those options to `align`"
        )
    if options.turned:
        raise InputError("expected photos for --turned, received crops: give the photos")
    if options.names_from != FOLDERS:
        raise InputError("expected photos for --names-from, received crops: give that option to `align`")


def log_understood(understood: Understood) -> None:
    """Log whose the photos are taken to be, before anything is done with them."""
    for line in understood.lines:
        log.info(line)
