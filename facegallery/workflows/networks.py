"""Keep what turns photos into faces: the decoder, the detector and the network, from one call to the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from facegallery.embedder.compute import Compute
from facegallery.embedder.dataset.row import Row
from facegallery.embedder.photos.decoder import WORKERS, Decoder, Photo
from facegallery.embedder.spec import CropRule, FaceSpec
from facegallery.workflows.inputs import PhotoItem
from facegallery.workflows.photos import ANYWHERE, load_embedder, make_detector

if TYPE_CHECKING:
    from facegallery.embedder.faces.mtcnn import Detector
    from facegallery.embedder.network.runtime import Embedder
    from facegallery.embedder.pipeline import PhotoStage
    from facegallery.embedder.weights.store import Model

FEW = 32  # photos for which a network that is ready sooner wins
AHEAD = 2 * WORKERS  # photos that wait decoded


@dataclass(frozen=True)
class ReadOptions:
    """What is read of each photo."""

    one_face: bool = False  # the largest, most central one alone
    keep_pixels: bool = False  # of crops, in the rows
    keep_crops: bool = False  # PNGs, with the border of the contract's crops
    regions: bool = False  # the names of faces that somebody drew, too
    given: bool = False  # the faces that a CSV places, too


class Networks:
    """The decoder, the detector and the network of one model: each made when it is first needed, and kept.

    Use it from one thread at a time, and close it: the decoder is a pool of processes.
    """

    def __init__(
        self,
        model: Callable[[], Model] | None,
        detector: Mapping[str, Any],
        compute: Compute = ANYWHERE,
        crop: CropRule | None = None,
    ):
        """model: opens it; None for faces without vectors. detector: its settings. crop: None for the model's."""
        self._open_model, self._settings, self._compute, self._crop = model, detector, compute, crop
        self._model: Model | None = None
        self._detector: Detector | None = None
        self._embedder: Embedder | None = None
        self._few = True
        self._decoder: Decoder | None = None
        self._stages: dict[ReadOptions, PhotoStage] = {}

    @property
    def model(self) -> Model | None:
        """The model, its weights not read yet. Raises ModelError where it is not stored."""
        if self._model is None and self._open_model is not None:
            self._model = self._open_model()
        return self._model

    def rows(self, items: Sequence[PhotoItem], options: ReadOptions) -> Iterator[tuple[PhotoItem, Photo, list[Row]]]:
        """Yield each photo, without its pixels, and a row for each of its faces, or one that says why it has none."""
        photos = self._decoded(items, drawn=options.regions)  # decoding begins while the networks are made ready
        stage = self._stage(options, few=len(items) <= FEW)
        entries = {str(i): replace(item.entry, path=str(i)) for i, item in enumerate(items)}  # names may stand twice
        with closing(stage.rows(photos, entries)) as made:
            for item, (photo, rows) in zip(items, made, strict=True):
                photo.name = item.entry.path
                for row in rows:
                    row.image = item.entry.path
                yield item, photo, rows

    def _decoded(self, items: Sequence[PhotoItem], *, drawn: bool) -> Iterator[Photo]:
        """The photos in order, each called by its number; at most AHEAD wait decoded."""
        self._decoder = decoder = self._decoder or Decoder().__enter__()
        todo = (item.submit(decoder, drawn=drawn) for item in items)
        return self._numbered(todo, deque(islice(todo, AHEAD)))

    def _numbered(self, todo: Iterator[Future[Photo]], waiting: deque[Future[Photo]]) -> Iterator[Photo]:
        number = 0
        while waiting:
            waiting.extend(islice(todo, 1))
            photo = waiting.popleft().result()
            photo.name, number = str(number), number + 1
            yield photo

    def _stage(self, options: ReadOptions, *, few: bool) -> PhotoStage:
        """The stage for these options; the network for many photos replaces the one for a few."""
        if self._detector is None or (self._few and not few):
            self._load(few=few)
        if options not in self._stages:
            self._stages[options] = self._new_stage(options)
        return self._stages[options]

    def _load(self, *, few: bool) -> None:
        model = self.model  # before anything that takes long

        def load() -> Embedder | None:
            if model is None:
                return None
            embedder = load_embedder(model, self._compute, few=few)
            return embedder.load() if few else embedder

        with ThreadPoolExecutor(1) as thread:
            loading = thread.submit(load)
            import facegallery.embedder.pipeline  # noqa: F401  # meanwhile: it takes as long

            detector = self._detector or make_detector(self._settings, self._compute)
            if few:
                detector.load()
            self._embedder = loading.result()
        self._detector, self._few, self._stages = detector, few, {}

    def _new_stage(self, options: ReadOptions) -> PhotoStage:
        from facegallery.embedder.pipeline import Options, PhotoStage

        spec = FaceSpec() if self._embedder is None else self._embedder.spec
        crop = self._crop or spec.crop
        spec = replace(spec, crop=crop if options.keep_crops else replace(crop, border=0))
        each = Options(
            all_faces=not options.one_face,
            keep_crops=options.keep_crops,
            keep_pixels=options.keep_pixels,
            regions=options.regions,
            given=options.given,
        )
        assert self._detector is not None
        return PhotoStage(spec, self._detector, self._embedder, each)

    def close(self) -> None:
        """End the decoder's processes and let the networks go; photos that are being decoded are dropped."""
        if self._decoder is not None:
            self._decoder.__exit__()
        self._decoder = self._detector = self._embedder = None
        self._stages = {}
