import os

import pytest

from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.photos.listing import list_photos
from facegallery.embedder.photos.prepare import natural, prepare


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def src(tmp_path):
    (tmp_path / "src").mkdir()
    return tmp_path / "src"


def test_the_homeworks_set_with_gaps_and_extras(src, tmp_path):
    touch(src, "0_1.jpg", "0_2.jpg", "1_1.jpg", "3_1.jpg", "3_2.jpg", "10_2.jpg", "notes.txt", "3_3.jpg")
    done = prepare("homework", src, tmp_path / "d")
    assert tree(tmp_path / "d") == [
        "gallery/0/0_1.jpg",
        "gallery/1/1_1.jpg",
        "gallery/3/3_1.jpg",
        "probe/0/0_2.jpg",
        "probe/10/10_2.jpg",
        "probe/3/3_2.jpg",
    ]
    assert done.people == 4 and done.splits == {"gallery": 3, "probe": 3}
    assert done.notes == [
        "numbers without a photo: 2, 4, 5, 6, 7, 8, 9",
        "people without a gallery photo (N_1): 10",
        "people without a probe photo (N_2): 1",
        "not of the form 0_1.jpg, left out: 3_3.jpg, notes.txt",
    ]


def test_first_photo_and_rest_in_natural_order(src, tmp_path):
    touch(src, "s1/10.pgm", "s1/2.pgm", "s1/1.pgm", "s10/3.pgm", "README", "stray.jpg")
    done = prepare("att", src, tmp_path / "d")
    assert tree(tmp_path / "d") == ["gallery/s1/1.pgm", "gallery/s10/3.pgm", "probe/s1/10.pgm", "probe/s1/2.pgm"]
    assert any("stray.jpg" in note for note in done.notes)
    assert sorted(["s2/10", "s10/1", "s2/9"], key=natural) == ["s2/9", "s2/10", "s10/1"]


def test_splits_that_are_there_stay(src, tmp_path):
    touch(src, "val/Ann/1.jpg", "train/Ann/2.jpg", "train/Bob/1.jpg")
    assert prepare("folders", src, tmp_path / "d").splits == {"train": 2, "val": 1}


def test_a_csv_with_columns_of_its_own(src, tmp_path):
    touch(src, "x/1.jpg", "y/1.jpg", "y/2.jpg")
    table = tmp_path / "t.csv"
    table.write_text(
        "image,identity,split,year\nx/1.jpg,Ann,gallery,1999\ny/1.jpg,Ann,gallery,2001\ny/2.jpg,Bob,probe,\ngone.jpg,Bob,probe,\n../t.csv,Bob,probe,\n"
    )
    done = prepare("csv", src, tmp_path / "d", table)
    assert tree(tmp_path / "d") == ["gallery/Ann/x_1.jpg", "gallery/Ann/y_1.jpg", "metadata.csv", "probe/Bob/2.jpg"]
    assert any("gone.jpg, ../t.csv" in note for note in done.notes)
    listing = list_photos(tmp_path / "d", tmp_path / "d" / "metadata.csv")
    assert [e.extra for e in listing.entries] == [(("year", "1999"),), (("year", "2001"),), ()]


def test_only_metadata_that_prepare_wrote_is_replaced(src, tmp_path):
    touch(src, "1.jpg", "2.jpg")
    table, own = tmp_path / "t.csv", tmp_path / "d" / "metadata.csv"
    lines = ["image,identity,year", "1.jpg,Ann,1999", "2.jpg,Ann,2001", ""]
    table.write_text("\n".join(lines))
    for text in (
        "my notes",
        "image,year\nholiday.jpg,1990\n",
        "image,title\ngallery/Ann/1.jpg,mine\n",
        "image,year\ngallery/Ann/1.jpg,1998\n",
        "image,year\ngallery/Ann/1.jpg,1,2\n",
    ):
        own.parent.mkdir(exist_ok=True), own.write_text(text)
        with pytest.raises(DataError, match="metadata.csv") as caught:
            prepare("csv", src, tmp_path / "d", table)
        assert "\n" not in str(caught.value) and tree(tmp_path / "d") == ["metadata.csv"] and own.read_text() == text
    own.unlink()
    table.write_text("\n".join(lines[:2]))
    prepare("csv", src, tmp_path / "d", table)
    table.write_text("\n".join(lines))
    for _ in range(2):
        prepare("csv", src, tmp_path / "d", table)
        assert own.read_text().splitlines() == ["image,year", "gallery/Ann/1.jpg,1999", "gallery/Ann/2.jpg,2001"]


def test_a_link_that_leads_nowhere_or_outside_is_left_out_and_said(src, tmp_path):
    touch(src, "Eve/1.jpg", "Eve/2.jpg", "Eve/3.jpg")
    (tmp_path / "elsewhere.jpg").write_bytes(b"x")
    (src / "Eve" / "0.jpg").symlink_to("/nonexistent"), (src / "Eve" / "9.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    (src / "Eve" / "4.jpg").symlink_to("3.jpg")
    done = prepare("folders", src, tmp_path / "d")
    assert tree(tmp_path / "d") == ["gallery/Eve/1.jpg", "probe/Eve/2.jpg", "probe/Eve/3.jpg", "probe/Eve/4.jpg"]
    assert "links that lead outside the folder, left out: Eve/9.jpg" in done.notes
    assert "photos that are not there (broken links, or gone meanwhile), left out: Eve/0.jpg" in done.notes
    for n, target in ((1, "/nonexistent"), (2, tmp_path / "elsewhere.jpg")):
        (src / f"0_{n}.jpg").symlink_to(target)
    touch(src, "1_1.jpg")
    assert prepare("homework", src, tmp_path / "h").splits == {"gallery": 1}


def test_the_persons_folder_is_the_nearest_or_the_one_that_is_named(src, tmp_path):
    touch(src, "2019/Ann/1.jpg", "2020/Ann/2.jpg", "2020/Bob/1.jpg", "#recycle/Cy/1.jpg")
    done = prepare("folders", src, tmp_path / "d")
    assert tree(tmp_path / "d") == ["gallery/Ann/1.jpg", "gallery/Bob/1.jpg", "probe/Ann/2.jpg"]
    assert "2 people from folders such as 'Ann', 'Bob'" in done.notes
    years = prepare("folders", src, tmp_path / "years", level=1)
    assert years.people == 2 and any(note.startswith("warning: ") and "2019" in note for note in years.notes)
    with pytest.raises(InputError, match="--identity-level"):
        prepare("homework", src, tmp_path / "h", level=1)


def test_a_csv_of_any_program_is_laid_out(src, tmp_path):
    touch(src, "x/1.jpg")
    (tmp_path / "t.csv").write_text("Image; Identity\r\nx\\1.jpg; Ann \u200b\r\n\r\n")
    prepare("csv", src, tmp_path / "d", tmp_path / "t.csv")
    assert tree(tmp_path / "d") == ["gallery/Ann/1.jpg"]
    (tmp_path / "t.csv").write_text('image,identity\nx/1.jpg,"Ann\nLee"\nx/1.jpg,King, Tony\n')
    with pytest.raises(DataError, match="line 4"):
        prepare("csv", src, tmp_path / "d2", tmp_path / "t.csv")


def test_the_source_is_untouched_and_the_same_call_again_adds(src, tmp_path):
    touch(src, "Ann/1.jpg")
    before = (src / "Ann" / "1.jpg").stat()
    prepare("folders", src, tmp_path / "d")
    touch(src, "Ann/2.jpg")
    assert prepare("folders", src, tmp_path / "d").splits == {"gallery": 1, "probe": 1}
    after = (src / "Ann" / "1.jpg").stat()
    assert (before.st_ino, before.st_mtime_ns, before.st_mode) == (after.st_ino, after.st_mtime_ns, after.st_mode)
    assert not any(p.is_symlink() for p in (tmp_path / "d").rglob("*"))
    (tmp_path / "d" / "gallery" / "Ann" / "1.jpg").unlink()
    touch(tmp_path / "d", "gallery/Ann/1.jpg")
    with pytest.raises(DataError, match="it is another"):
        prepare("folders", src, tmp_path / "d")
    assert (src / "Ann" / "1.jpg").read_bytes() == b"Ann/1.jpg"


def test_copies_where_links_cannot_be(src, tmp_path, monkeypatch):
    touch(src, "Ann/1.jpg")

    def refuse(*_):
        raise OSError("cross-device")

    monkeypatch.setattr(os, "link", refuse)
    prepare("folders", src, tmp_path / "d")
    assert tree(tmp_path / "d") == ["gallery/Ann/1.jpg"]


def test_refusals(src, tmp_path):
    table = tmp_path / "t.csv"
    touch(src, "a.jpg")
    table.write_text("image,identity\na.jpg,Ann/Bob\n")
    for call, error, word in [
        (lambda: prepare("lfw", tmp_path / "gone", tmp_path / "d"), DataError, "is not there"),
        (lambda: prepare("lfw", src, src / "d"), InputError, "DEST outside SRC"),
        (lambda: prepare("csv", src, tmp_path / "d"), InputError, "--csv"),
        (lambda: prepare("homework", src, tmp_path / "d"), DataError, "found none"),
        (lambda: prepare("csv", src, tmp_path / "d", table), DataError, "a name that can be a folder's"),
    ]:
        with pytest.raises(error, match=word):
            call()
    table.write_text("image,identity,split\na.jpg,Ann,nowhere\n")
    with pytest.raises(DataError, match="line 2"):
        prepare("csv", src, tmp_path / "d", table)
