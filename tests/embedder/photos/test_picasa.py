"""Faces of a .picasa.ini, in all eight orientations, and files that break its rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegallery.embedder.photos import picasa
from facegallery.embedder.photos.decoder import Decoder
from facegallery.embedder.photos.kinds import PhotoRefused
from facegallery.embedder.photos.sidecars import has_sidecar
from tests import drawn

ANN, BOB = "8e62b2035b74b477", "b5d3a7e4f1c2d9a8"


def rect64(box):
    """A box of shares as Picasa writes it: without leading zeros."""
    return f"rect64({int(''.join(f'{round(side * 65535):04x}' for side in box), 16):x})"


def ini(faces, photo="p.jpg", more="", contacts=f"{ANN}=Ann Lee;;\r\n{BOB}=Bób;bob@x.org;\r\n"):
    listed = ";".join(f"{rect64(box)},{contact}" for contact, box in faces)
    text = f"[Picasa]\r\nname=Album\r\n[Contacts2]\r\n{contacts}[{photo}]\r\n{more}faces={listed}\r\nbackuphash=7\r\n"
    return text.encode()


@pytest.fixture(scope="module")
def decoder():
    with Decoder(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def pictures(att):
    return {turn: drawn.saved(drawn.collage(att, 1), turn) for turn in range(1, 9)}


@pytest.fixture
def read(decoder, pictures, tmp_path):
    def run(data, turn=1, name=".picasa.ini", photo="p.jpg"):
        (tmp_path / "2019").mkdir(exist_ok=True)
        (tmp_path / "2019" / photo).write_bytes(pictures[turn])
        (tmp_path / "2019" / name).write_bytes(data)
        return decoder.submit(tmp_path, f"2019/{photo}", drawn=True).result().drawn

    return run


@pytest.mark.parametrize("turn", range(1, 9))
def test_faces_lie_where_they_were_drawn(read, turn):
    boxes = drawn.boxes()
    found = read(ini([(ANN, drawn.stored(boxes["s1"], turn)), (BOB, drawn.stored(boxes["s7"], turn))]), turn)
    assert {face.name: face.box for face in found.faces} == {
        "Ann Lee": pytest.approx(boxes["s1"], abs=0.1),
        "Bób": pytest.approx(boxes["s7"], abs=0.1),
    }
    assert found.refused == 0 and all((face.other is None) == (turn == 1) for face in found.faces)


def test_names_of_files_are_those_of_windows_and_of_early_versions(read):
    data = ini([(ANN.upper(), (0.1, 0.1, 0.4, 0.5))], photo="P.JPG")
    assert [face.name for face in read(data, name="Picasa.ini").faces] == ["Ann Lee"]


def test_of_two_sections_of_a_photo_the_first_counts_and_other_photos_have_none(read):
    data = ini([(ANN, (0.1, 0.1, 0.4, 0.5))]) + b"[p.jpg]\nfaces=rect64(1),x\n"
    assert len(read(data).faces) == 1 and read(data, photo="q.jpg").faces == ()


@pytest.mark.parametrize(
    "faces, refused, why",
    [
        ("rect64(1999199966667fff),ffffffffffffffff", 0, ""),
        ("rect64(1999199966667fff),0;", 1, "whose name is not in [Contacts2]"),
        ("rect64(xyz),8e62b2035b74b477", 1, "no"),
        ("rect64(19991999666677ffff),8e62b2035b74b477", 1, "not rect64"),
        ("rect64(66667fff19991999),8e62b2035b74b477", 1, "without width or height"),
        ("rect64(0),8e62b2035b74b477", 1, "without width or height"),
        (";;;", 0, ""),
    ],
)
def test_a_face_that_breaks_a_rule_costs_only_itself(read, faces, refused, why):
    good = f"{rect64((0.5, 0.5, 0.7, 0.8))},{ANN}"
    data = f"[Contacts2]\n{ANN}=Ann Lee;;\n[p.jpg]\nfaces={faces};{good}\n".encode()
    found = read(data)
    assert [face.name for face in found.faces] == ["Ann Lee"] and found.refused == refused and why in found.why


@pytest.mark.parametrize("more, refused", [("rotate=rotate(1)\n", 1), ("rotate=rotate(0)\n", 0), ("crop=1\n", 1)])
def test_photos_that_picasa_shows_otherwise_are_left_out(read, more, refused):
    found = read(ini([(ANN, (0.1, 0.1, 0.4, 0.5))], more=more))
    assert found.refused == refused and len(found.faces) == 1 - refused
    assert not refused or "turned or cropped" in found.why


def test_a_file_that_is_no_text_is_one_line(read):
    found = read("[Contacts2]\n8e62=Jürgen;;\n".encode("latin-1"))
    assert found.faces == () and found.refused == 1 and "line 2 is not UTF-8" in found.why
    found = read(b"a" * (picasa.MOST_LINE + 1))
    assert found.refused == 1 and "characters" in found.why


def test_xmp_counts_before_picasa(read, tmp_path):
    (tmp_path / "2019").mkdir()
    (tmp_path / "2019" / "p.jpg.xmp").write_bytes(drawn.packet(drawn.digikam({"Eve": (0.1, 0.1, 0.3, 0.3)})))
    assert [face.name for face in read(ini([(ANN, (0.1, 0.1, 0.4, 0.5))])).faces] == ["Eve"]


def test_a_photo_follows_its_file(read, tmp_path):
    from facegallery.embedder.dataset.row import Entry
    from facegallery.embedder.photos.sidecars import with_sidecars

    entry = Entry("2019/p.jpg", 1, 1)
    assert not has_sidecar(tmp_path, entry)
    read(ini([(ANN, (0.1, 0.1, 0.4, 0.5))]))
    assert has_sidecar(tmp_path, entry) and with_sidecars(tmp_path, entry) != entry
    again = read(ini([(BOB, (0.1, 0.1, 0.4, 0.5))]))  # the decoder's process is the same
    assert [face.name for face in again.faces] == ["Bób"]


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    try:
        folder = picasa.parse(b"[p.jpg]\nfaces=" + data)
    except PhotoRefused:
        return
    assert isinstance(folder.photos["p.jpg"]["faces"], str)


share = st.integers(0, 65535)


@given(st.lists(st.tuples(share, share, share, share), min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path_factory, boxes):
    path = tmp_path_factory.mktemp("ini") / ".picasa.ini"
    path.write_bytes(ini([(ANN, tuple(side / 65535 for side in box)) for box in boxes]))
    regions, refused = picasa.regions_in(str(path), "p.jpg")
    good = [box for box in boxes if box[0] < box[2] and box[1] < box[3]]
    assert [tuple(round(65535 * side) for side in region.box) for region in regions] == good
    assert refused.refused == len(boxes) - len(good)
