"""Faces that people drew in photo programs: read from every form that programs write, and from hostile files."""

import io
import json
import math
import os
import struct
import time

import pillow_heif
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from facegallery.embedder.photos import regions as module
from facegallery.embedder.photos.decoder import Decoder
from facegallery.embedder.photos.orientation import BACK, turned
from facegallery.embedder.photos.region_writer import NamedBox, to_packet
from facegallery.embedder.photos.regions import Drawn, from_record, placed, regions_of, stored_box, to_record
from facegallery.embedder.photos.strip import XMP_PART
from facegallery.embedder.photos.xmp import MOST_BYTES, XmpRefused, joined, read_xmp
from tests import drawn
from tests.drawn import acdsee, digikam, exiftool, microsoft, packet, stored, stored_size

ANN, BOB = (0.1, 0.2, 0.3, 0.5), (0.6, 0.1, 0.7, 0.4)
FACES = {"Ann Lee": ANN, "Bob": BOB}


def read(data):
    found, refused = regions_of(read_xmp(data))
    return {region.name: region.box for region in found}, refused


def near(box):
    return pytest.approx(box, abs=1e-5)


# forms ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", [digikam, exiftool, microsoft, acdsee])
def test_every_form_gives_the_same_faces(form):
    found, refused = read(packet(form(FACES)))
    assert found == {name: near(box) for name, box in FACES.items()} and refused == Drawn()


def test_a_name_of_one_vocabulary_is_not_taken_again_from_another():
    both = digikam({"Ann Lee": ANN}) + microsoft({"Ann Lee": BOB, "Bob": BOB})
    assert read(packet(both))[0] == {"Ann Lee": near(ANN), "Bob": near(BOB)}
    assert read(packet(acdsee({"Ann Lee": ANN}, "denied")))[0] == {}


def test_regions_of_other_kinds_and_faces_without_a_name_are_no_mistake():
    text = digikam({"Rex": ANN, "": BOB}).replace('mwg-rs:Type="Face"', 'mwg-rs:Type="Pet"', 1)
    assert read(packet(text)) == ({}, Drawn())
    assert read(packet(microsoft({" ": ANN}))) == ({}, Drawn())


def test_regions_in_pixels_need_the_size_that_they_apply_to():
    pixels = {"Ann": (84, 140, 252, 350)}
    assert read(packet(digikam(pixels, unit="pixel")))[0] == {"Ann": near(ANN)}
    assert read(packet(digikam(pixels, (0, 700), unit="pixel")))[1].refused == 1


def test_prefixes_are_free_and_namespaces_are_not():
    sound = packet(digikam(FACES))
    assert read(sound.replace(b"mwg-rs:", b"q:").replace(b"xmlns:mwg-rs", b"xmlns:q"))[0].keys() == FACES.keys()
    assert read(sound.replace(b"schemas/regions/", b"schemas/others/")) == ({}, Drawn())
    assert read(sound.replace(b"sType/Area#", b"sType/Zone#"))[1].refused == 2
    assert read(sound.replace(b"22-rdf-syntax-ns#", b"33-rdf-syntax-ns#")) == ({}, Drawn())


def test_a_packet_may_have_several_descriptions_names_with_languages_and_another_encoding():
    text = (
        digikam({"X": ANN})
        .replace(' mwg-rs:Name="X"', "")
        .replace(
            "<mwg-rs:Area",
            '<mwg-rs:Name><rdf:Alt><rdf:li xml:lang="x-default">Ann</rdf:li></rdf:Alt></mwg-rs:Name><mwg-rs:Area',
        )
    )
    assert read(packet(f"</rdf:Description><rdf:Description {drawn.SPACES}>{text}"))[0] == {"Ann": near(ANN)}
    assert read(packet(digikam({"Zoë &amp; Ann": ANN})).decode().encode("utf-16"))[0] == {"Zoë & Ann": near(ANN)}


# hostile -------------------------------------------------------------------------

LAUGHS = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    "data, why",
    [
        (b"", "no XML"),
        (b"\0" * 100, "no XML"),
        (b"<a><b></a>", "no XML"),
        (b"\xff\xd8\xff", "no XML"),
        (b"<?xml version='1.0' encoding='nothing'?><a/>", "no XML"),
        (LAUGHS + b"<x>&b;</x>", "DTD"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>', "DTD"),
        (b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>', "DTD"),
        (b"<!DOCTYPE x [<!ELEMENT x ANY>]><x/>", "DTD"),
        (b"<x>&other;</x>", "no XML"),
        (b"<a>" * 200 + b"</a>" * 200, "levels"),
        (b"<a>" * 300_000, "levels"),
        (b"<a>" + b"<b/>" * 100_000 + b"</a>", "elements"),
        (b"<a>" + b" " * 10_000_000 + b"</a>", "bytes"),
    ],
)
def test_what_no_program_writes_is_refused(data, why):
    began = time.monotonic()
    with pytest.raises(XmpRefused, match=why):
        read_xmp(data)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "bad",
    [
        ("nan", 0.3, 0.1, 0.1),
        ("inf", 0.3, 0.1, 0.1),
        ("1e999", 0.3, 0.1, 0.1),
        ("1_0", 0.3, 0.1, 0.1),
        ("0,5", 0.3, 0.1, 0.1),
        ("9" * 400, 0.3, 0.1, 0.1),
        ("0.5", "0.5", "-0.1", "0.1"),
        ("0.5", "0.5", "8", "8"),
        ("0.99", "0.5", "0.1", "0.1"),
        ("-0.5", "0.5", "0.1", "0.1"),
        ("1.004", "0.5", "0.004", "0.1"),
    ],
)
def test_a_bad_region_costs_only_itself(bad):
    found, refused = read(packet(digikam({"Eve": tuple(map(str, bad)), "Bob": BOB})))
    assert found == {"Bob": near(BOB)} and refused.refused == 1 and refused.why


@pytest.mark.parametrize("name", ["A&#x9b;nn", "x" * 501, "A&#x7f;"])
def test_a_name_that_cannot_be_a_persons_costs_its_region(name):
    found, refused = read(packet(digikam({name: ANN, "Bob": BOB})))
    assert found == {"Bob": near(BOB)} and refused.refused == 1


def test_names_are_spelt_as_everywhere():
    assert list(read(packet(digikam({"  Ann\u200b&#10;Lee ": ANN})))[0]) == ["Ann Lee"]


@pytest.mark.parametrize("text", ["", "1", "0.1, 0.1, 0.1", "0.1, 0.1, 0.1, 0.1, 0.1", "a, b, c, d", "0.1 0.1 0.1 0.1"])
def test_a_rectangle_is_four_numbers(text):
    bad = packet(microsoft({"Ann": ANN}).replace("0.1, 0.2, 0.2, 0.3", text))
    assert read(bad)[0] == {} and read(bad)[1].refused == 1


def test_a_box_that_was_rounded_over_the_edge_is_cut():
    assert read(packet(digikam({"Ann": (-0.004, 0.5, 0.2, 1.003)})))[0] == {"Ann": near((0, 0.5, 0.2, 1))}


def test_only_so_many_regions_are_read():
    found, refused = read(packet(digikam({f"P{i}": ANN for i in range(module.MOST_REGIONS + 5)})))
    assert len(found) == module.MOST_REGIONS and refused.refused == 5


@pytest.mark.parametrize(
    "text",
    [
        "<mwg-rs:Regions>text</mwg-rs:Regions>",
        "<mwg-rs:Regions><mwg-rs:RegionList>text</mwg-rs:RegionList></mwg-rs:Regions>",
        "<mwg-rs:Regions><mwg-rs:RegionList><rdf:Bag><rdf:li>text</rdf:li><rdf:li><rdf:Bag/></rdf:li></rdf:Bag>"
        "</mwg-rs:RegionList></mwg-rs:Regions>",
        '<mwg-rs:Regions><rdf:Bag><rdf:li mwg-rs:Type="Face"/></rdf:Bag></mwg-rs:Regions>',
        "<MP:RegionInfo><MPRI:Regions><rdf:Seq><rdf:li/></rdf:Seq></MPRI:Regions></MP:RegionInfo>",
        "<acdsee-rs:Regions><acdsee-rs:RegionList/></acdsee-rs:Regions>",
    ],
)
def test_another_structure_has_no_faces(text):
    assert read(packet(text)) == ({}, Drawn())


# turned photos ---------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_the_stored_picture_are_turned_with_it(orientation):
    upright = (84, 40, 252, 200)
    box = stored(upright, orientation)
    (face,) = placed([module.Region("Ann", box, stored_size(orientation))], drawn.WIDTH, drawn.HEIGHT, orientation)
    assert face.box == pytest.approx(upright, abs=0.01)
    assert (face.other is None) == (orientation == 1)
    assert stored_box(upright, drawn.WIDTH, drawn.HEIGHT, orientation) == near(box)
    assert turned(turned(ANN, orientation), BACK.get(orientation, orientation)) == near(ANN)


@pytest.mark.parametrize("orientation", range(5, 9))
def test_boxes_of_the_upright_picture_are_known_by_the_size_that_they_apply_to(orientation):
    region = module.Region("Ann", ANN, (420, 200))  # half the size, upright
    (face,) = placed([region], 840, 400, orientation)
    assert face.box == near((84, 80, 252, 200)) and face.other != face.box
    (square,) = placed([module.Region("Ann", ANN, (9, 9))], 840, 400, orientation)
    assert square.other == near((84, 80, 252, 200))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_written_is_read_again(orientation):
    width, height = stored_size(orientation)
    box = stored_box((84, 40, 252, 200), drawn.WIDTH, drawn.HEIGHT, orientation)
    names = ['Ann <Lee> & "Bob"', "Zoë", "李雷", "x\uffffy"]
    found, refused = regions_of(read_xmp(to_packet([NamedBox(name, box) for name in names], width, height)))
    assert [region.name for region in found] == [*names[:3], "x\ufffdy"] and not refused.refused
    faces = placed(found, drawn.WIDTH, drawn.HEIGHT, orientation)
    assert all(face.box == pytest.approx((84, 40, 252, 200), abs=0.01) for face in faces)


# files -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoder():
    with Decoder(1) as pool:
        yield pool


def picture():
    return Image.new("RGB", (84, 40), (90, 120, 150))


def of_bytes(decoder, data):
    photo = decoder.submit_bytes("a", data, drawn=True).result()
    assert photo.outcome == "ok", photo.why
    return photo


def png(data):
    out = io.BytesIO()
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", data.decode(), zip=True)
    picture().save(out, "PNG", pnginfo=info)
    return out.getvalue()


def form(name):
    def make(data):
        out = io.BytesIO()
        picture().save(out, name, xmp=data)
        return out.getvalue()

    return make


def tiff(data):
    out = io.BytesIO()
    picture().save(out, "TIFF", tiffinfo={700: data})
    return out.getvalue()


def heif(data):
    file = pillow_heif.from_pillow(picture())
    out = io.BytesIO()
    file.save(out, xmp=data)
    return out.getvalue()


@pytest.mark.parametrize("make", [form("JPEG"), png, tiff, form("WEBP"), form("AVIF"), heif], ids=range(6))
def test_every_format_is_read(decoder, make):
    found = of_bytes(decoder, make(packet(digikam(FACES, (84, 40))))).drawn
    assert [face.name for face in found.faces] == ["Ann Lee", "Bob"] and not found.refused
    assert found.faces[0].box == pytest.approx((8.4, 8, 25.2, 20), abs=0.01)
    assert of_bytes(decoder, make(packet(""))).drawn == Drawn()


def test_who_does_not_ask_gets_none(decoder):
    photo = decoder.submit_bytes("a", form("JPEG")(packet(digikam(FACES)))).result()
    assert photo.outcome == "ok" and photo.drawn is None


def long_jpeg(whole, guid=b"0123456789ABCDEF0123456789ABCDEF", total=None, lost=None):
    """A JPEG whose packet is too long for one segment."""
    first = packet("", f'xmpNote:HasExtendedXMP="{guid.decode()}"')
    sound = form("JPEG")(first)
    parts = [(at, whole[at : at + 60_000]) for at in range(0, len(whole), 60_000)]
    segments = b""
    for number, (at, part) in enumerate(reversed(parts)):  # in any order
        body = XMP_PART + guid + struct.pack(">II", total or len(whole), at) + part
        segments += b"" if number == lost else b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    return sound[:2] + segments + sound[2:]


def test_xmp_in_several_segments_is_joined(decoder):
    whole = packet(digikam(FACES, (84, 40)) + f"<xmpNote:Other>{'x' * 150_000}</xmpNote:Other>")
    assert len(of_bytes(decoder, long_jpeg(whole)).drawn.faces) == 2
    for broken in ({"lost": 1}, {"lost": 2}, {"total": len(whole) + 1}, {"total": MOST_BYTES + 1}):
        found = of_bytes(decoder, long_jpeg(whole, **broken)).drawn
        assert found.faces == () and found.refused == 1 and "XMP" in found.why
    assert joined("A" * 32, [b"B" * 60]) == joined([], [b"B" * 60]) == joined("é" * 32, []) == b""


def test_a_hostile_packet_costs_no_photo(decoder):
    for data in (LAUGHS + b"<x>&b;</x>", b"<a>" * 20_000, b"nothing"):
        found = of_bytes(decoder, form("JPEG")(data)).drawn
        assert found.faces == () and found.refused == 1 and found.why


# sidecars ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "p.jpg").write_bytes(form("JPEG")(packet(digikam({"Embedded": ANN}))))
    return tmp_path


def names(decoder, folder):
    found = decoder.submit(folder, "a/p.jpg", drawn=True).result().drawn
    return [face.name for face in found.faces], found.refused


def test_a_sidecar_counts_before_the_photo_and_its_longer_name_first(decoder, folder):
    assert names(decoder, folder) == (["Embedded"], 0)
    (folder / "a" / "p.xmp").write_bytes(packet(exiftool({"Short": ANN})))
    assert names(decoder, folder) == (["Short"], 0)
    (folder / "a" / "p.jpg.xmp").write_bytes(packet(exiftool({"Long": ANN})))
    assert names(decoder, folder) == (["Long"], 0)
    (folder / "a" / "p.jpg.xmp").write_bytes(packet(""))
    assert names(decoder, folder) == (["Short"], 0)


def test_sidecars_that_cannot_be_read_are_left_out_and_counted(decoder, folder):
    sidecar = folder / "a" / "p.jpg.xmp"
    sidecar.write_bytes(b" " * 10_000_000)
    assert names(decoder, folder) == (["Embedded"], 1)
    sidecar.unlink()
    os.mkfifo(sidecar)
    assert names(decoder, folder) == (["Embedded"], 1)
    sidecar.unlink()
    sidecar.mkdir()
    assert names(decoder, folder) == (["Embedded"], 1)


def test_a_sidecar_outside_of_the_folder_is_not_read(decoder, folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "p.xmp"
    other.write_bytes(packet(exiftool({"Outside": ANN})))
    (folder / "a" / "p.xmp").symlink_to(other)
    assert names(decoder, folder) == (["Embedded"], 0)


# between the processes ---------------------------------------------------------------


def test_faces_come_through_as_they_are():
    faces = placed([module.Region("Ann", ANN, (40, 84)), module.Region("李雷", BOB)], 84, 40, 6)
    found = Drawn(faces, 3, "why")
    assert from_record(json.loads(json.dumps(to_record(found))), 84, 40) == found


SOUND = {"name": "Ann", "box": [1.0, 2.0, 3.0, 4.0], "other": None}


@pytest.mark.parametrize(
    "changed",
    [
        {"name": ""},
        {"name": "A\x1b"},
        {"name": " Ann"},
        {"name": "x" * 501},
        {"box": None},
        {"box": [1.0, 2.0, 3.0]},
        {"box": [1, 2, 3, 4]},
        {"box": [math.nan, 2.0, 3.0, 4.0]},
        {"box": [3.0, 2.0, 1.0, 4.0]},
        {"box": [-1.0, 2.0, 3.0, 4.0]},
        {"box": [1.0, 2.0, 3.0, 400.0]},
        {"other": [1.0, 2.0, math.inf, 4.0]},
        {"more": 1},
    ],
)
def test_faces_of_a_decoder_are_checked_again(changed):
    assert from_record({"faces": [SOUND], "refused": 0, "why": ""}, 84, 40).faces[0].name == "Ann"
    with pytest.raises(ValueError):
        from_record({"faces": [SOUND | changed], "refused": 0, "why": ""}, 84, 40)


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {},
        {"faces": [], "refused": 0},
        {"faces": {}, "refused": 0, "why": ""},
        {"faces": [None], "refused": 0, "why": ""},
        {"faces": [SOUND] * 1001, "refused": 0, "why": ""},
        {"faces": [], "refused": -1, "why": ""},
        {"faces": [], "refused": True, "why": ""},
        {"faces": [], "refused": 0, "why": "x" * 201},
    ],
)
def test_other_records_are_refused(record):
    with pytest.raises(ValueError):
        from_record(record, 84, 40)
