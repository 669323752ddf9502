import os
import shutil
import socket
import ssl
import subprocess
import sys
import time

import httpx
import pytest

from facegallery.embedder.errors import InputError
from facegallery.server.connections import HEAD_SECONDS
from facegallery.server.run import Certificate, _check_tls
from facegallery.server.settings import Settings, is_loopback
from tests.conftest import ROOT
from tests.doses import doses
from tests.served import free_port, running


@pytest.fixture(scope="module")
def folder(att_gallery, tmp_path_factory):
    return att_gallery(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def server(folder):
    with running(folder, "--workers", "2", "--allow-host", "faces.example") as found:
        yield found


def refused(server, *arguments):
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "serve", *arguments],
        capture_output=True,
        text=True,
        env=server.environment,
        timeout=60,
    )
    assert done.returncode and "Traceback" not in done.stderr and done.stdout == ""
    return done.returncode, done.stderr.strip()


def test_only_addresses_of_this_machine_are_loopback():
    assert [
        is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "0.0.0.0", "::", "10.0.0.1")
    ] == [True] * 4 + [False] * 3
    with pytest.raises(InputError, match="--host"):
        is_loopback("example.org")
    assert Settings(("x",), "0.0.0.0").allowed_hosts == {"0.0.0.0"} and "localhost" in Settings(("x",)).allowed_hosts


def test_a_start_that_cannot_be_says_why_in_one_line(server):
    code, said = refused(server, "att", "--host", "0.0.0.0", "--port", str(free_port()))
    assert code == 2 and "keys make" in said
    code, said = refused(server, "nobody", "--port", str(free_port()))
    assert code == 5 and "nobody" in said
    code, said = refused(server, "att", "--port", server.url.rsplit(":", 1)[1])
    assert code == 6 and "--port" in said
    assert refused(server, "att", "--host", "example.org")[0] == 2
    assert refused(server, "att", "--tls-cert", "x.pem")[0] == 2


def test_a_certificate_that_is_none_is_told_before_anything_starts(server, tmp_path):
    junk, missing = tmp_path / "junk.pem", tmp_path / "missing.pem"
    junk.write_text("junk")
    for workers, certificate, key in (("1", junk, junk), ("2", junk, missing), ("2", missing, junk)):
        files = ("--tls-cert", str(certificate), "--tls-key", str(key))
        code, said = refused(server, "att", "--port", str(free_port()), "--workers", workers, *files)
        assert code == 2 and f"{certificate} and {key}" in said and len(said.splitlines()) == 1


STOPPED_IN_AN_IMPORT = """
import os, signal, sys
from facegallery.server import run
from facegallery.server.settings import Settings

def stopped_in_an_import(*_):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    finally:  # as importlib's lock does
        raise RuntimeError("cannot release un-acquired lock")

run._run = stopped_in_an_import
run.serve(Settings(("att",), port=int(sys.argv[1])), 1, None, print)
"""


def test_a_server_that_is_stopped_while_it_imports_ends_well(server):
    command = [sys.executable, "-c", STOPPED_IN_AN_IMPORT, str(free_port())]
    environment = os.environ | {"FACEGALLERY_INDEXES": str(server.indexes), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "") and "#key=" in done.stdout


NEEDS_OPENSSL = pytest.mark.skipif(not shutil.which("openssl"), reason="OpenSSL's program makes the certificates")


def certificate(folder, name, *protect):
    """A certificate and its key, NAME.pem and NAME.key."""
    made = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem", "-subj", "/CN=localhost"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", *protect, *made], check=True, capture_output=True)


@NEEDS_OPENSSL
def test_a_certificate_needs_its_own_key_without_a_password(tmp_path):
    for name, protect in (("ours", ["-nodes"]), ("other", ["-nodes"]), ("locked", ["-passout", "pass:secret"])):
        certificate(tmp_path, name, *protect)
    _check_tls(Certificate(tmp_path / "ours.pem", tmp_path / "ours.key"))
    for file, key in (("ours.pem", "other.key"), ("locked.pem", "locked.key"), ("ours.key", "ours.pem")):
        with pytest.raises(InputError, match=f"{file} and .*{key} .*--tls-cert"):
            _check_tls(Certificate(tmp_path / file, tmp_path / key))


@NEEDS_OPENSSL
def test_a_connection_without_a_handshake_is_closed(folder, tmp_path, monkeypatch):
    """And one on which nothing comes after it."""
    certificate(tmp_path, "ours", "-nodes")
    trusting = ssl.create_default_context(cafile=tmp_path / "ours.pem")
    port = free_port()
    monkeypatch.setattr("tests.served.wait_until_ready", lambda found: None)
    files = ("--tls-cert", str(tmp_path / "ours.pem"), "--tls-key", str(tmp_path / "ours.key"))
    with running(folder, *files, port=port):
        until = time.monotonic() + 60
        while True:
            try:
                plain = socket.create_connection(("127.0.0.1", port), 10)
                break
            except ConnectionError:
                assert time.monotonic() < until
                time.sleep(0.1)
        spoken = socket.create_connection(("127.0.0.1", port), 10)
        with plain, trusting.wrap_socket(spoken, server_hostname="localhost") as tls:
            began = time.monotonic()
            for connection in (plain, tls):
                connection.settimeout(HEAD_SECONDS + 5)
                assert connection.recv(1) == b""
            assert time.monotonic() - began > HEAD_SECONDS - 3


def test_two_processes_serve_one_index_and_count_together(server):
    with server.client() as client:
        for i in range(1, 11):
            assert (
                httpx.post(
                    f"{server.url}/v1/indexes/att/search", content=server.probe(i), headers=dict(client.headers)
                ).status_code
                == 200
            )
        done = client.post("/v1/indexes/att/faces", content=server.probe(3), params={"identity": "Ada"})
        assert done.status_code == 200
        for _ in range(10):  # connections of their own, to either process
            answer = httpx.post(
                f"{server.url}/v1/indexes/att/search", content=server.probe(3), headers=dict(client.headers)
            ).json()
            assert answer["faces"][0]["hits"][0]["identity"] == "Ada"
        time.sleep(0.5)
        lines = dict(
            line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#")
        )
        count = float(
            lines['facegallery_request_seconds_count{method="POST",route="/v1/indexes/{index}/search",status="200"}']
        )
        assert count == 20 and float(lines['facegallery_faces{index="att"}']) == 41


def test_another_name_is_let_in_where_it_was_given(server):
    with server.client() as client:
        assert client.get("/v1/indexes", headers={"Host": "faces.example"}).status_code == 200


def test_a_key_made_by_the_command_is_good_at_once_and_a_limit_is_for_all_processes(server):
    key = server.command("keys", "make", "five", "--rate", "5", "--quiet")
    with server.client(key) as client:
        while time.time() % 1 > 0.1:
            time.sleep(0.01)
        statuses = [httpx.get(f"{server.url}/v1/indexes", headers=dict(client.headers)).status_code for _ in range(12)]
        assert 5 <= statuses.count(200) <= 10 and 429 in statuses
    assert "five" in server.command("keys", "list")
    assert server.command("keys", "revoke", "five") == "five: revoked"


@pytest.mark.parametrize("kills", doses(1, 2))
def test_what_was_acknowledged_is_there_after_kill_9(att_gallery, tmp_path, kills):
    folder, names = att_gallery(tmp_path), []
    for turn in range(kills):
        with running(folder) as server, server.client() as client:
            for i in range(1, 6):
                names.append(f"turn {turn} {i}")
                answer = client.post(
                    "/v1/indexes/att/faces", content=server.probe(i, 3 + turn), params={"identity": names[-1]}
                )
                assert answer.status_code == 200
            server.process.kill()
            server.process.wait()
    with running(folder) as server, server.client() as client:
        assert set(names) <= {
            person["identity"]
            for person in client.get("/v1/indexes/att/people", params={"limit": 1000}).json()["people"]
        }
        assert server.key != "" and len(client.get("/v1/indexes/att/people").json()["people"]) == 40 + 5 * kills


def test_it_ends_well_while_the_network_for_many_is_still_loaded(server):
    with running(server.indexes.parent) as another:
        another.process.terminate()
        assert another.process.wait(60) == 0
    assert "terminate called" not in (server.indexes.parent / "log").read_text()
