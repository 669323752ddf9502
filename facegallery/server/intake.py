"""Photos -> faces with vectors: many requests share the detector and the network."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from hashlib import sha256

import numpy as np

from facegallery.embedder.dataset.row import Entry, Row
from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.machine import cores
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.photos.decoder import WORKERS, Decoder, Photo
from facegallery.embedder.pipeline import Options, PhotoStage, chunks
from facegallery.indexer.search.searcher import Searcher
from facegallery.server.batches import Batcher, Full
from facegallery.server.settings import Settings
from facegallery.workflows.photos import load_embedder, make_detector
from facegallery.workflows.probes import fitting_model

PAIR = (
    2  # faces that the network takes at a time: 6 % slower than 8, which must be filled up, and batches hold any number
)
LOOK_SECONDS = 0.02  # from one look at what is still in it to the next
WAITING_BYTES = 256 << 20  # not yet decoded, of all photos together
WAITING_LARGE = 4  # photos of the most pixels that are decoded and wait for the networks: 600 MB
IN_DECODER = WORKERS + 1  # photos, of which one waits for a process; decoded they keep their place until there is room

Say = Callable[[str], None]
Faces = tuple[Photo, list[Row]]


class Elastic:
    """A network that is ready at once and quick with few faces, and one for many as soon as that is ready too; as for a command, 'auto' may be
    int8 with many only."""

    def __init__(self, few: Embedder, many: Embedder, say: Say):
        self.spec, self.compute, self._few, self._many = few.spec, few.compute, few, few
        self._say = say
        self._loading = threading.Thread(target=self._load, args=(many,), daemon=True)
        self._loading.start()

    def _load(self, many: Embedder) -> None:
        try:
            many(np.zeros((PAIR, self.spec.crop.size, self.spec.crop.size, 3), np.uint8))
        except FaceGalleryError as error:  # the other one goes on
            self._say(str(error))
        else:
            self._many = many

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        return (self._few if len(crops) == 1 else self._many)(crops)

    def close(self) -> None:
        """Waits for what is being loaded: OpenVINO aborts a process that ends in the middle of it."""
        self._loading.join()


class Intake:
    """Photos as bytes -> what is in them, by the model and the crops of one index; as long as the server runs."""

    def __init__(self, searcher: Searcher, settings: Settings, say: Say, observe: Callable[[int], None]):
        model, compute = fitting_model(searcher), settings.compute
        few = load_embedder(model, compute, few=True).load()
        many = Embedder(model, compute, batch=PAIR)
        detector = make_detector(searcher.spec.detector, compute).load()
        self._lock = threading.Lock()
        options = Options(all_faces=True, keep_crops=False, keep_pixels=True, most_faces=settings.photo_faces)
        self.spec = replace(few.spec, crop=searcher.spec.crop)
        self._network = Elastic(few, many, say)
        self._stage = PhotoStage(self.spec, detector, self._network, options)  # type: ignore[arg-type]
        self._decoder, self._most = Decoder(most_pixels=settings.photo_pixels).__enter__(), settings.queue
        self._coming, self._undecoded, self._bytes, self._pixels = 0, 0, 0, 0
        self._ends = False
        self._room = WAITING_LARGE * settings.photo_pixels
        self._places, self._turn = asyncio.Semaphore(IN_DECODER), asyncio.Lock()
        self._batches: Batcher[Photo, Faces] = Batcher(
            lambda: self._of_photos,
            cores(),
            settings.batch,
            settings.wait,
            settings.queue,
            observe,
            lambda: self._coming > 0,
        )

    def __len__(self) -> int:
        """How many photos wait, to be decoded or for the networks."""
        return self._undecoded + len(self._batches)

    async def faces(self, data: bytes, name: str) -> Faces:
        """A photo without its pixels, and a row for each face, or one that says why there is none. Raises Full where too much waits."""
        if len(self) >= self._most or self._bytes + len(data) > WAITING_BYTES:
            raise Full
        self._count(photos=1, size=len(data))
        try:
            async with self._places:
                found = await self._decoded(data, name)
        finally:
            self._count(photos=-1, size=-len(data))
        return await asyncio.wrap_future(found)

    async def _decoded(self, data: bytes, name: str) -> Future[Faces]:
        """What becomes of a photo that is decoded once, however long it then waits for room."""
        self._coming += 1
        try:
            photo = self._stage.checked(await asyncio.wrap_future(self._submit(data, name)))
            if self._ends:  # its decoder may have been killed for that
                raise Full
            size = 0 if photo.pixels is None else photo.pixels.shape[0] * photo.pixels.shape[1]
            async with self._turn:  # a large one, too, has its turn
                while self._pixels and self._pixels + size > self._room:
                    await asyncio.sleep(LOOK_SECONDS)
            found = self._batches.submit(photo)
        finally:
            self._coming -= 1
        self._count(pixels=size)
        found.add_done_callback(lambda _: self._count(pixels=-size))
        return found

    def _submit(self, data: bytes, name: str) -> Future[Photo]:
        try:
            return self._decoder.submit_bytes(name, data)
        except RuntimeError:  # it ends
            raise Full from None

    def _count(self, photos: int = 0, size: int = 0, pixels: int = 0) -> None:
        with self._lock:
            self._undecoded += photos
            self._bytes += size
            self._pixels += pixels

    def _of_photos(self, photos: Sequence[Photo]) -> list[Faces]:
        found: list[Faces] = []
        for chunk in chunks(iter(photos)):
            found += self._stage.of_chunk(chunk, [Entry(photo.name, 0, 0) for photo in chunk])
        return found

    def close(self, seconds: float = math.inf) -> None:
        """Do what was begun, for at most so many seconds, and end."""
        until = time.monotonic() + seconds
        while len(self) and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
        self._ends = True
        self._decoder.__exit__()
        self._batches.close()
        self._network.close()


def photo_name(data: bytes, given: str | None) -> str:
    """What a photo without a file is called."""
    return given or f"upload-{sha256(data).hexdigest()[:16]}"
