"""Lists of pairs: LFW's, CFP's folders, plain lists; each mistake is one line that names the file's line."""

from pathlib import Path

import numpy as np
import pytest

from facegallery.embedder.errors import DataError
from facegallery.indexer.evaluation.pair_lists import LIST_FOLDS, read_pairs


def test_pairs_are_read_as_lfw_writes_them(tmp_path):
    (file := tmp_path / "pairs.txt").write_text("2\t1\nAnn_Lee\t1\t4\nAnn_Lee\t2\tBob\t13\nCy\t1\t2\nCy\t3\tBob\t1\n")
    found = read_pairs(file)
    assert found.first == ("Ann_Lee_0001", "Ann_Lee_0002", "Cy_0001", "Cy_0003")
    assert found.second == ("Ann_Lee_0004", "Bob_0013", "Cy_0002", "Bob_0001")
    assert found.same.tolist() == [True, False, True, False] and found.folds.tolist() == [0, 0, 1, 1]
    vectors = {stem: np.array([1, 0], np.float32) for stem in (*found.first, *found.second)}
    vectors |= {"Cy_0002": np.array([0.6, 0.8], np.float32), "Cy_0003": None}
    assert found.scores(vectors).tolist() == pytest.approx([1, 1, 0.6, -np.inf])
    del vectors["Bob_0001"]
    with pytest.raises(DataError, match="1 are missing, such as Bob_0001"):
        found.scores(vectors)


@pytest.mark.parametrize(
    "text", ["", "10\n", "2\t1\nAnn\t1\n", "2 2\nA 1 2\nA 1 B 1\n", "1 1\nA 1 2\nA 1 B 1\n", "2 1\nA x 2\n"]
)
def test_other_files_are_one_clear_line(tmp_path, text):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(DataError, match="pairs"):
        read_pairs(tmp_path / "pairs.txt")


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    for path, why in (
        (tmp_path / "pairs.txt", "No such file"),
        (tmp_path, "FF or FP"),
        (tmp_path / "photo.jpg", "not text"),
    ):
        with pytest.raises(DataError, match=why):
            read_pairs(path)


# plain lists ----------------------------------------------------------------


def listed(n: int, separator: str = " ") -> str:
    """n pairs, of one person and of two in turns."""
    return "".join(separator.join([f"p{i}/a.jpg", f"p{i + i % 2}/b.jpg", str(1 - i % 2)]) + "\n" for i in range(n))


@pytest.mark.parametrize("separator", [" ", "\t", ",", ", "])
@pytest.mark.parametrize("head", ["", "path1,path2,label\n", "\n"])
def test_a_plain_list_is_ten_folds_in_order(tmp_path, separator, head):
    if "," in head and "," not in separator:
        pytest.skip("a header is a CSV's")
    (file := tmp_path / "agedb_30.txt").write_text(head + listed(47, separator))
    found = read_pairs(file)
    assert found.first[:2] == ("p0/a.jpg", "p1/a.jpg") and found.second[:2] == ("p0/b.jpg", "p2/b.jpg")
    assert found.same.tolist() == [i % 2 == 0 for i in range(47)] and not found.stems
    assert found.folds.tolist() == sorted(found.folds) and np.bincount(found.folds).tolist() == [5] * 7 + [4] * 3


def test_paths_with_spaces_are_a_csvs(tmp_path):
    (file := tmp_path / "pairs.csv").write_text(listed(19, ",") + '"./Ann, Lee/1.jpg",..\\Bob\\2 b.jpg,0\n')
    found = read_pairs(file)
    assert (found.first[-1], found.second[-1]) == ("Ann, Lee/1.jpg", "Bob/2 b.jpg")


def test_a_path_is_a_photo_whose_path_ends_alike(tmp_path):
    (file := tmp_path / "list.txt").write_text(listed(19) + "../Data/p1/frontal/01.jpg Data/p2/frontal/01.jpg 0\n")
    found = read_pairs(file)
    assert found.named("p1/frontal/01.jpg") == found.named("cfp/Data/p1/frontal/01.jpg") == ["Data/p1/frontal/01.jpg"]
    assert found.named("p3/frontal/01.jpg") == found.named("xp1/frontal/02.jpg") == found.named("1.jpg") == []
    assert found.named("frontal/01.jpg") == ["Data/p1/frontal/01.jpg", "Data/p2/frontal/01.jpg"]


@pytest.mark.parametrize(
    ("number", "line"), [(1, "a/1.jpg b/2.jpg yes"), (3, "a/1.jpg 1"), (4, "a 1.jpg b/2.jpg 1"), (9, "a.jpg b.jpg 2")]
)
def test_a_wrong_line_is_named(tmp_path, number, line):
    lines = listed(20).splitlines()
    lines.insert(number - 1, line)
    (file := tmp_path / "list.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=f"two paths and 1 .* line {number} of .*list.txt is '{line}'"):
        read_pairs(file)


def test_too_few_pairs_for_ten_folds(tmp_path):
    (file := tmp_path / "list.txt").write_text(listed(2 * LIST_FOLDS - 1))
    with pytest.raises(DataError, match="10 folds.* has 19 pairs"):
        read_pairs(file)


# CFP ------------------------------------------------------------------------


@pytest.fixture
def cfp(tmp_path) -> Path:
    """Two folds of FF and FP, of three people with two frontal photos and one in profile."""
    protocol = tmp_path / "Protocol"
    frontal = [f"../Data/Images/00{p}/frontal/0{i}.jpg" for p in (1, 2, 3) for i in (1, 2)]
    profile = [f"../Data/Images/00{p}/profile/01.jpg" for p in (1, 2, 3)]
    for kind, pairs in (("FF", ("1,2", "3,5")), ("FP", ("4,2", "6,1"))):
        for fold in ("01", "02"):
            (folder := protocol / "Split" / kind / fold).mkdir(parents=True)
            for name, line in zip(("same", "diff"), pairs, strict=True):
                (folder / f"{name}.txt").write_text(f"{line}\n")
    for letter, paths in (("F", frontal), ("P", profile)):
        lines = (f"{i} {path}\n" for i, path in enumerate(paths, 1))
        (protocol / f"Pair_list_{letter}.txt").write_text("".join(lines))
    return protocol


def test_cfp_is_read_from_its_folders(cfp):
    frontal, profile = read_pairs(cfp / "Split" / "FF"), read_pairs(cfp / "Split" / "FP")
    assert frontal.first == ("Data/Images/001/frontal/01.jpg", "Data/Images/002/frontal/01.jpg") * 2
    assert frontal.second == ("Data/Images/001/frontal/02.jpg", "Data/Images/003/frontal/01.jpg") * 2
    assert profile.first == ("Data/Images/002/frontal/02.jpg", "Data/Images/003/frontal/02.jpg") * 2
    assert profile.second == ("Data/Images/002/profile/01.jpg", "Data/Images/001/profile/01.jpg") * 2
    for found in (frontal, profile):
        assert found.same.tolist() == [True, False] * 2 and found.folds.tolist() == [0, 0, 1, 1]


def test_cfps_mistakes_are_one_line_each(cfp):
    same = cfp / "Split" / "FP" / "02" / "same.txt"
    for text, words in (
        ("1,2\n\n1;2\n", "line 3 of .*same.txt is '1;2'"),
        ("1,4\n", r"\(6 and 3 photos\), line 1 of .*"),
    ):
        same.write_text(text)
        with pytest.raises(DataError, match=words):
            read_pairs(cfp / "Split" / "FP")
    (cfp / "Pair_list_P.txt").write_text("1 a.jpg\nb.jpg\n")
    with pytest.raises(DataError, match="line 2 of .*Pair_list_P.txt is 'b.jpg'"):
        read_pairs(cfp / "Split" / "FP")
    (cfp / "Pair_list_P.txt").write_text("1 a/1.jpg\n2 a/2.jpg\n3 a/3.jpg\n")
    same.unlink()
    with pytest.raises(DataError, match="same.txt cannot be read"):
        read_pairs(cfp / "Split" / "FP")
    with pytest.raises(DataError, match="Protocol/Split/FF or FP"):
        read_pairs(cfp / "Split")
