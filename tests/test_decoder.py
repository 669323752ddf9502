import os
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from embedder import decoder as decoders
from embedder.decoder import Decoder
from tests.test_listing import write


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


def test_any_colour_mode_becomes_the_same_rgb(tmp_path, decoder):
    grey = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (50, 1))
    colour = np.stack([grey, grey // 2, 255 - grey], axis=-1)
    Image.fromarray(colour).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([colour, np.full_like(grey, 255)])).save(tmp_path / "rgba.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "cmyk.tif")
    first = Image.fromarray(colour)
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", first.size)])
    for name, expected, tolerance in [
        ("rgb.png", colour, 0), ("rgba.png", colour, 0), ("cmyk.tif", colour, 1), ("moving.gif", colour, 40),
        ("grey.png", grey[..., None], 0), ("sixteen.png", grey[..., None], 0), ("palette.png", grey[..., None], 0),
    ]:  # fmt: skip
        found, pixels = outcome(decoder, tmp_path, name)
        assert found == "ok" and pixels.shape == (50, 60, 3) and pixels.dtype == np.uint8, name
        assert np.abs(pixels.astype(int) - expected).max() <= tolerance, name


def test_transparent_pixels_are_white_and_exif_turns(tmp_path, decoder):
    Image.fromarray(np.zeros((30, 40, 4), np.uint8)).save(tmp_path / "clear.png")
    assert (outcome(decoder, tmp_path, "clear.png")[1] == 255).all()
    image = Image.new("RGB", (40, 30))
    image.paste((255, 255, 255), (0, 0, 20, 30))
    exif = image.getexif()
    exif[0x112] = 6  # to be turned 90 degrees clockwise
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    pixels = outcome(decoder, tmp_path, "turned.jpg")[1]
    assert pixels.shape == (40, 30, 3) and pixels[:18].min() > 240 and pixels[22:].max() < 15


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
        ("good.jpg", "ok"), ("text.jpg", "unreadable"), ("empty.jpg", "unreadable"), ("short.jpg", "unreadable"),
        ("photo.heic", "unreadable"), ("bomb.png", "too_large"), ("pipe.jpg", "unreadable"), ("gone.jpg", "missing"), ("../x.jpg", "outside"),
    ]:  # fmt: skip
        assert outcome(decoder, tmp_path, name)[0] == expected, name
    assert outcome(decoder, tmp_path / "in", "link.jpg")[0] == "outside"
    assert (tmp_path / "bomb.png").stat().st_size < 100_000


def test_a_decoder_that_dies_or_hangs_costs_one_photo(tmp_path):
    write(tmp_path / "a.jpg")
    with Decoder(1, seconds=2) as pool:
        assert outcome(pool, tmp_path, "a.jpg")[0] == "ok"
        worker = pool._idle.get()
        worker.kill()
        worker.wait()
        pool._idle.put(worker)
        assert outcome(pool, tmp_path, "a.jpg")[0] == "unreadable"
        assert outcome(pool, tmp_path, "a.jpg")[0] == "ok"
        worker = pool._idle.get()
        os.kill(worker.pid, 19)  # SIGSTOP: it never answers
        pool._idle.put(worker)
        began = time.monotonic()
        photo = pool.submit(tmp_path, "a.jpg").result()
        assert photo.outcome == "unreadable" and "longer than 2 s" in photo.why and time.monotonic() - began < 10
        assert outcome(pool, tmp_path, "a.jpg")[0] == "ok"


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
        workers = [pool._idle.get(), pool._idle.get()]
        for worker in workers:
            pool._idle.put(worker)
    assert threading.active_count() == before and all(w is None or w.poll() is not None for w in workers)
    assert decoders.WORKERS >= 1
