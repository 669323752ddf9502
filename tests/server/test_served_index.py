"""An index that is served, by what others do to it meanwhile."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from facegallery.embedder.spec import FaceSpec, Part
from facegallery.indexer.build import build
from facegallery.indexer.opening import open_store
from facegallery.indexer.store.errors import Damaged, Replaced
from facegallery.indexer.upkeep import switch, transfer
from facegallery.server.served_index import ServedIndex
from facegallery.workflows.probes import Question
from tests import synthetic

ROWS = synthetic.rows(5, 2)
for i, row in enumerate(ROWS):
    row.crop = synthetic.png(b"%d" % i)


@pytest.fixture
def served(tmp_path, own_indexes):
    build(synthetic.write(tmp_path / "v", ROWS), own_indexes / "club")
    with closing(ServedIndex("club")) as found:
        yield found


def nearest(served, row, contract=None):
    """Whom each searcher of the index names first; each may have to be asked once to notice that it is old."""
    xq = np.asarray(row.vector, np.float32)[None]
    found = []
    for _ in range(20):
        try:
            found.append(served.ask(xq, Question(k=1), contract).result()[0].hits[0].identity)
        except Replaced:
            found.append(None)
    return found


def test_vectors_of_another_contract_are_never_compared(served, own_indexes):
    old = synthetic.spec().fingerprint
    assert set(nearest(served, ROWS[0], old)) == {ROWS[0].identity}
    other = FaceSpec(parts=(Part("other", "cd" * 32, synthetic.D, "fixed"),))
    with open_store(own_indexes / "club", write=True) as gallery:
        switch.prepare(gallery, other)
        rng = np.random.default_rng(9)
        for batch in switch.pending(gallery):
            vectors = synthetic.unit(rng.normal(size=(len(batch), synthetic.D))).astype(np.float32)
            switch.store_vectors(gallery, batch, vectors)
        switch.switch(gallery)
    assert set(nearest(served, ROWS[0], old)) == {None}
    found = nearest(served, ROWS[0], other.fingerprint)
    assert None not in found[-10:]


def test_an_index_that_was_restored_after_damage_is_opened_anew(served, tmp_path, own_indexes):
    new = synthetic.rows(9, 2, seed=5)[-1]
    new.identity = "Newcomer"
    with open_store(own_indexes / "club") as gallery:
        transfer.backup(gallery, tmp_path / "backup")
    assert served.read(lambda gallery: gallery.faces).result() == len(ROWS)
    assert set(nearest(served, ROWS[0])) == {ROWS[0].identity}
    with closing(sqlite3.connect(own_indexes / "club" / "gallery.db")) as db:
        db.execute("UPDATE meta SET value = x'00' WHERE key = 'salt'")
        db.commit()
    with pytest.raises(Damaged):
        served.write(lambda gallery: gallery.forgotten()).result()
    transfer.restore(tmp_path / "backup", own_indexes / "club", replace=True)
    assert served.write(lambda gallery: gallery.add([new])).result().added == 1
    with open_store(own_indexes / "club") as gallery:
        assert gallery.faces == len(ROWS) + 1
    assert {served.read(lambda gallery: gallery.faces).result() for _ in range(20)} == {len(ROWS) + 1}
    assert set(nearest(served, new)[-10:]) == {"Newcomer"}
