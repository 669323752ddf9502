from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import DataError, GalleryError
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.indexer.build import BuildOptions, build
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep import switch
from facegallery.indexer.upkeep.compact import compact_and_drop
from facegallery.indexer.upkeep.switch import (
    ChangedAnswer,
    SwitchComparison,
    compare,
    drop_other,
    missing,
    other_spec,
    pending,
    prepare,
    store_vectors,
)
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic

PEOPLE, PHOTOS = 15, 3
OTHER = FaceSpec(parts=(Part("other", "cd" * 32, 24, "fixed"),))
THIRD = FaceSpec(parts=(Part("third", "ef" * 32, 8, "fixed"),))
WORLD = PEOPLE * PHOTOS + 12  # faces that there are; the last ones are added later
# noisy, so that some answers differ; a common direction, so that centring matters
XB = synthetic.unit(
    synthetic.vectors(WORLD // PHOTOS, PHOTOS, seed=1)
    + 0.15 * np.random.default_rng(2).normal(size=(WORLD, synthetic.D))
    + 0.5
)
BY_OTHER = {
    spec.model_name: synthetic.unit(
        synthetic.vectors(WORLD // PHOTOS, PHOTOS, spec.dimension, seed=3)
        + 0.15 * np.random.default_rng(4).normal(size=(WORLD, spec.dimension))
        + 0.5
    )
    for spec in (OTHER, THIRD)
}
ROWS = [synthetic.row(f"{i}.jpg", f"person {i // PHOTOS}", x, crop=synthetic.png(b"%d" % i)) for i, x in enumerate(XB)]
FIRST, LATER = ROWS[: PEOPLE * PHOTOS], ROWS[PEOPLE * PHOTOS :]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "centred"])
def original(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    build(synthetic.write(folder / "vectors", FIRST), folder / "club", BuildOptions(centre=request.param))
    return folder / "club"


def number(png: bytes) -> int:
    """Which face a crop is of."""
    return int(png.removeprefix(synthetic.png(b"")))


def embedded(png: bytes, spec: FaceSpec = OTHER) -> np.ndarray:
    """What the other model makes of a crop."""
    return BY_OTHER[spec.model_name][number(png)]


def fill(gallery: Store, blocks: int = 99, spec: FaceSpec = OTHER) -> list[int]:
    """Embeds what is missing, or so many blocks of it; the ids."""
    done = []
    for block, _ in zip(pending(gallery), range(blocks), strict=False):
        store_vectors(gallery, block, np.stack([embedded(face.crop, spec) for face in block]))
        done += [face.id for face in block]
    return done


def switched(gallery: Store, spec: FaceSpec = OTHER) -> None:
    prepare(gallery, spec)
    fill(gallery, spec=spec)
    switch.switch(gallery)


def by(rows: Sequence[Row], spec: FaceSpec = OTHER) -> list[Row]:
    """The rows as the other model has them."""
    return [replace(row, vector=embedded(row.crop, spec)) for row in rows]


def queries(d: int) -> np.ndarray:
    return synthetic.unit(synthetic.vectors(12, 1, d, seed=6) + 0.5)


def answers(folder: Path) -> list:
    with Searcher(folder) as searcher:
        xq = queries(searcher.spec.dimension)
        return [searcher.search(xq, 5), searcher.search(xq, 5, faces=True), searcher.search(xq, 5, score="template")]


def right(folder: Path, rows: Sequence[Row], mean: np.ndarray | None) -> None:
    """Whether it answers as NumPy does for these rows and this mean."""
    xb = np.stack([row.vector for row in rows]).astype(np.float64)
    xq = queries(xb.shape[1]).astype(np.float64)
    if mean is not None:
        xb, xq = xb - mean, xq - mean
    scores = xq / np.linalg.norm(xq, axis=1, keepdims=True) @ (xb / np.linalg.norm(xb, axis=1, keepdims=True)).T
    found = answers(folder)[1]
    order = np.argsort(-scores, axis=1)[:, :5]
    assert [[hit.face_id for hit in hits] for hits in found] == [[rows[i].face_id for i in line] for line in order]
    np.testing.assert_allclose(
        [[hit.score for hit in hits] for hits in found], np.take_along_axis(scores, order, axis=1), atol=1e-6
    )


def mean_of(rows: Sequence[Row]) -> np.ndarray:
    return np.stack([row.vector for row in rows]).astype(np.float64).mean(axis=0)


# the report -----------------------------------------------------------------


def naive(rows: Sequence[Row], mean: np.ndarray | None) -> list[str]:
    """The person whose face each face resembles most, itself left out."""
    xb = np.stack([row.vector for row in rows]).astype(np.float64) - (0 if mean is None else mean)
    xb /= np.linalg.norm(xb, axis=1, keepdims=True)
    return [
        max((float(x @ y), other.identity) for y, other in zip(xb, rows, strict=True) if other is not row)[1]
        for x, row in zip(xb, rows, strict=True)
    ]


def test_the_report_is_what_a_naive_recomputation_says(gallery):
    gallery.add(LATER)  # the mean stays that of the faces that were there when it was built
    gallery.remove("person 3")
    rows = [row for row in ROWS if row.identity != "person 3"]
    prepare(gallery, OTHER)
    assert missing(gallery) == len(rows) == len(fill(gallery)) and missing(gallery) == 0
    centred = gallery.mean is not None
    before, after = (
        naive(rows, mean_of(FIRST) if centred else None),
        naive(by(rows), mean_of(by(rows)) if centred else None),
    )
    truth = [row.identity for row in rows]
    lines = list(zip(rows, before, after, truth, strict=True))
    got = compare(gallery)
    assert got == SwitchComparison(
        "club",
        "made-up",
        "other",
        len(rows),
        len(rows),
        sum(b == a for _, b, a, _ in lines),
        sum(b == t for _, b, _, t in lines),
        sum(a == t for _, _, a, t in lines),
        sum(b != t == a for _, b, a, t in lines),
        sum(b == t != a for _, b, a, t in lines),
        [ChangedAnswer(row.face_id, row.identity, b, a) for row, b, a, _ in lines if b != a],
    )
    assert 5 < got.same < len(rows) - 5 and got.gained and got.lost and len(got.differently) == got.asked - got.same
    assert got.text.startswith(f"club: {len(rows)} of {len(rows)} faces ") and f" {got.same}, " in got.text


def test_blocks_change_nothing_in_the_report(gallery, monkeypatch):
    prepare(gallery, OTHER)
    fill(gallery)
    whole = compare(gallery)
    monkeypatch.setattr(switch, "BLOCK_SCORES", 100)
    assert compare(gallery) == whole


def test_a_large_gallery_is_asked_by_a_sample(gallery, monkeypatch):
    prepare(gallery, OTHER)
    fill(gallery)
    whole = compare(gallery)
    monkeypatch.setattr(switch, "ASKED", 20)
    some = compare(gallery, seed=3)
    assert (some.faces, some.asked, some.same + len(some.differently)) == (45, 20, 20) and some == compare(
        gallery, seed=3
    )
    assert {d.face_id for d in some.differently} < {d.face_id for d in whole.differently} and set(
        some.differently
    ) <= set(whole.differently)
    assert some.differently != compare(gallery, seed=4).differently


def test_no_report_before_everything_is_there(gallery):
    with pytest.raises(DataError, match="missing.*`reembed`"):
        compare(gallery)
    prepare(gallery, OTHER)
    with pytest.raises(DataError, match="some are missing"):
        compare(gallery)
    with pytest.raises(GalleryError, match="missing.*`reembed` again"):
        switch.switch(gallery)
    assert gallery.spec == synthetic.spec()


def test_an_empty_gallery_is_one_line(gallery):
    for name, _ in gallery.list_people():
        gallery.remove(name)
    prepare(gallery, OTHER)
    assert fill(gallery) == []
    with pytest.raises(DataError, match="has none"):
        compare(gallery)
    with pytest.raises(GalleryError, match="has none"):
        switch.switch(gallery)


# there and back -------------------------------------------------------------


def test_there_and_back_gives_the_first_answers_again(gallery, index):
    gallery.add(LATER)
    first, mean = answers(index), gallery.mean
    assert (mean is None) or np.allclose(mean, mean_of(FIRST))
    for _ in range(2):
        switched(gallery)
        assert (gallery.spec, other_spec(gallery)) == (OTHER, synthetic.spec()) and missing(gallery) == 0
        right(index, by(ROWS), None if mean is None else mean_of(by(ROWS)))
        assert faiss.read_index(str(index / "index.faiss")).d == 24 and verify(gallery).problems == []
        prepare(gallery, synthetic.spec())
        assert fill(gallery) == []
        switch.switch(gallery)
        assert (gallery.spec, other_spec(gallery)) == (synthetic.spec(), OTHER)
        assert answers(index) == first and verify(gallery).problems == []


def test_people_ids_and_log_stay(gallery):
    gallery.rename("person 3", "Zoë")
    before = (
        gallery.list_people(),
        gallery.list_log(),
        [ids.tolist() for ids in gallery.owners()],
        gallery.list_faces("Zoë"),
    )
    switched(gallery)
    assert (
        gallery.list_people(),
        gallery.list_log(),
        [ids.tolist() for ids in gallery.owners()],
        gallery.list_faces("Zoë"),
    ) == before
    assert gallery.undo()[0].verb == "rename" and gallery.enrolled(["person 3"])


def test_faces_that_were_added_between_are_embedded_on_the_way_back(gallery, index):
    switched(gallery)
    gallery.add(by(LATER))
    right(index, by(ROWS), None if gallery.mean is None else mean_of(by(FIRST)))
    prepare(gallery, synthetic.spec())
    with pytest.raises(GalleryError, match="some are missing"):
        switch.switch(gallery)
    for block in pending(gallery):
        assert [face.crop for face in block] == [row.crop for row in LATER]
        store_vectors(gallery, block, np.stack([XB[number(face.crop)] for face in block]))
    assert compare(gallery).faces == WORLD
    switch.switch(gallery)
    right(index, ROWS, None if gallery.mean is None else mean_of(FIRST))


def test_faces_that_come_and_go_while_it_is_prepared(gallery, index, monkeypatch):
    monkeypatch.setattr(switch, "BATCH", 10)
    prepare(gallery, OTHER)
    blocks = pending(gallery)
    first = next(blocks)
    gallery.remove(face_id=ROWS[2].face_id)  # of this block
    gallery.remove(face_id=ROWS[30].face_id)  # of a later one
    gallery.add(LATER)
    store_vectors(gallery, first, np.stack([embedded(face.crop) for face in first]))
    left = [
        block
        for block in blocks
        if store_vectors(gallery, block, np.stack([embedded(face.crop) for face in block])) is None
    ]
    assert [len(first), *map(len, left)] == [10, 10, 10, 10, 10, 6] and missing(gallery) == 0
    gallery.remove("person 7")
    rows = [row for i, row in enumerate(ROWS) if i not in (2, 30) and row.identity != "person 7"]
    assert compare(gallery).faces == len(rows)
    switch.switch(gallery)
    right(index, by(rows), None if gallery.mean is None else mean_of(by(rows)))
    assert verify(gallery).problems == []


def test_an_undone_removal_asks_for_its_vector_again(gallery):
    prepare(gallery, OTHER)
    fill(gallery)
    gallery.remove("person 3")
    gallery.undo()
    assert missing(gallery) == 3 and len(fill(gallery)) == 3 and missing(gallery) == 0


# refusals -------------------------------------------------------------------


def test_the_same_model_is_refused(gallery):
    with pytest.raises(GalleryError, match="another model"):
        prepare(gallery, synthetic.spec(runtime="another"))


def test_faces_without_crops_are_refused_with_their_number(gallery):
    gallery.add([replace(row, crop=None) for row in LATER[:3]])
    with pytest.raises(GalleryError, match="crop .*3 have none"):
        prepare(gallery, OTHER)
    gallery.undo()
    prepare(gallery, OTHER)


def test_a_face_without_a_crop_that_comes_meanwhile_is_left_out_and_told(gallery):
    prepare(gallery, OTHER)
    gallery.add([replace(LATER[0], crop=None)])
    assert len(fill(gallery)) == 45 and missing(gallery) == 1
    with pytest.raises(DataError, match="some are missing"):
        compare(gallery)
    with pytest.raises(GalleryError, match="1 have none"):
        prepare(gallery, OTHER)


def test_a_removal_is_not_undone_across_a_switch(gallery, index):
    gallery.remove("person 3")
    without = answers(index)
    switched(gallery)
    now = answers(index)
    with pytest.raises(GalleryError) as caught:
        gallery.undo()
    assert "`reembed`" in str(caught.value) and "\n" not in str(caught.value)
    assert answers(index) == now and len(gallery.list_log()) == 1 and verify(gallery).problems == []
    switch.switch(gallery)
    assert answers(index) == without and gallery.undo()[0].faces == 3 and gallery.enrolled(["person 3"])


def test_a_removal_after_a_switch_is_undone_before_the_way_back(gallery, index):
    switched(gallery)
    before = answers(index)
    gallery.remove("person 3")
    gallery.undo()
    assert [[(h.face_id, h.score) for h in hits] for kind in answers(index) for hits in kind] == [
        [(h.face_id, h.score) for h in hits] for kind in before for hits in kind
    ]
    assert missing(gallery) == 3


def test_an_open_searcher_is_told_to_start_again(gallery, index):
    with Searcher(index) as searcher:
        first = searcher.search(queries(16), 3)
        prepare(gallery, OTHER)
        fill(gallery)
        assert searcher.search(queries(16), 3) == first, "preparing changes no answer"
        switch.switch(gallery)
        for options in ({}, {"faces": True}, {"score": "mean"}, {"where": ["face=0"]}):
            with pytest.raises(GalleryError, match="replaced"):
                searcher.search(queries(16), 3, **options)
        switch.switch(gallery)
        assert searcher.search(queries(16), 3) == first


def test_a_damaged_vector_of_the_other_model_is_named(gallery):
    prepare(gallery, OTHER)
    fill(gallery)
    gallery.execute("UPDATE other_vectors SET vector = zeroblob(96) WHERE id = 5")
    for call in (compare, switch.switch):
        with pytest.raises(GalleryError, match=f"expected face {ROWS[4].face_id} "):
            call(gallery)
    assert gallery.spec == synthetic.spec() and "face number 5 was changed" in verify(gallery).problems[0]


# what stands beside ---------------------------------------------------------


@pytest.mark.parametrize("d", (23, 25))
def test_vectors_of_another_size_are_refused(gallery, d):
    prepare(gallery, OTHER)
    faces = next(pending(gallery))
    with pytest.raises(DataError, match="other model"):
        switch.store_vectors(gallery, faces, np.ones((len(faces), d), np.float32))


def test_what_is_there_already_stays(gallery, monkeypatch):
    monkeypatch.setattr(switch, "BATCH", 10)
    prepare(gallery, OTHER)
    assert len(fill(gallery, blocks=2)) == 20
    prepare(gallery, replace(OTHER, runtime="another"))
    assert missing(gallery) == 25 and len(fill(gallery)) == 25


def test_a_third_model_takes_the_place_of_the_second(gallery, index):
    prepare(gallery, OTHER)
    fill(gallery)
    prepare(gallery, THIRD)
    assert missing(gallery) == 45 and other_spec(gallery) == THIRD
    switched(gallery, THIRD)
    right(index, by(FIRST, THIRD), None if gallery.mean is None else mean_of(by(FIRST, THIRD)))
    switched(gallery)
    right(index, by(FIRST), None if gallery.mean is None else mean_of(by(FIRST)))


def test_what_was_given_up_is_made_anew(gallery, index):
    switched(gallery)
    now = answers(index)
    with gallery.writing():
        drop_other(gallery)
    assert (
        other_spec(gallery) is None
        and missing(gallery) == 45
        and answers(index) == now
        and verify(gallery).problems == []
    )
    prepare(gallery, synthetic.spec())
    for block in pending(gallery):
        store_vectors(gallery, block, np.stack([XB[number(face.crop)] for face in block]))
    switch.switch(gallery)
    right(index, FIRST, None if gallery.mean is None else mean_of(FIRST))


def test_compaction_drops_the_way_back_when_it_is_old(gallery):
    switched(gallery)
    compact_and_drop(gallery, keep_undo=3600)
    assert other_spec(gallery) == synthetic.spec()
    gallery.set_fact("switched", gallery.fact("switched") - 7200)
    compact_and_drop(gallery, keep_undo=3600)
    assert other_spec(gallery) is None and gallery.execute("SELECT * FROM other_vectors") == []
