import stat
from pathlib import Path

import numpy as np
import pytest

from facegallery.embedder.errors import DataError
from facegallery.indexer.evaluation.evaluate import (
    RANKS,
    Evaluation,
    ProbeAnswer,
    by_group,
    compare_evaluations,
    predictions,
    write_predictions,
)
from facegallery.indexer.evaluation.openset import dir_at
from facegallery.indexer.metrics import wilson
from facegallery.indexer.search.searcher import Hit, Searcher
from tests import synthetic
from tests.indexer.search.test_searcher import make


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """30 people with 4 photos each."""
    return make(tmp_path_factory.mktemp("index"), synthetic.rows(30, 4))


def asked(searcher, rows, **options) -> list[ProbeAnswer]:
    return [
        ProbeAnswer.of(row, searcher.search(row.vector[None], RANKS)[0] if row.vector is not None else [], **options)
        for row in rows
    ]


def noisy(rows, share: float = 0.25, seed: int = 1):
    noise = np.random.default_rng(seed).normal(size=(len(rows), synthetic.D))
    for row, x in zip(rows, noise, strict=True):
        row.vector = synthetic.unit(row.vector + share * x)
    return rows


def test_by_hand(tmp_path):
    xb = np.eye(synthetic.D, dtype=np.float32)
    gallery = [synthetic.row(f"g{i}.jpg", f"p{i}", xb[i]) for i in range(8)] + [synthetic.row("g8.jpg", "p0", xb[8])]
    near = synthetic.unit(xb[0] + 0.5 * xb[1])
    probes = [
        synthetic.row("right.jpg", "p0", near),
        synthetic.row("second.jpg", "p1", near),
        synthetic.row("wrong.jpg", "p7", near),
        synthetic.row("no face.jpg", "p2", None, outcome="no_face"),
        synthetic.row("stranger.jpg", "nobody", near),
        synthetic.row("nameless.jpg", None, near),
    ]
    with Searcher(make(tmp_path, gallery)) as searcher:
        found = asked(searcher, probes)
        evaluation = Evaluation.of(searcher.store, found)
        with pytest.raises(DataError, match="none"):
            Evaluation.of(searcher.store, found[4:])
    by_id = sorted(
        gallery[2:8], key=lambda row: row.face_id
    )  # all at score 0, but p0's second face, whose first is better
    rank = 3 + [row.identity for row in by_id].index("p7")
    assert evaluation.ranks.tolist() == [1, 2, rank, 0]
    assert evaluation.cmc.tolist() == [(1 + (k >= 2) + (k >= rank)) / 4 for k in range(1, 9)]
    assert evaluation.genuine == pytest.approx([2 / 5**0.5, 1 / 5**0.5, 0, -np.inf], abs=1e-6)
    assert evaluation.impostors == pytest.approx([1 / 5**0.5, 2 / 5**0.5, 2 / 5**0.5, -np.inf], abs=1e-6)
    assert [a.image for a in evaluation.mistakes(5)] == ["wrong.jpg", "second.jpg"]
    result = evaluation.result()
    assert (
        result["top1"] == 0.25
        and result["top5"] == evaluation.cmc[4]
        and result["mrr"] == pytest.approx((1.5 + 1 / rank) / 4)
    )
    assert (result["probes"], result["people"], result["people_asked"], result["without_vector"]) == (4, 8, 4, 1)
    assert result["open_set"]["strangers"] == 1 and [r["dir"] for r in result["open_set"]["rates"]] == [
        0,
        0,
        0,
    ]  # it scores as "right" does
    lines = predictions(found, result).splitlines()
    assert lines[0].startswith("right.jpg\tp0\tp0 0.894427\tp1 0.447214\t") and len(lines[0].split("\t")) == 7
    assert lines[3:6] == [
        "no face.jpg\tp2",
        lines[0].replace("right.jpg\tp0", "stranger.jpg\tnobody"),
        lines[0].replace("right.jpg\tp0", "nameless.jpg\t"),
    ]
    assert lines[6:] == ["top1 0.2500", f"top5 {result['top5']:.4f}"]


def test_against_the_file_of_predictions(index, tmp_path):
    with Searcher(index) as searcher:
        found = asked(searcher, noisy(synthetic.rows(30, 4)))
        result = Evaluation.of(searcher.store, found).result()
    write_predictions(tmp_path / "p.txt", found, result)
    lines = (tmp_path / "p.txt").read_text().splitlines()
    cells = [line.split("\t") for line in lines[:-2]]
    named = [[cell.rsplit(" ", 1)[0] for cell in c[2:]] for c in cells]
    top = [np.mean([c[1] in names[:k] for c, names in zip(cells, named, strict=True)]) for k in (1, 5)]
    assert [result["top1"], result["top5"]] == pytest.approx(top) and 0.3 < top[0] < top[1] < 1
    assert lines[-2:] == [f"top1 {top[0]:.4f}", f"top5 {top[1]:.4f}"] and len(cells) == result["probes"] == 120
    assert stat.S_IMODE((tmp_path / "p.txt").stat().st_mode) == 0o600
    assert len(result["cmc"]) == RANKS and result["cmc"] == sorted(result["cmc"]) and result["open_set"] is None
    assert all(low <= share <= high for share, (low, high) in zip(result["cmc"], result["cmc_interval"], strict=True))


def test_odd_names_do_not_break_the_lines():
    hit = Hit(1, "a\tb", 0.5, "id", "x.jpg")
    text = predictions([ProbeAnswer.of(synthetic.row("x\ny.jpg", "a\tb", None), [hit])], {"top1": 1.0, "top5": 1.0})
    assert text == "x\\x0ay.jpg\ta b\ta\\x09b 0.500000\ntop1 1.0000\ntop5 1.0000\n"


def test_a_gallery_of_one_person(tmp_path):
    xb = synthetic.vectors(3, 1)
    with Searcher(make(tmp_path, [synthetic.row("g.jpg", "ann", xb[0])])) as searcher:
        found = asked(
            searcher,
            [synthetic.row("p.jpg", "ann", xb[0]), *(synthetic.row(f"{i}.jpg", f"s{i}", xb[i]) for i in (1, 2))],
        )
        result = Evaluation.of(searcher.store, found).result()
    assert (result["top1"], result["top5"], result["cmc"], result["mrr"]) == (1, 1, [1], 1)
    assert result["top1_interval"] == result["mrr_interval"] == list(wilson(1, 1))
    assert [r["dir"] for r in result["open_set"]["rates"]] == [1, 1, 1] and result["open_set"]["strangers"] == 2


def test_names_are_compared_in_one_unicode_form(tmp_path):
    xb = synthetic.vectors(2, 1)
    with Searcher(
        make(tmp_path, [synthetic.row("g.jpg", "Jose\u0301", xb[0]), synthetic.row("h.jpg", "Bob", xb[1])])
    ) as searcher:
        found = asked(
            searcher, [synthetic.row("p.jpg", "Jos\u00e9", xb[0]), synthetic.row("q.jpg", "JOS\u00c9", xb[0])]
        )
        evaluation = Evaluation.of(searcher.store, found)
    assert len(evaluation.probes) == len(evaluation.strangers) == 1 and evaluation.result()["top1"] == 1


def test_probes_whose_names_are_spelt_otherwise_are_told(tmp_path):
    xb = synthetic.vectors(1, 1)
    with Searcher(make(tmp_path, [synthetic.row("g.jpg", "Ann Lee", xb[0])])) as searcher:
        found = asked(searcher, [synthetic.row("p.jpg", "ann lee", xb[0])])
        with pytest.raises(DataError, match="'ann lee' and 'Ann Lee'"):
            Evaluation.of(searcher.store, found)


# strangers and groups -------------------------------------------------------


def mixed(searcher) -> Evaluation:
    """Probes of 30 enrolled people and of 20 strangers, half of them among the probes; in two groups."""
    rows = noisy(synthetic.rows(50, 4), 0.15)
    for i, row in enumerate(rows):
        row.extra = {"sex": "f" if i % 2 else "m"} if i % 5 else {}
    return Evaluation.of(searcher.store, asked(searcher, rows[:160], by="sex"), asked(searcher, rows[100:], by="sex"))


def test_strangers_are_those_who_are_not_enrolled(index):
    with Searcher(index) as searcher:
        evaluation = mixed(searcher)
    assert (len(evaluation.probes), len(evaluation.strangers)) == (
        120,
        40 + 80,
    )  # people 25 to 29 were given as strangers, and are none
    genuine = [a.hits[0].score if a.hits[0].identity == a.identity else -np.inf for a in evaluation.probes]
    strangers = sorted((a.hits[0].score for a in evaluation.strangers), reverse=True)
    for rate in evaluation.rates:
        allowed = int(rate.fpir * len(strangers) + 1e-9)
        assert (
            rate.dir
            == np.mean([score > strangers[allowed] for score in genuine])
            == dir_at(evaluation.open_set, rate.fpir)
        )
    people = set(evaluation.open_set.stranger_people.tolist())
    assert len(people) == 20 and evaluation.result()["open_set"]["people"] == 20


def test_groups_against_counting(index):
    with Searcher(index) as searcher:
        evaluation = mixed(searcher)
    found = by_group(evaluation)
    assert [g.value for g in found] == ["f", "m", None]
    for group in found:
        probes = [a for a in evaluation.probes if a.group == group.value]
        strangers = [a for a in evaluation.strangers if a.group == group.value]
        assert (group.probes, group.strangers) == (len(probes), len(strangers))
        assert group.top1 == pytest.approx(np.mean([a.rank == 1 for a in probes]))
        assert group.top5 == pytest.approx(np.mean([1 <= a.rank <= 5 for a in probes]))
        assert group.top1_interval[0] <= group.top1 <= group.top1_interval[1]
        for rate, line in zip(evaluation.rates, group.rates, strict=True):
            assert line.dir == pytest.approx(np.mean([a.rank == 1 and a.best >= rate.threshold for a in probes]))
            assert line.group_fpir == pytest.approx(np.mean([a.best >= rate.threshold for a in strangers]))


# two galleries --------------------------------------------------------------


def test_two_galleries_are_compared_photo_by_photo(index, tmp_path):
    few = make(tmp_path, synthetic.rows(28, 4)[::4])  # a photo each of 28 people
    rows = noisy(synthetic.rows(50, 4))
    with Searcher(index) as one, Searcher(few) as other:
        first = Evaluation.of(one.store, asked(one, rows))
        second = Evaluation.of(other.store, asked(other, rows[:-6:-1] + rows[3:]))
    found = compare_evaluations(first, second)
    assert (found.probes, found.strangers, found.left_out) == (28 * 4 - 3, 80, 3 + 8)
    ranks = [{(a.image, a.identity): a.rank for a in e.probes} for e in (first, second)]
    for paired, k in ((found.top1, 1), (found.top5, 5)):
        right = np.array([[1 <= r[key] <= k for r in ranks] for key in ranks[0] if key in ranks[1]])
        assert (paired.first_only, paired.second_only) == (
            (right[:, 0] & ~right[:, 1]).sum(),
            (right[:, 1] & ~right[:, 0]).sum(),
        )
        assert (
            paired.difference == pytest.approx(right[:, 1].mean() - right[:, 0].mean())
            and paired.first_only > paired.second_only
        )
        assert paired.interval[0] < paired.difference < paired.interval[1]
    assert [d.fpir for d in found.dir] == [0.003, 0.01, 0.1] and all(
        d.interval[0] <= d.second - d.first <= d.interval[1] for d in found.dir
    )
    with pytest.raises(DataError, match="common"):
        compare_evaluations(first, Evaluation([a for a in second.probes if a.image == "x"], [], 28))
