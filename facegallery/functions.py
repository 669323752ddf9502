"""Detect, embed, align, train, evaluate and compare without a gallery at hand."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, overload

from facegallery import results
from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError
from facegallery.embedder.pipeline import Summary
from facegallery.embedder.progress import Progress, unseen
from facegallery.embedder.spec import CropRule, canonical_margin
from facegallery.embedder.weights.store import Model, open_model
from facegallery.folder import AnyPath
from facegallery.gallery import Gallery
from facegallery.workflows import compare as comparing
from facegallery.workflows import photos as to_data_sets
from facegallery.workflows.dedupe import dedupe as dedupe
from facegallery.workflows.evaluate import EvaluationResult
from facegallery.workflows.faces import find_faces
from facegallery.workflows.inputs import PhotoInput, PhotoInputs
from facegallery.workflows.networks import Networks, ReadOptions

log = logging.getLogger(__name__)
KEPT = 2  # models whose networks stay loaded
_networks: OrderedDict[Hashable, Networks] = OrderedDict()
_lock = threading.RLock()


def detect(
    photos: PhotoInputs,
    *,
    one_face: bool = False,
    crops: bool = False,
    detector: str | None = None,
    min_face: int = 20,
    max_side: int = 1024,
    device: str = "auto",
    precision: str = "auto",
) -> results.Faces:
    """Find the faces in photos.

    Args:
        photos: as for `Gallery.search`, but no data set.
        one_face: only the largest, most central face of each photo.
        crops: return the crop of each face, too, uint8 RGB (160, 160, 3).
        detector: what finds the faces: both (the default), yunet or mtcnn; the former two need `weights fetch yunet`.
        min_face: smallest face in pixels.
        max_side: larger photos are detected on a copy of this size.
        device: where the network runs: auto, cpu or gpu.
        precision: of the network's numbers: auto, f32, bf16 or int8.

    Returns:
        The faces, largest and most central first within a photo, without vectors.

    ```python
    for face in fg.detect("party.jpg"):
        print(face.box, face.confidence)
    ```
    """
    settings = to_data_sets.AlignOptions(algorithm=detector, min_face=min_face, max_side=max_side).detector
    compute = Compute(device, precision)
    key = "detect", detector, min_face, max_side, compute
    with _shared(key, lambda: Networks(None, settings, compute)) as networks:
        return find_faces(photos, networks, ReadOptions(one_face=one_face, keep_pixels=crops))


@overload
def embed(
    photos: PhotoInputs,
    *,
    out: None = None,
    model: AnyPath | Model = ...,
    views: str = ...,
    one_face: bool = ...,
    crops: bool = ...,
    detector: str | None = ...,
    turned: bool = ...,
    device: str = ...,
    precision: str = ...,
) -> results.Faces: ...


@overload
def embed(
    photos: AnyPath,
    *,
    out: AnyPath,
    model: AnyPath | Model = ...,
    views: str = ...,
    one_face: bool = ...,
    crops: bool = ...,
    detector: str | None = ...,
    turned: bool = ...,
    metadata: AnyPath | None = ...,
    level: int | None = ...,
    prune: bool = ...,
    device: str = ...,
    precision: str = ...,
    progress: Progress | None = ...,
) -> Summary: ...


def embed(
    photos: PhotoInputs,
    *,
    out: AnyPath | None = None,
    model: AnyPath | Model = "sface",
    views: str = "plain",
    one_face: bool | None = None,
    crops: bool | None = None,
    detector: str | None = None,
    turned: bool = False,
    metadata: AnyPath | None = None,
    level: int | None = None,
    prune: bool = False,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> results.Faces | Summary:
    """Embed the faces in photos: return them with vectors, or write them to a data set.

    Args:
        photos: as for `Gallery.search`; with `out`, a folder, a photo, a CSV, or a data set of crops.
        out: the folder of a data set to write instead of returning the faces; the same call again resumes it.
        model: a known name, a model's folder, or an opened model.
        views: what each network sees of a crop: plain, mirror, margins or all.
        one_face: only the largest, most central face of each photo. By default all are returned, and one is written.
        crops: with the crop of each face. By default they are written, and not returned.
        detector: what finds the faces: both (the default), yunet or mtcnn; the former two need `weights fetch yunet`.
        turned: where no face is sure, look at the photo turned by 90, 180 and 270 degrees; for models such as sface.
        metadata: with `out`, a CSV `image,...` whose other columns go into the rows.
        level: with `out`, the folder that names the person, from the root; None: nearest to the photo; 0: its name.
        prune: with `out`, drop the rows of photos that are gone.
        device: where the network runs: auto, cpu or gpu.
        precision: of the network's numbers: auto, f32, bf16 or int8.
        progress: with `out`, called with the number of photos done and of all.

    Raises:
        ModelError: the model is not stored.
        DataError: a path where nothing is.

    ```python
    faces = fg.embed("party.jpg")
    print(faces[0].box, faces[0].vector.shape, faces.vectors.shape)
    ```
    """
    opened = (model if isinstance(model, Model) else open_model(str(model))).with_views(views)
    compute = Compute(device, precision)
    if out is None:
        key = "embed", opened.spec.fingerprint, opened.files, detector, turned, compute
        given = to_data_sets.EmbedOptions(algorithm=detector, turned=turned)
        opened.spec.check_turned({"turned": turned})
        options = ReadOptions(one_face=bool(one_face), keep_pixels=bool(crops))
        with _shared(key, lambda: Networks(lambda: opened, given.detector, compute)) as networks:
            return find_faces(photos, networks, options)
    to_data_set = to_data_sets.EmbedOptions(
        all_faces=one_face is False,
        keep_crops=crops is not False,
        prune=prune,
        metadata=None if metadata is None else Path(metadata),
        level=level,
        algorithm=detector,
        turned=turned,
    )
    embedder = to_data_sets.load_embedder(opened, compute)
    return to_data_sets.embed(_path(photos), Path(out), embedder, to_data_set, progress=progress or unseen)


def align(
    photos: AnyPath,
    out: AnyPath,
    *,
    margin: str = "0.25",
    border: int = 0,
    no_face: str = "skip",
    all_faces: bool = False,
    detector: str | None = None,
    min_face: int = 20,
    max_side: int = 1024,
    metadata: AnyPath | None = None,
    level: int | None = None,
    prune: bool = False,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Summary:
    """Crop the faces of photos to a data set; the same call again resumes it.

    Args:
        photos: a folder, a photo or a CSV.
        out: the folder of the data set.
        margin: around the box: a share of it, or pixels such as 32px.
        border: pixels kept beyond 160 on each side, for training's jitter.
        no_face: what becomes of a photo without a face: skip, or whole (the photo is the crop).
        all_faces: a row for every face; face 0 keeps the folder's name.
        detector: what finds the faces: both (the default), yunet or mtcnn; the former two need `weights fetch yunet`.
        min_face: smallest face in pixels.
        max_side: larger photos are detected on a copy of this size.
        metadata: a CSV `image,...` whose other columns go into the rows.
        level: the folder that names the person, from the root; None: nearest to the photo; 0: its name.
        prune: drop the rows of photos that are gone.
        device: where the network runs: auto, cpu or gpu.
        precision: of the network's numbers: auto, f32, bf16 or int8.
        progress: called with the number of photos done and of all.

    ```python
    print(fg.align("photos/", "crops/").outcomes)
    ```
    """
    options = to_data_sets.AlignOptions(
        all_faces=all_faces,
        prune=prune,
        metadata=None if metadata is None else Path(metadata),
        level=level,
        rule=CropRule(margin=canonical_margin(margin), border=border, no_face=no_face),
        min_face=min_face,
        max_side=max_side,
        algorithm=detector,
    )
    compute = Compute(device, precision)
    return to_data_sets.align(Path(photos), Path(out), options, compute=compute, progress=progress or unseen)


def train(
    crops: AnyPath,
    out: AnyPath,
    *,
    recipe: AnyPath = "quick",
    base: AnyPath = "sface",
    validate: AnyPath | None = None,
    split: str | Sequence[str] = (),
    epochs: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    keep_run: bool = False,
    log_dir: AnyPath | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> results.Trained:
    """Finetune a model on crops of people, in two stages: the classification head, then the layers below it.

    Args:
        crops: a data set of `align` or `embed`.
        out: the folder of the new model; the same call again resumes it.
        recipe: quick, homework, margin, distil, or a TOML file.
        base: the model to start from: a known name or a model's folder.
        validate: crops of other people: the epoch that retrieves them best is kept.
        split: the split that trains, several, or `all`. Without one, `train`, else `gallery`, else the rows of a data
            set without splits.
        epochs: epochs of each stage instead of the recipe's.
        overrides: other values for keys of the recipe, such as `{"stage.2.learning_rate": 1e-4, "pull_back": 0.5}`.
        seed: of everything that chance decides.
        keep_run: keep checkpoints, the head and the model after each stage in `out/run`.
        log_dir: a folder for the run's events, which TensorBoard shows.
        device: where the network runs: auto, cpu or gpu.
        precision: of the network's numbers: auto, f32 or bf16.

    Raises:
        DataError: `out` holds another run, or the crops are of too few people.
        InputError: an option that cannot be, or a split that is not there.

    ```python
    fg.embed("photos/", out="faces/")
    print(fg.train("faces/", "model/").networks[0].delivered)
    faces = fg.embed("party.jpg", model="model/")
    ```
    """
    from facegallery.embedder.network.quiet import import_tensorflow
    from facegallery.trainer.recipe import read as read_recipe

    plan = read_recipe(str(recipe)).with_overrides(overrides or {})
    import_tensorflow()
    from facegallery.trainer.train import TrainingOptions
    from facegallery.trainer.train import train as run

    options = TrainingOptions(
        validate=None if validate is None else Path(validate),
        split=(split,) if isinstance(split, str) else tuple(split),
        epochs=None if epochs is None else tuple(epochs),
        seed=seed,
        compute=Compute(device, precision),
        keep_run=keep_run,
        log_dir=None if log_dir is None else Path(log_dir),
    )
    record = run(Path(crops), plan, str(base), Path(out), options)
    networks = tuple(map(_trained_network, record["networks"]))
    return results.Trained(str(out), networks, record["data"]["photos"], record["data"]["people"])


def _trained_network(network: Mapping[str, Any]) -> results.TrainedNetwork:
    """One network's part of a run's record."""
    validation = network["validation_top1"]
    return results.TrainedNetwork(
        name=network["name"],
        sha256=network["sha256"],
        parent=network["parent"],
        delivered=network["delivered"],
        seconds=sum(stage["seconds"] for stage in network["stages"]),
        best_top1=None if validation is None else validation["best"],
    )


def evaluate(
    gallery: AnyPath | Gallery,
    probes: AnyPath,
    *,
    strangers: Sequence[AnyPath] = (),
    split: str | None = None,
    by: str | None = None,
    report: AnyPath | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Measure how well a gallery answers probes whose people are known; see `Gallery.evaluate`.

    ```python
    print(fg.evaluate("people", "probes/").top1)
    ```
    """

    def ask(opened: Gallery) -> EvaluationResult:
        return opened.evaluate(probes, strangers=strangers, split=split, by=by, report=report, progress=progress)

    if isinstance(gallery, Gallery):
        return ask(gallery)
    with Gallery(gallery) as opened:
        return ask(opened)


def compare(
    first: PhotoInput,
    second: PhotoInput,
    *,
    model: AnyPath | Model = "sface",
    device: str = "auto",
    precision: str = "auto",
) -> results.Compared:
    """Compare the largest, most central faces of two photos.

    Args:
        first: a photo, as for `Gallery.search`, but no folder.
        second: another photo.
        model: a known name, a model's folder, or an opened model.
        device: where the network runs: auto, cpu or gpu.
        precision: of the network's numbers: auto, f32, bf16 or int8.

    Raises:
        DataError: a photo without a face.

    ```python
    print(fg.compare("party.jpg", "photos/s1/1.pgm").score)
    ```
    """
    opened = model if isinstance(model, Model) else open_model(str(model))
    compute = Compute(device, precision)
    key = (
        "embed",
        opened.spec.fingerprint,
        opened.files,
        None,
        False,
        compute,
    )  # as `embed` has it, with the default detector
    with _shared(key, lambda: Networks(lambda: opened, {}, compute)) as networks:
        return comparing.compare(first, second, networks)


def _path(photos: object) -> Path:
    if not isinstance(photos, str | PathLike):
        raise InputError("expected a path to embed to a data set, received photos themselves: leave `out` out")
    return Path(photos)


@contextmanager
def _shared(key: Hashable, make: Callable[[], Networks]) -> Iterator[Networks]:
    """Networks that stay loaded from one call to the next, for one thread at a time."""
    with _lock:
        if key not in _networks:
            _networks[key] = make()
        _networks.move_to_end(key)
        while len(_networks) > KEPT:
            _networks.popitem(last=False)[1].close()
        yield _networks[key]


@atexit.register
def _let_go() -> None:
    """End the decoders' processes."""
    with _lock:
        while _networks:
            _networks.popitem()[1].close()
