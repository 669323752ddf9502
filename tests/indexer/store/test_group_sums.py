"""Sums of the vectors of groups: always those of the faces that are in them, whatever was done in between."""

import random

import numpy as np
import pytest

from facegallery.indexer.opening import open_store
from facegallery.indexer.store.errors import Damaged
from facegallery.indexer.store.unnamed import Arrangement, Place
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic
from tests.faults import sql
from tests.indexer.store.test_unnamed import HEAP, IDS, index  # noqa: F401

VECTORS = {row.face_id: row.vector for row in HEAP}


@pytest.fixture
def gallery(index):  # noqa: F811
    with open_store(index, write=True) as store:
        yield store


def plain(store, *, confirmed: bool) -> dict[int, tuple[list[str], np.ndarray]]:
    """Read each group face by face."""
    found = {}
    for one in store.list_groups():
        faces = [face.face_id for face in store.group(one.number)]
        if one.confirmed or not confirmed:
            found[one.number] = faces, np.sum([VECTORS[face_id] for face_id in faces], axis=0)
    return found


def check(store, *, confirmed: bool = False) -> None:
    numbers = store.held_numbers(confirmed=confirmed)
    sums, sizes, _ = store.group_sums(numbers)
    expected = plain(store, confirmed=confirmed)
    assert numbers == sorted(expected)
    for number, total, size in zip(numbers, sums, sizes, strict=True):
        assert size == len(expected[number][0])
        np.testing.assert_allclose(total, expected[number][1], atol=1e-5)
    singles, xb = store.singles(confirmed=confirmed)
    alone = {face.face_id for face in store.unnamed_faces() if face.place.state != "ignored"}
    alone -= {face_id for faces, _ in expected.values() for face_id in faces}
    assert {one.face_id for one in singles} == alone
    for one, x in zip(singles, xb, strict=True):
        np.testing.assert_array_equal(x, VECTORS[one.face_id])


@pytest.mark.parametrize("seed", range(4))
def test_sums_are_those_of_the_faces_after_anything(gallery, seed):
    draw = random.Random(seed)
    for _ in range(30):
        chosen = [f for f in draw.sample(IDS, 5) if f in gallery.kept(IDS)]
        match draw.randrange(5):
            case 0:
                place = Place(None, draw.randint(1, 4), draw.choice(["open", "confirmed"]))
                gallery.arrange("confirm", Arrangement(dict.fromkeys(chosen, place)))
            case 1:
                gallery.arrange("ignore", Arrangement(dict.fromkeys(chosen, Place(None, None, "ignored"))))
            case 2:
                gallery.arrange("name", Arrangement(dict.fromkeys(chosen[:1], Place("Ann"))))
            case 3:
                with gallery.writing():
                    gallery.keep_group_sums()
                assert gallery.group_sums(gallery.held_numbers())[2].all()
            case 4 if gallery.count_log() > 1:
                gallery.undo()
        check(gallery)
        check(gallery, confirmed=True)
    assert verify(gallery).problems == []


def test_a_group_that_changes_loses_its_sum_alone(gallery):
    gallery.arrange("group", Arrangement({f: Place(None, 1 + i // 5) for i, f in enumerate(IDS[:15])}))
    with gallery.writing():
        gallery.keep_group_sums()
    gallery.arrange("reject", Arrangement({IDS[0]: Place()}))
    assert gallery.group_sums([1, 2, 3])[2].tolist() == [False, True, True]


def test_a_damaged_sum_is_noticed(gallery, index):  # noqa: F811
    gallery.arrange("group", Arrangement(dict.fromkeys(IDS[:5], Place(None, 1))))
    with gallery.writing():
        gallery.keep_group_sums()
    gallery.close()
    sql(index, "UPDATE group_sums SET faces = faces + 1")
    with open_store(index) as store:
        with pytest.raises(Damaged, match="the sum of group 1"):
            store.group_sums([1])
        assert verify(store).problems


def test_photos_that_groups_and_single_faces_share(gallery):
    pair = [synthetic.row("both.jpg", None, HEAP[i].vector, face=i, crop=None) for i in (0, 1)]
    gallery.add_unnamed(pair)
    gallery.arrange("group", Arrangement({pair[0].face_id: Place(None, 7)}))
    (photo,) = {one.photo for one in gallery.singles()[0] if one.face_id == pair[1].face_id}
    assert gallery.photos_of_groups([photo, "elsewhere"]) == {7: {photo}}
    assert gallery.photos_of_groups([photo], confirmed=True) == {}
