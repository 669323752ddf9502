"""SIGTERM and Ctrl-C end what runs within ten seconds, whatever it is doing."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
from PIL import Image

from benchmarks.common.served import processes
from tests.conftest import ROOT
from tests.embedder.photos.test_workers import is_gone
from tests.served import free_port, running

SECONDS = 10.5  # half a second for a machine that does other things
DECODER = "facegallery.embedder.photos.decode"


@pytest.fixture(scope="module")
def folder(att_gallery, tmp_path_factory):
    return att_gallery(tmp_path_factory.mktemp("endings"))


def decoders(pid):
    return [child for child, line in processes(pid).items() if DECODER in line]


def end(process, number):
    """Seconds from a signal to the end, soon after which nothing that it started is left."""
    children, began = processes(process.pid).keys(), time.monotonic()
    process.send_signal(number)
    process.wait(60)
    seconds = time.monotonic() - began
    assert all(map(is_gone, children))
    return seconds


def has_greeted(pid):
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/fd/2") == os.devnull
    return False


def large() -> bytes:
    """A photo of more bytes than a pipe holds."""
    with io.BytesIO() as out:
        Image.effect_noise((1500, 1500), 100).save(out, "BMP")
        return out.getvalue()


def send_for_ever(url, headers, content):
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(url, content=content, headers=headers, timeout=100)


def lines():
    while True:
        yield b"\n"
        time.sleep(0.1)


def test_a_server_ends_while_decoders_hang_and_a_stream_does_not_end(folder):
    with running(folder) as server, server.client() as client:
        for i in range(1, 9):
            assert client.post("/v1/indexes/att/search", content=server.probe(i)).status_code == 200
        for pid in decoders(server.process.pid):
            os.kill(pid, signal.SIGSTOP)
        url, headers = f"{server.url}/v1/indexes/att/search", dict(client.headers)
        bodies = [
            (url, server.probe(1)),
            (url, server.probe(2)),
            (url, large()),
            (url, large()),
            (f"{url}/stream", lines()),
        ]
        threads = [
            threading.Thread(target=send_for_ever, args=(to, headers, content), daemon=True) for to, content in bodies
        ]
        for thread in threads:
            thread.start()
        time.sleep(1)
        assert end(server.process, signal.SIGTERM) < SECONDS
        for thread in threads:
            thread.join(30)


@pytest.mark.parametrize("after", [0.0, 1.5])
def test_servers_end_while_their_networks_are_being_loaded(folder, after):
    root = folder / "data"
    (root / "models").exists() or (
        root.mkdir(exist_ok=True),
        (root / "models").symlink_to(os.path.join(os.environ["FACEGALLERY_DATA"], "models")),
    )
    variables = {"FACEGALLERY_DATA": str(root), "FACEGALLERY_INDEXES": str(folder / "indexes"), "PYTHONUNBUFFERED": "1"}
    line = [sys.executable, str(ROOT / "cli.py"), "serve", "att", "--workers", "2", "--port", str(free_port())]
    with subprocess.Popen(
        line, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout.readline()
        time.sleep(after)
        assert end(process, signal.SIGTERM) < SECONDS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_embed_ends_while_its_decoders_hang(att, tmp_path, number):
    (tmp_path / "p" / "s1").mkdir(parents=True)
    for i in range(1, 11):
        os.link(att / "s1" / f"{i}.pgm", tmp_path / "p" / "s1" / f"{i}.pgm")
    (tmp_path / "p" / "s1" / "large.bmp").write_bytes(large())
    line = [sys.executable, str(ROOT / "cli.py"), "embed", str(tmp_path / "p"), "--out", str(tmp_path / "v"), "--quiet"]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not (found := [pid for pid in decoders(process.pid) if has_greeted(pid)]) and time.monotonic() < until:
            time.sleep(0.005)
        for pid in found:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(0.5)
        assert process.poll() is None and end(process, number) < SECONDS
        assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM)
