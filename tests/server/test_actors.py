"""What bad actors send: each is refused, or shown harmlessly, by one clear problem, and the server keeps running."""

import io
import json
import random
import socket
import time
import zlib
from contextlib import ExitStack

import pytest
from PIL import Image

from facegallery.server.connections import ADDRESS_CONNECTIONS, HEAD_SECONDS
from facegallery.server.settings import Settings
from tests import hasty as hasty_limits
from tests.doses import doses
from tests.served import running

SEARCH, FACES = "/v1/indexes/att/search", "/v1/indexes/att/faces"
NAMES = [
    "../../etc/passwd",
    "..\\..\\windows",
    "/etc/passwd",
    "a/../../b",
    "%2e%2e%2f",
    "C:\\x",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "'; DROP TABLE people; --",
    '" onload="x',
    "{{7*7}}",
    "${jndi:ldap://x}",
    "‮evil",
    "a\u0000b",
    "line\nbreak",
    "😀" * 50,
    "ｆｕｌｌ",
    "é",
    "e\u0301",
    "\u200b\u200b",
    "~",
    "|ls",
    "$(id)",
    "`id`",
    "con",
    "nul",
    "-rf",
    "--help",
    "%s%s%n",
    "\x1b[31mred",
]
NO_NAMES = {"a\u0000b", "\u200b\u200b", "\x1b[31mred"}


@pytest.fixture
def client(server):
    """And afterwards the server answers as before."""
    with server.client() as found:
        yield found
        assert found.post(SEARCH, content=server.probe(7)).json()["faces"][0]["hits"][0]["identity"] == "s7"


@pytest.fixture(scope="module")
def keys(server):
    return {
        scope: server.command("keys", "make", scope, "--scope", scope, "--rate", "0", "--quiet")
        for scope in ("read", "write", "admin")
    }


def is_problem(answer, *statuses):
    assert answer.status_code in (statuses or range(400, 500)), (answer.status_code, answer.text[:300])
    assert (
        answer.headers["content-type"] == "application/problem+json" and answer.json()["status"] == answer.status_code
    )
    assert "Traceback" not in answer.text and "site-packages" not in answer.text
    return True


def raw(server, data, pause=0.0, wait=10.0):
    """What comes back for bytes that are sent as they stand."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        try:
            for part in [data] if isinstance(data, bytes) else data:
                connection.sendall(part)
                time.sleep(pause)
            return connection.recv(65536)
        except (ConnectionError, TimeoutError):
            return b""


def opened(server, data=b"", source="127.0.0.1"):
    """A connection on which so much was sent."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), 10, (source, 0))
    connection.sendall(data)
    return connection


def answered(connection):
    """Whether /healthz was answered, to the end."""
    came = b""
    while not came.endswith(b'{"status":"ok"}'):
        if not (more := connection.recv(65536)):
            return False
        came += more
    return came.startswith(b"HTTP/1.1 200")


def until_closed(connection, wait):
    """What came, and the seconds until the other side closed; raises TimeoutError where it did not."""
    connection.settimeout(wait)
    began, came = time.monotonic(), b""
    try:
        while more := connection.recv(65536):
            came += more
    except ConnectionError:
        pass
    return came, time.monotonic() - began


def closed(server, why):
    """How many connections the server closed for a reason."""
    with server.client() as client:
        lines = dict(
            line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#")
        )
    return float(lines.get(f'facegallery_connections_closed_total{{why="{why}"}}', 0))


def test_who_sends_too_much_is_told_so_however_much_is_still_to_come(server, client):
    head = f"POST {SEARCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.key}\r\n".encode()
    head += b"Content-Length: %d\r\n\r\n" % (40 << 20)
    with opened(server, head + bytes(21 << 20)) as connection:
        time.sleep(1)
        connection.sendall(bytes(19 << 20))
        assert connection.recv(65536).split()[1] == b"413"


# keys and scopes ------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer x", "bearer fdb_", "Basic YTpi", "Bearer " + "a" * 8000, "Bearer ' OR 1=1 --", "Digest x"],
)
def test_a_wrong_key(server, client, header):
    import httpx

    for method, path in (
        ("GET", "/v1/indexes"),
        ("POST", SEARCH),
        ("POST", FACES),
        ("GET", "/metrics"),
        ("GET", f"/v1/jobs/{'0' * 16}"),
    ):
        assert is_problem(httpx.request(method, server.url + path, headers={"Authorization": header}), 401)


@pytest.mark.parametrize(
    "scope, method, path, body",
    [
        ("read", "POST", FACES + "?identity=x", None),
        ("read", "POST", "/v1/indexes/att/people/rename", {"old": "s1", "new": "x"}),
        ("read", "POST", "/v1/indexes/att/people/merge", {"source": "s1", "into": "s2"}),
        ("read", "POST", "/v1/indexes/att/people/remove", {"identity": "s1"}),
        ("read", "POST", "/v1/indexes/att/people/split", {"face_ids": ["0" * 32], "to": "x"}),
        ("read", "POST", "/v1/indexes/att/undo", None),
        ("read", "POST", "/v1/indexes/att/people/forget", {"identity": "s1"}),
        ("write", "POST", "/v1/indexes/att/people/forget", {"identity": "s1"}),
        ("write", "POST", "/v1/indexes/att/compact", None),
        ("write", "POST", "/v1/indexes/att/calibrate", None),
        ("read", "POST", "/v1/indexes/att/compact", None),
    ],
)
def test_a_scope_that_is_missing(server, client, keys, scope, method, path, body):
    with server.client(keys[scope]) as other:
        content = {"json": body} if body else {"content": server.probe(1)}
        assert is_problem(other.request(method, path, **content), 403)


def test_a_key_that_was_revoked(server, client):
    key = server.command("keys", "make", "short", "--quiet")
    with server.client(key) as other:
        assert other.get("/v1/indexes").status_code == 200
        server.command("keys", "revoke", "short")
        time.sleep(2.5)
        assert is_problem(other.get("/v1/indexes"), 401)


def test_a_key_that_signs_in_all_the_time(server, client):
    key = server.command("keys", "make", "restless", "--rate", "2", "--quiet")
    answers = [client.post("/v1/session", json={"key": key}) for _ in range(12)]
    late = [answer for answer in answers if answer.status_code != 200]
    assert len(late) >= 6 and all(is_problem(answer, 429) and "set-cookie" not in answer.headers for answer in late)


def test_bad_lines_of_a_stream_count_as_photos_do(server, client):
    key = server.command("keys", "make", "hasty", "--rate", "2", "--quiet")
    began = time.monotonic()
    with server.client(key) as hasty:
        said = hasty.post(f"{SEARCH}/stream", content=b"no JSON\n" * 8)
    assert [json.loads(line)["problem"]["status"] for line in said.text.splitlines()] == [422] * 8
    assert time.monotonic() - began > 2


# browsers -------------------------------------------------------------------


def test_a_form_of_another_site(server, client, keys):
    session = client.post("/v1/session", json={"key": keys["admin"]}).cookies["facegallery"]
    import httpx

    for headers in (
        {},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "null", "X-Facegallery": "1"},
    ):
        for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"):
            sent = {"Cookie": f"facegallery={session}", "Content-Type": kind} | headers
            answer = httpx.post(
                f"{server.url}/v1/indexes/att/people/forget", content=b'{"identity": "s1"}', headers=sent
            )
            assert is_problem(answer, 403)
    preflight = httpx.options(
        f"{server.url}/v1/indexes", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert not any(name.startswith("access-control") for name in preflight.headers)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.nip.io", "localhost.evil.example", "att.local", "169.254.169.254"]
)
def test_a_name_that_leads_here(client, host):
    assert is_problem(client.get("/v1/indexes", headers={"Host": host}), 421)
    assert is_problem(client.get("/", headers={"Host": host}), 421)


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py",
        "/page/%2e%2e/accounts.py",
        "/page/..%2f..%2fsetup.cfg",
        "/page//etc/passwd",
        "/page/....//x",
        "/page/app.js/..",
        "/page/\\..\\api.py",
        "/page/%00",
        "/page/.",
    ],
)
def test_a_file_that_is_not_the_pages(server, client, path):
    answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    assert answer.split()[1] in (b"404", b"401", b"400", b"405") and b"import" not in answer and b"root:" not in answer


# names, texts, numbers ------------------------------------------------------


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_of_any_letters_is_only_a_name(server, client, name):
    if name in NO_NAMES:
        assert is_problem(client.post(FACES, content=server.probe(30), params={"identity": name}), 422)
        return
    added = client.post(FACES, content=server.probe(30), params={"identity": name})
    assert added.status_code == 200, added.text
    hit = client.post(SEARCH, content=server.probe(30)).json()["faces"][0]["hits"][0]
    assert hit["score"] > 0.999 and client.get(FACES, params={"identity": name}).json()["faces"]
    assert client.post("/v1/indexes/att/people/rename", json={"old": name, "new": "plain"}).status_code == 200
    assert client.post("/v1/indexes/att/people/remove", json={"identity": "plain"}).status_code == 200
    assert {path.name for path in server.indexes.iterdir()} == {"_forgotten", "att"}


@pytest.mark.parametrize("index", ["..", "%2e%2e", "att%2f..", "att%00", "ATT", "att ", "a" * 3000, "*"])
def test_an_index_that_is_not_served(client, index):
    assert is_problem(client.get(f"/v1/indexes/{index}/people"), 404, 405, 400)


@pytest.mark.parametrize(
    "params",
    [
        {"k": "-1"},
        {"k": "99999999999999999999"},
        {"k": "1e3"},
        {"k": "NaN"},
        {"min_score": "nan"},
        {"min_score": "inf"},
        {"score": "best'--"},
        {"faces": "maybe"},
        {"where": "a"},
        {"where": "identity='x' OR 1=1"},
        {"where": "x" * 4000},
        {"where": ["s=1"] * 101},
        {"where": "\x00=1"},
        {"where": "id>0) OR (1=1"},
        {"image": "x" * 301},
    ],
)
def test_a_question_that_cannot_be(server, client, params):
    answer = client.post(SEARCH, content=server.probe(7), params=params)
    assert answer.status_code == 200 and answer.json()["faces"][0]["hits"] == [] or is_problem(answer, 422)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"vectors": ' + b"[" * 50_000,
        b'{"vectors": [[NaN]]}',
        b'{"vectors": [["x"]]}',
        b'{"vectors": []}',
        b'{"vectors": [[1]], "k": 1e99}',
        b'{"vectors": [[1]], "where": ["\\ud83d=1"]}',
        b"\xff\xfe",
        b'{"vectors": [[1]], "__proto__": {}}',
        b'{"a": ' * 20_000,
    ],
)
def test_json_that_is_none_or_too_deep(client, body):
    assert is_problem(
        client.post("/v1/indexes/att/search/vectors", content=body, headers={"Content-Type": "application/json"}),
        422,
        400,
    )


# floods ---------------------------------------------------------------------


def test_headers_without_end(server, client):
    assert raw(
        server,
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(200))
        + b"\r\n",
    ).split()[1:2] != [b"200"]
    assert raw(server, b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").split()[1:2] != [b"200"]


def test_a_body_without_end(server, client):
    head = f"POST {SEARCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n".encode()
    head += f"Authorization: Bearer {server.key}\r\n".encode()
    said = raw(server, head + b"Content-Length: 99999999999\r\n\r\n" + b"x" * (21 << 20))
    assert said == b"" or said.split()[1] == b"413"
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    said = raw(server, [head + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 25])
    assert said == b"" or said.split()[1] == b"413"
    said = raw(
        server,
        head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/indexes HTTP/1.1\r\n\r\n",
    )
    assert said == b"" or said.split()[1] in (b"400", b"422")


def test_no_body_without_a_key(server, client):
    said = raw(
        server, f"POST {SEARCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\n\r\n".encode()
    )  # is not waited for
    assert said.split()[1] == b"401"


def test_many_connections_that_say_nothing(server, client):
    host, port = server.url.removeprefix("http://").split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(200)]
    try:
        assert client.get("/healthz").status_code == 200
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"SSH-2.0-x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 1000,
        b"GET\r\n\r\n",
    ],
)
def test_what_is_no_request(server, client, data):
    assert raw(server, data, wait=3).split()[1:2] in ([b"400"], [b"421"], [b"505"], [])


# photos ---------------------------------------------------------------------


def jpeg(server, size=(184, 224), **settings):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(server.probe(7))).resize(size).convert("RGB").save(buffer, "JPEG", **settings)
    return buffer.getvalue()


def bomb(side):
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes((side // 8 + 1) * side), 9))
        + chunk(b"IEND", b"")
    )


def test_bombs_polyglots_and_things_that_are_no_photos(server, client):
    good = jpeg(server)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><image href="file:///etc/passwd"/></svg>'
    for photo in (
        bomb(20_000),
        b"GIF89a" + b"\xff" * 100,
        svg,
        b"%PDF-1.7",
        b"http://169.254.169.254/",
        b"file:///etc/passwd",
        b"PK\x03\x04",
        b"\x7fELF",
        good[:200],
        good[:20],
    ):
        assert is_problem(client.post(SEARCH, content=photo), 422)
    for photo in (good + b"PK\x03\x04<script>alert(1)</script>", good.replace(b"\xff\xe0", b"\xff\xe0", 1)):
        assert client.post(SEARCH, content=photo).json()["outcome"] == "ok"


def test_photos_with_bytes_that_were_changed(server, client):
    rng, good, seen = random.Random(0), jpeg(server, quality=80), set()
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.choice((1, 3, 30))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        answer = client.post(SEARCH, content=bytes(data[: rng.choice((len(data), rng.randrange(1, len(data))))]))
        assert answer.status_code == 200 or is_problem(answer, 422)
        seen.add(answer.status_code)
    assert seen == {200, 422}


def test_nothing_of_a_photo_is_left_in_the_log_or_beside_the_index(server, client):
    client.post(SEARCH, content=jpeg(server))
    text = (server.indexes.parent / "log").read_text()
    assert "Traceback" not in text and server.key not in text and "0.0" not in text
    assert {path.name for path in server.root.iterdir()} <= {"models", "server.db", "server.db-wal", "server.db-shm"}


def test_enrolment_by_a_photo_of_two(server, client):
    one = Image.open(io.BytesIO(server.probe(7)))
    both = Image.new("L", (184, 112))
    both.paste(one, (0, 0))
    both.paste(Image.open(io.BytesIO(server.probe(8))), (92, 0))
    buffer = io.BytesIO()
    both.save(buffer, "PNG")
    answer = client.post(FACES, content=buffer.getvalue(), params={"identity": "Two"})
    assert is_problem(answer, 422) and len(answer.json()["faces"]) == 2
    assert json.loads(client.get("/v1/indexes/att").text)["faces"] == 40


# connections ----------------------------------------------------------------

HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def test_connections_that_say_nothing_are_closed_and_delay_nobody(server, client):
    """Nor those that begin a request and do not end it: the first one, or the next one."""
    before, began = closed(server, "slow"), time.monotonic()
    with ExitStack() as stack:
        silent = [stack.enter_context(opened(server)) for _ in range(100)]
        halves = [stack.enter_context(opened(server, HEAD)) for _ in range(20)]
        nexts = [stack.enter_context(opened(server, HEAD + b"\r\n")) for _ in range(20)]
        for connection in nexts:
            assert answered(connection)
            connection.sendall(HEAD)
        asked = time.monotonic()
        assert client.post(SEARCH, content=server.probe(7)).status_code == 200
        assert time.monotonic() - asked < 5
        time.sleep(HEAD_SECONDS / 2)
        for connection in halves + nexts:
            connection.sendall(b"X-A: b\r\n")  # a little now and then is no request either
        for connection in silent:
            assert until_closed(connection, HEAD_SECONDS)[0] == b""
        for connection in halves + nexts:
            head, _, body = until_closed(connection, HEAD_SECONDS)[0].partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408") and json.loads(body)["type"].endswith(":slow")
        assert time.monotonic() - began < 2 * HEAD_SECONDS
    assert closed(server, "slow") - before == 140


@pytest.fixture(scope="module")
def hasty(att_gallery, tmp_path_factory):
    """A server that waits less long."""
    with running(att_gallery(tmp_path_factory.mktemp("hasty")), program=("-m", "tests.hasty")) as found:
        yield found


@pytest.fixture(params=doses("hasty", "server"))
def limited(request):
    """A server and its limits: seconds for a head, and for a body."""
    if request.param == "hasty":
        return request.getfixturevalue("hasty"), hasty_limits.HEAD_SECONDS, hasty_limits.BODY_SECONDS
    return request.getfixturevalue("server"), HEAD_SECONDS, Settings(("x",)).body_seconds


def test_a_connection_that_asks_now_and_then_stays(limited):
    """Also where a request takes longer than its head may."""
    server, head_seconds, _ = limited
    with opened(server) as connection:
        for pause in (head_seconds / 2, head_seconds + 2):
            connection.sendall(HEAD + b"\r\n")
            assert answered(connection)
            time.sleep(pause)
        body = b"POST /v1/session HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 20\r\n\r\n"
        connection.sendall(body)
        time.sleep(head_seconds + 2)
        connection.sendall(b'{"key": "not a key"}')
        assert connection.recv(65536).split()[1] in (b"401", b"422")


def test_the_rest_of_a_body_that_was_answered_is_not_waited_for_without_end(limited):
    """A bit of it every second would keep a connection for ever."""
    server, _, body_seconds = limited
    with opened(
        server, b"POST /v1/indexes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
    ) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 4")
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - began < 45:
                connection.sendall(b"x")
                time.sleep(0.5)
        assert time.monotonic() - began > body_seconds - 2


def test_an_address_with_too_many_connections_keeps_no_other_one_out(server, client):
    before = closed(server, "many")
    with ExitStack() as stack:
        for _ in range(ADDRESS_CONNECTIONS):
            stack.enter_context(opened(server, source="127.0.0.3"))
        time.sleep(0.5)
        for _ in range(3):
            with opened(server, source="127.0.0.3") as more:
                assert until_closed(more, 2)[0] == b""
        for source in ("127.0.0.1", "127.0.0.2"):
            with opened(server, HEAD + b"Connection: close\r\n\r\n", source) as another:
                assert answered(another)
    assert closed(server, "many") - before == 3
    time.sleep(0.5)
    with opened(server, HEAD + b"Connection: close\r\n\r\n", "127.0.0.3") as later:  # once it has closed some
        assert answered(later)
