"""Indexes that get another model while photos are asked about: each request gets a contract that its index had."""

import asyncio
import threading
import time

import numpy as np
import pytest

from facegallery.embedder.spec import FaceSpec, Part
from facegallery.indexer.build import build
from facegallery.indexer.opening import open_store
from facegallery.indexer.store.errors import Replaced
from facegallery.indexer.upkeep import switch
from facegallery.server import state
from facegallery.server.meters import Meters
from facegallery.server.settings import Settings
from tests import synthetic

OTHER = FaceSpec(parts=(Part("other", "cd" * 32, synthetic.D, "fixed"),))
NAMES, ROUNDS = ("one", "two"), 25


class Networks:
    """What stands for the networks, which take seconds to load: a contract, and whether they were closed."""

    def __init__(self, searcher, settings, observe):
        self.spec, self.is_closed = searcher.spec, False

    def close(self, seconds=0.0):
        self.is_closed = True


@pytest.fixture
def folders(tmp_path, own_indexes, monkeypatch):
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(state, "Intake", Networks)
    rows = synthetic.rows(3, 1)
    for i, row in enumerate(rows):
        row.crop = synthetic.png(b"%d" % i)
    vectors = synthetic.write(tmp_path / "v", rows)
    for name in NAMES:
        build(vectors, own_indexes / name)
    return own_indexes


def reembed(folder, spec):
    with open_store(folder, write=True) as gallery:
        switch.prepare(gallery, spec)
        draw = np.random.default_rng(9)
        for batch in switch.pending(gallery):
            switch.store_vectors(gallery, batch, synthetic.unit(draw.normal(size=(len(batch), synthetic.D))))
        switch.switch(gallery)


def test_two_indexes_of_one_model_are_reembedded_under_load(folders):
    stop = threading.Event()

    def switching():
        try:
            for i in range(ROUNDS):
                for name in NAMES:
                    reembed(folders / name, synthetic.spec() if i % 2 else OTHER)
        finally:
            stop.set()

    async def asking(whole, name):
        asked, wrong = 0, 0
        while not stop.is_set():
            try:
                found = await whole.intake(whole.indexes[name])
            except Replaced:  # while it was opened: asked again, as the routes do
                continue
            time.sleep(0.001)  # the loop does other things before a request whose networks were loaded continues
            asked += 1
            wrong += found.spec.fingerprint not in (synthetic.spec().fingerprint, OTHER.fingerprint)
            wrong += whole.is_current(found) and found.is_closed
        return asked, wrong

    async def run():
        whole = state.ServerState(Settings(NAMES), Meters())
        await whole._ready
        thread = threading.Thread(target=switching)
        thread.start()
        found = await asyncio.gather(*(asking(whole, name) for name in NAMES * 16))
        thread.join()
        last = {(await whole.intake(index)).spec.fingerprint for index in whole.indexes.values()}
        kept = len(whole._intakes)
        await whole.close()
        return found, last, kept

    found, last, kept = asyncio.run(run())
    assert sum(asked for asked, _ in found) > ROUNDS and not any(wrong for _, wrong in found)
    assert len(last) == kept == 1, "both have one model again, and the other's networks are closed"
