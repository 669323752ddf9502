"""Find the faces of photos and embed them, many requests at a time."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from facegallery.embedder.dataset.row import Entry, Row
from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.faces.picture import FacePicture, plain_crop
from facegallery.embedder.machine import cores
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.photos.decoder import WORKERS, Decoder, Photo
from facegallery.embedder.pipeline import Options, PhotoStage, chunks
from facegallery.embedder.spec import CropRule
from facegallery.indexer.search.searcher import Searcher
from facegallery.server.batches import Batcher, BatchOptions, QueueFull
from facegallery.server.settings import Settings
from facegallery.workflows.inputs import hash_of_pixels
from facegallery.workflows.photos import load_embedder, make_detector
from facegallery.workflows.probes import fitting_model

NETWORK_BATCH = 2  # faces; 6 % slower than 8, but batches have any number of faces, and 8 must be padded
POLL_SECONDS = 0.02  # between two looks at what still waits
WAITING_BYTES = 256 << 20  # total size of the photos that wait to be decoded
WAITING_LARGE = 4  # decoded photos of the largest size that may wait for the networks: 600 MB
IN_DECODER = WORKERS + 1  # photos, one of which waits for a process; each keeps its place until there is room
log = logging.getLogger("facegallery.server")

Faces = tuple[Photo, list[Row]]


@dataclass(frozen=True)
class SentPhoto:
    """A photo as it was sent.

    by_pixels: the photo is an array that was sent as a file: its hash, and so the ids of its faces, come from its
    pixels, as for an array that is given to a local gallery.
    """

    data: bytes
    name: str
    by_pixels: bool = False

    @classmethod
    def of(cls, data: bytes, name: str | None, *, by_pixels: bool = False) -> SentPhoto:
        """Return a photo, with a name made from the hash of its bytes where it has none."""
        return cls(data, name or f"upload-{sha256(data).hexdigest()[:16]}", by_pixels)


class SwitchingEmbedder:
    """An embedder for single faces that is ready at once, and one for batches that takes over batches once loaded.

    As for a command, precision "auto" may mean int8 for batches only.
    """

    def __init__(self, few: Embedder, many: Embedder):
        self.spec, self.compute, self._few, self._many = few.spec, few.compute, few, few
        self._loading = threading.Thread(target=self._load, args=(many,), daemon=True)
        self._loading.start()

    def _load(self, many: Embedder) -> None:
        try:
            side = self.spec.crop.size
            many.measured([plain_crop(np.zeros((side, side, 3), np.uint8))] * NETWORK_BATCH, CropRule())
        except FaceGalleryError as error:  # the embedder for single faces answers batches, too
            log.warning("%s", error)
        else:
            self._many = many

    def measured(
        self, faces: Sequence[FacePicture], rule: CropRule | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Embed faces; arguments and results as for `Embedder.measured`."""
        return (self._few if len(faces) == 1 else self._many).measured(faces, rule)

    def close(self) -> None:
        """Wait until loading has ended: OpenVINO aborts a process that exits while it loads a network."""
        self._loading.join()


class Intake:
    """The detector and the networks for one contract, which find the faces of photos for as long as the server runs."""

    def __init__(self, searcher: Searcher, settings: Settings, observe: Callable[[int], None]):
        """observe: receives the size of each batch of photos."""
        model, compute = fitting_model(searcher), settings.compute
        few = load_embedder(model, compute, few=True).load()
        detector = make_detector(searcher.spec.detector, compute).load()
        options = Options(all_faces=True, keep_crops=False, keep_pixels=True, most_faces=settings.photo_faces)
        self._lock = threading.Lock()
        self.spec = replace(few.spec, crop=searcher.spec.crop)
        self._network = SwitchingEmbedder(few, Embedder(model, compute, batch=NETWORK_BATCH))
        self._stage = PhotoStage(self.spec, detector, self._network, options)  # type: ignore[arg-type]
        self._decoder, self._most = Decoder(most_pixels=settings.photo_pixels).__enter__(), settings.queue
        self._coming, self._undecoded, self._bytes, self._pixels = 0, 0, 0, 0
        self._is_closing = False
        self._room = WAITING_LARGE * settings.photo_pixels
        self._places, self._turn = asyncio.Semaphore(IN_DECODER), asyncio.Lock()
        self._batches: Batcher[Photo, Faces] = Batcher(
            lambda: self._faces_of,
            BatchOptions(
                threads=cores(),
                size=settings.batch,
                wait=settings.wait,
                room=settings.queue,
                observe=observe,
                expects=lambda: self._coming > 0,
            ),
        )

    def __len__(self) -> int:
        """Return how many photos wait to be decoded or for the networks."""
        return self._undecoded + len(self._batches)

    async def faces(self, sent: SentPhoto) -> Faces:
        """Find and embed the faces of a photo.

        Returns the photo without its pixels, and a row for each face, or one row that says why there is none. Raises
        QueueFull where too many photos wait.
        """
        size = len(sent.data)
        if len(self) >= self._most or self._bytes + size > WAITING_BYTES:
            raise QueueFull
        self._count(photos=1, size=size)
        try:
            async with self._places:
                found = await self._decoded(sent)
        finally:
            self._count(photos=-1, size=-size)
        return await asyncio.wrap_future(found)

    async def _decoded(self, sent: SentPhoto) -> Future[Faces]:
        """Decode a photo once, however long it then waits for room, and submit it to the networks."""
        self._coming += 1
        try:
            photo = self._stage.checked(await asyncio.wrap_future(self._submit(sent.data, sent.name)))
            if sent.by_pixels and photo.pixels is not None:
                photo = replace(photo, sha256=await asyncio.to_thread(hash_of_pixels, photo.pixels))
            if self._is_closing:  # which may have killed the decoder of this photo
                raise QueueFull
            size = 0 if photo.pixels is None else photo.pixels.shape[0] * photo.pixels.shape[1]
            async with self._turn:  # so that small photos do not overtake a large one for ever
                while self._pixels and self._pixels + size > self._room:
                    await asyncio.sleep(POLL_SECONDS)
            found = self._batches.submit(photo)
        finally:
            self._coming -= 1
        self._count(pixels=size)
        found.add_done_callback(lambda _: self._count(pixels=-size))
        return found

    def _submit(self, data: bytes, name: str) -> Future[Photo]:
        try:
            return self._decoder.submit_bytes(name, data)
        except RuntimeError:  # the decoder is closed
            raise QueueFull from None

    def _count(self, *, photos: int = 0, size: int = 0, pixels: int = 0) -> None:
        with self._lock:
            self._undecoded += photos
            self._bytes += size
            self._pixels += pixels

    def _faces_of(self, photos: Sequence[Photo]) -> list[Faces]:
        found: list[Faces] = []
        for chunk in chunks(iter(photos)):
            found += self._stage.of_chunk(chunk, [Entry(photo.name, 0, 0) for photo in chunk])
        return found

    def close(self, seconds: float = math.inf) -> None:
        """Finish the photos that wait, for at most `seconds`, and release all resources."""
        until = time.monotonic() + seconds
        while len(self) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        self._is_closing = True
        self._decoder.__exit__()
        self._batches.close()
        self._network.close()
