import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common import synthetic as made_up
from facegallery.embedder.errors import InputError
from facegallery.indexer.build import BuildOptions, build
from facegallery.indexer.derived import choose, derive
from facegallery.indexer.derived.derive import CODES, built_folder, read_report
from facegallery.indexer.opening import open_store
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic
from tests.indexer.derived.test_derive import flip

N, D, PEOPLE = 12_000, 128, 6_000


@pytest.fixture(scope="module")
def rows():
    xb, people = made_up.faces(N, "msceleb")
    return [
        synthetic.row(f"{p}/{i}.jpg", f"person {p}", x)
        for i, (x, p) in enumerate(zip(xb, people.tolist(), strict=True))
    ]


@pytest.fixture(scope="module")
def vectors(rows, tmp_path_factory) -> Path:
    return synthetic.write(tmp_path_factory.mktemp("choose") / "vectors", rows, synthetic.spec(D), per_shard=N)


@pytest.fixture(scope="module")
def large():
    """Galleries of a megabyte are large."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "EXACT_BYTES", 1 << 20)
        yield


@pytest.fixture(scope="module")
def index(vectors, large, tmp_path_factory) -> Path:
    """A compressed one that no test changes."""
    folder = tmp_path_factory.mktemp("choose") / "i"
    assert build(vectors, folder).kind == "compressed"
    return folder


@pytest.fixture
def own(index, tmp_path) -> Path:
    """A copy of it, with what lies beside it."""
    shutil.copytree(index.parent, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path / "i"


@pytest.fixture(scope="module")
def xq() -> np.ndarray:
    return made_up.probes(np.arange(0, PEOPLE, 20), "msceleb")


def nearest(rows, xq: np.ndarray, k: int) -> list[list[str]]:
    xb = np.stack([row.vector for row in rows])
    return [[rows[i].face_id for i in best] for best in np.argsort(-(xq @ xb.T), axis=1)[:, :k]]


def recall(folder: Path, rows, xq: np.ndarray, k: int) -> float:
    with Searcher(folder) as searcher:
        assert searcher.candidates.codes
        found = searcher.search(xq, k, faces=True)
    assert all(len(hits) == min(k, len(rows)) for hits in found)
    return float(
        np.mean(
            [
                len({h.face_id for h in hits} & set(best)) / k
                for hits, best in zip(found, nearest(rows, xq, k), strict=True)
            ]
        )
    )


def test_small_galleries_are_searched_exactly(vectors, tmp_path):
    report = build(vectors, tmp_path / "i")
    assert (report.kind, report.recall, report.memory) == ("exact", 0.99, None)
    assert report.reason == "every vector is compared: 6 MB are read fast enough"


@pytest.mark.parametrize("k", [1, 5, 50])
def test_probes_that_tuning_never_saw_find_what_was_asked_for(index, rows, xq, k):
    assert recall(index, rows, xq, k) > 0.98


def test_every_face_is_answered_for_where_all_are_asked_for(index, rows, xq):
    with Searcher(index) as searcher:
        (hits,) = searcher.search(xq[:1], N, faces=True)
    assert len({h.face_id for h in hits}) == N and [h.face_id for h in hits[:100]] == nearest(rows, xq[:1], 100)[0]


def test_scores_are_those_of_the_stored_vectors(index, rows, xq):
    vector = {row.face_id: row.vector.astype(np.float64) for row in rows}
    with Searcher(index) as searcher:
        found = searcher.search(xq, 5)
    for q, hits in zip(xq, found, strict=True):
        assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True) and len(
            {h.identity for h in hits}
        ) == 5
        np.testing.assert_allclose(
            [h.score for h in hits], [q.astype(np.float64) @ vector[h.face_id] for h in hits], atol=1e-7
        )


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_person_has_the_score_of_their_best_face(index, rows, xq, k):
    """Though codes that are searched so shallowly miss many a face."""
    best: dict[str, list] = {}
    for row in rows:
        best.setdefault(row.identity, []).append(row)
    with Searcher(index) as searcher:
        codes = searcher.candidates.codes
        codes.nprobe, codes.depth = 1, 5
        found = searcher.search(xq, k)
        faces = searcher.search(xq, k, faces=True)
    for q, hits in zip(xq, found, strict=True):
        want = [synthetic.nearest(best[hit.identity], q, 1)[0] for hit in hits]
        assert [(h.identity, h.face_id) for h in hits] == [(name, face_id) for name, _, face_id in want]
        np.testing.assert_allclose([h.score for h in hits], [score for _, score, _ in want], atol=1e-7)
        assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    assert len(faces) == len(xq)


def test_what_was_tried_is_in_the_report(index):
    report = json.loads((built_folder(index, 1) / "report.json").read_bytes())
    chosen, tried = report["setting"], report["tried"]
    assert chosen in tried and chosen["bound"] >= 0.99 and report["kind"] == "compressed" and CODES in report["files"]
    assert (
        chosen["ms"] == min(s["ms"] for s in tried if s["ms"]) and f"at least {chosen['bound']:.4f}" in report["reason"]
    )


def test_changes_count_at_once(own, rows, xq):
    with open_store(own, write=True) as gallery:
        gallery.remove("person 3")
        gallery.add([synthetic.row("new.jpg", "somebody new", xq[7])])
    left = [row for row in rows if row.identity != "person 3"] + [synthetic.row("new.jpg", "somebody new", xq[7])]
    assert recall(own, left, xq, 5) > 0.98
    with Searcher(own) as searcher:
        assert searcher.search(xq[7:8], 1)[0][0].identity == "somebody new"
        assert "person 3" not in {
            h.identity for h in searcher.search(np.stack([r.vector for r in rows if r.identity == "person 3"]), 20)[0]
        }


def test_a_filter_is_exact(index, rows, xq):
    person = rows[500].identity
    with Searcher(index) as searcher:
        (hits,) = searcher.search(xq[:1], 50, faces=True, where=[f"identity={person}"])
    assert {h.face_id for h in hits} == {row.face_id for row in rows if row.identity == person}


@pytest.mark.parametrize("spoil", [flip, lambda path: path.unlink()])
def test_damaged_codes_are_not_followed(own, rows, xq, spoil, caplog):
    spoil(built_folder(own, 1) / CODES)
    with Searcher(own) as searcher:
        assert searcher.candidates.codes is None
        found = searcher.search(xq[:20], 5, faces=True)
    assert [[h.face_id for h in hits] for hits in found] == nearest(rows, xq[:20], 5) and "damaged" in caplog.text
    with open_store(own, write=True) as gallery:
        assert [Path(path).name for path in verify(gallery).rebuilt] == [CODES]
    assert recall(own, rows, xq, 5) > 0.98


def test_another_wish_only_indexes_anew(vectors, own):
    def built() -> tuple:
        with open_store(own) as gallery:
            report = read_report(gallery)
            assert report
            return report["kind"], report["generation"], gallery.faces

    assert not build(vectors, own).changed and not build(vectors, own, BuildOptions(recall=0.99)).changed
    report = build(vectors, own, BuildOptions(recall=1))
    assert (
        report.changed
        and report.reason == "every vector is compared: recall 1 was asked for"
        and built() == ("exact", 2, N)
    )
    with open_store(own, write=True) as gallery:
        assert derive.compact(gallery), "a rebuild keeps to what was asked"
    assert built() == ("exact", 3, N) and not build(vectors, own).changed
    assert build(vectors, own, BuildOptions(replace=True)).recall == 1 and built()[0] == "exact"
    assert build(vectors, own, BuildOptions(recall=0.9, memory=10**6)).changed and built()[0] == "compressed"


def test_memory_bounds_the_codes(vectors, own):
    fine = json.loads((built_folder(own, 1) / "report.json").read_bytes())["tried"]
    least = min(s["parts"] for s in fine)
    report = build(vectors, own, BuildOptions(memory=N * (least // 2 + 8)))
    with open_store(own) as gallery:
        made = read_report(gallery)
    assert made and {s["parts"] for s in made["tried"]} == {least} and report.memory == N * (least // 2 + 8)


def test_a_gallery_that_outgrew_its_memory_is_searched_exactly(vectors, own, rows, xq):
    report = build(vectors, own, BuildOptions(memory=1000))
    assert (
        report.kind == "exact"
        and f"smallest codes of {N} faces take 0." in report.reason
        and "allows 0.0 MB" in report.reason
    )
    with open_store(own, write=True) as gallery:
        gallery.remove("person 3")
        assert derive.compact(gallery) and gallery.generation == 3, "a rebuild never refuses"
    left = [row for row in rows if row.identity != "person 3"]
    with Searcher(own) as searcher:
        found = searcher.search(xq[:20], 5, faces=True)
    assert [[h.face_id for h in hits] for hits in found] == nearest(left, xq[:20], 5)


def test_where_nothing_keeps_the_recall_search_is_exact(vectors, large, tmp_path, monkeypatch):
    monkeypatch.setattr(choose.codes, "DEPTHS", (5,))
    monkeypatch.setattr(choose.codes, "SHARES", (1 / 64,))
    report = build(vectors, tmp_path / "i", BuildOptions(recall=0.999))
    assert (
        report.kind == "exact"
        and "recall@5 0.999 over 1000 held-out faces (at best 0." in report.reason
    )
    assert not (built_folder(tmp_path / "i", 1) / CODES).exists()


@pytest.mark.parametrize("wish", [{"recall": 0}, {"recall": -1}, {"recall": 1.01}, {"memory": 0}])
def test_wishes_that_cannot_be_are_refused(vectors, tmp_path, wish):
    with pytest.raises(InputError, match="expected .* received"):
        build(vectors, tmp_path / "i", BuildOptions(**wish))
    assert not (tmp_path / "i").exists()
