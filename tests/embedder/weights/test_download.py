"""Downloads from a server of our own: whole, cut off, resumed, wrong, missing."""

import fcntl
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from facegallery.embedder.errors import ModelError, SystemFault
from facegallery.embedder.weights.download import download
from tests.serving import Server, serving

CONTENT = bytes(range(256)) * 100_000  # 25.6 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(CONTENT) as here:
        yield here


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "_partial.pt"


def get(server: Server, file: Path) -> None:
    download(server.url, SHA256, len(CONTENT), file)


def test_whole(server, file, caplog):
    caplog.set_level(logging.INFO, "facegallery")
    get(server, file)
    assert file.read_bytes() == CONTENT and file.stat().st_mode & 0o777 == 0o600
    assert caplog.messages == ["10 of 26 MB", "21 of 26 MB"] and server.asked == [None]


def test_a_cut_one_is_resumed(server, file):
    server.cut_after = 11_000_000
    with pytest.raises(SystemFault, match="lost after 11000000.*--from"):
        get(server, file)
    with pytest.raises(SystemFault, match="lost after 22000000"):
        get(server, file)
    server.cut_after = None
    get(server, file)
    assert file.read_bytes() == CONTENT and server.asked == [None, "bytes=11000000-", "bytes=22000000-"]
    get(server, file)
    assert len(server.asked) == 3  # complete: nothing is asked


def test_a_server_without_ranges_begins_anew(server, file):
    server.ranges = False
    file.write_bytes(CONTENT[:1000])
    get(server, file)
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"more", b"x" * 40_000_000])
def test_another_file_is_refused_and_not_kept(server, file, content):
    server.content = content
    with pytest.raises(ModelError, match=f"sha256 {SHA256}, received"):
        get(server, file)
    assert not file.exists()


def test_a_part_of_another_file_is_refused_and_not_kept(server, file):
    file.write_bytes(b"x" * 1000)
    with pytest.raises(ModelError, match="another file"):
        get(server, file)
    get(server, file)
    assert file.read_bytes() == CONTENT


def test_a_shorter_file_there_makes_the_next_one_begin_anew(server, file):
    file.write_bytes(CONTENT[:5000])
    server.content = CONTENT[:4000]
    with pytest.raises(SystemFault, match="416"):
        get(server, file)
    server.content = CONTENT
    get(server, file)
    assert server.asked == ["bytes=5000-", None]


def test_missing_and_unreachable_are_one_line_with_the_address(server, file):
    for url, word in [
        (server.url + "x", "404"),
        ("http://127.0.0.1:9/w.pt", "refused"),
        ("http://nowhere.invalid/w.pt", "urlopen error"),
    ]:
        with pytest.raises(SystemFault, match=f"{word}.*--from") as caught:
            download(url, SHA256, len(CONTENT), file)
        assert url in str(caught.value) and "\n" not in str(caught.value)


def test_two_at_once(server, file):
    with open(file, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(SystemFault, match="another process"):
            get(server, file)
    get(server, file)
    assert file.read_bytes() == CONTENT
