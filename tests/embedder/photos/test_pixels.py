import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from facegallery.embedder.photos.kinds import PhotoRefused
from facegallery.embedder.photos.pixels import decode, read
from tests import bombs, odd
from tests.conftest import ROOT


def fault(form):
    """What is wrong with the pixels of a form; None where they are right."""
    try:
        pixels = decode(form.data)
    except PhotoRefused as error:
        return f"{error.outcome}: {error}"
    if pixels.shape != form.right.shape or pixels.dtype != np.uint8 or not pixels.flags.c_contiguous:
        return f"{pixels.dtype} {pixels.shape}"
    difference = np.abs(pixels.astype(int) - form.right)
    fits = difference.mean() <= form.close and difference.max() <= max(1, 40 * form.close)
    return None if fits else f"differs by {difference.mean():.2f}, at most {difference.max()}"


@pytest.mark.parametrize("forms", [odd.turned_forms, odd.colour_forms, odd.broken_forms])
def test_every_form_of_a_picture_has_its_pixels(forms):
    wrong = {form.name: why for form in forms() if (why := fault(form))}
    assert not wrong


def refusal(data):
    """(outcome, why) of bytes that are refused."""
    with pytest.raises(PhotoRefused) as caught:
        decode(data)
    return caught.value.outcome, str(caught.value)


def test_what_is_no_photo_is_named():
    for data, word in [
        (b"<!DOCTYPE html><html>404</html>", "HTML"),
        (b"\n <html>", "HTML"),
        (b'{"error": 404}', "JSON"),
        (b"%PDF-1.7", "PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
        (b"\xc5\xd0\xd3\xc6" + bytes(30), "EPS"),
        (b"\0\5\26\7" + bytes(82), "AppleDouble"),
        (b"\xd0\xcf\x11\xe0", "Thumbs.db"),
        (b"PK\3\4" + bytes(30), "archive"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\0\0\0\x18ftypmp42", "video"),
        (b"icns\0\0\1\0", "icon"),
        (b"\0\0\1\0\1\0", "icon"),
        (b"\x1c\3\x3c\0\5", "IPTC"),
        (b"\xff\x0a" + bytes(30), "JPEG XL"),
        (bytes(5000), "zero bytes"),
        (b"hello", "text"),
        (bytes(range(128, 256)), "no known"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"Pf\n10 10\n-1.0\n" + bytes(400), "format of pictures"),
        (b"BMooo", "text"),
        (b"GIF", "text"),
    ]:
        outcome, why = refusal(data)
        assert outcome == "unreadable" and word in why, (data, why)


def test_most_of_a_photo_has_to_be_there():
    right, image = odd.picture(), Image.fromarray(odd.picture())
    for form, settings in [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("PPM", {}),
    ]:
        data = odd.saved(image, form, **settings)
        for cut in (len(data) // 2, len(data) // 4 * 3):
            outcome, why = refusal(data[:cut])
            assert outcome == "unreadable" and ("missing" in why or "cut" in why or "broken" in why), (form, why)
    for form in ("BMP", "TIFF", "PPM"):
        data = odd.saved(image, form)
        pixels = decode(data[: -len(data) // 20])
        assert (pixels != right).any(axis=(1, 2)).sum() <= 0.1 * len(right), form


def test_a_photo_that_needs_a_plugin_has_an_outcome_of_its_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brands in (b"heic\0\0\0\0mif1", b"mif1\0\0\0\0heic", b"hevc\0\0\0\0", b"msf1\0\0\0\0hevc"):
        data = struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(100)
        assert refusal(data) == ("needs_plugin", "HEIF (HEIC) needs another package: pip install pillow-heif")


def test_alpha_that_tells_nothing_is_not_laid_on_white():
    clear = np.dstack([odd.picture(), np.zeros((72, 96), np.uint8)])
    clear[:36, :, 3] = 255
    pixels = decode(odd.saved(Image.fromarray(clear), "PNG"))
    assert (pixels[36:] == 255).all() and (pixels[:36] == odd.picture()[:36]).all()


def test_a_file_without_access_may_be_read_later(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(odd.saved(Image.fromarray(odd.picture()), "JPEG"))
    assert decode(read(str(path))[0]).shape == (72, 96, 3)
    for name, outcome in [
        ("gone.jpg", "missing"),
        ("a.jpg/b.jpg", "missing"),
        (".", "unreadable"),
        ("/proc/self/mem", "no_access"),
    ]:
        with pytest.raises(PhotoRefused) as caught:
            read(os.path.join(tmp_path, name))
        assert caught.value.outcome == outcome, name


def test_every_bomb_ends_in_seconds_and_little_memory():
    """Each in a process that has the decoder's memory for 25 megapixels."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.bombs"], capture_output=True, text=True, timeout=400, cwd=ROOT, check=True
    ).stdout
    for line in found.splitlines():
        name, outcome, seconds, megabytes = line.split("\t")
        assert outcome in ("ok", "unreadable", "too_large") and float(seconds) < 10 and float(megabytes) < 1000, line
    assert len(found.splitlines()) > 60


EVERY = """
import sys
from pathlib import Path
from facegallery.embedder.photos.pixels import PhotoRefused, decode
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode(path.read_bytes())
    except PhotoRefused:
        pass
print(*sorted(name for name in sys.modules if name.startswith("PIL.") and name.endswith("ImagePlugin")))
"""


def test_no_reader_beyond_the_closed_list_is_imported_and_no_program_started(tmp_path):
    """With a Ghostscript on the PATH."""
    files, programs = tmp_path / "files", tmp_path / "programs"
    files.mkdir(), programs.mkdir()
    for name in ("gs", "xv", "djpeg", "display"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        (programs / name).chmod(0o755)
    for number, (_, data) in enumerate(bombs.of_programs()):
        (files / f"{number}.jpg").write_bytes(data)
    image = Image.fromarray(odd.picture())
    for form in (
        "JPEG",
        "PNG",
        "WEBP",
        "TIFF",
        "GIF",
        "BMP",
        "PPM",
        "JPEG2000",
        "AVIF",
        "EPS",
        "ICO",
        "ICNS",
        "TGA",
        "PCX",
        "SGI",
        "PDF",
        "DDS",
    ):
        (files / form).write_bytes(odd.saved(image, form))
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", EVERY, files], capture_output=True, text=True, cwd=ROOT, env=environment, check=True
    )
    readers = ("Avif", "Bmp", "Gif", "Jpeg2K", "Jpeg", "Png", "Tiff", "WebP")
    assert done.stdout.split() == [f"PIL.{name}ImagePlugin" for name in readers] and not (tmp_path / "started").exists()
