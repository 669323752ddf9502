"""What galleries of a server do with faces without a person, for synchronous and for asynchronous programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from facegallery import results, schemas
from facegallery.interface import What, several
from facegallery.remote.steps import Flow, ask, given

FACES, GROUPS = 1000, 10_000  # of one page; groups at most


def _ask(name: str, kind: Any, method: str, rest: str, **content: Any) -> Flow[Any]:
    return ask(kind, method, f"/v1/indexes/{quote(name, safe='')}{rest}", **content)


def _groups(name: str) -> Flow[results.FaceGroups]:
    return _ask(name, results.FaceGroups, "GET", "/groups", params={"limit": GROUPS})


def _unnamed(name: str, group: int | None) -> Flow[results.UnnamedFaces]:
    found: list[results.UnnamedFace] = []
    cursor: int | None = None
    while True:
        params = given(group=group, cursor=cursor, limit=FACES)
        page: schemas.UnnamedPage = yield from _ask(name, schemas.UnnamedPage, "GET", "/unnamed", params=params)
        found += page.faces
        if (cursor := page.next) is None:
            return results.UnnamedFaces(tuple(found))


def _suggest(name: str, limit: int) -> Flow[list[results.Suggestion]]:
    return _ask(name, list[results.Suggestion], "GET", "/suggestions", params={"limit": limit})


def _say(name: str, verb: str, **body: Any) -> Flow[results.Change]:
    return _ask(name, results.Change, "POST", f"/groups/{verb}", json=given(**body))


def _list(what: What | Sequence[What]) -> list[What]:
    return [what] if isinstance(what, int | str) else list(what)


class RemoteUnnamed:
    """Methods of `RemoteGallery` about faces without a person."""

    _client: Any
    name: str

    def groups(self) -> results.FaceGroups:
        """List the groups of unnamed faces, largest first, 10,000 at most."""
        return self._client.run(_groups(self.name))

    def unnamed(self, group: int | None = None) -> results.UnnamedFaces:
        """List the unnamed faces, or those of a group."""
        return self._client.run(_unnamed(self.name, group))

    def suggest(self, limit: int = 5) -> list[results.Suggestion]:
        """Suggest what to name next."""
        return self._client.run(_suggest(self.name, limit))

    def name_faces(self, what: What | Sequence[What], identity: str) -> results.Change:
        """Enrol groups, by number, and unnamed faces, by id, under a person's name, enrolled already or new."""
        return self._client.run(_say(self.name, "name", what=_list(what), identity=identity))

    def confirm(self, *groups: int) -> results.Change:
        """Note that a group, or several, are one person; they become one."""
        return self._client.run(_say(self.name, "confirm", groups=list(groups)))

    def reject(self, face_ids: str | Sequence[str], *, of: str | None = None) -> results.Change:
        """Take faces out of their group or person, or say that they are not `of`."""
        return self._client.run(_say(self.name, "reject", face_ids=list(several(face_ids)), of=of))

    def ignore(self, what: What | Sequence[What]) -> results.Change:
        """Leave groups and unnamed faces alone; `undo` brings them back."""
        return self._client.run(_say(self.name, "ignore", what=_list(what)))


class AsyncRemoteUnnamed:
    """Methods of `AsyncRemoteGallery` about faces without a person."""

    _client: Any
    name: str

    async def groups(self) -> results.FaceGroups:
        """List the groups of unnamed faces, largest first, 10,000 at most."""
        return await self._client.run(_groups(self.name))

    async def unnamed(self, group: int | None = None) -> results.UnnamedFaces:
        """List the unnamed faces, or those of a group."""
        return await self._client.run(_unnamed(self.name, group))

    async def suggest(self, limit: int = 5) -> list[results.Suggestion]:
        """Suggest what to name next."""
        return await self._client.run(_suggest(self.name, limit))

    async def name_faces(self, what: What | Sequence[What], identity: str) -> results.Change:
        """Enrol groups, by number, and unnamed faces, by id, under a person's name, enrolled already or new."""
        return await self._client.run(_say(self.name, "name", what=_list(what), identity=identity))

    async def confirm(self, *groups: int) -> results.Change:
        """Note that a group, or several, are one person; they become one."""
        return await self._client.run(_say(self.name, "confirm", groups=list(groups)))

    async def reject(self, face_ids: str | Sequence[str], *, of: str | None = None) -> results.Change:
        """Take faces out of their group or person, or say that they are not `of`."""
        return await self._client.run(_say(self.name, "reject", face_ids=list(several(face_ids)), of=of))

    async def ignore(self, what: What | Sequence[What]) -> results.Change:
        """Leave groups and unnamed faces alone; `undo` brings them back."""
        return await self._client.run(_say(self.name, "ignore", what=_list(what)))
