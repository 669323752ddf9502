"""Find, crop and embed the faces of photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegallery.embedder.compute import Compute
from facegallery.embedder.dataset.dataset import DataSet, is_data_set
from facegallery.embedder.errors import InputError
from facegallery.embedder.photos.listing import list_photos
from facegallery.embedder.photos.understood import Understood
from facegallery.embedder.spec import CropRule, FaceSpec

if TYPE_CHECKING:
    from facegallery.embedder.faces.mtcnn import Detector
    from facegallery.embedder.network.runtime import Embedder
    from facegallery.embedder.pipeline import OnProgress, Options, Summary

Say = Callable[[str], None]
ANYWHERE = Compute()


def quietly(line: str) -> None:
    """A `Say` that says nothing."""


def make_detector(settings: Mapping[str, Any], compute: Compute = ANYWHERE) -> Detector:
    """The MTCNN detector, with `min_face` and `max_side` where they are given, as a contract's record has them."""
    from facegallery.embedder.faces.mtcnn import MAX_SIDE, MIN_FACE, MtcnnDetector

    return MtcnnDetector(settings.get("min_face", MIN_FACE), settings.get("max_side", MAX_SIDE), compute)


def make_embedder(reference: str, compute: Compute, views: str, say: Say, few: bool = False) -> Embedder:
    """The model called `reference`, ready to run, for a few photos sooner; says what runs where."""
    from facegallery.embedder.weights.store import open_model

    return load_embedder(open_model(reference).with_views(views), compute, say, few)


def load_embedder(model, compute: Compute, say: Say, few: bool = False) -> Embedder:
    """An opened model, ready to run; for a few photos sooner."""
    from facegallery.embedder.network.runtime import Embedder

    embedder = Embedder(model, compute, few=few)
    say(embedder.where)
    return embedder


def align(
    photos: Path,
    out: Path,
    rule: CropRule,
    options: Options,
    metadata: Path | None,
    settings: dict[str, int],
    compute: Compute,
    on_progress: OnProgress,
    say: Say,
    level: int | None = None,
) -> Summary:
    """Photos -> a data set of crops. level: which folder names the person, as `facegallery.embedder.photos.folders.labels_of` has it."""
    from facegallery.embedder.pipeline import PhotoStage, process_photos

    listing = list_photos(photos, metadata, level)
    say_understood(listing.understood(), say)
    detector = make_detector(settings, compute)
    say(detector.where)
    stage = PhotoStage(FaceSpec(crop=rule), detector, None, options)
    return process_photos(listing, out, stage, "align", on_progress)


def embed(
    source: Path,
    out: Path,
    embedder: Embedder,
    options: Options,
    metadata: Path | None,
    on_progress: OnProgress,
    say: Say = quietly,
    level: int | None = None,
) -> Summary:
    """Photos, or a data set of crops -> a data set of unit vectors. level: as for `align`."""
    from facegallery.embedder.pipeline import PhotoStage, process_crops, process_photos

    if source.is_dir() and is_data_set(source):
        if metadata or options.all_faces or options.retry or level is not None:
            raise InputError(
                "expected photos for --metadata, --all-faces, --retry and --identity-level, received crops: give those options to `align`"
            )
        return process_crops(DataSet(source), out, embedder, on_progress, keep_crops=options.keep_crops)
    listing = list_photos(source, metadata, level)
    say_understood(listing.understood(), say)
    stage = PhotoStage(embedder.spec, make_detector({}, embedder.compute), embedder, options)
    return process_photos(listing, out, stage, "embed", on_progress)


def say_understood(understood: Understood, say: Say) -> None:
    """Says whose the photos are taken to be, before anything is done with them."""
    for line in understood.lines:
        say(line)
