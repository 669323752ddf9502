import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegallery.indexer.upkeep import traces
from facegallery.indexer.upkeep.traces import PIECE, PNG_HEAD, Traces, files_below, size_of


def brute(data: bytes, of: Traces, elsewhere: Sequence[str] = ()) -> int:
    """By comparing at every place."""
    found = sum(data[i : i + PIECE] in of.pieces for i in range(len(data)))
    for name in (n.encode() for n in of.names if len(n.encode()) >= 5):
        for at in range(len(data)):
            if data[at:].startswith(name):
                spans = [
                    (i, i + len(t))
                    for t in (t.encode() for t in elsewhere)
                    for i in range(len(data))
                    if data[i:].startswith(t)
                ]
                found += not any(start <= at and at + len(name) <= end for start, end in spans)
    return found


def file_of(folder: Path, data: bytes) -> Path:
    (folder / "file").write_bytes(data)
    return folder / "file"


PIECES = (
    [bytes([i]) * PIECE for i in range(2)]
    + [bytes(range(i, i + PIECE)) for i in (0, 1, 100)]
    + [b"0" * 31 + b"1", b"01" * 16]
)
NAMES = ("Ann-Sophie", "Ann-Sophie Müller", "phiephie", "Ann-", "aaaaa", "李小龙")
ELSEWHERE = (
    "Ann-Sophie Müller",
    "Joann-Sophie",
    "xAnn-Sophiey",
    "phiephiephie",
    "aaaaaaa",
    "gallery/Ann-Sophie/1.jpg",
    "Ann-Sophie-Ann",
)
chunks = st.one_of(
    st.sampled_from(PIECES),
    st.sampled_from([p[:17] for p in PIECES]),
    st.sampled_from(NAMES + ELSEWHERE).map(str.encode),
    st.binary(max_size=9),
    st.sampled_from([b"\0", b"\1\1", b"0", b"01", b"Ann-So", b"phie", b"a", b"aa"]),
)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(chunks, max_size=12).map(b"".join),
    st.sets(st.sampled_from(PIECES)),
    st.sets(st.sampled_from(NAMES)),
    st.lists(st.sampled_from(ELSEWHERE), unique=True),
    st.sampled_from([1, 2, 7, 8, 31, 32, 33, 100, 1 << 20]),
)
def test_a_count_is_what_brute_force_counts(tmp_path_factory, data, pieces, names, elsewhere, block):
    folder = tmp_path_factory.getbasetemp() / "traces"
    folder.mkdir(exist_ok=True)
    of = Traces(set(names), pieces=set(pieces))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traces, "BLOCK", block)
        assert of.count(file_of(folder, data), elsewhere) == brute(data, of, elsewhere)


@pytest.mark.parametrize("block", [97, 1 << 20])
def test_pieces_are_found_at_every_place_of_a_large_file(tmp_path, monkeypatch, block):
    rng = np.random.default_rng(1)
    monkeypatch.setattr(traces, "BLOCK", block)
    pieces = [rng.bytes(PIECE) for _ in range(300)]
    of = Traces({"Ann-Sophie"}, pieces=set(pieces))
    for at in [*range(9), *range(60, 100, 3), *rng.integers(1900, size=9).tolist(), 2000 - PIECE]:
        data = bytearray(rng.bytes(2000))
        data[at : at + PIECE] = pieces[at % 300]
        assert of.count(file_of(tmp_path, bytes(data))) == 1
        name_at = at + 40 if at < 1900 else 50
        data[name_at : name_at + 10] = b"Ann-Sophie"
        assert of.count(file_of(tmp_path, bytes(data))) == 2
        assert of.count(file_of(tmp_path, bytes(data[: at + PIECE - 1]))) <= 1  # cut off


def test_chance_finds_nothing(tmp_path):
    rng = np.random.default_rng(2)
    of = Traces({"Annie", "李小龙"}, pieces={rng.bytes(PIECE) for _ in range(20_000)})
    assert of.count(file_of(tmp_path, rng.bytes(8 << 20))) == 0
    assert Traces().count(tmp_path / "file") == 0


@pytest.mark.parametrize("length", [0, 1, 7, 8, 31])
def test_a_file_shorter_than_a_piece(tmp_path, length):
    assert Traces({"Annie"}, pieces={b"x" * PIECE}).count(file_of(tmp_path, b"x" * length)) == 0


def test_a_file_that_has_gone_holds_nothing(tmp_path):
    assert Traces({"Annie"}, pieces={b"x" * PIECE}).count(tmp_path / "nowhere") == 0


def test_names_within_longer_legitimate_ones_are_not_counted(tmp_path):
    of = Traces({"Ann Lee"})
    path = file_of(tmp_path, b"Ann Lee, Ann Leeds, JoAnn Lee and Ann Lee. x/Ann Lee/1.jpg")
    assert [
        of.count(path, texts)
        for texts in ([], ["Ann Leeds"], ["Ann Leeds", "JoAnn Lee"], ["x/Ann Lee/1.jpg"], ["Ann Lee"])
    ] == [
        5,
        4,
        3,
        4,
        0,
    ]


def test_a_longer_text_that_ends_in_the_middle_of_a_name_hides_nothing(tmp_path):
    assert Traces({"Ann-Ann"}).count(file_of(tmp_path, b"Ann-Ann-Ann"), ["Ann-Ann-A"]) == 1


def test_short_names_are_told_and_not_looked_for(tmp_path):
    of = Traces({"Ann", "Zoë", "李小龙", "Annie", "李"})
    assert of.short_names == {"Ann", "Zoë", "李"}
    assert of.count(file_of(tmp_path, "Ann Zoë 李 李小龙 Annie".encode())) == 2


# what is looked for of a face -----------------------------------------------


def traces_of(face_id: str = "", vectors: Sequence[bytes] = (), png: bytes | None = None) -> Traces:
    of = Traces()
    of.add_face(face_id, vectors, png)
    return of


def test_ids_hashes_and_vectors_are_looked_for_whole(tmp_path):
    rng = np.random.default_rng(3)
    face_id, sha256, vectors = "0123456789abcdef" * 2, "fedcba9876543210" * 4, [rng.bytes(512), rng.bytes(96)]
    of = traces_of(face_id, vectors)
    of.add_photo(sha256)
    assert of.face_ids == {face_id} and len(of.pieces) == 1 + 1 + 16 + 3  # the hash is the same piece twice
    for text, n in ((face_id.encode(), 1), (sha256.encode(), 3), (vectors[0], 16), (vectors[1], 3)):
        for shift in range(9):
            assert of.count(file_of(tmp_path, b"\7" * shift + text + b"\7" * 40)) == n
    assert of.count(file_of(tmp_path, vectors[0][32:500])) == 14, "a part is found too"


def test_crops_are_looked_for_but_for_what_many_pictures_share(tmp_path):
    rng = np.random.default_rng(4)
    png = rng.bytes(PNG_HEAD) + rng.bytes(320) + b"\0" * 320 + b"\1\2\3" * 107
    of = traces_of(png=png)
    assert len(of.pieces) == 10
    assert of.count(file_of(tmp_path, png)) == 10 and of.count(file_of(tmp_path, png[:PNG_HEAD])) == 0
    assert of.count(file_of(tmp_path, b"\0" * 1000 + b"\1\2\3" * 400)) == 0
    assert traces_of(png=b"").pieces == traces_of(png=None).pieces == set()


def test_files_that_come_and_go_are_passed_over(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("z", "a/y", "a/b/x"):
        (tmp_path / name).write_bytes(b"123")
    (tmp_path / "link").symlink_to("z"), (tmp_path / "broken").symlink_to("nowhere")
    assert files_below(tmp_path) == [tmp_path / "a" / "b" / "x", tmp_path / "a" / "y", tmp_path / "z"]
    assert files_below(tmp_path / "gone") == [] and [size_of(tmp_path / name) for name in ("z", "gone")] == [3, 0]
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / "file").touch()
            shutil.rmtree(tmp_path / "new")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(churn)
        for _ in range(2000):
            assert len(files_below(tmp_path)) in (3, 4)
        stop.set()
