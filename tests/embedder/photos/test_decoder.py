import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from facegallery.embedder.errors import SystemFault
from facegallery.embedder.photos import decoder as decoders
from facegallery.embedder.photos.bounds import MAX_PIXELS
from facegallery.embedder.photos.decode import memory_for
from facegallery.embedder.photos.decoder import Decoder
from tests.conftest import ROOT
from tests.embedder.photos.test_listing import write
from tests.embedder.photos.test_workers import is_gone


def bomb(path, side):
    """A PNG of side x side black pixels in a few KB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes((side // 8 + 1) * side), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


@pytest.fixture(scope="module")
def decoder():
    with Decoder(1) as pool:
        yield pool


def outcome(decoder, folder, name):
    photo = decoder.submit(folder, name).result()
    return photo.outcome, photo.pixels


def test_each_bad_photo_has_its_outcome(tmp_path, decoder):
    good = write(tmp_path / "good.jpg", (300, 200))
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "short.jpg").write_bytes(good.read_bytes()[:-300])
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    bomb(tmp_path / "bomb.png", 20000)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.jpg").symlink_to(good)
    for name, expected in [
        ("good.jpg", "ok"),
        ("text.jpg", "unreadable"),
        ("empty.jpg", "unreadable"),
        ("short.jpg", "unreadable"),
        ("photo.heic", "unreadable"),
        ("bomb.png", "too_large"),
        ("pipe.jpg", "unreadable"),
        ("gone.jpg", "missing"),
        ("../x.jpg", "outside"),
    ]:
        assert outcome(decoder, tmp_path, name)[0] == expected, name
    assert outcome(decoder, tmp_path / "in", "link.jpg")[0] == "outside"
    assert (tmp_path / "bomb.png").stat().st_size < 100_000


def test_a_stream_keeps_the_order_and_few_photos(tmp_path):
    names = [f"{i}.png" for i in range(30)]
    for i, name in enumerate(names):
        Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / name)
    with Decoder(2) as pool:
        assert [int(p.pixels[0, 0, 0]) for p in pool.stream(tmp_path, names)] == list(range(30))


def test_nothing_is_left_running(tmp_path):
    write(tmp_path / "a.jpg")
    before = threading.active_count()
    with Decoder(2) as pool:
        outcome(pool, tmp_path, "a.jpg")
        running = [process.pid for process in pool._running]
    assert threading.active_count() == before and len(running) == 1 and all(map(is_gone, running))
    assert decoders.WORKERS >= 1


def replaced(pool):
    """The process of a pool of one, as another one was put in its place."""
    process = pool._idle.get()
    pool._idle.put(process)
    return process and process.pid


def test_a_decoder_that_ended_between_two_photos_costs_none(tmp_path):
    write(tmp_path / "a.jpg")
    with Decoder(1) as pool:
        assert outcome(pool, tmp_path, "a.jpg")[0] == "ok"
        os.kill(replaced(pool), signal.SIGKILL)
        time.sleep(0.5)
        assert outcome(pool, tmp_path, "a.jpg")[0] == "ok"


def test_one_deadline_holds_for_the_question_and_the_answer(tmp_path):
    """A decoder that reads nothing, too: a photo is more than the pipe holds."""
    write(tmp_path / "a.jpg")
    sound = (tmp_path / "a.jpg").read_bytes()
    with Decoder(1, seconds=1) as pool:
        for data in (sound, sound + bytes(8 << 20)):
            assert pool.submit_bytes("a.jpg", sound).result().outcome == "ok"
            os.kill(replaced(pool), signal.SIGSTOP)
            began = time.monotonic()
            photo = pool.submit_bytes("a.jpg", data).result(20)
            assert photo.outcome == "timeout" and photo.why == "took longer than 1 s" and time.monotonic() - began < 5
        assert pool.submit_bytes("a.jpg", sound).result().outcome == "ok"


class Lying(Decoder):
    program = "tests.liar"


@pytest.fixture(scope="module")
def lying():
    with Lying(1, seconds=2, most_pixels=1000) as pool:
        yield pool


def told(pool, *words):
    return pool.submit_bytes("a.jpg", " ".join(words).encode()).result(20)


def test_what_a_library_prints_is_no_answer(lying):
    assert told(lying, "print").outcome == "ok"
    photo = told(lying, "tell")
    assert photo.outcome == "ok" and photo.why.isdecimal() and photo.pixels.shape == (20, 20, 3)


@pytest.mark.parametrize(
    "words",
    [
        ("raw", b"text".hex()),
        ("raw", (2**31).to_bytes(4, "little").hex()),
        ("raw", "ff" * 100),
        ("text", "x"),
        ("text", "[]"),
        ("text", ""),
        ("deep",),
        ("change", '{"id": 1}'),
        ("change", '{"id": "1"}'),
        ("change", '{"outcome": "sure"}'),
        ("change", '{"outcome": []}'),
        ("change", '{"why": null}'),
        ("change", '{"why": "%s"}' % ("x" * 1000)),
        ("change", '{"sha256": "x"}'),
        ("change", '{"more": 1}'),
        ("change", '{"taken": 1}'),
        ("change", '{"taken": "2024-13-01T10:00:00.000000"}'),
        ("change", '{"taken": "2024-12-01T10:00:00"}'),
        ("change", '{"taken": "%s"}' % ("2" * 1000)),
        ("change", '{"place": [91.0, 0.0]}'),
        ("change", '{"place": [NaN, 0.0]}'),
        ("change", '{"place": [1.0]}'),
        ("change", '{"place": ["1.0", "2.0"]}'),
        ("change", '{"place": 1}'),
        ("change", '{"outcome": "missing"}'),
        ("change", '{"shape": null}'),
        ("change", '{"shape": [50, 50, 3]}'),
        ("change", '{"shape": [20, 20, 4]}'),
        ("change", '{"shape": [20, 20]}'),
        ("change", '{"shape": [-20, -20, 3]}'),
        ("change", '{"shape": [0, 20, 3]}'),
        ("change", '{"shape": [1e2, 2, 3]}'),
        ("change", '{"shape": [true, 20, 3]}'),
        ("die", "0"),
        ("die", "3"),
    ],
)
def test_an_answer_that_is_malformed_costs_its_photo_and_its_decoder(lying, words):
    before = told(lying, "tell")
    assert told(lying, *words).outcome == "decoder_died"
    after = told(lying, "tell")
    assert before.outcome == after.outcome == "ok" and before.why != after.why


FACE = '{"name": "Ann", "box": [1.0, 2.0, 3.0, %s], "other": null}'


def drawn(pool, *words):
    return pool.submit_bytes("a.jpg", " ".join(words).encode(), drawn=True).result(20)


def test_drawn_faces_are_checked_as_pixels_are(lying):
    sound = drawn(lying, "drawn", '{"faces": [%s], "refused": 0, "why": ""}' % (FACE % "4.0"))
    assert sound.outcome == "ok" and sound.turn == 6 and sound.drawn.faces[0].box == (1, 2, 3, 4)
    for words in (
        ("tell",),
        ("drawn", "x"),
        ("drawn", "[" * 60_000),
        ("drawn", '{"faces": [%s], "refused": 0, "why": ""}' % (FACE % "40.0")),
        ("drawn", '{"faces": [%s], "refused": 0, "why": ""}' % (FACE % "Infinity")),
        ("change", '{"turn": 9, "drawn": 0}'),
        ("change", '{"turn": 1, "drawn": 1099511627776}'),
        ("change", '{"turn": 1, "drawn": -1}'),
    ):
        assert drawn(lying, *words).outcome == "decoder_died", words
    assert told(lying, "drawn", "{}").outcome == "decoder_died"  # not asked for


@pytest.mark.parametrize("words", [("half",), ("hang",), ("raw", "0100"), ("change", '{"shape": [25, 20, 3]}')])
def test_an_answer_that_does_not_end_is_given_up(lying, words):
    began = time.monotonic()
    assert told(lying, *words).outcome == "timeout" and time.monotonic() - began < 10
    assert told(lying, "tell").outcome == "ok"


def test_an_answer_too_many_is_taken_for_no_photo(lying):
    first = told(lying, "twice")
    time.sleep(0.2)
    second = told(lying, "tell")
    assert first.outcome == second.outcome == "ok" and first.why == "" and second.why.isdecimal()


def test_what_a_decoder_started_ends_with_it_and_has_none_of_its_pipes(tmp_path):
    with Lying(1, seconds=1) as pool:
        photo = told(pool, "child")
        assert (
            photo.outcome == "missing"
            and "pipe:" not in photo.why.replace("pipe:[", "pipe:", 0)
            or photo.why.count("pipe:") <= 2
        ), photo.why
        group = replaced(pool)
        assert len(in_group(group)) == 2
        assert told(pool, "hang").outcome == "timeout"
        deadline = time.monotonic() + 5  # a killed process is there until the kernel has taken it away
        while in_group(group) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert in_group(group) == []


def in_group(group):
    """The processes that live in a group, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
            found += [int(stat.parent.name)] if int(pgrp) == group and state != "Z" else []
    return found


class Missing(Decoder):
    program = "tests.nowhere"


def test_a_decoder_that_cannot_start_is_told_once_and_why():
    with Missing(1) as pool:
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(SystemFault, match="No module named tests.nowhere"):
                told(pool, "tell")
        assert time.monotonic() - began < 10


HANGING = """
import sys, time
from facegallery.embedder.photos.decoder import Decoder
Decoder.program = "tests.liar"
pool = Decoder(1)
print(pool.submit_bytes("a", b"tell").result().why, flush=True)
pool.submit_bytes("a", b"hang")
time.sleep(1)
print("now", flush=True)
{then}
"""


@pytest.mark.parametrize("then", ["time.sleep(1000)", "pool.__exit__(None)"])
def test_a_decoder_that_hangs_ends_with_its_program(then):
    script = HANGING.format(then=then)
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        pid, _ = int(parent.stdout.readline()), parent.stdout.readline()
        if "sleep" in then:
            parent.kill()
        else:
            assert parent.wait(10) == 0
    assert is_gone(pid)


def test_a_decoder_may_start_no_process_and_write_no_file(tmp_path):
    script = f"""
import os, socket, subprocess
from facegallery.embedder.photos.decode import limit
limit(1000)
done = []
for name, do in {{"popen": lambda: subprocess.run(["true"]), "system": lambda: os.system("true"),
                  "fork": os.fork, "socket": socket.socket,
                  "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {{}}),
                  "exec": lambda: os.execv("/bin/true", ["true"])}}.items():
    try:
        do()
        done.append(name)
    except PermissionError:
        pass
try:
    os.write(os.open({str(tmp_path / "x")!r}, os.O_WRONLY | os.O_CREAT), bytes(10))
    done.append("file")
except OSError:
    pass
os.write(1, str(done).encode())
"""
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert told.stdout == "[]", told.stderr


def test_memory_follows_from_the_pixels_that_a_photo_may_have(tmp_path):
    """A photo at the limit, in the mode of which most copies are made, is decoded in that memory."""
    assert memory_for(50_000_000) < 2 << 30 and memory_for(MAX_PIXELS) < 3.5 * (1 << 30)
    Image.new("RGBA", (5000, 2000), (1, 2, 3, 128)).save(tmp_path / "clear.png", compress_level=1)
    Image.new("I;16", (5000, 2000), 30000).save(tmp_path / "deep.png", compress_level=1)
    with Decoder(1, most_pixels=10_000_000) as pool:
        assert [outcome(pool, tmp_path, name)[0] for name in ("clear.png", "deep.png")] == ["ok", "ok"]
