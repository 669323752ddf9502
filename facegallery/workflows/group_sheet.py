"""Draw groups of unnamed faces: a row for each, with its number."""

from __future__ import annotations

from pathlib import Path

from facegallery.embedder import draw
from facegallery.embedder.errors import DataError
from facegallery.embedder.faces import align as crops_of
from facegallery.embedder.replaceable import check_replaceable
from facegallery.embedder.text import printable
from facegallery.indexer.store import outputs
from facegallery.indexer.store.store import Store
from facegallery.indexer.store.unnamed import UnnamedFace
from facegallery.workflows.session import Where, session_of

ROWS, FACES = 40, 10  # of a sheet, and of a row


def draw_groups(where: Where, path: Path, number: int | None = None) -> None:
    """Draw the largest groups, ROWS at most, FACES of each; or all faces of one group.

    Raises DataError where there is no group, Unknown where there is none of that number.
    """
    check_replaceable(path, "picture")
    with session_of(where) as session, session.store() as store, store.reading():
        if number is None:
            rows = [_row(store, store.group(one.number)) for one in store.list_groups(ROWS)]
        else:
            faces = store.group(number)[: ROWS * FACES]
            rows = [_tiles(store, faces[i : i + FACES]) for i in range(0, len(faces), FACES)]
        if not rows:
            raise DataError(
                f"expected groups in {store.folder.name} to draw, it has none: run `group {store.folder.name}`"
            )
        draw.save(draw.grid(rows), path)
    with session_of(where) as session, session.store(write=True) as store:
        outputs.note(store.folder, "picture", path)


def _row(store: Store, faces: list[UnnamedFace]) -> list[draw.Tile]:
    """Return the tiles of a group: of a large one faces from its whole length."""
    step = max(1, -(-len(faces) // FACES))
    tiles = _tiles(store, faces[::step])
    tiles[0].caption = f"group {faces[0].place.number}\n{len(faces)} faces"
    return tiles


def _tiles(store: Store, faces: list[UnnamedFace]) -> list[draw.Tile]:
    return [_tile(store, face) for face in faces]


def _tile(store: Store, face: UnnamedFace) -> draw.Tile:
    png = store.unnamed_crop(face.face_id)
    picture = None if png is None else crops_of.from_png(png)
    return draw.Tile(picture, f"{face.face_id[:12]}\n{printable(Path(face.image).name)}")
