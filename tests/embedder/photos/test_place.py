"""Where a photo was taken, from EXIF that Pillow writes, and from EXIF that is broken."""

import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facegallery.embedder.photos.decoder import Decoder
from facegallery.embedder.photos.pixels import decode_all
from facegallery.embedder.photos.place import place

SYDNEY = (-33.8567844, 151.2152967)


def exif(latitude: float, longitude: float, **changed: object) -> bytes:
    made = Image.Exif()
    tags = {
        1: "S" if latitude < 0 else "N",
        2: parts(latitude),
        3: "W" if longitude < 0 else "E",
        4: parts(longitude),
    }
    tags |= {int(tag[1:]): value for tag, value in changed.items()}
    made.get_ifd(0x8825).update({tag: value for tag, value in tags.items() if value is not None})
    return made.tobytes()


def parts(degrees: float) -> tuple[float, float, float]:
    whole, rest = divmod(abs(degrees), 1)
    minutes, rest = divmod(rest * 60, 1)
    return whole, minutes, rest * 60


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
def test_every_format_says_where_it_was_taken(kind):
    out = io.BytesIO()
    Image.effect_noise((64, 48), 80).convert("RGB").save(out, kind, exif=exif(*SYDNEY))
    assert decode_all(out.getvalue()).place == pytest.approx(SYDNEY, abs=1e-6)
    with Decoder(1) as decoder:
        photo = decoder.submit_bytes("a", out.getvalue()).result()
    assert photo.place == pytest.approx(SYDNEY, abs=1e-6) and photo.size == (64, 48)


def test_the_decoder_says_none_where_a_photo_does_not(att):
    with Decoder(1) as decoder:
        plain = decoder.submit(att / "s1", "1.pgm").result()
        refused = decoder.submit_bytes("a", b"no photo").result()
    assert (plain.place, plain.size, refused.place, refused.size) == (None, (92, 112), None, None)


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_any_place_on_earth_is_read_to_a_millionth_of_a_degree(latitude, longitude):
    found = place(exif(latitude, longitude))
    assert found is not None and found == pytest.approx((latitude, longitude), abs=2e-6)


@pytest.mark.parametrize(
    "changed",
    [
        {"t2": (90.0, 0.0, 1.0)},
        {"t4": (180.0, 1.0, 0.0)},
        {"t1": "X"},
        {"t3": None},
        {"t4": None},
        {"t2": (1.0, 2.0)},
        {"t1": 7},
    ],
)
def test_what_is_nowhere_is_none(changed):
    assert place(exif(*SYDNEY, **changed)) is None


def test_broken_exif_never_raises():
    whole, draw = exif(*SYDNEY), random.Random(0)
    for cut in range(len(whole)):
        place(whole[:cut])
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        found = place(bytes(data))
        assert found is None or (abs(found[0]) <= 90 and abs(found[1]) <= 180)
