import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegallery.embedder.errors import DataError
from facegallery.embedder.photos.csv_file import photo_path, read_csv


def read(tmp_path, data):
    path = tmp_path / "list.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    table = read_csv(path)
    return table.columns, [(line.number, line.cells) for line in table.lines]


ANN = (["image", "identity"], [(2, {"image": "x.jpg", "identity": "Ann"})])


@pytest.mark.parametrize(
    "data",
    [
        "image,identity\nx.jpg,Ann\n",
        "image,identity\r\nx.jpg,Ann\r\n",
        "image,identity\rx.jpg,Ann\r",
        "image,identity\nx.jpg,Ann",
        "image, identity\nx.jpg, Ann\n",
        " image ,identity \n x.jpg , Ann \n",
        "\ufeffimage,identity\r\nx.jpg,Ann\r\n\r\n",
        "image,identity\nx.jpg,Ann\n\n",
        "image,identity\nx.jpg,Ann\n,\n  \n",
        "image;identity\nx.jpg;Ann\n",
        "image\tidentity\nx.jpg\tAnn\n",
        'image,identity\n"x.jpg", "Ann"\n',
        '"image","identity"\n"x.jpg","Ann"\n',
        "Image,IDENTITY\nx.jpg,Ann\n",
        "image,identity,\nx.jpg,Ann,\n",
        "image,identity\nx.jpg,Ann,,\n",
        "image,identity\nx.jpg,Ann\n".encode("utf-16"),
        "\ufeffimage,identity\nx.jpg,Ann\n".encode("utf-16-be"),
        "\ufeffimage;identity\r\nx.jpg;Ann\r\n".encode("utf-16-le"),
        "image,identity\nx.jpg,Ann\n".encode("utf-32"),
        "image\u00a0,identity\nx.jpg\u00a0,Ann\n",
    ],
)
def test_forms_that_programs_write_are_read_right(tmp_path, data):
    assert read(tmp_path, data) == ANN


def test_a_separator_may_be_named_first_as_excel_does(tmp_path):
    assert read(tmp_path, "sep=;\nimage;identity\nx.jpg;Ann\n") == (ANN[0], [(3, ANN[1][0][1])])


def test_lines_are_numbered_as_an_editor_does(tmp_path):
    data = '\nimage,note\n\nx.jpg,"one\ntwo"\n\ny.jpg,z\n'
    assert [number for number, _ in read(tmp_path, data)[1]] == [4, 7]
    assert read(tmp_path, data)[1][0][1]["note"] == "one\ntwo"


def test_cells_may_be_missing_and_columns_nameless(tmp_path):
    assert read(tmp_path, ",image,identity\n0,x.jpg,Ann\n1,y.jpg\n")[1] == [
        (2, {"image": "x.jpg", "identity": "Ann"}),
        (3, {"image": "y.jpg"}),
    ]
    assert read_csv(tmp_path / "list.csv").lines[1]["identity"] == ""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            "image,identity\nx.jpg,King, Tony\ny.jpg,King, Colin\n",
            ["expected 2 cells, line 2", "has 3", '"King, Tony"'],
        ),
        ('image,identity\nx.jpg,"A\nB"\n\ny.jpg,King, Colin\n', ["expected 2 cells, line 5"]),
        ("image;identity\nx.jpg;King; Tony\n", ["line 2", "has 3"]),
        ('image,identity\na.jpg,Ann\nx.jpg,"Bob\ny.jpg,Cy\n', ["begins on line 3", "quotes"]),
        ('image,identity\nx.jpg,"Bob" Lee\n', ["begins on line 2", "quotes"]),
        ("image,identity,identity\nx.jpg,Ann,Bob\n", ["line 1", "'identity' twice"]),
        ("image,Identity,identity\nx.jpg,Ann,Bob\n", ["'identity' twice"]),
        ("image,identity\n,Ann\n", ["line 2", "has none"]),
        ("image,identity\n\nx.jpg,A\n  ,Ann\n", ["line 4", "has none"]),
        ("x.jpg,Ann\n", ["column `image`"]),
        ("", ["column `image`"]),
        ("\n\n", ["column `image`"]),
        ("image,identity\nx.jpg,A\0nn\n", ["line 2", "NUL"]),
        ("image,identity\nx.jpg,Ann\n".encode("utf-16-le"), ["line 1", "CSV UTF-8"]),
        ("image,identity\nx.jpg,Ann\ny.jpg,J\u00f6rg\n".encode("latin-1"), ["line 3", "CSV UTF-8"]),
        ("image,identity\nx.jpg," + "A" * 200_000 + "\n", ["line 2", "cannot be read"]),
        ("image|identity\nx.jpg|Ann\n", ["column `image`"]),
    ],
)
def test_what_cannot_be_read_right_is_refused_by_line(tmp_path, data, words):
    with pytest.raises(DataError) as error:
        read(tmp_path, data)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), str(error.value)


CELLS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8).map(str.strip)


@given(
    st.lists(st.tuples(CELLS.filter(bool), CELLS, CELLS), max_size=6),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_what_pythons_writer_wrote_comes_back(tmp_path_factory, rows, delimiter, ending):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerows([("image", "identity", "note"), *rows])
    _, found = read(tmp_path_factory.mktemp("csv"), file.getvalue())
    assert [tuple(cells.values()) for _, cells in found] == rows


def test_paths_of_windows_and_whole_ones(tmp_path):
    (tmp_path / "odd\\name.jpg").touch()
    assert (
        photo_path(tmp_path, "Ann\\1.jpg")
        == photo_path(tmp_path, "./Ann//1.jpg")
        == photo_path(tmp_path, ".\\Ann\\1.jpg")
        == "Ann/1.jpg"
    )
    assert photo_path(tmp_path, "odd\\name.jpg") == "odd\\name.jpg"
    assert photo_path(tmp_path, str(tmp_path / "Ann" / "1.jpg")) == "Ann/1.jpg"
    assert photo_path(tmp_path, "../x.jpg") == "../x.jpg" and photo_path(tmp_path, "/etc/x.jpg") == "/etc/x.jpg"
