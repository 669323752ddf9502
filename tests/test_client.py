"""A server's galleries, as programs use them: the synchronous and the asynchronous client against a real server."""

import asyncio
import csv
import inspect
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from PIL import Image

import facegallery as fg
from facegallery.client import (
    AsyncClient,
    AsyncRemoteGallery,
    Client,
    InvalidRequest,
    JobFailed,
    RemoteGallery,
    RequestRefused,
    ServerFault,
    ServerUnreachable,
    connect,
)
from facegallery.embedder.errors import DataError, FaceGalleryError, GalleryError, InputError, SystemFault
from facegallery.interface import GalleryInterface
from facegallery.results import as_document
from tests.conftest import ROOT

NOT_THE_CLIENTS = {("POST", "/v1/session"), ("DELETE", "/v1/session"), ("GET", "/healthz"), ("GET", "/metrics")}
NO_FACE = b"P5 100 100 255\n" + bytes(10_000)


class Awaited:
    """An asynchronous client, or a gallery of one, with methods that wait for their results."""

    def __init__(self, wrapped, loop):
        self._wrapped, self._loop = wrapped, loop

    def __getattr__(self, name):
        found = getattr(self._wrapped, name)

        def call(*arguments, **options):
            done = found(*arguments, **options)
            return self._loop.run_until_complete(done) if inspect.isawaitable(done) else Awaited(done, self._loop)

        return call if callable(found) else found


@contextmanager
def waiting(client):
    """An asynchronous client for tests that wait."""
    loop = asyncio.new_event_loop()
    try:
        yield Awaited(client, loop)
        loop.run_until_complete(client.close())
    finally:
        loop.close()


@pytest.fixture(params=["sync", "async"])
def client(server, request):
    if request.param == "sync":
        with Client(server.url, server.key) as found:
            yield found
    else:
        with waiting(AsyncClient(server.url, server.key)) as found:
            yield found


@pytest.fixture
def gallery(client):
    return client.gallery("att")


@pytest.fixture
def asked(monkeypatch):
    """Method and path of each request that is sent."""
    found = []
    for kind in (httpx.Client, httpx.AsyncClient):
        build = kind.build_request

        def note(self, method, url, *arguments, build=build, **options):
            request = build(self, method, url, *arguments, **options)
            found.append((method, request.url.path, request.headers.get("Idempotency-Key")))
            return request

        monkeypatch.setattr(kind, "build_request", note)
    return found


@pytest.fixture
def folder(server, tmp_path):
    """Photos of two new people: Ann has two, one of which is of s31; and one that shows no face."""
    for name, photo in {
        "Ann/1.pgm": server.probe(31),
        "Ann/2.pgm": server.probe(31, 3),
        "Bob/1.pgm": server.probe(32),
        "Bob/none.pgm": NO_FACE,
    }.items():
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / name).write_bytes(photo)
    return tmp_path / "new"


# the same interface ---------------------------------------------------------


def test_every_gallery_has_the_same_methods():
    def shared(kind):
        found = {}
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_") and name != "close":
                signature = inspect.signature(method)
                found[name] = (
                    [(p.name, p.kind, p.default) for p in signature.parameters.values()],
                    (signature.return_annotation),
                )
        return found

    assert shared(RemoteGallery) == shared(AsyncRemoteGallery) == shared(GalleryInterface)
    for name, method in inspect.getmembers(AsyncRemoteGallery, inspect.isfunction):
        assert inspect.iscoroutinefunction(method) or name in ("__init__",), name


def test_both_clients_have_the_same_methods():
    def public(kind):
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {name: str(inspect.signature(m)).replace("Async", "") for name, m in methods if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)
    for kind in (Client, AsyncClient, RemoteGallery, AsyncRemoteGallery):
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            assert "return" in method.__annotations__ or name == "__init__", (kind, name)
            assert name.startswith("_") or method.__doc__, (kind, name)


def test_the_client_imports_neither_the_server_nor_networks():
    code = "import sys, facegallery.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"fastapi", "uvicorn", "starlette", "tensorflow", "keras", "faiss", "openvino", "apsw", "numpy", "PIL"}
    assert not heavy & set(done.stdout.split())


# all that the API has -------------------------------------------------------


def test_all_that_the_api_has_is_used_and_read_as_results(server, client, gallery, folder, asked):
    assert client.indexes() == ["att"] and gallery.info().people == 40
    assert client.health().ready and client.session().scope == "admin"
    found = gallery.search(folder / "Ann" / "1.pgm", k=2, where="identity!=s4")
    assert found.photos[0].image == found[0].image == "1.pgm"
    assert [hit.rank for hit in found[0].hits] == [1, 2] and found[0].hits[0].identity == "s31"
    assert gallery.compare(server.probe(3), server.probe(3, 3)).score > 0.6
    first = gallery.search_vectors([[1.0] + [0.0] * 127], k=3)[0]
    assert [hit.rank for hit in first.hits] == [1, 2, 3] and not first.known
    assert [person.identity for person in gallery.people(containing="s4")] == ["s4", "s40"]

    done = gallery.add(folder / "Ann" / "1.pgm", identity="Ada")
    (face,) = gallery.faces("Ada")
    assert (done.added, done.face_ids) == (1, (face.face_id,)) and face.image == "1.pgm"
    assert gallery.thumbnail(face.face_id).startswith(b"\x89PNG")
    assert gallery.rename("Ada", "Ada L.").people == ("Ada", "Ada L.")
    assert gallery.set_person("Ada L.", {"born": 1990, "team": "red"}, note="tall").people == ("Ada L.",)
    assert gallery.set_person("Ada L.", {"team": None}).verb == "set"
    ada = gallery.person("Ada L.")
    assert (ada.note, ada.metadata, ada.faces) == ("tall", {"born": "1990"}, 1)
    assert gallery.person(ada.person_id) == ada and ada in gallery.people(containing="Ada").people
    assert gallery.search(server.probe(3), where="person.born=1990")[0].hits[0].person_id == ada.person_id
    assert gallery.split([face.face_id], to="Eve").faces == 1
    assert gallery.merge("Eve", "s3").faces == 1
    removed = gallery.remove(face_id=face.face_id)
    assert removed.faces == 1 and gallery.undo(removed.command)[0].verb == "remove"
    assert gallery.remove(face_id=face.face_id).faces == 1
    calibrated = gallery.calibrate(fpir=0.1)
    assert calibrated.threshold == gallery.info().threshold and calibrated.index == "att"
    assert gallery.compare(server.probe(3), server.probe(3, 3)).threshold == calibrated.threshold
    rejected = gallery.reject(face.face_id if gallery.undo() else "")
    assert rejected.verb == "reject" and gallery.thumbnail(face.face_id).startswith(b"\x89PNG")
    assert [(one.face_id, one.group) for one in gallery.unnamed()] == [(face.face_id, None)]
    assert len(gallery.groups()) == 0 and gallery.info().loose == 1
    with pytest.raises(GalleryError):
        gallery.suggest(3)
    with pytest.raises(GalleryError):
        gallery.confirm(1, 2)
    assert gallery.ignore([face.face_id]).faces == 1 and gallery.unnamed()[0].ignored
    assert gallery.name_faces(face.face_id, "Ada").people == ("Ada",)
    assert len(gallery.unnamed()) == 0 and gallery.remove(face_id=face.face_id).faces == 1
    before = gallery.info().generation
    assert gallery.compact(keep_undo=0).generation == before + 1 == gallery.info().generation
    gallery.add(server.probe(33), identity="Forgettable", readmit=True)
    receipt = gallery.forget("Forgettable")
    assert receipt.found == 0 and len(receipt.face_ids) == 1
    gallery.search([server.probe(3), server.probe(4)])

    document = httpx.get(f"{server.url}/openapi.json").json()
    known = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    used = set()
    for method, path, _ in asked:
        patterns = {(m, p): re.sub(r"\\{\w+\\}", "[^/]+", re.escape(p)) for m, p in known if m == method}
        used |= (matching := {one for one, pattern in patterns.items() if re.fullmatch(pattern, path)})
        assert matching or path in ("/openapi.json", "/readyz"), (method, path)
    assert known - used == NOT_THE_CLIENTS


# photos ---------------------------------------------------------------------


def test_photos_are_paths_bytes_arrays_and_images(server, gallery, folder):
    path = folder / "Ann" / "1.pgm"
    image = Image.open(path)
    image.load()
    pixels = np.asarray(image.convert("RGB"))
    (named,), (sent,), (array,), (picture,) = (gallery.search(p, k=3) for p in (path, path.read_bytes(), pixels, image))
    assert named.face_id == sent.face_id and array.face_id == picture.face_id != named.face_id
    for face in (sent, array, picture):
        assert face.box == named.box and [h.identity for h in face.hits] == [h.identity for h in named.hits]
        assert [h.score for h in face.hits] == pytest.approx([h.score for h in named.hits], abs=1e-5)
    assert re.fullmatch("upload-[0-9a-f]{16}", sent.image)
    together = gallery.search([path, path.read_bytes(), pixels, image], k=3)
    assert list(together) == [named, sent, array, picture]
    with pytest.raises(InputError):
        gallery.search(5)
    with pytest.raises(InputError):
        gallery.search(pixels.astype(np.float32))
    assert gallery.compare(pixels, path).faces[0].face_id == array.face_id
    done = gallery.add([pixels], identity="Array")
    assert done.face_ids == (array.face_id,) and gallery.undo(done.command)[0].faces == 1


def test_a_folder_is_searched_in_order_and_every_photo_has_an_outcome(server, gallery, folder):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    (folder / "Bob" / "outside.pgm").symlink_to(server.photos / "probe" / "s1" / "2.pgm")
    found = gallery.search(folder, k=1)
    outcomes = {photo.image: (photo.outcome, photo.identity) for photo in found.photos}
    assert outcomes == {
        "Ann/1.pgm": ("ok", "Ann"),
        "Ann/2.pgm": ("ok", "Ann"),
        "Bob/1.pgm": ("ok", "Bob"),
        "Bob/none.pgm": ("no_face", "Bob"),
        "broken.jpg": ("unreadable", None),
    } | ({"Bob/outside.pgm": ("outside", "Bob")} if "Bob/outside.pgm" in outcomes else {})
    assert [face.hits[0].identity for face in found] == ["s31", "s31", "s32"]
    assert gallery.search(folder / "broken.jpg").photos[0].outcome == "unreadable"
    assert gallery.search(folder / "Bob" / "none.pgm").photos[0].outcome == "no_face"
    (folder / "large.pgm").write_bytes(b"P5 1 1 255\n" + bytes(21 << 20))
    assert gallery.search(folder / "large.pgm").photos[0].outcome == "too_large"
    with pytest.raises(DataError):
        gallery.search(folder / "nothing.jpg")


def test_more_photos_than_one_request_holds(server, gallery):
    found = gallery.search(server.photos / "probe", k=1)
    assert len(found.photos) == 360 and [photo.image for photo in found.photos] == sorted(
        photo.image for photo in found.photos
    )
    right = [face.hits[0].identity == photo.identity for photo in found.photos for face in photo.faces[:1]]
    assert sum(right) > 250


def test_vectors_are_asked_in_parts(gallery):
    vectors = np.eye(128, dtype=np.float32)[np.arange(300) % 128]
    found = gallery.search_vectors(vectors, k=100)
    assert len(found) == 300 and found[0] == found[128] and len(found[299].hits) == 40
    assert gallery.search_vectors([]) == []


# add ------------------------------------------------------------------------


def test_a_folder_is_added_by_its_folders_as_one_change(server, gallery, folder):
    seen = []
    done = gallery.add(folder, progress=lambda n, total: seen.append((n, total)))
    assert (done.added, done.again, done.left_out) == (3, 0, {"no_face": 1}) and (done.faces, done.people) == (
        gallery.info().faces,
        gallery.info().people,
    )
    assert sorted(seen) == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {face.image for face in gallery.faces("Ann")} == {"Ann/1.pgm", "Ann/2.pgm"}
    again = gallery.add(folder)
    assert (again.added, again.again, again.command) == (0, 3, None)
    refused = gallery.add(folder / "Ann", identity="Other")
    assert {(one.kept, one.refused) for one in refused.conflicts} == {("Ann", "Other")} and len(refused.notes) == 2
    undone = gallery.undo(done.command)
    assert sum(change.faces for change in undone) == 3 and {p for c in undone for p in c.people} == {"Ann", "Bob"}
    with pytest.raises(GalleryError):
        gallery.faces("Ann")


def test_columns_of_the_users_own_are_kept_for_filters(server, gallery, folder, tmp_path):
    table = tmp_path / "years.csv"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows([["image", "year"], ["Ann/1.pgm", "1999"], ["Bob/1.pgm", "2011"]])
    done = gallery.add(folder, metadata=table)
    assert {face.columns.get("year") for face in gallery.faces("Ann")} == {"1999", None}
    one = gallery.add(server.probe(34), identity="Ann", metadata={"year": 2005, "place": "a=b"})
    assert gallery.faces("Ann")[-1].columns == {"year": "2005", "place": "a=b"}
    hits = gallery.search(server.probe(32), k=5, where=["year>=2000", "year<2012"])[0].hits
    assert {hit.identity for hit in hits} == {"Ann", "Bob"}
    gallery.undo(one.command), gallery.undo(done.command)


def test_who_was_forgotten_is_refused_unless_readmitted(server, gallery):
    photo = server.probe(35)
    gallery.add(photo, identity="Gone")
    gallery.forget("Gone")
    assert (refused := gallery.add(photo, identity="Gone")).forgotten == 1 and refused.added == 0
    done = gallery.add(photo, identity="Gone", readmit=True)
    assert done.added == 1
    gallery.undo(done.command)


def test_what_is_not_to_be_added_is_refused_before_anything_is_sent(server, gallery, folder, asked):
    for wrong in (lambda: gallery.add(b"x"), lambda: gallery.add([b"x"], identity="x", metadata=folder / "no.csv")):
        with pytest.raises(InputError):
            wrong()
    with pytest.raises(InputError):
        gallery.search(server.photos.parent / "vectors")
    assert asked == []


# errors ---------------------------------------------------------------------


def test_errors_are_those_of_a_local_gallery(server, client, gallery):
    for wrong, kind, status in (
        (lambda: gallery.rename("nobody", "x"), GalleryError, 404),
        (lambda: gallery.rename("s1", "s2"), GalleryError, 409),
        (lambda: gallery.faces("nobody"), GalleryError, 404),
        (lambda: gallery.thumbnail("0" * 32), GalleryError, 404),
        (lambda: client.gallery("nobody").info(), GalleryError, 404),
        (lambda: gallery.undo("0" * 32), GalleryError, 409),
        (lambda: gallery.search(server.probe(1), where="year>=1"), InputError, 422),
        (lambda: gallery.search([server.probe(1)] * 2, where="year>=1"), InputError, 422),
        (lambda: gallery.search(server.probe(1), k=0), InputError, 422),
        (lambda: gallery.search_vectors([[1.0, 1.0]]), InputError, 422),
        (lambda: gallery.remove(), InputError, 422),
        (lambda: gallery.compare(server.probe(1), NO_FACE), DataError, 422),
    ):
        with pytest.raises(kind) as refused:
            wrong()
        error = refused.value
        assert isinstance(error, RequestRefused) and error.status == status == error.problem["status"]
        assert str(error) == error.problem["detail"] and error.exit_code == kind.exit_code


def test_a_wrong_key_and_a_key_that_may_less(server):
    with connect(server.url, "wrong") as stranger, pytest.raises(InvalidRequest):
        stranger.indexes()
    key = server.command("keys", "make", "reader", "--quiet")
    with connect(server.url, key).gallery("att") as gallery, pytest.raises(InvalidRequest):
        gallery.forget("s1")
    with pytest.raises(InputError):
        connect("127.0.0.1:8000", key)
    with pytest.raises(InputError):
        connect(server.url, "a\nb")


def test_a_job_that_fails_says_why(server, client):
    """A threshold cannot be fitted on one person."""
    gallery = client.gallery("att")
    with pytest.raises((JobFailed, InvalidRequest)):
        gallery.calibrate(fpir=1e-15)


def test_a_gallery_closes_its_connections_unless_others_use_them(server):
    client = connect(server.url, server.key)
    with client, client.gallery("att") as gallery:
        with client.gallery("att") as other:
            assert other.info().index == "att"
        held = client._http
        assert held is not None and not held.is_closed
    assert held.is_closed and gallery.info().people > 0  # which opens others
    client.close()
    with connect(server.url, server.key).gallery("att") as gallery:
        gallery.info()
        held = gallery._client._http
    assert held.is_closed


# time, and servers that do not answer ---------------------------------------


def test_what_is_refused_for_the_moment_is_sent_again(server):
    key = server.command("keys", "make", "slow", "--rate", "2", "--quiet")
    with connect(server.url, key) as slow:
        assert [slow.indexes() for _ in range(6)] == [["att"]] * 6


def answer_of(status, body, *headers):
    document = json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} x", "Content-Type: application/json", f"Content-Length: {len(document)}", *headers]
    return "\r\n".join([*head, "Connection: close", "", ""]).encode() + document


@contextmanager
def scripted(*answers, pause=0.0):
    """A server that answers each connection with the next of some bytes, one at a time where there is a pause."""
    requests, stop = [], threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)

    def serve():
        rest = list(answers)
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                requests.append(connection.recv(1 << 16))
                answer = rest.pop(0) if len(rest) > 1 else rest[0]
                try:
                    for i in range(0, len(answer), 1 if pause else len(answer)):
                        connection.sendall(answer[i : i + 1] if pause else answer)
                        if stop.wait(pause):
                            return
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
    finally:
        stop.set()
        thread.join()
        listener.close()


CHANGE = {"verb": "rename", "faces": 1, "people": ["a", "b"], "command": "0" * 32}


@pytest.fixture(params=[Client, AsyncClient])
def clients(request):
    """Make a client for an address."""

    @contextmanager
    def make(url, **options):
        made = request.param(url, "key", **options)
        if request.param is Client:
            with made:
                yield made
        else:
            with waiting(made) as found:
                yield found

    return make


def marks(requests):
    return [re.search(rb"(?i)idempotency-key: (\w+)", request)[1] for request in requests]


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        answer_of(503, {}, "Retry-After: 0"),
        answer_of(429, {}, "Retry-After: 0"),
        answer_of(409, {"detail": "in work", "type": "x:in-work"}, "Retry-After: 0"),
    ],
    ids=["cut off", "cut off in the response", "busy", "rate", "still running"],
)
def test_a_change_that_may_have_arrived_is_sent_again_with_its_key(clients, first):
    with scripted(first or b"\0"[:0] or b" ", answer_of(200, CHANGE)) as (url, requests), clients(url) as client:
        assert client.gallery("att").rename("a", "b").people == ("a", "b")
    assert len(requests) == 2 and len(set(marks(requests))) == 1


def test_a_server_that_stays_busy_is_given_up(clients):
    with scripted(answer_of(503, {"detail": "busy", "type": "x:busy"}, "Retry-After: 0")) as (url, requests):
        with clients(url) as client, pytest.raises(ServerFault) as refused:
            client.indexes()
    assert len(requests) == 5 and isinstance(refused.value, SystemFault) and refused.value.status == 503


def test_nothing_that_answers_is_one_error(clients):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with clients(url) as client, pytest.raises(ServerUnreachable) as error:
        client.indexes()
    assert url in str(error.value) and "\n" not in str(error.value) and isinstance(error.value, FaceGalleryError)


@pytest.mark.parametrize("pause", [0.05, 100], ids=["drips", "is silent"])
def test_a_server_that_never_ends_its_answer_meets_the_deadline(clients, pause):
    with scripted(answer_of(200, {"indexes": ["x" * 1000]}), pause=pause) as (url, _):
        with clients(url, timeout=5, deadline=0.6) as client:
            began = time.monotonic()
            with pytest.raises(ServerUnreachable):
                client.indexes()
            assert time.monotonic() - began < 3


def test_a_job_that_never_ends_meets_the_deadline(clients):
    job = {"id": "0" * 16, "index": "att", "kind": "compact", "state": "running", "done": 0, "total": 0, "began": 0.0}
    job |= {"ended": None, "detail": None}
    with scripted(answer_of(202, job)) as (url, _), clients(url, deadline=0.5) as client:
        with pytest.raises(ServerUnreachable):
            client.gallery("att").compact()


def test_a_job_that_failed_is_an_error(clients):
    job = {"id": "0" * 16, "index": "att", "kind": "compact", "state": "failed", "done": 0, "total": 0, "began": 0.0}
    job |= {"ended": 1.0, "detail": "the disk is full"}
    with scripted(answer_of(202, job)) as (url, _), clients(url) as client:
        with pytest.raises(JobFailed, match="disk") as failed:
            client.gallery("att").compact()
    assert failed.value.job.state == "failed" and isinstance(failed.value, GalleryError)


def test_one_failure_ends_the_rest_of_a_call(clients, tmp_path):
    with scripted(answer_of(400, {"detail": "no", "type": "x:y"})) as (url, requests), clients(url) as client:
        with pytest.raises(InvalidRequest):
            client.gallery("att").search([b"%d" % i for i in range(500)])
    assert len(requests) < 20


def test_results_become_json_again(gallery, server):
    found = gallery.search(server.probe(3), k=1)
    document = json.loads(json.dumps(as_document(found)))
    assert document["photos"][0]["faces"][0]["hits"][0]["identity"] == found[0].hits[0].identity
    assert found.to_arrow().num_rows == len(found)


# a folder and a server -------------------------------------------------------


def alike(one, other):
    """Whether two results are equal, numbers within what two batches of a network may differ."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == pytest.approx(other, abs=2e-2 if isinstance(one, float) and one > 1 else 1e-4)


def differing(one, other):
    """What two documents differ in, for a message."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: (one.get(key), other.get(key)) for key in one | other if not alike(one.get(key), other.get(key))}
    return one, other


LOCAL_ONLY = (
    "withheld",
    "command",
    "time",
    "receipt",
    "understood",
    "suspects",
    "notes",
    "files",
    "bytes",
    "not_cleaned",
)


def shown(result):
    """A result as JSON, without what two galleries cannot share."""
    document = as_document(result)
    if isinstance(document, list):
        return [shown(one) for one in document]
    if not isinstance(document, dict):
        return document
    return {k: without_ids(v) for k, v in document.items() if k not in (*LOCAL_ONLY, "person_id")}


def without_ids(document):
    """A document without the ids of persons, which are drawn at random, at any depth."""
    if isinstance(document, dict):
        return {k: without_ids(v) for k, v in document.items() if k != "person_id"}
    return [without_ids(one) for one in document] if isinstance(document, list) else document


def test_a_folder_and_a_server_give_the_same_results(server, client, folder, tmp_path, monkeypatch):
    """The same calls one after the other, each compared."""
    shutil.copytree(server.indexes, tmp_path / "copy")
    monkeypatch.setenv("FACEGALLERY_DATA", str(server.root))
    ann, bob = (folder / "Ann").rename(folder / "Annabella"), (folder / "Bob").rename(folder / "Bartholomew")
    pixels = np.asarray(Image.open(ann / "1.pgm").convert("RGB"))
    image = Image.open(io.BytesIO(server.probe(36)))
    vectors = np.eye(128, dtype=np.float32)[:3]
    seen = {}
    with fg.open(tmp_path / "copy" / "att") as local:
        remote = client.gallery("att")
        for i, call in enumerate(
            (
                lambda g: g.info(),
                lambda g: g.search(folder, k=3),
                lambda g: g.search(ann / "1.pgm", k=2, where="identity!=s31"),
                lambda g: g.search([pixels, image, server.probe(37), NO_FACE, b"no photo"], k=1, min_score=0.2),
                lambda g: g.search(server.probe(3), k=2, faces=True),
                lambda g: g.search(server.probe(3), k=2, score="mean"),
                lambda g: g.search_vectors(vectors, k=2),
                lambda g: g.compare(ann / "1.pgm", pixels),
                lambda g: g.people(containing="s1"),
                lambda g: g.add(folder, readmit=True),
                lambda g: g.add(folder),
                lambda g: g.add(ann, identity="Somebody"),
                lambda g: g.add(server.probe(38), identity="Pixel", metadata={"year": 1999}, readmit=True),
                lambda g: g.faces("Pixel"),
                lambda g: g.thumbnail(g.faces("Pixel")[0].face_id).hex(),
                lambda g: g.rename("Pixel", "Picture"),
                lambda g: g.split([g.faces("Picture")[0].face_id], to="Evangeline"),
                lambda g: g.merge("Evangeline", bob.name),
                lambda g: g.remove(identity=bob.name),
                lambda g: g.undo(),
                lambda g: g.search(folder, k=2),
                lambda g: g.calibrate(fpir=0.2),
                lambda g: g.search(server.probe(5), k=1),
                lambda g: g.forget(ann.name),
                lambda g: g.undo(g.remove(identity=bob.name).command),
                lambda g: g.forget(bob.name),
                lambda g: g.people(),
            )
        ):
            first, second = shown(call(local)), shown(call(remote))
            assert alike(first, second), (i, differing(first, second))
            seen[i] = first
    assert seen[9]["added"] == 3 and seen[24][0]["faces"] >= 1 and len(seen[1]["photos"]) == 4


@pytest.mark.parametrize("key", ["", "a\nb", "ключ"])
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_text_that_is_no_key_is_refused(client, key):
    with pytest.raises(InputError, match="keys make"):
        client("http://127.0.0.1:8000", key)
