import inspect
import re
from urllib.parse import urlsplit

import httpx
import pytest

from facegallery.client import Client, RequestRefused

NOT_THE_CLIENTS = {
    ("POST", "/v1/session"),
    ("DELETE", "/v1/session"),
    ("GET", "/v1/me"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
}


@pytest.fixture
def faces(server):
    with Client(server.url, server.key) as found:
        yield found


def test_all_that_the_api_has_is_asked_and_answered_as_its_types_say(server, faces, tmp_path):
    asked = set()
    faces._http.event_hooks["request"].append(
        lambda request: asked.add((request.method, urlsplit(str(request.url)).path))
    )
    photo = tmp_path / "me.pgm"
    photo.write_bytes(server.probe(3))

    assert faces.indexes() == ["att"] and faces.info("att").people == 40
    found = faces.search("att", photo, k=2, where=["identity!=s4"])
    assert found.image == "me.pgm" and found.faces[0].hits[0].identity == "s3" and len(found.faces[0].hits) == 2
    many = dict(faces.search_many("att", [("a", server.probe(5)), ("b", b"x"), ("c", photo)], k=1))
    assert (
        many["a"].faces[0].hits[0].identity == "s5"
        and many["b"].outcome == "unreadable"
        and many["c"].faces[0].hits[0].identity == "s3"
    )
    assert faces.verify("att", photo, server.probe(3, 3)).score > 0.6
    assert faces.search_vectors("att", [[1.0] + [0.0] * 127], k=3).answers[0].hits[2].rank == 3
    assert [person.identity for person in faces.people("att", "s4")] == ["s4", "s40"]

    done = faces.enrol("att", photo, "Ada")
    assert faces.faces("att", "Ada")[0].face_id == done.face.face_id and faces.thumbnail(
        "att", done.face.face_id
    ).startswith(b"\x89PNG")
    assert faces.rename("att", "Ada", "Ada L.").people == ["Ada", "Ada L."]
    assert faces.split("att", [done.face.face_id], "Eve").faces == 1
    assert faces.merge("att", "Eve", "s3").faces == 1
    assert faces.remove("att", face_id=done.face.face_id).faces == 1
    assert faces.undo("att")[0].verb == "remove"
    assert faces.forget("att", "s20").found == 0
    assert faces.wait(faces.calibrate("att", 0.1)).state == faces.wait(faces.compact("att")).state == "done"

    document = httpx.get(f"{server.url}/openapi.json").json()
    known = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    } - NOT_THE_CLIENTS
    found = set()
    for method, path in asked:
        matching = {
            (m, p) for m, p in known if m == method and re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(p)), path)
        }
        assert matching, (method, path)
        found |= matching
    assert found == known


def test_every_method_says_what_it_returns():
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        assert "return" in method.__annotations__ or name == "__init__", name


def test_a_refusal_is_the_servers_own_line(server, faces):
    with pytest.raises(RequestRefused, match="nobody is called 'nobody'") as refused:
        faces.rename("att", "nobody", "x")
    assert refused.value.status == 404 and refused.value.problem["type"] == "urn:facegallery:problem:unknown"
    with Client(server.url, "wrong") as other, pytest.raises(RequestRefused, match="expected a key"):
        list(other.search_many("att", [("a", b"x")]))


def test_what_is_refused_for_now_is_tried_again(server):
    key = server.command("keys", "make", "slow", "--rate", "2", "--quiet")
    with Client(server.url, key) as slow:
        assert [slow.indexes() for _ in range(6)] == [["att"]] * 6
