import pytest

from facegallery.embedder.photos.folders import labels_of
from facegallery.embedder.photos.understood import understand


def told(*paths, by_folders=True):
    return understand(((path, labels_of(path)[1]) for path in paths), "from folders such as", by_folders=by_folders)


def test_one_line_says_who_was_found():
    done = told("Ann/1.jpg", "Ann/2.jpg", "Bob/1.jpg", "Cy/1.jpg", "stray.jpg")
    assert done.lines == ["3 people from folders such as 'Ann', 'Bob' (1 photo without a person)"]
    assert done.result()["people"] == 3 and done.result()["without"] == 1 and done.result()["photos"] == 5
    assert told("Ann/1.jpg").lines == ["1 person from folders such as 'Ann'"]
    assert told("1.jpg", "2.jpg").lines == ["0 people (2 photos without a person)"]


@pytest.mark.parametrize(
    "paths",
    [
        ["Ann/1.jpg", "Ann/2.jpg", "Bob/1.jpg"],
        ["2019/Ann/1.jpg", "2020/Ann/2.jpg", "2019/Bob/1.jpg"],
        ["photos/Ann/1.jpg", "photos/Bob/1.jpg", "photos/Cy/1.jpg"],
        ["gallery/Ann/1.jpg", "probe/Ann/2.jpg", "probe/Bob/1.jpg"],
        [f"{split}/{n}/{n}_1.jpg" for n in range(2000) for split in ("gallery", "probe")],
        [f"s{n}/{i}.pgm" for n in range(40) for i in range(10)],
        [f"Aaron_{n}/Aaron_{n}_0001.jpg" for n in range(300)],
        [f"{n}_name/{n}.jpg" for n in range(1500, 2500)],
        [f"{n}_name/{n}.jpg" for n in range(19000, 19010)],
        ["2014da9b/a.jpg", "1998ffff/b.jpg"],
        ["April/1.jpg", "May/1.jpg", "June Carter/1.jpg", "Albert/1.jpg", "Rawson/1.jpg"],
        [f"{n:03}/{i}.jpg" for n in range(100) for i in range(8)],
    ],
)
def test_sound_layouts_are_not_warned_about(paths):
    assert told(*paths).warnings == []


@pytest.mark.parametrize(
    ("paths", "word"),
    [
        (["Ann/2019/1.jpg", "Bob/2020/1.jpg"], "dates"),
        (["2019/1.jpg", "2020/1.jpg"], "dates"),
        (["2019-05-01/1.jpg", "Ann/1.jpg"], "a date"),
        (["2019_05/1.jpg", "20190501/1.jpg", "2018 Rome/1.jpg", "Jan 2019/1.jpg", "01.05.2019/1.jpg"], "5 of them"),
        (["Ann/raw/1.jpg", "Bob/raw/1.jpg"], "'raw' lies in 2 folders"),
        (["Ann/day/1.jpg", "Bob/day/1.jpg", "Cy/day/1.jpg"], "'day' lies in 3 folders"),
        (["DCIM/1.jpg"], "many people"),
        (["DCIM/100CANON/1.jpg", "DCIM/101_PANA/1.jpg"], "many people"),
        (["New folder (2)/1.jpg", "Ann/1.jpg"], "'New folder (2)'"),
        (["photos/1.jpg", "images/2.jpg"], "many people"),
        (["Train/1.jpg"], "many people"),
        (["Ann/train/1.jpg", "Bob/train/2.jpg"], "'train'"),
        (["Ann/1.jpg", "Bob/trip/2.jpg"], "different depths"),
        (["Ann/1.jpg", "Ann/trip/2.jpg"], "different depths"),
        ([f"Ann/{i}.jpg" for i in range(300)], "all 300 photos"),
        ([f"a{i}/b{i}/1.jpg" for i in range(9)], "9 of 9 have one photo"),
    ],
)
def test_what_looks_wrong_is_told_in_one_line(paths, word):
    done = told(*paths)
    assert any(word in line for line in done.warnings), done.warnings
    assert len(done.lines) == 2 and "--identity-level N" in done.lines[1] and "\n" not in done.lines[1]


def test_who_says_the_level_is_not_told_about_depths():
    paths = ["Ann/1.jpg", "Bob/trip/2.jpg", "Cy/trip/1.jpg"]
    assert understand([(p, p.split("/")[0]) for p in paths], "x", by_folders=False).warnings == []
    assert told("2019/1.jpg", "2020/1.jpg", by_folders=False).warnings


def test_names_reach_the_line_without_control_characters():
    (line,) = understand([("x.jpg", "A\x1b[31mnn\n")], "such as").lines
    assert "\x1b" not in line and "\n" not in line
