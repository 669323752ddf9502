import contextlib
import json
import operator
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embedder.errors import InputError
from embedder.row import Row
from indexer import candidates
from indexer.build import build
from indexer.derive import compact
from indexer.filters import Condition, kept_ids, parse
from indexer.gallery import Gallery
from indexer.search import Hit, Searcher
from indexer.verify import verify
from tests import synthetic

COLUMNS = ("year", "tags", "größe.x", "it's", "a b", "back\\slash", "$[0]", "select", "日付", "NULL")
VALUES = (
    "1999", "2005", "-3", "0", "-0", "0.5", "0.50", "5e-1", "1e3", "1000", "1E+3", "12345678901234567890.123456789", "1e999", "007", "+1", ".5",
    "5.", "0x10", "1_000", "٣", "NaN", "Infinity", "", " ", "true", "null", "[1]", '"7"', "beach", "beach; sea", "beach;sea", "beach ; sea", "sea;  beach", ";",
    "sea;", "Łódź", "łódź", "ß", "🚲", "zz", "O'Neil", 'say "hi"', "100%", "a_c", "x\\y", "2024-02-29", "2024-03-01", "2023-12-31", "2024-3-1",
    "'; DROP TABLE faces; --", "line\nend", " 42", "42 ",
)  # fmt: skip
NAMES = ("Ann", "Zoë", "12", "9", 'O\'Neil; "Tip"', "İstanbul", "-")
QUERIES = synthetic.vectors(20, 1, seed=3)


def world() -> list[Row]:
    """80 faces with some of the columns, or none."""
    rng = np.random.default_rng(1)
    rows = []
    for i, x in enumerate(synthetic.vectors(20, 4, seed=1)):
        columns = rng.choice(COLUMNS, rng.integers(0, 6), replace=False)
        rows.append(synthetic.row(
            f"album {i % 7}/{i}.jpg", NAMES[rng.integers(len(NAMES))], x, (None, "gallery", "probe")[i % 3], face=i % 2,
            confidence=(None, 0.5, 0.875, 1.0)[i % 4], sharpness=(12.5, float("nan"), -3.0)[i % 3],
            extra={str(column): VALUES[rng.integers(len(VALUES))] for column in columns},
        ))  # fmt: skip
    return rows


ROWS = world()
BUILT, GONE = 60, {i for i in range(80) if i % 11 == 3}
ENROLLED = [row for i, row in enumerate(ROWS) if i not in GONE]


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """With faces that came after its index was built, and some that were removed."""
    folder = tmp_path_factory.mktemp("filters")
    build(synthetic.write(folder / "vectors", ROWS[:1], extra=COLUMNS), folder / "club")
    with Gallery.open(folder / "club", write=True) as gallery:
        gallery.add(ROWS[1:BUILT])
        compact(gallery)
        gallery.add(ROWS[BUILT:])
        for i in sorted(GONE):
            gallery.remove(face_id=ROWS[i].face_id)
    return folder / "club"


@pytest.fixture(scope="module")
def searcher(index):
    with Searcher(index) as searcher:
        yield searcher


# the oracle -----------------------------------------------------------------

COMPARE = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def number(text: str) -> float | None:
    """Of a number as JSON writes it."""

    def none(_: str) -> None:
        return None

    try:
        value = json.loads(text, parse_constant=none)
    except ValueError:
        return None
    return float(value) if type(value) in (int, float) else None


def value_of(row: Row, column: str) -> str | float | None:
    if column in COLUMNS:
        return row.extra.get(column)
    value = getattr(row, column)
    return None if value != value else value  # NaN


def meets(row: Row, column: str, op: str, wanted: str) -> bool:
    if (value := value_of(row, column)) is None:
        return False
    if op == ":":
        return f";{wanted};" in ";" + str(value).replace("; ", ";").replace(" ;", ";") + ";"
    x, y = (number(str(v)) for v in (value, wanted))
    return COMPARE[op](x, y) if x is not None and y is not None else COMPARE[op](str(value), wanted)


def meets_all(row: Row, where: Sequence[tuple[str, str, str]]) -> bool:
    """`=` on one column are alternatives, all others must hold."""
    alternatives: dict[str, list[str]] = {}
    for column, op, wanted in where:
        if op == "=":
            alternatives.setdefault(column, []).append(wanted)
    return all(any(meets(row, c, "=", w) for w in wanted) for c, wanted in alternatives.items()) and all(
        meets(row, *condition) for condition in where if condition[1] != "="
    )


def plain(hits: Sequence[Hit]) -> list[tuple[str, float, str]]:
    return [(hit.identity, hit.score, hit.face_id) for hit in hits]


def expected(where: Sequence[tuple[str, str, str]], q: np.ndarray, k: int, faces: bool) -> list[tuple[str, float, str]]:
    kept = [row for row in ENROLLED if meets_all(row, where)]
    return synthetic.nearest(kept, q, k, faces) if kept else []


# every operator -------------------------------------------------------------

columns = st.sampled_from([*COLUMNS, "identity", "image", "split", "face", "face_id", "confidence", "sharpness"])
operators = st.sampled_from([*COMPARE, ":"])
values = st.sampled_from([*VALUES, *NAMES]).map(str.strip)
conditions = st.tuples(columns, operators, values).filter(lambda c: not (c[1] in "<>" and c[2].startswith("=")))


@settings(max_examples=150, deadline=None)
@given(st.lists(conditions, max_size=3), st.integers(1, 90), st.booleans())
@example([("year", "=", "1999"), ("year", "=", "0x10")], 90, True)
@example([("year", ">=", "0"), ("year", "<", "1000")], 90, True)
@example([("日付", ">=", "2024-01-01"), ("日付", "<=", "2024-02-31")], 90, True)
@example([("identity", "=", "Ann"), ("identity", "=", "12"), ("identity", "!=", "12")], 90, True)
@example([("identity", ">", "9")], 90, False)
@example([("tags", ":", "sea"), ("tags", ":", "beach")], 90, True)
@example([("tags", "=", "")], 90, True)
@example([("it's", "!=", "")], 90, True)
def test_filters_keep_what_plain_python_keeps(searcher, where, k, faces):
    texts = [f"{column}{op}{value}" for column, op, value in where]
    found = searcher.search(QUERIES[:3], k, faces, where=texts)
    assert [plain(hits) for hits in found] == [expected(where, q, k, faces) for q in QUERIES[:3]]


def test_every_column_operator_and_value_alone(index):
    with Gallery.open(index) as gallery:
        ids = dict(gallery.execute("SELECT face_id, id FROM faces"))
        kept = {}
        for column in COLUMNS:
            for op in (*COMPARE, ":"):
                for value in map(str.strip, VALUES):
                    got = json.loads(kept_ids(gallery, [Condition(column, op, value)]))
                    assert sorted(got) == sorted(ids[row.face_id] for row in ENROLLED if meets(row, column, op, value)), (column, op, value)
                    kept[op] = kept.get(op, 0) + len(got)
    assert min(kept.values()) > 50


def test_a_text_equals_itself_however_long_the_number(tmp_path):
    rng = np.random.default_rng(4)
    texts = ["".join(map(str, rng.integers(1, 10, 20))) + "." + "".join(map(str, rng.integers(0, 10, 20))) for _ in range(300)]
    rows = [
        synthetic.row(f"{i}.jpg", "ann", x, extra={"n": text})
        for i, (x, text) in enumerate(zip(synthetic.vectors(300, 1), texts, strict=True))
    ]
    build(synthetic.write(tmp_path / "v", rows, extra=["n"]), tmp_path / "i")
    with Gallery.open(tmp_path / "i") as gallery:
        assert [json.loads(kept_ids(gallery, [Condition("n", "=", text)])) for text in texts] == [[i + 1] for i in range(300)]


def test_names_are_compared_as_the_gallery_spells_them(searcher):
    zoe = "Zoë"
    for form in ("NFC", "NFD"):
        (hits,) = searcher.search(QUERIES[:1], 90, faces=True, where=[f"identity={unicodedata.normalize(form, zoe)}"])
        assert hits and {hit.identity for hit in hits} == {zoe}


def test_any_number_of_names_at_once(searcher):
    names = [f"identity=nobody {i}" for i in range(3000)]
    found = searcher.search(QUERIES[:2], 9, where=["identity=Ann", *names, "identity=12"])
    assert [plain(hits) for hits in found] == [
        expected([("identity", "=", "Ann"), ("identity", "=", "12")], q, 9, False) for q in QUERIES[:2]
    ]


# every path -----------------------------------------------------------------

SCAN_ALWAYS, SCAN_NEVER, SCAN_FEW = (0, 1.0), (10**9, 0.0), (10**9, 0.4)


@pytest.mark.parametrize("path", [SCAN_ALWAYS, SCAN_NEVER, SCAN_FEW])
@pytest.mark.parametrize("gather", [1, 7, 1 << 14])
def test_scan_and_selector_give_equal_answers(index, monkeypatch, path, gather):
    for name, value in zip(("MANY", "SCAN_SHARE", "GATHER"), (*path, gather), strict=True):
        monkeypatch.setattr(candidates, name, value)
    taken = []
    for name in ("_scanned", "_searched"):
        call = getattr(candidates.Candidates, name)
        monkeypatch.setattr(candidates.Candidates, name, lambda *args, call=call, name=name: taken.append(name) or call(*args))
    wheres = [
        [("identity", "=", "Ann")], [("year", "!=", "x")], [("face", "=", "1"), ("confidence", ">", "0.5")], [("image", ">", "album 6/7")],
        [("split", "=", "probe"), ("split", "=", "gallery")], [("identity", "=", "nobody")],
    ]  # fmt: skip
    with Searcher(index) as searcher:
        for where in wheres:
            for k, faces in ((1, False), (3, True), (90, True)):
                found = searcher.search(QUERIES, k, faces, where=[f"{c}{op}{v}" for c, op, v in where])
                assert [plain(hits) for hits in found] == [expected(where, q, k, faces) for q in QUERIES]
    assert set(taken) == {SCAN_ALWAYS: {"_scanned"}, SCAN_NEVER: {"_searched", "_scanned"}, SCAN_FEW: {"_searched", "_scanned"}}[path]


@pytest.mark.parametrize("score", ["best", "mean", "template"])
def test_k_answers_where_k_people_are_left(searcher, score):
    where = [("year", "!=", "x")]
    people = {row.identity for row in ENROLLED if meets_all(row, where)}
    for k in range(1, len(NAMES) + 3):
        for hits in searcher.search(QUERIES, k, score=score, where=["year!=x"]):
            assert len({hit.identity for hit in hits}) == len(hits) == min(k, len(people))


@pytest.mark.parametrize("where", [[], ["place=here"]])
@pytest.mark.parametrize("faces", [True, False])
def test_k_answers_where_all_that_is_near_was_removed(tmp_path, where, faces):
    rng, q = np.random.default_rng(0), synthetic.vectors(1, 1)[0]
    near = synthetic.unit(q + 0.1 * rng.normal(size=(400, synthetic.D)))
    far = synthetic.unit(-q + 0.1 * rng.normal(size=(6, synthetic.D)))
    rows = [synthetic.row(f"near {i}.jpg", "near", x, extra={"place": "here"}) for i, x in enumerate(near)]
    rows += [synthetic.row(f"far {i}.jpg", f"far {i // 2}", x, extra={"place": "here"}) for i, x in enumerate(far)]
    build(synthetic.write(tmp_path / "v", rows, extra=["place"]), tmp_path / "i")
    with Gallery.open(tmp_path / "i", write=True) as gallery, Searcher(tmp_path / "i") as searcher:
        gallery.remove("near")
        for k in (1, 3, 6, 9):
            assert plain(searcher.search(q[None], k, faces, where=where)[0]) == synthetic.nearest(rows[400:], q, k, faces)


class Spoilt:
    """A mapped index whose vectors were changed since it was opened."""

    def __init__(self, flat):
        self.flat = flat

    def search(self, *args, **options):
        scores, positions = self.flat.search(*args, **options)
        return scores + 0.25, positions


def test_a_filter_is_read_anew_when_the_mapped_index_turns_out_to_be_damaged(index, caplog):
    """Faces stand elsewhere in the one that is made in its place."""
    with Searcher(index) as searcher:
        searcher._candidates._flat = Spoilt(searcher._candidates._flat)
        for q in QUERIES[:2]:
            found = searcher.search(q[None], 5, True, where=["face=1"])
            assert [plain(hits) for hits in found] == [expected([("face", "=", "1")], q, 5, True)]
    assert caplog.text.count("gives scores that its faces do not have: it is damaged") == 1


# spelling -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, parts",
    [
        ("year>=1999", ("year", ">=", "1999")), (" year > 1999 ", ("year", ">", "1999")), ("a b=c d", ("a b", "=", "c d")), ("x=", ("x", "=", "")),
        ("x!=!", ("x", "!=", "!")), ("x==", ("x", "=", "=")), ("x:a=b", ("x", ":", "a=b")), ("x=a:b", ("x", "=", "a:b")), ("x<>y", ("x", "<", ">y")),
        ("日付<2024-01-01", ("日付", "<", "2024-01-01")), ("x=a\nb", ("x", "=", "a\nb")), ("identity=Zoe\u0308", ("identity", "=", "Zoë")),
        ("tag=Zoe\u0308", ("tag", "=", "Zoe\u0308")),
    ],
)  # fmt: skip
def test_how_a_condition_is_read(text, parts):
    assert parse([text]) == [Condition(*parts)]


@pytest.mark.parametrize("text", ["", " ", "year", "=1999", " =1999", "year~1999", 'a"b=1', "!", "year is 1999"])
def test_a_condition_that_cannot_be_read_is_refused(searcher, text):
    with pytest.raises(InputError, match="expected a filter such as year>=1999, tag=beach or tags:beach, received .*: mend it"):
        searcher.search(QUERIES[:1], 1, where=[text])


@pytest.mark.parametrize("text", [" " * 2000, "year" + " " * 2000, " " * 2000 + "=1", "a=" + " " * 2000 + "b", "a " * 1000])
def test_a_text_of_spaces_is_read_at_once(text):
    began = time.monotonic()
    with contextlib.suppress(InputError):
        parse([text])
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    "text", ["yeer=1999", "Year=1999", "name=Ann", "person=1", "vector=1", "faces.id=1", "year =1;tags= 2;x=3", "extra=1", "$=1"]
)
def test_a_column_that_no_face_has_is_refused_by_name(searcher, text):
    if (column := text.partition("=")[0].strip()) in COLUMNS:
        assert searcher.search(QUERIES[:1], 1, where=[text]) == [[]]
        return
    with pytest.raises(InputError) as caught:
        searcher.search(QUERIES[:1], 1, where=["face=0", text])
    assert f"received {column!r}: mend --where" in str(caught.value) and "größe.x, identity, image" in str(caught.value)


NASTY = (
    "x' OR '1'='1", "x'); DROP TABLE faces; --", "1) OR (1", "1; DELETE FROM people", 'x" OR ""="', "year') OR 1 --", "?1", "@x", "NULL OR 1", "*",
    "faces.id) FROM faces; UPDATE people SET name", "$.\"year\" ", "\\", "\0",
)  # fmt: skip


@pytest.mark.parametrize("nasty", NASTY)
def test_nothing_of_a_filter_is_run_as_sql(index, searcher, nasty):
    before = searcher.search(QUERIES, 90, faces=True)
    for column in ("identity", "year", "it's", "face", "image"):
        for op in (*COMPARE, ":"):
            texts = [f"{column}{op}{nasty}"]
            got = searcher.search(QUERIES[:1], 90, faces=True, where=texts)
            assert [plain(hits) for hits in got] == [expected([(column, op, nasty.strip())], QUERIES[0], 90, True)]
    for text in (f"{nasty}=1", f"year{nasty}=1", f"identity=1 {nasty}"):
        with contextlib.suppress(InputError):
            assert searcher.search(QUERIES[:1], 90, where=[text]) == [[]]
    assert searcher.search(QUERIES, 90, faces=True) == before
    with Gallery.open(index) as gallery:
        assert verify(gallery).problems == []
