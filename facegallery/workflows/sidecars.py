"""Write the people of a gallery as sidecars that photo programs read."""

from __future__ import annotations

import json
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import InputError
from facegallery.embedder.files import make_folder
from facegallery.embedder.photos.decoder import WORKERS, Decoder, Photo
from facegallery.embedder.photos.filenames import to_file
from facegallery.embedder.photos.folders import LeftOut
from facegallery.embedder.photos.listing import path_inside
from facegallery.embedder.photos.region_writer import NamedBox, to_packet
from facegallery.embedder.photos.regions import stored_box
from facegallery.embedder.photos.sidecars import SUFFIX
from facegallery.embedder.progress import Progress, unseen
from facegallery.embedder.replaceable import write_own
from facegallery.indexer.store import outputs
from facegallery.indexer.store.store import Store
from facegallery.workflows.session import Where, session_of

AHEAD = 2 * WORKERS  # photos that wait decoded


@dataclass
class SidecarSummary:
    """What an export of sidecars wrote. left_out: photos without one. notes: why, a line each."""

    folder: str
    written: int = 0
    faces: int = 0
    left_out: int = 0
    notes: list[str] = field(default_factory=list)


def export_sidecars(
    where: Where, folder: Path, photos: Path | None = None, *, progress: Progress = unseen
) -> SidecarSummary:
    """Write a sidecar, with a region for each face, for every photo of a gallery; photos are never changed.

    folder: the sidecar of `a/b.jpg` is `folder/a/b.jpg.xmp`. photos: the folder that the photos' paths begin in; None
    for those that they were added from. A photo that is not there, or not as it was, gets no sidecar, since the size of
    its picture is not known; a sidecar that another program wrote or changed is kept.
    """
    with session_of(where) as session, session.store() as store, store.reading(), Decoder() as decoder:
        by_image = _by_image(store)
        writer = _Writer(folder, SidecarSummary(str(folder)))
        if by_image:
            make_folder(folder)
            outputs.note(store.folder, "export", folder)
        roots = _roots(store, photos)
        todo = ((image, ids, _submitted(decoder, roots, image)) for image, ids in by_image.items())
        waiting = deque(islice(todo, AHEAD))
        while waiting:
            image, ids, future = waiting.popleft()
            waiting.extend(islice(todo, 1))
            writer.write(image, store.table_rows(ids, crops=False), None if future is None else future.result())
            progress(writer.asked, len(by_image))
    writer.done.notes = writer.notes
    return writer.done


def _by_image(store: Store) -> dict[str, list[int]]:
    """Return the numbers of each photo's faces."""
    found: dict[str, list[int]] = {}
    for id, image in store.rows("SELECT id, image FROM faces ORDER BY id"):
        found.setdefault(image, []).append(id)
    return found


def _roots(store: Store, photos: Path | None) -> list[Path]:
    """Return the folders in which the photos may lie; raise InputError where the given one is no folder."""
    if photos is not None and not photos.is_dir():
        raise InputError(f"expected the folder of the photos for --photos, {photos} is none: check the path")
    given = [photos] if photos is not None else map(Path, json.loads(store.fact("sources") or "[]"))
    return [path if path.is_dir() else path.parent for path in given]


def _submitted(decoder: Decoder, roots: list[Path], image: str) -> Future[Photo] | None:
    """Have a photo decoded from the first folder in which it lies."""
    there = (root for root in roots if (path := path_inside(root, image)) is not None and Path(path).is_file())
    root = next(there, None)
    return None if root is None else decoder.submit(root, image, drawn=True)


class _Writer:
    """Writes the sidecars of one export, and counts."""

    def __init__(self, folder: Path, done: SidecarSummary):
        self._folder, self.done, self.asked = folder, done, 0
        self._gone = LeftOut("{n} photo{s} left out that are not there", ": say with --photos where they lie")
        self._changed = LeftOut("{n} photo{s} left out that are not as they were when they were enrolled")
        self._boxless = LeftOut("{n} photo{s} left out whose faces have no place, as of vectors that were given")
        self._foreign = LeftOut("{n} sidecar{s} of other programs kept as they are", ": choose another --out")

    @property
    def notes(self) -> list[str]:
        """Lines for the user about what was left out."""
        return [line for one in (self._gone, self._changed, self._boxless, self._foreign) for line in one.notes]

    def write(self, image: str, rows: list[Row], photo: Photo | None) -> None:
        """Write a photo's sidecar. photo: decoded; None where it is not there."""
        self.asked += 1
        why = self._why_not(image, rows, photo)
        if why is not None:
            why.add(image)
            self.done.left_out += 1

    def _why_not(self, image: str, rows: list[Row], photo: Photo | None) -> LeftOut | None:
        """Write a photo's sidecar, or return where the photo is counted."""
        path = path_inside(self._folder, image + SUFFIX)
        if photo is None or path is None:
            return self._gone
        rows = [row for row in rows if row.image_sha256 == photo.sha256]
        if photo.pixels is None or not rows:
            return self._changed
        height, width = photo.pixels.shape[:2]
        named = [(row.identity, row.box) for row in rows]
        faces = [
            NamedBox(name, stored_box(box, width, height, photo.turn))
            for name, box in named
            if name and box is not None
        ]
        if not faces:
            return self._boxless
        packet = to_packet(faces, *((height, width) if photo.turn >= 5 else (width, height)))
        target = self._folder / to_file(image + SUFFIX)
        make_folder(target.parent)
        with suppress(InputError):
            write_own(target, "sidecar", packet)
            self.done.written += 1
            self.done.faces += len(faces)
            return None
        return self._foreign
