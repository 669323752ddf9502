"""What a server accepts and refuses: methods, JSON, photos inside other formats, sizes; and what it tells whom."""

import base64
import json
import socket
import threading
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from facegallery.client import Client, RequestRefused
from facegallery.remote.steps import pause_of
from tests.served import free_port, running

VECTOR = [1.0] + [0.0] * 127


@pytest.fixture
def client(server):
    with server.client() as found:
        yield found


def problem(answer, status, kind=None):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert "\n" not in body["detail"] and (kind is None or body["type"].endswith(f":{kind}")), body
    return body["detail"]


# methods --------------------------------------------------------------------


def test_head_and_options_are_right_on_every_route(server, client):
    document = client.get("/openapi.json").json()
    face = client.get("/v1/indexes/att/faces", params={"identity": "s1"}).json()["faces"][0]["face_id"]
    for path, methods in [
        *document["paths"].items(),
        ("/", {"get": {}}),
        ("/page/app.js", {"get": {}}),
        ("/openapi.json", {"get": {}}),
    ]:
        url = path.replace("{index}", "att").replace("{face_id}", face).replace("{id}", "0" * 16)
        allowed = {method.upper() for method in methods} | {"OPTIONS"} | ({"HEAD"} if "get" in methods else set())
        answer = client.options(url)
        assert answer.status_code == 204 and set(answer.headers["allow"].split(", ")) == allowed, (path, answer.headers)
        wrong = client.request("PUT" if "patch" in methods else "PATCH", url)
        problem(wrong, 405)
        assert set(wrong.headers["allow"].split(", ")) == allowed
        if "get" in methods:
            params = {"identity": "s1"} if url.endswith("/faces") else {}
            head, got = client.head(url, params=params), client.get(url, params=params)
            assert (head.status_code, head.content) == (got.status_code, b"") and head.headers[
                "content-type"
            ] == got.headers["content-type"]
            if path != "/metrics":
                assert head.headers["content-length"] == got.headers["content-length"]
        else:
            assert client.head(url).status_code == 405
    assert (
        httpx.head(f"{server.url}/v1/indexes").status_code
        == httpx.options(f"{server.url}/v1/indexes").status_code
        == 401
    )
    assert client.options("/v1/nothing").status_code == 404


# JSON -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        '{"vectors": [V], "min_score": NaN}',
        '{"vectors": [V], "min_score": Infinity}',
        '{"vectors": [V], "min_score": -Infinity}',
        '{"vectors": [V], "min_score": 1e999}',
        '{"vectors": [V], "min_score": "0.5"}',
        '{"vectors": [V], "min_score": true}',
        '{"vectors": [V], "k": true}',
        '{"vectors": [V], "k": "5"}',
        '{"vectors": [V], "k": 5.5}',
        '{"vectors": [V], "k": 1e400}',
        '{"vectors": [V], "k": 0}',
        '{"vectors": [V], "k": 1001}',
        '{"vectors": [V], "k": 1, "k": 2}',
        '{"vectors": [V], "faces": 1}',
        '{"vectors": [V], "extra": 1}',
        '{"vectors": [[NaN]]}',
        '{"vectors": [[1e999]]}',
        '{"vectors": [["1"]]}',
        '{"vectors": [[true]]}',
        '{"vectors": [[1, 2]]}',
        '{"vectors": [[]]}',
        '{"vectors": []}',
        '{"vectors": {}}',
        '{"vectors": null}',
        '{"vectors": [V, [1]]}',
        "[]",
        "null",
        "1",
        '"x"',
        "",
        "{",
        "\ufeff{}",
        '{"vectors": [V]}x',
        '{"vectors": [V], "where": ["\\ud800"]}',
        '{"vectors": [V], "where": "x"}',
        "[" * 100_000,
        '{"a":' * 50_000,
        '{"vectors": ' + "[" * 500 + "]" * 500 + "}",
        '{"vectors": [V], "score": "worst"}',
        '{"vectors": [[' + "9" * 400 + "]]}",
        '{"vectors": [V], "min_score": 1' + "0" * 400 + "}",
    ],
)
def test_a_question_that_is_none_is_refused(client, body):
    data = body.replace("V", json.dumps(VECTOR)).encode()
    problem(
        client.post("/v1/indexes/att/search/vectors", content=data, headers={"Content-Type": "application/json"}),
        422,
        "invalid",
    )


def test_json_of_another_encoding_is_refused(client):
    for data in (json.dumps({"vectors": [VECTOR]}).encode("utf-16"), b'{"vectors": "\xff"}'):
        problem(client.post("/v1/indexes/att/search/vectors", content=data), 422, "invalid")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("compact", '{"keep_undo_days": NaN}'),
        ("compact", '{"keep_undo_days": 1e999}'),
        ("calibrate", '{"fpir": NaN}'),
        ("calibrate", '{"fpir": "0.1"}'),
        ("undo", '{"command": 1}'),
        ("undo", '{"command": "a", "command": "b"}'),
        ("people/rename", '{"old": "a", "old": "s1", "new": "x"}'),
        ("people/rename", '{"old": "a", "new": "\\ud800"}'),
        ("people/split", '{"face_ids": [' + '"",' * 30_000 + '""], "to": "x"}'),
        ("people/remove", '{"identity": ["s1"]}'),
        ("people/merge", "[" * 5000),
    ],
)
def test_so_is_every_other_document(client, path, body):
    problem(
        client.post(f"/v1/indexes/att/{path}", content=body, headers={"Content-Type": "application/json"}),
        422,
        "invalid",
    )


def test_documents_have_the_size_that_they_need(client):
    for path in ("people/rename", "people/merge", "people/remove", "people/forget", "undo", "compact", "calibrate"):
        big = client.post(
            f"/v1/indexes/att/{path}", content=b" " * 20_000, headers={"Content-Type": "application/json"}
        )
        problem(big, 413, "large")
    longest = {"old": "\U0001f600" * 500, "new": "\U0001f600" * 500}
    data = json.dumps(longest).encode()  # twelve bytes a letter
    problem(
        client.post("/v1/indexes/att/people/rename", content=data, headers={"Content-Type": "application/json"}), 404
    )


@pytest.mark.parametrize(
    "query",
    [
        "k=5&k=6",
        "kk=5",
        "min_score=nan",
        "min_score=1e999",
        "min_score=inf",
        "k=5.5",
        "k=%00",
        "faces=maybe",
        "score=x",
    ],
)
def test_parameters_are_those_that_are_named(server, client, query):
    problem(client.post(f"/v1/indexes/att/search?{query}", content=server.probe(1)), 422, "invalid")


@pytest.mark.parametrize(
    "data",
    [
        b'{"vectors":[[' + b"0," * 1_900_000 + b"0]]}",
        b'{"vectors":[[0.' + b"1" * 3_900_000 + b"]]}",
        b'{"vectors":[[' + b"9" * 3_900_000 + b"]]}",
        b'{"vectors":["' + b"\\u0041" * 600_000 + b'"]}',
        b"[" * 3_900_000,
        b'{"vectors":[' + b"{}," * 1_300_000 + b"{}]}",
    ],
    ids=["numbers", "digits", "whole", "text", "lists", "objects"],
)
def test_a_large_question_does_not_hold_the_others(server, client, data):
    slowest, stop = 0.0, threading.Event()

    def ask():
        nonlocal slowest
        with httpx.Client() as other:
            while not stop.is_set():
                began = time.monotonic()
                other.get(f"{server.url}/healthz")
                slowest = max(slowest, time.monotonic() - began)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        answer = client.post(
            "/v1/indexes/att/search/vectors", content=data, headers={"Content-Type": "application/json"}
        )
    finally:
        stop.set()
        thread.join()
    assert answer.status_code in (413, 422) and slowest < 0.6, slowest


# photos ---------------------------------------------------------------------


@pytest.mark.parametrize("path", ["search", "faces?identity=x"])
def test_a_photo_in_a_wrapping_is_told_what_to_send(server, client, path):
    photo = server.probe(3)
    from io import BytesIO

    from PIL import Image

    sink = BytesIO()
    Image.open(BytesIO(photo)).save(sink, "JPEG")
    text = base64.b64encode(sink.getvalue())
    url = f"/v1/indexes/att/{path}"
    for answer in (
        client.post(url, files={"file": photo}),
        client.post(url, json={"photo": text.decode()}),
        client.post(url, content=json.dumps({"photo": text.decode()})),
        client.post(url, content=text),
        client.post(url, content=base64.encodebytes(sink.getvalue())),
        client.post(url, content=b"data:image/jpeg;base64," + text),
    ):
        assert "--data-binary" in problem(answer, 415, "media-type")
    assert (
        client.post(
            "/v1/indexes/att/search", content=photo, headers={"Content-Type": "application/x-www-form-urlencoded"}
        ).status_code
        == 200
    )
    assert (
        client.post(
            "/v1/indexes/att/search", content=sink.getvalue(), headers={"Content-Type": "image/jpeg"}
        ).status_code
        == 200
    )
    plain = b"P2\n4 4\n255\n" + b"10 " * 16
    assert client.post("/v1/indexes/att/search", content=plain).status_code in (200, 422)


# headers --------------------------------------------------------------------


@pytest.mark.parametrize("size", [17_000, 40_000, 70_000, 200_000])
@pytest.mark.parametrize("split", [False, True], ids=["one segment", "several"])
def test_headers_have_a_limit_however_they_come(server, size, split):
    host, _, port = server.url.removeprefix("http://").partition(":")
    data = f"GET /healthz HTTP/1.1\r\nHost: {host}:{port}\r\nX-Long: {'x' * size}\r\n\r\n".encode()
    with socket.create_connection((host, int(port)), 10) as connection:
        try:
            for part in [data] if not split else [data[i : i + 8000] for i in range(0, len(data), 8000)]:
                connection.sendall(part)
                time.sleep(0.02 if split else 0)
            status = connection.recv(1000).split()[1]
        except ConnectionError:
            status = b"431"
    assert status in (b"431", b"400")


# what who learns -------------------------------------------------------------


@pytest.fixture(scope="module")
def broken(server, tmp_path_factory):
    """A server whose model's weights are gone after the start."""
    import shutil

    folder = tmp_path_factory.mktemp("broken")
    shutil.copytree(server.indexes, folder / "indexes")
    return folder


def test_nobody_is_told_paths_without_a_key_and_no_refusal_is_counted(server, broken, monkeypatch):
    from tests import served as started

    (broken / "data" / "models").mkdir(parents=True)
    keys = {}

    def wait(found):
        keys["url"] = found.url
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                answer = httpx.get(f"{found.url}/readyz")
                if answer.status_code == 503 and "cannot be" in answer.text:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)

    monkeypatch.setattr(started, "wait_until_ready", wait)
    with running(broken, port=free_port()) as found:
        until, admin = time.monotonic() + 60, found.client()
        while "models" not in (detail := problem(admin.get("/readyz"), 503, "not-ready")) and time.monotonic() < until:
            time.sleep(0.2)
        assert str(broken) in detail  # for the one who runs it
        made = found.command("keys", "make", "reader")
        for answer in (
            httpx.get(f"{found.url}/readyz"),
            httpx.get(f"{found.url}/readyz", headers={"Authorization": f"Bearer {made}"}),
            httpx.get(f"{found.url}/readyz", headers={"Authorization": "Bearer wrong"}),
        ):
            detail = problem(answer, 503, "not-ready")
            assert str(broken) not in detail and "att" not in detail.split() and "/" not in detail
        counted = admin.get("/metrics").text
        assert "facegallery_refused_total 0.0" in counted
        admin.close()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/nothing",
        "/page/nothing",
        "/page/%00",
        "/page/" + "x" * 3000,
        "/page/..%2f..%2fcli.py",
        "/v1/session",
        "/v1/indexes/att",
        "/metrics",
        "/%0a%1b[31m",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "TRACE"])
def test_nothing_of_the_machine_is_told_without_a_key(server, path, method):
    answer = httpx.request(method, f"{server.url}{path}", content=b"x" if method == "POST" else None)
    assert answer.status_code < 500, answer.text
    told = answer.text + str(answer.headers)
    for secret in (str(server.root), str(server.indexes), "/work", "/tmp", "site-packages", "s40"):
        assert secret not in told
    assert "\x1b" not in told


def test_hosts_are_not_told(server):
    answer = httpx.get(f"{server.url}/v1/indexes", headers={"Host": "evil.example"})
    assert "127.0.0.1" not in problem(answer, 421, "host")


# the client -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("3", 3, 3),
        ("0", 0, 0),
        ("", 1, 1),
        ("soon", 1, 1),
        ("-5", 1, 1),
        ("nan", 1, 1),
        ("1e9", 1, 1),
        ("9" * 30, 60, 60),
        ("\u0663", 1, 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60, 60),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0),
        ("Thu, 99 Jan 1970 00:00:00 GMT", 1, 1),
        ("Thu, 01 Jan 99999 00:00:00 GMT", 1, 60),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, least, most):
    assert least <= pause_of(header) <= most


class Proxy(BaseHTTPRequestHandler):
    answers: list = []

    def do_GET(self):
        status, kind, body, headers = Proxy.answers.pop(0) if len(Proxy.answers) > 1 else Proxy.answers[0]
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy():
    with HTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        (502, "text/html", b"<html>Bad gateway</html>", {}),
        (502, "application/json", b"[1, 2]", {}),
        (502, "application/json", b'"x"', {}),
        (502, "application/json", b"null", {}),
        (502, "application/json", b'{"detail": [1]}', {}),
        (502, "application/json", b"[" * 100_000, {}),
        (200, "text/html", b"<html>Sign in</html>", {}),
        (200, "application/json", b"[]", {}),
        (200, "application/json", b"{}", {}),
        (200, "application/json", b"\xff", {}),
        (302, "text/html", b"", {"Location": "https://elsewhere.example/"}),
        (204, "text/plain", b"", {}),
    ],
)
def test_what_a_proxy_answers_is_refused_in_one_line(proxy, answer):
    Proxy.answers = [answer]
    with Client(proxy, "key") as faces:
        gallery = faces.gallery("att")
        asks = {
            "indexes": faces.indexes,
            "search": lambda: gallery.search(b"x"),
            "people": gallery.people,
            "many": lambda: gallery.search([b"x", b"y"]),
            "undo": gallery.undo,
        }
        if answer[2] == b"[]":
            del asks["undo"]  # nothing was taken back
        for ask in asks.values():
            with pytest.raises(RequestRefused) as caught:
                ask()
            assert caught.value.status == answer[0] and str(caught.value) and "\n" not in str(caught.value)


def test_a_busy_proxy_is_asked_again(proxy):
    soon = format_datetime(datetime.now(UTC), usegmt=True)
    Proxy.answers = [
        (503, "text/html", b"<html>", {"Retry-After": soon}),
        (429, "application/json", b"[]", {"Retry-After": "0"}),
        (200, "application/json", b'{"indexes": ["a"]}', {}),
    ]
    with Client(proxy, "key") as faces:
        assert faces.indexes() == ["a"]
