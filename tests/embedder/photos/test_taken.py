"""When a photo was taken, from EXIF in every format that holds it, and from EXIF that is broken."""

import io
import random
import struct
from datetime import datetime

import pytest
from PIL import Image

from facegallery.embedder.photos.decoder import Decoder
from facegallery.embedder.photos.pixels import decode_all
from facegallery.embedder.photos.taken import taken

TIME = datetime(2024, 5, 1, 10, 11, 12, 250_000)


def exif(**texts: str) -> bytes:
    """EXIF as a camera writes it: taken (9003), its fraction (9291), digitized (9004), changed (0132)."""
    made = Image.Exif()
    made[0x0132] = "2025:01:01 00:00:00"
    tags = {"time": 0x9003, "fraction": 0x9291, "digitized": 0x9004}
    made.get_ifd(0x8769).update({tags[name]: text for name, text in texts.items()})
    return made.tobytes()


WHOLE = exif(time="2024:05:01 10:11:12", fraction="25")


def photo(kind: str, data: bytes = WHOLE) -> bytes:
    out = io.BytesIO()
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    Image.effect_noise((64, 48), 80).convert("RGB").save(out, kind, exif=data)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF", "HEIF"])
def test_every_format_says_when_it_was_taken(kind):
    data = photo(kind)
    assert decode_all(data).taken == TIME
    with Decoder(1) as decoder:
        decoded = decoder.submit_bytes("a", data).result()
    assert (decoded.outcome, decoded.taken) == ("ok", TIME) and decoded.pixels.shape == (48, 64, 3)


def test_the_decoder_says_none_where_a_photo_does_not(att):
    with Decoder(1) as decoder:
        assert decoder.submit(att / "s1", "1.pgm").result().taken is None
        refused = decoder.submit_bytes("a", b"no photo").result()
        assert refused.outcome == "unreadable" and refused.taken is None


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"time": "2024:05:01 10:11:12"}, TIME.replace(microsecond=0)),
        ({"time": "2024:05:01 10:11:12", "fraction": "250999999"}, TIME.replace(microsecond=250_999)),
        ({"time": "2024-05-01T10:11:12", "fraction": "no"}, TIME.replace(microsecond=0)),
        ({"digitized": "2024:05:01 10:11:12"}, TIME.replace(microsecond=0)),
        ({"time": "    :  :     :  :  ", "digitized": "2024:05:01 10:11:12"}, TIME.replace(microsecond=0)),
        ({"time": "0000:00:00 00:00:00"}, None),
        ({"time": "2024:02:30 10:11:12"}, None),
        ({"time": "2024:05:01 24:61:00"}, None),
        ({"time": "x"}, None),
        ({}, None),
    ],
)
def test_times_as_cameras_write_them(texts, expected):
    assert taken(exif(**texts)) == expected


def test_both_byte_orders_and_a_heading():
    assert taken(WHOLE) == taken(b"Exif\0\0" + WHOLE) == TIME
    entry = struct.pack(">HHII", 0x8769, 4, 1, 26)
    inner = struct.pack(">HHHIII", 1, 0x9003, 2, 20, 44, 0) + b"2024:05:01 10:11:12\0"
    assert taken(b"MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4) + inner) == TIME.replace(microsecond=0)


def test_broken_exif_is_no_time_and_no_error():
    rng = random.Random(0)
    for cut in range(len(WHOLE)):
        assert taken(WHOLE[:cut]) in (None, TIME, TIME.replace(microsecond=0), TIME.replace(microsecond=200_000))
    for _ in range(5000):
        data = bytearray(WHOLE)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        taken(bytes(data))
    assert taken(b"") is taken(b"II*\0") is taken(b"II*\0" + b"\xff" * 100) is None


def test_a_broken_time_costs_no_picture():
    assert decode_all(photo("JPEG", WHOLE[:60])).pixels.shape == (48, 64, 3)
