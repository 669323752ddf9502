import asyncio
import json
import time
from unittest.mock import AsyncMock, Mock

import pytest
from fastapi import FastAPI, Request

from facegallery.accounts import Accounts
from facegallery.server.app import answer_problems
from facegallery.server.guard import BodyLimits, Desk, Guard, HeldBytes, _Body
from facegallery.server.logs import escape_logs
from facegallery.server.meters import Meters
from facegallery.server.problems import HttpProblem
from facegallery.server.routes.session import sign_out
from facegallery.server.settings import Settings

HOST = (b"host", b"127.0.0.1:8000")
STARTS = {"start": "127.0.0.1:8000", "other port": "127.0.0.1:8001", "other address": "127.0.0.2:8000"}


async def echo(scope, receive, send):
    """An application that reads the whole body and says who asked, and how much came."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    key = scope.get("state", {}).get("key")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps([key and key.name, size]).encode()})


async def faulty(scope, receive, send):
    raise RuntimeError("the secret of the fault")


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """One request through the guard: its status, headers and body."""
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path))
    accounts = Accounts()
    keys = {scope: accounts.make_key(scope, scope, 0) for scope in ("read", "write")} | {
        "slow": accounts.make_key("slow", "read", 2)
    }
    cookie = accounts.begin_session(accounts.holder(keys["write"]), 60)
    keys |= {name: accounts.start_key(at) for name, at in STARTS.items()}
    accounts.close()
    desk = Desk(STARTS["start"])

    def call(
        method="GET",
        path="/v1/indexes",
        headers=(HOST,),
        body=(b"",),
        pause=0.0,
        key=None,
        session=False,
        beside="a=b",
        app=echo,
        times=1,
        together=False,
        **settings,
    ):
        guard = Guard(app, Settings(("x",), **settings), lambda: desk, Meters())
        sent = [*headers]
        if key:
            sent.append((b"authorization", f"Bearer {keys.get(key, key)}".encode()))
        if session:
            sent.append((b"cookie", f"{beside}; facegallery={cookie}".encode()))

        async def one():
            parts, answer = list(body), []

            async def receive():
                await asyncio.sleep(pause)
                return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

            async def send(message):
                answer.append(message)

            await guard(
                {"type": "http", "method": method, "path": path, "query_string": b"", "headers": sent}, receive, send
            )
            text = b"".join(m.get("body", b"") for m in answer)
            return answer[0]["status"], dict(answer[0]["headers"]), json.loads(text)

        async def several():
            return (
                await asyncio.gather(*(one() for _ in range(times)))
                if together
                else [await one() for _ in range(times)]
            )

        found = asyncio.run(several())
        return found[0] if times == 1 else [status for status, _, _ in found]

    yield call
    desk.close()


def test_a_key_lets_in_and_nothing_else_does(ask):
    assert ask(key="read")[2] == ["read", 0] and ask(key="start")[2] == ["start 127.0.0.1:8000", 0]
    assert ask(key="other port")[0] == ask(key="other address")[0] == 401
    for wrong in ("fdb_wrong", "", " ", "x" * 5000):
        status, headers, body = ask(key=wrong)
        assert (
            status == 401
            and headers[b"www-authenticate"] == b"Bearer"
            and body["type"] == "urn:facegallery:problem:key"
        )
    assert ask(headers=(HOST, (b"authorization", b"Basic eDp5")))[0] == 401
    assert ask(headers=(HOST, (b"cookie", b"facegallery=nonsense; \x00=;;;")))[0] == 401


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/openapi.json", "/page/app.js", "/v1/session"])
def test_what_is_open_needs_no_key(ask, path):
    assert ask(path=path)[:1] == (200,)


@pytest.mark.parametrize(
    "path", ["/metrics", "/v1", "/v1/session/", "/page", "//", "/healthz/", "/v1/indexes/../../healthz", "/PAGE/app.js"]
)
def test_and_nothing_else_is_open(ask, path):
    assert ask(path=path)[0] == 401


@pytest.mark.parametrize(
    "host", [b"127.0.0.1", b"127.0.0.1:8000", b"localhost:1", b"LOCALHOST", b"[::1]:8000", b"[::1]"]
)
def test_the_own_names_are_let_in(ask, host):
    assert ask(key="read", headers=((b"host", host),))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"127.0.0.1.evil.example",
        b"localhost.evil.example:8000",
        b"evil.example#127.0.0.1",
        b"[::1",
        b"",
        b"0.0.0.0",
        b"127.0.0.1@evil.example",
        b"\xff\xfe",
        b"[::1].evil.example",
        b"[::1].evil.example:8000",
        b"127.0.0.1:evil.example",
        b"127.0.0.1:",
        b"127.0.0.1:80:80",
        b"127.0.0.1:-1",
        b"127.0.0.1:65536",
        b"127.0.0.1:8000/",
        b"127.0.0.1:080000",
        b"localhost.",
        b"localhost:x",
        b"[::1]x",
        b"[::1]]",
        b"[[::1]]",
        b"::1",
        b"[::ffff:127.0.0.1]",
        b"127.0.0.1 ",
        b" 127.0.0.1",
        b"127.0.0.1\t",
        b"127.0.0.1,evil.example",
        b"evil.example:127.0.0.1",
        b"127.1",
        b"localhost\x00",
        b"localhost\r\n",
        "127.0.0.1:١".encode(),
        b"127.0.0.1?x",
        b"x@localhost",
    ],
)
def test_a_rebound_name_is_not(ask, host):
    status, _, body = ask(key="read", headers=((b"host", host),))
    assert status == 421 and body["type"].endswith(":host")


def test_one_host_is_sent(ask):
    assert (
        ask(key="read", headers=(HOST, (b"host", b"evil.example")))[0]
        == ask(key="read", headers=(HOST, HOST))[0]
        == 400
    )


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x", b"y" * 16_400)],
        [(b"y" * 16_400, b"x")],
        [(b"x%d" % i, b"y" * 5000) for i in range(8)],
        [(b"x%d" % i, b"") for i in range(100)],
    ],
)
def test_headers_have_a_limit(ask, headers):
    for path in ("/healthz", "/v1/indexes"):
        status, answer, body = ask(path=path, key="read", headers=(HOST, *headers))
        assert status == 431 and answer[b"connection"] == b"close" and body["type"].endswith(":headers")
    assert ask(key="read", headers=(HOST, *((b"x%d" % i, b"y" * 100) for i in range(90))))[0] == 200


@pytest.mark.parametrize("path", ["/healthz", "/v1/indexes"])
def test_a_body_has_one_length(ask, path):
    both = (HOST, (b"content-length", b"5"), (b"transfer-encoding", b"chunked"))
    status, answer, body = ask(path=path, key="read", headers=both)
    assert status == 400 and answer[b"connection"] == b"close" and body["type"].endswith(":length")
    assert ask(path=path, key="read", headers=both[:2])[0] == ask(path=path, key="read", headers=both[::2])[0] == 200


def test_head_is_answered_as_get_without_the_body(ask):
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["method"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}", "more_body": False})

    with pytest.raises(json.JSONDecodeError):  # there is no body
        ask("HEAD", key="read", app=app)
    assert seen == ["GET"]


def test_control_characters_of_a_request_are_escaped_in_the_answer_and_the_log(ask, caplog):
    async def app(scope, receive, send):
        raise HttpProblem(404, "unknown", "nobody is called 'a\x1b[2J\x7f\u202e'", {"X-Name": "a\r\nSet-Cookie: x"})

    status, headers, body = ask(key="read", app=app)
    assert (
        status == 404
        and headers[b"x-name"] == b"a\\x0d\\x0aSet-Cookie: x"
        and body["detail"].endswith("'a\x1b[2J\x7f\u202e'")
    )

    async def fails(scope, receive, send):
        raise RuntimeError("a\nb\x1b[2J")

    escape_logs()
    ask(path="/v1/x\n\x1b[31mERROR forged", key="read", app=fails)
    text = caplog.text
    assert "\x1b" not in text and "\nERROR forged" not in text and "a\\x0ab\\x1b[2J" in text and "Traceback" in text


def test_other_names_are_let_in_where_they_are_given(ask):
    assert ask(key="read", headers=((b"host", b"faces.example"),), hosts=("Faces.example",))[0] == 200
    assert ask(key="read", headers=((b"host", b"10.0.0.5:8000"),), host="10.0.0.5")[0] == 200
    assert ask(key="read", headers=((b"host", b"localhost"),), host="10.0.0.5")[0] == 421


@pytest.mark.parametrize(
    "headers",
    [
        [(b"origin", b"http://evil.example")],
        [(b"origin", b"null")],
        [(b"origin", b"http://127.0.0.1:9000")],
        [(b"origin", b"http://localhost:8000")],
        [(b"sec-fetch-site", b"cross-site")],
        [(b"sec-fetch-site", b"same-site")],
        [(b"origin", b"")],
    ],
)
def test_another_page_changes_nothing(ask, headers):
    for extra in ({"key": "write"}, {"session": True}):
        status, _, body = ask("POST", headers=(HOST, (b"x-facegallery", b"1"), *headers), **extra)
        assert status == 403 and body["type"].endswith(":origin")


def test_a_session_changes_something_only_with_the_header_that_no_form_can_send(ask):
    assert ask("GET", session=True)[2] == ["write", 0]
    status, _, body = ask("POST", session=True)
    assert status == 403 and body["type"].endswith(":header")
    own = (HOST, (b"x-facegallery", b"1"), (b"origin", b"http://127.0.0.1:8000"), (b"sec-fetch-site", b"same-origin"))
    assert ask("POST", headers=own, session=True)[2] == ["write", 0]
    assert ask("POST", key="write")[2] == ["write", 0]


@pytest.mark.parametrize(
    "beside", ['prefs={"a":1}', "a b", "=", "", ";;", "é=ü", 'x="a', "notfacegallery=1; facegallery", "Path=/", '["x"]']
)
def test_a_session_stands_beside_cookies_of_others(ask, beside):
    assert ask(session=True, beside=beside)[2] == ["write", 0]


def test_a_long_cookie_is_read_at_once(ask):
    quoted = '"' + r"\"" * 7_000 + '"'
    began = time.monotonic()
    assert ask(session=True, beside=f"x={quoted}")[2] == ["write", 0]
    assert ask(key="read", headers=(HOST, (b"cookie", f"facegallery={quoted}".encode())))[0] == 200
    request = Request({"type": "http", "headers": [(b"cookie", f"facegallery={quoted}".encode())]})
    signed_out = asyncio.run(sign_out(request, Mock(desk=Mock(ask=AsyncMock()))))
    assert signed_out.status_code == 204 and time.monotonic() - began < 3


def test_a_key_asks_no_more_often_than_it_may(ask):
    statuses = ask(key="slow", times=12)
    assert statuses.count(429) >= 6 and statuses[0] == 200
    assert ask(key="read", times=12) == [200] * 12


def test_a_body_has_a_limit_in_bytes_and_seconds(ask):
    assert ask("POST", key="write", path="/v1/indexes/x/search", body=[b"x" * 10] * 10, photo_bytes=100)[2] == [
        "write",
        100,
    ]
    status, headers, body = ask(
        "POST", key="write", path="/v1/indexes/x/search", body=[b"x" * 10] * 11, photo_bytes=100
    )
    assert status == 413 and "100 bytes" in body["detail"]
    status, headers, body = ask("POST", key="write", body=[b"x"] * 50, pause=0.05, body_seconds=0.2)
    assert status == 408 and body["type"].endswith(":slow")
    assert (
        ask(
            "POST",
            path="/v1/indexes/x/search/stream",
            key="write",
            body=[b"x"] * 10,
            pause=0.05,
            body_seconds=0.2,
            photo_bytes=3,
        )[0]
        == 200
    )


def test_all_bodies_together_have_a_limit(ask):
    search, body = "/v1/indexes/x/search", [b"x" * 20] * 3
    assert ask("POST", search, body=body, key="write", times=5, held_bytes=100) == [200] * 5  # one after another
    assert sorted(ask("POST", search, body=body, key="write", pause=0.01, times=3, together=True, held_bytes=100)) == [
        200,
        200,
        503,
    ]
    status, headers, problem = ask("POST", search, body=body, key="write", held_bytes=50)
    assert status == 503 and headers[b"retry-after"] == b"1"
    assert problem["type"].endswith(":busy") and "50 bytes" in problem["detail"]
    assert (
        ask("POST", f"{search}/stream", body=body, key="write", held_bytes=50)[0] == 200
    )  # its route says what it holds


def test_no_request_lets_go_what_others_hold():
    held = HeldBytes(100)
    one, other = (_Body(None, BodyLimits(100, 1, is_stream=True), held) for _ in range(2))
    one.hold(60), other.hold(30)
    other.hold(-50)
    assert held.bytes == 60
    with pytest.raises(HttpProblem):
        other.hold(50)
    one.release(), one.hold(-60)
    assert held.bytes == 0


def test_every_answer_carries_what_keeps_browsers_safe(ask):
    for status, headers, _ in (
        ask(key="read"),
        ask(),
        ask(path="/page/app.js"),
        ask(key="read", headers=((b"host", b"evil"),)),
    ):
        policy = headers[b"content-security-policy"].decode()
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http:" not in policy, status
        assert (
            headers[b"x-content-type-options"] == b"nosniff"
            and headers[b"cross-origin-resource-policy"] == b"same-origin"
        )
        assert headers[b"cache-control"] in (b"no-store", b"no-cache")


def test_a_fault_of_ours_tells_nothing_of_itself(ask, caplog):
    status, _, body = ask(key="read", app=faulty)
    assert status == 500 and "secret" not in json.dumps(body)
    assert "the secret of the fault" in caplog.text


def test_so_does_one_in_a_route(ask, caplog):
    app = FastAPI()
    answer_problems(app)

    @app.get("/v1/broken")
    async def broken():
        raise RuntimeError("the secret of the fault")

    status, headers, body = ask(path="/v1/broken", key="read", app=app)
    assert status == 500 and headers[b"content-type"] == b"application/problem+json" and body["type"].endswith(":fault")
    assert "secret" not in json.dumps(body) and "the secret of the fault" in caplog.text
