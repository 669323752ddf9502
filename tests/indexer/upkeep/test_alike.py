import hashlib

import numpy as np
import pytest

from facegallery import results
from facegallery.embedder.errors import GalleryError
from facegallery.indexer.build import BuildOptions, build
from facegallery.indexer.opening import open_store
from facegallery.indexer.store.unnamed import Arrangement, Place, Rejection
from facegallery.indexer.upkeep.verify import verify
from facegallery.workflows.calibrate import calibrate
from facegallery.workflows.forget import forget, verify_forgotten
from tests import synthetic

D, PEOPLE, PHOTOS, ANN = 64, 30, 3, "person 4"
XB = synthetic.vectors(PEOPLE, PHOTOS + 2, D)  # the last two photos of each are unnamed
OWN = np.arange(len(XB)) % (PHOTOS + 2) < PHOTOS


def row(i: int):
    person, number = divmod(i, PHOTOS + 2)
    sha256 = hashlib.sha256(b"%d" % i).hexdigest()
    crop = synthetic.png(np.random.default_rng(i).bytes(900))
    name = f"person {person}" if OWN[i] else None
    folder = f"p{person}" if OWN[i] else "heap"
    return synthetic.row(f"{folder}/{i}.jpg", name, XB[i], image_sha256=sha256, crop=crop, face=number % 2)


ROWS = [row(i) for i in range(len(XB))]
NAMED, HEAP = [r for r in ROWS if r.identity], [r for r in ROWS if not r.identity]


@pytest.fixture(params=[False, True], ids=["plain", "centred"])
def index(request, tmp_path):
    folder = tmp_path / "indexes" / "club"
    data = synthetic.write(tmp_path / "vectors", NAMED, synthetic.spec(D))
    build(data, folder, BuildOptions(centre=request.param))
    with open_store(folder, write=True) as gallery:
        gallery.add_unnamed(HEAP)
    return folder


def expected(index) -> list[str]:
    """The ids of unnamed faces that reach the threshold with a face of the person, by loops."""
    with open_store(index) as gallery:
        mean = 0 if gallery.mean is None else gallery.mean

    def moved(x: np.ndarray) -> np.ndarray:
        return (x - mean) / np.linalg.norm(x - mean)

    own = [moved(r.vector) for r in NAMED if r.identity == ANN]
    least = threshold(index)
    return sorted(r.face_id for r in HEAP if max(float(moved(r.vector) @ x) for x in own) >= least)


def threshold(index) -> float:
    from facegallery.workflows.upkeep import info

    found = info(index).threshold
    assert found is not None
    return found


def everything(index) -> bytes:
    return b"".join(p.read_bytes() for p in index.rglob("*") if p.is_file() and not p.is_symlink())


def traces(face_ids: list[str]) -> list[bytes]:
    rows = [r for r in ROWS if r.face_id in face_ids]
    assert len(rows) == len(face_ids)
    return [part for r in rows for part in (r.face_id.encode(), r.vector.tobytes()[:32], r.crop[-64:])]


def left(index, face_ids: list[str]) -> int:
    data = everything(index)
    return sum(trace in data for trace in traces(face_ids))


def sound(index) -> bool:
    with open_store(index) as gallery:
        return not verify(gallery).problems


def test_forget_says_how_many_unnamed_faces_look_like_the_person(index):
    calibrate(index)
    alike = expected(index)
    assert alike
    done = forget(index, ANN)
    assert sorted(done.alike) == alike and done.found == 0
    assert any(note.startswith(f"unnamed faces that look like this person: {len(alike)};") for note in done.notes)
    with open_store(index) as gallery:
        assert gallery.unnamed == len(HEAP)
    assert left(index, alike) == 3 * len(alike) and sound(index)


def test_with_unnamed_they_go_too_and_do_not_come_back(index):
    calibrate(index)
    alike, theirs = expected(index), [r.face_id for r in NAMED if r.identity == ANN]
    with open_store(index, write=True) as gallery:
        gallery.arrange("group", Arrangement({r.face_id: Place(None, 1 + i % 3) for i, r in enumerate(HEAP)}))
        gallery.arrange("reject", Arrangement({}, [Rejection(alike[0], 2, None)]))
    done = forget(index, ANN, unnamed=True)
    assert sorted(done.face_ids) == sorted([*theirs, *alike]) and done.alike == () and done.found == 0
    assert left(index, [*theirs, *alike]) == 0 and sound(index)
    others = [r.face_id for r in HEAP if r.face_id not in alike]
    assert left(index, others) == 3 * len(others)
    with open_store(index, write=True) as gallery:
        assert gallery.unnamed == len(others)
        assert gallery.add_unnamed(HEAP) == []
        assert gallery.add([row for row in NAMED if row.identity == ANN]).forgotten == len(theirs)
    assert sum(verify_forgotten(index, index.parent / str(done.receipt)).values()) == 0


def test_the_same_command_with_unnamed_still_finds_them_later(index):
    calibrate(index)
    alike = expected(index)
    first = forget(index, ANN)
    assert sorted(first.alike) == alike
    second = forget(index, ANN, unnamed=True)
    assert set(alike) <= set(second.face_ids) and second.found == 0
    assert left(index, alike) == 0 and sound(index)
    with open_store(index, write=True) as gallery:
        assert gallery.unnamed == len(HEAP) - len(alike) and gallery.add_unnamed(HEAP) == []


def test_what_was_said_not_to_be_the_person_stays(index):
    calibrate(index)
    alike = expected(index)
    with open_store(index, write=True) as gallery:
        gallery.arrange("reject", Arrangement({}, [Rejection(alike[0], None, ANN)]))
    done = forget(index, ANN, unnamed=True)
    assert alike[0] not in done.face_ids and set(alike[1:]) <= set(done.face_ids)
    with open_store(index) as gallery:
        assert gallery.kept(alike) == {alike[0]}


def test_without_a_calibration_it_says_that_it_does_not_know(index):
    with pytest.raises(GalleryError, match="calibrate club"):
        forget(index, ANN, unnamed=True)
    with open_store(index) as gallery:
        assert gallery.enrolled([ANN]) and gallery.unnamed == len(HEAP)
    done: results.Receipt = forget(index, ANN)
    assert done.alike == () and any("not calibrated" in note for note in done.notes)


def test_nothing_is_said_where_nobody_is_unnamed(index):
    with open_store(index, write=True) as gallery:
        gallery.undo()
    assert not [note for note in forget(index, ANN).notes if "unnamed" in note]
