"""Groups of unnamed faces, and that what the user said of faces holds whatever comes later."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import GalleryError, InputError
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.indexer.build import build
from facegallery.indexer.grouping import linkage
from facegallery.indexer.opening import open_store
from facegallery.indexer.store.errors import Unknown
from facegallery.indexer.upkeep import switch
from facegallery.indexer.upkeep.verify import verify
from facegallery.workflows import unnamed
from facegallery.workflows.suggest import suggest
from facegallery.workflows.unnamed import GroupOptions, confirm, group, groups, ignore, name, reject
from facegallery.workflows.upkeep import info
from tests import synthetic

D, CUT = 64, GroupOptions(cut=0.5)
PEOPLE, PHOTOS = 8, 5


SFACE = FaceSpec(parts=(Part("sface", "ab" * 32, D, "fixed"),))


def faces(people: int, photos: int, seed: int, d: int = D) -> list[Row]:
    """Rows of unnamed faces, in order of people; people look nothing like each other."""
    draw = np.random.default_rng(seed)
    centres = synthetic.unit(draw.normal(size=(people, d)))
    xb = synthetic.unit(np.repeat(centres, photos, axis=0) + 0.05 * draw.normal(size=(people * photos, d)))
    return [synthetic.row(f"heap-{seed}/{i}.jpg", None, x, crop=synthetic.png(b"x")) for i, x in enumerate(xb)]


HEAP = faces(PEOPLE, PHOTOS, 1)
IDS = [row.face_id for row in HEAP]


@pytest.fixture
def index(tmp_path) -> Path:
    """A gallery of one enrolled person, and forty faces of eight others without a name."""
    rows = [
        replace(row, crop=synthetic.png(b"y"), vector=x)
        for row, x in zip(
            synthetic.rows(1, 2, d=D), synthetic.unit(np.random.default_rng(7).normal(size=(2, D))), strict=True
        )
    ]
    folder = tmp_path / "indexes" / "club"
    build(synthetic.write(tmp_path / "vectors", rows, SFACE), folder)
    with open_store(folder, write=True) as gallery:
        gallery.add_unnamed(HEAP)
    return folder


@pytest.fixture
def gallery(index):
    with open_store(index, write=True) as store:
        yield store


def members(store) -> dict[int, set[str]]:
    return {one.number: {face.face_id for face in unnamed.unnamed(store, one.number)} for one in groups(store)}


def of_person(person: int) -> set[str]:
    return set(IDS[person * PHOTOS : (person + 1) * PHOTOS])


def test_each_person_is_a_group(index, gallery):
    done = group(index, CUT)
    assert (done.groups, done.faces, done.new_groups, done.moved, done.loose) == (PEOPLE, 40, PEOPLE, 40, 0)
    assert sorted(map(sorted, members(gallery).values())) == sorted(sorted(of_person(i)) for i in range(PEOPLE))
    assert done.text.startswith(
        "club: 8 groups of 40 faces (8 new), 0 faces in none; likely none of the pairs in a group are"
    )
    assert gallery.undo()[0].verb == "group" and not groups(gallery)


def test_the_error_chooses_the_cut(index, gallery):
    done = group(index)
    assert 0.25 < done.cut < 0.7 and done.groups == PEOPLE and done.error <= 0.005 <= done.most_error


def test_the_same_again_changes_nothing(index, gallery):
    group(index)
    before, log = members(gallery), gallery.count_log()
    done = group(index)
    assert (done.moved, done.new_groups, done.command) == (0, 0, None)
    assert members(gallery) == before and gallery.count_log() == log


def test_new_faces_join_groups_or_open_one_and_move_nobody(index, gallery):
    group(index, CUT)
    before = members(gallery)
    more = [
        replace(HEAP[i], image=f"new/{i}.jpg", image_sha256=f"new {i}", vector=synthetic.unit(HEAP[i].vector + 0.02))
        for i in (0, 7, 8)
    ]
    gallery.add_unnamed([*more, *faces(1, 3, seed=99)])
    done = group(index, CUT)
    assert (done.moved, done.new_groups, done.loose) == (6, 1, 0)
    after = members(gallery)
    assert all(before[number] <= after[number] for number in before) and len(after) == PEOPLE + 1
    (first,) = [number for number, ids in before.items() if IDS[0] in ids]
    assert after[first] - before[first] == {more[0].face_id}
    assert max(after) == max(before) + 1


def test_new_faces_alone_are_compared_with_all(index, gallery, monkeypatch):
    asked = []
    compare = linkage.near_pairs
    monkeypatch.setattr(linkage, "near_pairs", lambda *args: [asked.append(args[3].sum()), compare(*args)][1])
    group(index, CUT)
    gallery.add_unnamed(faces(1, 3, seed=99))
    asked.clear()
    assert group(index, CUT).moved == 3 and asked[0] == 3
    reject(gallery, [IDS[0]])
    asked.clear()
    group(index, CUT)
    assert asked[0] == 2, "the rejected face, and the group that changed"
    asked.clear()
    group(index, GroupOptions(cut=0.6))
    assert asked[0] == len(groups(gallery)) + 1, "all, by another cut"


def test_a_face_does_not_join_a_group_that_has_a_face_of_its_photo(index, gallery):
    group(index, CUT)
    twin = replace(HEAP[0], image_sha256=HEAP[1].image_sha256, image=HEAP[1].image, face=1)
    gallery.add_unnamed([twin])
    done = group(index, CUT)
    assert (done.moved, done.loose) == (0, 1)


def test_two_faces_of_a_photo_are_never_one_person(tmp_path, index, gallery):
    twins = [replace(HEAP[0], image="twins.jpg", image_sha256="twins", face=face) for face in (0, 1)]
    gallery.add_unnamed(twins)
    group(index, CUT)
    assert all(len({row.face_id for row in twins} & ids) < 2 for ids in members(gallery).values())


def test_a_rejected_face_never_comes_back(index, gallery):
    group(index, CUT)
    (number,) = [number for number, ids in members(gallery).items() if IDS[0] in ids]
    reject(gallery, [IDS[0]])
    for options in (CUT, replace(CUT, anew=True), GroupOptions(cut=0.1)):
        group(index, options)
        assert IDS[0] not in members(gallery).get(number, set())
    name(gallery, [number], "Ann")
    with pytest.raises(GalleryError, match="you rejected"):
        name(gallery, [IDS[0]], "Ann")
    assert name(gallery, [IDS[0]], "Ben").faces == 1


def test_confirmed_groups_stay_whole_and_keep_their_number(index, gallery):
    group(index, CUT)
    a, b = (next(n for n, ids in members(gallery).items() if IDS[i * PHOTOS] in ids) for i in (0, 1))
    assert confirm(gallery, [a, b]).faces == 2 * PHOTOS
    group(index, replace(CUT, anew=True))
    assert members(gallery)[a] == of_person(0) | of_person(1) and b not in members(gallery)
    assert next(one for one in groups(gallery) if one.number == a).confirmed


def test_groups_of_which_one_holds_a_rejected_face_are_not_joined(index, gallery):
    group(index, CUT)
    a, b = (next(n for n, ids in members(gallery).items() if IDS[i * PHOTOS] in ids) for i in (0, 1))
    reject(gallery, [IDS[0]])
    gallery.arrange("group", unnamed.Arrangement({IDS[0]: unnamed.Place(None, b)}))
    with pytest.raises(GalleryError, match="you said that face"):
        confirm(gallery, [a, b])


def test_ignored_faces_are_left_alone(index, gallery):
    ignore(gallery, IDS[:PHOTOS])
    done = group(index, CUT)
    assert (done.groups, done.ignored) == (PEOPLE - 1, PHOTOS)
    assert sum(face.ignored for face in unnamed.unnamed(gallery)) == PHOTOS
    gallery.undo()
    gallery.undo()
    assert group(index, CUT).groups == PEOPLE


def test_what_is_not_here_is_refused(index, gallery):
    with pytest.raises(Unknown, match="no group 3"):
        name(gallery, [3], "Ann")
    with pytest.raises(Unknown, match="none with the id"):
        ignore(gallery, ["0" * 32])
    with pytest.raises(InputError, match="in a group"):
        reject(gallery, [IDS[0]])
    enrolled = gallery.list_faces("person 0")[0]["face_id"]
    with pytest.raises(GalleryError, match="is person 0's"):
        name(gallery, [enrolled], "Ann")
    with pytest.raises(GalleryError, match="run `group club`"):
        suggest(index)
    gallery.remove("person 0")
    ignore(gallery, IDS)
    with pytest.raises(GalleryError, match="expected unnamed faces"):
        group(index)


def test_a_model_whose_scores_were_not_measured_needs_a_score(tmp_path):
    folder = tmp_path / "indexes" / "other"
    build(synthetic.write(tmp_path / "v", synthetic.rows(1, 2, d=D), synthetic.spec(D)), folder)
    with open_store(folder, write=True) as gallery:
        gallery.add_unnamed(HEAP)
    with pytest.raises(InputError, match="expected --min-score for faces by made-up"):
        group(folder)
    done = group(folder, CUT)
    assert done.groups == PEOPLE and "not known for this model" in done.text


def test_a_face_that_was_named_meanwhile_stays_named(index, gallery, monkeypatch):
    choose = unnamed.choose_cut

    def slowly(*args):
        with open_store(index, write=True) as other:
            name(other, IDS[:2], "Ann")
        return choose(*args)

    monkeypatch.setattr(unnamed, "choose_cut", slowly)
    group(index)
    assert len(gallery.list_faces("Ann")) == 2 and gallery.unnamed == 38


@pytest.mark.parametrize("options", [{"error": 0.0}, {"error": 1.0}, {"cut": 0.0}, {"cut": 1.5}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(InputError, match="between 0 and 1"):
        GroupOptions(**options)


def test_a_suggestion_names_the_person_whom_a_group_resembles(index, gallery):
    group(index, CUT)
    number = next(n for n, ids in members(gallery).items() if IDS[0] in ids)
    name(gallery, IDS[:2], "Ann Lee")
    first = next(one for one in suggest(index, 20) if one.kind == "same person")
    assert [(one.number, one.person) for one in first.likely] == [(number, "Ann Lee")]
    assert first.command == f"name club {number}='Ann Lee'"
    for face_id in IDS[2:PHOTOS]:
        reject(gallery, [face_id], of="Ann Lee")
    assert all(one.kind != "same person" for one in suggest(index, 20))


# whatever comes later ---------------------------------------------------------


@pytest.mark.parametrize(("seed", "corrections"), [(0, 60), (1, 60), pytest.param(2, 500, marks=pytest.mark.slow)])
def test_what_was_said_holds(index, gallery, seed, corrections):
    """Random words, undone at random, with groupings, new faces and another model between; a list is the oracle."""
    draw = random.Random(seed)
    said: list[tuple] = []  # ("not", face_id, number or name), ("same", ids), ("named", ids, name), ("ignored", ids)
    undoable: list[bool] = []
    group(index, CUT)

    def holds() -> None:
        places = gallery.places([face.face_id for face in gallery.unnamed_faces()])
        enrolled = {f["face_id"]: n for n, _ in gallery.list_people() for f in gallery.list_faces(n)}
        for what, *rest in said:
            if what == "not":
                face_id, group_or_name = rest
                if isinstance(group_or_name, int):
                    assert face_id not in places or places[face_id].number != group_or_name
            elif what == "ignored":
                assert all(places[f].state == "ignored" for f in rest[0] if f in places)
            elif what == "named":
                later = {f for w, *r in said if w == "not" for f in r[:1]}
                assert all(enrolled.get(f) == rest[1] for f in rest[0] if f not in later)

    for _ in range(corrections):
        now = members(gallery)
        what = draw.choice(["reject", "name", "confirm", "ignore", "undo", "group", "more"])
        if what == "reject" and now:
            number = draw.choice(sorted(now))
            face_id = draw.choice(sorted(now[number]))
            reject(gallery, [face_id])
            said.append(("not", face_id, number))
            undoable.append(True)
        elif what == "name" and len(now) > 4:
            number = draw.choice(sorted(now))
            name(gallery, [number], f"P{number}")
            said.append(("named", set(now[number]), f"P{number}"))
            undoable.append(True)
        elif what == "confirm" and now:
            number = draw.choice(sorted(now))
            confirm(gallery, [number])
            said.append(("same", set(now[number])))
            undoable.append(True)
        elif what == "ignore" and now:
            face_id = draw.choice(sorted(draw.choice(list(now.values()))))
            ignore(gallery, [face_id])
            said.append(("ignored", {face_id}))
            undoable.append(True)
        elif what == "undo" and undoable and undoable[-1]:
            gallery.undo()
            said.pop()
            undoable.pop()
        elif what == "group":
            if group(index, replace(CUT, anew=draw.random() < 0.5)).moved:
                undoable.append(False)
        elif what == "more":
            fresh = faces(2, 3, seed=draw.randrange(100, 1 << 30))
            gallery.add_unnamed(fresh)
            undoable.append(False)
        holds()
    other = FaceSpec(parts=(Part("other", "cd" * 32, D, "fixed"),))
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(D, D)))[0]
    old = {row.face_id: row.vector for row in HEAP}
    switch.prepare(gallery, other)
    for block in switch.pending(gallery):
        xb = [old.get(face.face_id, rng.normal(size=D)) @ turn for face in block]
        switch.store_vectors(gallery, block, synthetic.unit(np.array(xb)))
    switch.switch(gallery)
    group(index, replace(CUT, anew=True))
    holds()
    assert not verify(gallery).problems


def test_info_counts_what_has_no_name(index, gallery):
    def counted() -> tuple[int, ...]:
        found = info(index)
        return found.unnamed, found.groups, found.loose, found.ignored, found.rejected, found.photos

    assert counted() == (40, 0, 40, 0, 0, 42)
    group(index, CUT)
    numbers = sorted(members(gallery))
    ignore(gallery, [numbers[0]])
    reject(gallery, [next(iter(members(gallery)[numbers[1]]))])
    name(gallery, [numbers[2]], "Ann")
    assert counted() == (35, 6, 1, 5, 1, 42)
    twice = replace(HEAP[0], face=1)  # another face of a photo that is there
    gallery.add_unnamed([twice])
    assert counted() == (36, 6, 2, 5, 1, 42)
    for _ in range(5):
        gallery.undo()
    assert counted() == (40, 0, 40, 0, 0, 42)
