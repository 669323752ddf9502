"""Find the faces of photos, and embed them, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from facegallery import results
from facegallery.embedder.errors import InputError
from facegallery.workflows.inputs import PhotoInputs, all_items, has_data_set, sources_of
from facegallery.workflows.networks import Networks, ReadOptions

if TYPE_CHECKING:
    from facegallery.embedder.dataset.row import Row
    from facegallery.embedder.photos.decoder import Photo


def find_faces(photos: PhotoInputs, networks: Networks, options: ReadOptions) -> results.Faces:
    """Find the faces of photos, with vectors where the networks have a model. Raises InputError for a data set."""
    sources = sources_of(photos)
    if (data := has_data_set(sources)) is not None:
        raise InputError(f"expected photos, {data} is a data set: give `out` to embed its crops to another")
    items = list(all_items(sources))
    return results.Faces(tuple(_photo_faces(photo, rows) for _, photo, rows in networks.rows(items, options)))


def _photo_faces(photo: Photo, rows: list[Row]) -> results.PhotoFaces:
    faces = tuple(_face(row) for row in rows if row.box is not None)
    return results.PhotoFaces(photo.name, photo.outcome, photo.why, faces)


def _face(row: Row) -> results.Face:
    x0, y0, x1, y1 = map(float, row.box or ())
    points = list(map(float, row.landmarks or ()))
    return results.Face(
        image=row.image,
        face=row.face,
        face_id=row.face_id,
        box=(x0, y0, x1, y1),
        landmarks=tuple(zip(points[::2], points[1::2], strict=True)),
        confidence=float(row.confidence or 0),
        quality=float(row.sharpness or 0),
        identity=row.identity,
        vector=row.vector,
        crop=row.pixels,
    )
