import pytest
from PIL import Image

from embedder.errors import DataError
from embedder.listing import labels_of, list_photos, normal_name


def write(path, size=(60, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(path)
    return path


def test_labels_come_from_the_folders():
    assert labels_of("a.jpg") == (None, None)
    assert labels_of("Ann/a.jpg") == (None, "Ann")
    assert labels_of("probe/Ann/a.jpg") == ("probe", "Ann")
    assert labels_of("probe/a.jpg") == ("probe", None)
    assert labels_of("Ann/deep/a.jpg") == (None, "Ann")
    assert normal_name("u\u0308 ") == "\u00fc"


def test_a_folder_is_walked_in_order_without_links_and_hidden_files(tmp_path):
    for name in ("b/2.jpg", "a/1.JPG", "a/ünï cödé.png", ".hidden/x.jpg", "a/.x.jpg"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    listing = list_photos(tmp_path)
    assert [e.path for e in listing.entries] == ["a/1.JPG", "a/ünï cödé.png", "b/2.jpg"]
    assert any("loop: a link" in note for note in listing.notes) and "1 other files passed over" in listing.notes


def test_a_csv_gives_names_splits_and_columns(tmp_path):
    write(tmp_path / "x" / "1.jpg")
    (tmp_path / "list.csv").write_text("\ufeffimage,identity,split,tag\nx/1.jpg,Ann,probe,red\nx/../x/1.jpg,Bob,,\n", encoding="utf-8")
    listing = list_photos(tmp_path / "list.csv")
    assert [(e.path, e.identity, e.split, e.extra) for e in listing.entries] == [("x/1.jpg", "Ann", "probe", (("tag", "red"),))]
    assert "named twice" in listing.notes[0] and listing.extra == ["tag"]
    for text, word in (("identity\nAnn\n", "column `image`"), ("image,identity\n,Ann\n", "line 2"), ('image\n"x', "cannot be read")):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(DataError, match=word):
            list_photos(tmp_path / "bad.csv")


def test_metadata_is_joined_by_name(tmp_path):
    write(tmp_path / "Ann" / "1.jpg")
    write(tmp_path / "Ann" / "2.jpg")
    (tmp_path / "m.csv").write_text("image,year\nAnn/2.jpg,1999\nAnn/9.jpg,2000\n")
    listing = list_photos(tmp_path, tmp_path / "m.csv")
    assert [e.extra for e in listing.entries] == [(), (("year", "1999"),)]
    assert any("Ann/9.jpg" in note for note in listing.notes)


def test_nothing_to_do_is_said(tmp_path):
    for source, word in ((tmp_path, "found none"), (tmp_path / "gone", "is not there")):
        with pytest.raises(DataError, match=word):
            list_photos(source)
