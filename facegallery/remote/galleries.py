"""Galleries of a server, for synchronous and for asynchronous programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from facegallery import results
from facegallery.embedder.progress import unseen
from facegallery.remote.flows import AddArguments, GalleryFlows, SearchArguments
from facegallery.remote.unnamed import AsyncRemoteUnnamed, RemoteUnnamed

if TYPE_CHECKING:
    from facegallery.client import AsyncClient, Client
    from facegallery.embedder.progress import Progress
    from facegallery.interface import Metadata, PhotoInput, PhotoInputs, Score


class RemoteGallery(RemoteUnnamed):
    """A gallery of a server, with the methods of a local one.

    Photos are read here and sent as bytes; arrays and PIL images are sent as PNG. As a context manager it closes the
    connections of its client at the end of the block, unless the client is in use in another block.
    """

    def __init__(self, client: Client, name: str):
        self._client, self.name, self._flows = client, name, GalleryFlows(name)

    def __enter__(self) -> RemoteGallery:
        self._client.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.__exit__(kind, error, trace)

    def close(self) -> None:
        """Close the connections of the client; a later request opens others."""
        self._client.close()

    def search(
        self,
        photos: PhotoInputs,
        *,
        k: int = 5,
        where: str | Sequence[str] = (),
        faces: bool = False,
        score: Score = "best",
        min_score: float | None = None,
    ) -> results.SearchResult:
        """Find the k people, or faces, nearest to each face in the photos.

        Args:
            photos: what shows the faces; several photos are sent together.
            k: hits for each face.
            where: filters that all hits must meet, such as `"year>=1999"` or `["tag=beach", "age<30"]`.
            faces: return faces instead of people.
            score: of a person: by the best of their faces, the mean over them, or their template.
            min_score: leave out hits with a lower score.

        Returns:
            The faces with their hits. A photo that cannot be used has no faces, and an outcome that says why.

        Raises:
            RequestRefused: the server refuses the question.
            ServerUnreachable: the server does not answer.
        """
        return self._client.run(self._flows.search(photos, SearchArguments(k, where, faces, score, min_score)))

    def search_vectors(
        self,
        vectors: Any,
        *,
        k: int = 5,
        where: str | Sequence[str] = (),
        faces: bool = False,
        score: Score = "best",
        min_score: float | None = None,
    ) -> list[results.VectorResult]:
        """Find the k people, or faces, nearest to each vector of (n, d), of length 1, made by the gallery's model."""
        return self._client.run(self._flows.search_vectors(vectors, SearchArguments(k, where, faces, score, min_score)))

    def compare(self, first: PhotoInput, second: PhotoInput) -> results.Compared:
        """Compare the largest, most central faces of two photos. Raises UnusablePhoto where a photo has no face."""
        return self._client.run(self._flows.compare(first, second))

    def people(self, *, containing: str = "") -> results.People:
        """List the enrolled people by name. containing: a part of the name."""
        return self._client.run(self._flows.people(containing))

    def person(self, identity: str) -> results.Person:
        """Return a person by name, or by id, with note and metadata."""
        return self._client.run(self._flows.person(identity))

    def faces(self, identity: str) -> results.EnrolledFaces:
        """List the enrolled faces of a person, oldest first. Raises GalleryRefused for an unknown person."""
        return self._client.run(self._flows.faces(identity))

    def thumbnail(self, face_id: str) -> bytes:
        """Return the stored crop of an enrolled face as PNG. Raises GalleryRefused where there is none."""
        return self._client.run(self._flows.thumbnail(face_id))

    def info(self) -> results.GalleryInfo:
        """Return what the gallery holds and how it stands."""
        return self._client.run(self._flows.info())

    def add(
        self,
        photos: PhotoInputs,
        *,
        identity: str | None = None,
        metadata: Metadata | None = None,
        readmit: bool = False,
        progress: Progress | None = None,
    ) -> results.Added:
        """Enrol the largest, most central face of each photo; faces that are enrolled already stay as they are.

        The photos are sent one by one, some at a time; one `undo` takes back all of them.

        Args:
            photos: a folder whose folders name the people, or photos of `identity`.
            identity: the person in all photos.
            metadata: columns to store, for filters: a dict for all photos, or the path of a CSV `image,...`.
            readmit: enrol faces that were forgotten, too.
            progress: called with the number of photos done and of all.

        Raises:
            InputError: single photos without `identity`.
            DataError: a path where nothing is.
            RequestRefused: the server refuses a name, or the key lacks the scope write.
        """
        return self._client.run(self._flows.add(photos, AddArguments(identity, metadata, readmit), progress or unseen))

    def rename(self, old: str, new: str) -> results.Change:
        """Give a person another name, which nobody has."""
        return self._client.run(self._flows.rename(old, new))

    def set_person(
        self, identity: str, metadata: Mapping[str, object | None] | None = None, *, note: str | None = None
    ) -> results.Change:
        """Change the metadata and the note of a person, given by name or by id; `undo` takes it back.

        metadata: values by key; None deletes a key. note: empty for none, None to leave it.
        """
        return self._client.run(self._flows.set_person(identity, metadata, note))

    def merge(self, source: str, into: str) -> results.Change:
        """Give all faces of one person to another."""
        return self._client.run(self._flows.merge(source, into))

    def split(self, face_ids: Sequence[str], *, to: str) -> results.Change:
        """Give chosen faces to another person, who may be new."""
        return self._client.run(self._flows.split(face_ids, to))

    def remove(self, *, identity: str | None = None, face_id: str | None = None) -> results.Change:
        """Remove a person, or one face; `undo` brings them back."""
        return self._client.run(self._flows.remove(identity, face_id))

    def undo(self, command: str | None = None) -> list[results.Change]:
        """Undo the last change; with `command`, only if it is that change."""
        return self._client.run(self._flows.undo(command))

    def forget(self, identity: str, *, unnamed: bool = False) -> results.Receipt:
        """Remove a person for good. It cannot be undone. Needs a key with the scope admin.

        unnamed: also forget the unnamed faces that look like the person.
        """
        return self._client.run(self._flows.forget(identity, unnamed=unnamed))

    def calibrate(self, *, fpir: float = 0.01) -> results.Calibrated:
        """Fit the score from which a hit counts, by the enrolled people. Needs a key with the scope admin.

        Args:
            fpir: share of strangers that may be identified as somebody.

        Raises:
            JobFailed: it cannot be fitted.
        """
        return self._client.run(self._flows.calibrate(fpir))

    def compact(self, *, keep_undo: float | None = None) -> results.Compacted:
        """Build the index again with all changes. Needs a key with the scope admin.

        Args:
            keep_undo: seconds; delete what `undo` needs of changes that are older. None keeps all.

        Raises:
            JobFailed: the index cannot be built.
        """
        return self._client.run(self._flows.compact(keep_undo))


class AsyncRemoteGallery(AsyncRemoteUnnamed):
    """A gallery of a server, for asynchronous programs: the methods of `RemoteGallery`, to be awaited."""

    def __init__(self, client: AsyncClient, name: str):
        self._client, self.name, self._flows = client, name, GalleryFlows(name)

    async def __aenter__(self) -> AsyncRemoteGallery:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def close(self) -> None:
        """Close the connections of the client; a later request opens others."""
        await self._client.close()

    async def search(
        self,
        photos: PhotoInputs,
        *,
        k: int = 5,
        where: str | Sequence[str] = (),
        faces: bool = False,
        score: Score = "best",
        min_score: float | None = None,
    ) -> results.SearchResult:
        """Find the k people, or faces, nearest to each face in the photos."""
        return await self._client.run(self._flows.search(photos, SearchArguments(k, where, faces, score, min_score)))

    async def search_vectors(
        self,
        vectors: Any,
        *,
        k: int = 5,
        where: str | Sequence[str] = (),
        faces: bool = False,
        score: Score = "best",
        min_score: float | None = None,
    ) -> list[results.VectorResult]:
        """Find the k people, or faces, nearest to each vector of (n, d), of length 1, made by the gallery's model."""
        return await self._client.run(
            self._flows.search_vectors(vectors, SearchArguments(k, where, faces, score, min_score))
        )

    async def compare(self, first: PhotoInput, second: PhotoInput) -> results.Compared:
        """Compare the largest, most central faces of two photos. Raises UnusablePhoto where a photo has no face."""
        return await self._client.run(self._flows.compare(first, second))

    async def people(self, *, containing: str = "") -> results.People:
        """List the enrolled people by name. containing: a part of the name."""
        return await self._client.run(self._flows.people(containing))

    async def person(self, identity: str) -> results.Person:
        """Return a person by name, or by id, with note and metadata."""
        return await self._client.run(self._flows.person(identity))

    async def faces(self, identity: str) -> results.EnrolledFaces:
        """List the enrolled faces of a person, oldest first. Raises GalleryRefused for an unknown person."""
        return await self._client.run(self._flows.faces(identity))

    async def thumbnail(self, face_id: str) -> bytes:
        """Return the stored crop of an enrolled face as PNG. Raises GalleryRefused where there is none."""
        return await self._client.run(self._flows.thumbnail(face_id))

    async def info(self) -> results.GalleryInfo:
        """Return what the gallery holds and how it stands."""
        return await self._client.run(self._flows.info())

    async def add(
        self,
        photos: PhotoInputs,
        *,
        identity: str | None = None,
        metadata: Metadata | None = None,
        readmit: bool = False,
        progress: Progress | None = None,
    ) -> results.Added:
        """Enrol the largest, most central face of each photo; faces that are enrolled already stay as they are."""
        return await self._client.run(
            self._flows.add(photos, AddArguments(identity, metadata, readmit), progress or unseen)
        )

    async def rename(self, old: str, new: str) -> results.Change:
        """Give a person another name, which nobody has."""
        return await self._client.run(self._flows.rename(old, new))

    async def set_person(
        self, identity: str, metadata: Mapping[str, object | None] | None = None, *, note: str | None = None
    ) -> results.Change:
        """Change the metadata and the note of a person, given by name or by id; `undo` takes it back.

        metadata: values by key; None deletes a key. note: empty for none, None to leave it.
        """
        return await self._client.run(self._flows.set_person(identity, metadata, note))

    async def merge(self, source: str, into: str) -> results.Change:
        """Give all faces of one person to another."""
        return await self._client.run(self._flows.merge(source, into))

    async def split(self, face_ids: Sequence[str], *, to: str) -> results.Change:
        """Give chosen faces to another person, who may be new."""
        return await self._client.run(self._flows.split(face_ids, to))

    async def remove(self, *, identity: str | None = None, face_id: str | None = None) -> results.Change:
        """Remove a person, or one face; `undo` brings them back."""
        return await self._client.run(self._flows.remove(identity, face_id))

    async def undo(self, command: str | None = None) -> list[results.Change]:
        """Undo the last change; with `command`, only if it is that change."""
        return await self._client.run(self._flows.undo(command))

    async def forget(self, identity: str, *, unnamed: bool = False) -> results.Receipt:
        """Remove a person for good. It cannot be undone. Needs a key with the scope admin.

        unnamed: also forget the unnamed faces that look like the person.
        """
        return await self._client.run(self._flows.forget(identity, unnamed=unnamed))

    async def calibrate(self, *, fpir: float = 0.01) -> results.Calibrated:
        """Fit the score from which a hit counts, by the enrolled people. Needs a key with the scope admin."""
        return await self._client.run(self._flows.calibrate(fpir))

    async def compact(self, *, keep_undo: float | None = None) -> results.Compacted:
        """Build the index again with all changes. Needs a key with the scope admin."""
        return await self._client.run(self._flows.compact(keep_undo))
