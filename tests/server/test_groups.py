"""Faces without a person over HTTP: listed, grouped, named and corrected as the local gallery does it."""

import httpx
import pytest

import facegallery as fg
from facegallery.client import Client

PEOPLE, PHOTOS = (31, 32, 33), range(1, 7)


@pytest.fixture(scope="module")
def album(server, att):
    """Eighteen photos of three people without a name, grouped."""
    photos = [att / f"s{person}" / f"{number}.pgm" for person in PEOPLE for number in PHOTOS]
    with fg.open(server.indexes / "att") as gallery:
        for person in PEOPLE:
            gallery.remove(identity=f"s{person}")
        added = gallery.add(photos, names_from="nobody")
        assert added.unnamed >= len(photos)
        gallery.group(min_score=0.5)
        yield gallery


@pytest.fixture
def web(server):
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.key}"}) as client:
        yield client


def test_groups_and_faces_are_those_of_the_local_gallery(album, web, server):
    found = web.get("/v1/indexes/att/groups").json()["groups"]
    assert [(one["number"], one["faces"]) for one in found] == [(one.number, one.faces) for one in album.groups()]
    assert len(web.get("/v1/indexes/att/groups", params={"limit": 1}).json()["groups"]) == 1
    pages, cursor = [], 0
    while cursor is not None:
        page = web.get("/v1/indexes/att/unnamed", params={"limit": 4, "cursor": cursor}).json()
        pages.append(page["faces"])
        cursor = page["next"]
    listed = [face["face_id"] for faces in pages for face in faces]
    assert listed == [face.face_id for face in album.unnamed()] and max(map(len, pages)) == 4
    number = found[0]["number"]
    group = web.get("/v1/indexes/att/unnamed", params={"group": number}).json()
    assert {face["face_id"] for face in group["faces"]} == {face.face_id for face in album.unnamed(number)}
    assert web.get(f"/v1/indexes/att/faces/{listed[0]}/thumbnail").content == album.thumbnail(listed[0])
    asked = web.get("/v1/indexes/att/suggestions", params={"limit": 2}).json()
    assert [one["command"] for one in asked] == [one.command for one in album.suggest(2)]


def test_what_is_said_is_done_and_taken_back(album, server):
    with Client(server.url, server.key) as client:
        remote = client.gallery("att")
        assert remote.groups() == album.groups() and remote.unnamed() == album.unnamed()
        assert remote.suggest(2) == album.suggest(2)
        first, second = (group.number for group in remote.groups()[:2])
        before = album.unnamed()
        named = remote.name_faces(first, "Cid")
        assert named.people == ("Cid",) and len(album.faces("Cid")) == named.faces
        assert remote.confirm(second).verb == "confirm"
        assert remote.reject(remote.unnamed(second)[0].face_id).faces == 1
        assert remote.ignore([second, album.unnamed(second)[0].face_id]).verb == "ignore"
        for _ in range(4):
            remote.undo()
        assert {face.face_id for face in album.unnamed()} == {face.face_id for face in before}


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("name", {"what": [], "identity": "A"}),
        ("name", {"what": [0], "identity": "A"}),
        ("name", {"what": ["x"], "identity": "A"}),
        ("name", {"what": [1], "identity": ""}),
        ("confirm", {"groups": []}),
        ("confirm", {"groups": ["1"]}),
        ("reject", {"face_ids": ["0"]}),
        ("ignore", {"what": [True]}),
        ("ignore", {"what": [1], "more": 1}),
    ],
)
def test_what_cannot_be_is_refused(album, web, verb, body):
    answer = web.post(f"/v1/indexes/att/groups/{verb}", json=body)
    assert answer.status_code == 422 and answer.json()["detail"]


def test_what_is_not_there_is_said(album, web):
    for verb, body in (
        ("name", {"what": [999_999], "identity": "A"}),
        ("confirm", {"groups": [999_999]}),
        ("reject", {"face_ids": ["0" * 32]}),
        ("ignore", {"what": ["0" * 32]}),
    ):
        assert web.post(f"/v1/indexes/att/groups/{verb}", json=body).status_code == 404, verb
    assert web.get("/v1/indexes/att/unnamed", params={"group": 999_999}).status_code == 404
