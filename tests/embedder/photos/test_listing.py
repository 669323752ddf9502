import pytest
from PIL import Image

from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.photos.listing import list_photos


def write(path, size=(60, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(path)
    return path


def labels(listing):
    return {e.path: e.identity for e in listing.entries}


def test_a_folder_is_walked_in_order_without_links_and_hidden_files(tmp_path):
    for name in ("b/2.jpg", "a/1.JPG", "a/ünï cödé.png", ".hidden/x.jpg", "a/.x.jpg"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    listing = list_photos(tmp_path)
    assert [e.path for e in listing.entries] == ["a/1.JPG", "a/ünï cödé.png", "b/2.jpg"]
    assert listing.notes == [
        "loop: a link to a folder, not followed",
        "1 system or hidden folder left out, such as '.hidden'",
        "1 hidden file left out, such as 'a/.x.jpg'",
        "1 other file left out by name or content, such as 'notes.txt'",
    ]


def test_a_person_is_who_is_called_as_the_nearest_folder(tmp_path):
    for name in ("2019/Ann/1.jpg", "2020/Ann/2.jpg", "photos/Bob/1.jpg", "stray.jpg", "probe/Cy/1.jpg"):
        write(tmp_path / name)
    assert labels(list_photos(tmp_path)) == {
        "2019/Ann/1.jpg": "Ann",
        "2020/Ann/2.jpg": "Ann",
        "photos/Bob/1.jpg": "Bob",
        "stray.jpg": None,
        "probe/Cy/1.jpg": "Cy",
    }
    assert set(labels(list_photos(tmp_path, level=1)).values()) == {"2019", "2020", "photos", "Cy", None}


def test_programs_folders_are_left_out_and_counted(tmp_path):
    write(tmp_path / "Ann" / "1.jpg")
    for name in (
        "Ann/@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg",
        "#recycle/old.jpg",
        "Ann/Thumbnails/1.jpg",
        ".thumbnails/a.jpg",
        "$RECYCLE.BIN/a.jpg",
        "Lightroom Previews.lrdata/a.jpg",
        "Bob.photoslibrary/resources/derivatives/a.jpg",
        "__MACOSX/Ann/1.jpg",
    ):
        write(tmp_path / name)
    write(tmp_path / "Bob.photoslibrary" / "originals" / "0" / "0A.jpg")
    listing = list_photos(tmp_path)
    assert labels(listing) == {"Ann/1.jpg": "Ann", "Bob.photoslibrary/originals/0/0A.jpg": None}
    assert any(note.startswith("8 system or hidden folders left out") for note in listing.notes)
    assert [e.path for e in list_photos(tmp_path / "#recycle").entries] == ["old.jpg"]  # asked for by name


def test_files_with_other_names_are_photos_by_their_first_bytes(tmp_path):
    for name in ("no_extension", "photo.jpg.large", "img.jpg_large", "x.unknown"):
        write(tmp_path / "p.jpg").rename(tmp_path / name)
    for name in ("x.cr2", "1.jpg_original", "1.jpg~", "1.thm"):
        write(tmp_path / "p.jpg").rename(tmp_path / name)
    (tmp_path / "text").write_text("BM is no photo")
    listing = list_photos(tmp_path)
    assert {e.path for e in listing.entries} == {"no_extension", "photo.jpg.large", "img.jpg_large", "x.unknown"}
    assert any(note.startswith("1 raw photo left out, such as 'x.cr2'") for note in listing.notes)
    assert any(note.startswith("4 other files left out") for note in listing.notes)
    assert any(note.startswith("4 files without a photo's extension taken") for note in listing.notes)


def test_a_folder_whose_name_cannot_be_a_persons_costs_only_itself(tmp_path):
    for name in ("A\x07nn/1.jpg", "Ann /1.jpg", "Ann\u200b/2.jpg"):
        write(tmp_path / name)
    listing = list_photos(tmp_path)
    assert sorted(map(str, labels(listing).values())) == ["Ann", "Ann", "None"]
    assert any(note.startswith("1 photo without a person") and "\x07" not in note for note in listing.notes)


def test_a_csv_gives_names_splits_and_columns(tmp_path):
    write(tmp_path / "x" / "1.jpg")
    (tmp_path / "list.csv").write_text(
        "\ufeffimage, identity,split,tag\nx\\1.jpg, Ann ,probe,red\nx/../x/1.jpg,Bob,,\nx/1.jpg,Ann,,\n\n",
        encoding="utf-8",
    )
    listing = list_photos(tmp_path / "list.csv")
    assert [(e.path, e.identity, e.split, e.extra) for e in listing.entries] == [
        ("x/1.jpg", "Ann", "probe", (("tag", "red"),))
    ]
    assert listing.notes == [
        "2 lines of list.csv name a photo twice, 1 of them as other people's, such as 'x/1.jpg' on lines 2 and 3: "
        "the first line counts"
    ]
    assert listing.extra == ["tag"] and listing.understood().text == "1 person such as 'Ann'"
    for text, word in (
        ("identity\nAnn\n", "column `image`"),
        ("image,identity\n,Ann\n", "line 2"),
        ("image,identity\nx.jpg,A\x07\n", "line 2"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(DataError, match=word):
            list_photos(tmp_path / "bad.csv")


def test_half_a_name_is_never_a_person(tmp_path):
    (tmp_path / "list.csv").write_text("image,identity\nx.jpg,King, Tony\ny.jpg,King, Colin\n")
    with pytest.raises(DataError, match="expected 2 cells, line 2"):
        list_photos(tmp_path / "list.csv")


def test_metadata_is_joined_by_name(tmp_path):
    write(tmp_path / "Ann" / "1.jpg")
    write(tmp_path / "Ann" / "2.jpg")
    (tmp_path / "m.csv").write_text("image, year,identity\nAnn\\2.jpg,1999,Bob\nAnn/9.jpg,2000,\n")
    listing = list_photos(tmp_path, tmp_path / "m.csv")
    assert [e.extra for e in listing.entries] == [(), (("year", "1999"),)] and {
        e.identity for e in listing.entries
    } == {"Ann"}
    assert any("Ann/9.jpg" in note for note in listing.notes) and any(
        "identity of m.csv not used" in note for note in listing.notes
    )


def test_a_level_is_for_folders_alone(tmp_path):
    (tmp_path / "list.csv").write_text("image\nx.jpg\n")
    with pytest.raises(InputError, match="--identity-level"):
        list_photos(tmp_path / "list.csv", level=1)


def test_nothing_to_do_is_said(tmp_path):
    for source, word in ((tmp_path, "found none"), (tmp_path / "gone", "is not there")):
        with pytest.raises(DataError, match=word):
            list_photos(source)
