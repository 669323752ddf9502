"""Open galleries, for one call or for as long as a program needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import SystemFault
from facegallery.workflows.networks import Networks, ReadOptions
from facegallery.workflows.photos import ANYWHERE
from facegallery.workflows.probes import ProbeReader, fitting_model, gallery_folder, open_index, open_store

if TYPE_CHECKING:
    from facegallery.indexer.search.searcher import Searcher
    from facegallery.indexer.store.store import Store


class GallerySession:
    """A gallery that stays open: its searcher, its stores and the networks of its model, each made when first needed.

    Use it as a context manager, from one thread at a time. Every call sees the newest commit, whoever made it.
    """

    def __init__(self, where: str | Path, *, model: str | None = None, compute: Compute = ANYWHERE):
        """model: where the gallery's model lies, if it is not stored."""
        self.folder, self.compute, self.reference = gallery_folder(where), compute, model
        self._searcher: Searcher | None = None
        self._networks: Networks | None = None
        self._stores: dict[bool, Store] = {}  # by whether they can write
        self._file: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The gallery's name."""
        return self.folder.resolve().name

    @property
    def searcher(self) -> Searcher:
        """The searcher. Raises GalleryError where there is no index, or it is damaged."""
        self._follow()
        if self._searcher is None:
            self._searcher = open_index(self.folder)
        return self._searcher

    @contextmanager
    def store(self, *, write: bool = False) -> Iterator[Store]:
        """The store for a block. Raises GalleryError where there is no index, or it is damaged."""
        from facegallery.indexer.store.errors import Damaged, Replaced

        self._follow()
        if write not in self._stores:
            self._stores[write] = open_store(self.folder, write=write)
        try:
            yield self._stores[write]
        except (Damaged, Replaced, SystemFault):
            self._stores.pop(write).close()
            raise

    @property
    def networks(self) -> Networks:
        """The networks of the gallery's model."""
        searcher = self.searcher
        if self._networks is None:
            spec, reference = searcher.spec, self.reference
            self._networks = Networks(
                lambda: fitting_model(searcher, reference), spec.detector, self.compute, spec.crop
            )
        return self._networks

    def reader(self, options: ReadOptions = ReadOptions()) -> ProbeReader:  # noqa: B008
        """Return a reader of probes for the gallery, by the model that it has now."""
        with self.store() as store:
            if self._searcher is not None and self._searcher.spec.fingerprint != store.spec.fingerprint:
                self.let_go()
        return ProbeReader(self.searcher, self.networks, options)

    def _follow(self) -> None:
        """Let go what was opened where another file lies in its place: `restore` and `build-index` put one there."""
        from facegallery.indexer.store.database import FILE

        try:
            status = (self.folder / FILE).stat()
        except OSError:
            found = None
        else:
            found = status.st_dev, status.st_ino
        if found != self._file:
            self.close()
            self._file = found

    def let_go(self) -> None:
        """Close the searcher and the networks: the gallery has another model now, or files of it are to be removed."""
        if self._searcher is not None:
            self._searcher.close()
        if self._networks is not None:
            self._networks.close()
        self._searcher = self._networks = None

    def close(self) -> None:
        """Close whatever is open; the next call opens it again."""
        self.let_go()
        while self._stores:
            self._stores.popitem()[1].close()
        self._file = None

    def __enter__(self) -> GallerySession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


Where = str | Path | GallerySession


@contextmanager
def session_of(where: Where) -> Iterator[GallerySession]:
    """Open a gallery for a block; one that is open already is left open."""
    if isinstance(where, GallerySession):
        yield where
        return
    with GallerySession(where) as session:
        yield session
