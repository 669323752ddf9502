import asyncio
import io
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import ModelError
from facegallery.embedder.photos.decoder import WORKERS
from facegallery.embedder.spec import FaceSpec
from facegallery.server.batches import QueueFull
from facegallery.server.intake import NETWORK_BATCH, Intake, SentPhoto, SwitchingEmbedder
from facegallery.server.settings import Settings
from facegallery.workflows.probes import open_index


class Network:
    """Answers with its number, once it may."""

    def __init__(self, number: int, error: Exception | None = None):
        self.spec, self.compute, self.number, self.error = FaceSpec(), Compute(), number, error
        self.may = threading.Event()

    def measured(self, crops: np.ndarray, rule: object = None) -> tuple[np.ndarray, None]:
        assert self.may.wait(10)
        if self.error:
            raise self.error
        return np.full(len(crops), self.number), None


def crops(n: int) -> np.ndarray:
    return np.zeros((n, 160, 160, 3), np.uint8)


def test_the_network_for_many_answers_once_it_is_ready_and_an_end_waits_for_it():
    few, many = Network(1), Network(2)
    few.may.set()
    network = SwitchingEmbedder(few, many)
    assert network.measured(crops(NETWORK_BATCH))[0].tolist() == [1] * (NETWORK_BATCH)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(network.close)
        with pytest.raises(TimeoutError):
            ended.result(0.1)
        many.may.set()
        ended.result(10)
    assert network.measured(crops(NETWORK_BATCH))[0].tolist() == [2] * (NETWORK_BATCH) and network.measured(crops(1))[
        0
    ].tolist() == [1]


def test_where_the_network_for_many_cannot_be_loaded_the_other_answers(caplog):
    few, many = Network(1), Network(2, ModelError("expected weights, received none: fetch them"))
    few.may.set(), many.may.set()
    network = SwitchingEmbedder(few, many)
    network.close()
    assert network.measured(crops(NETWORK_BATCH))[0].tolist() == [1] * (NETWORK_BATCH) and "fetch them" in caplog.text


def test_an_intake_that_is_closed_answers_what_is_in_it(server, monkeypatch):
    for name, folder in (("FACEGALLERY_DATA", server.root), ("FACEGALLERY_INDEXES", server.indexes)):
        monkeypatch.setenv(name, str(folder))
    with open_index("att") as searcher:
        intake = Intake(searcher, Settings(("att",)), lambda size: None)

    async def ask_and_close():
        asked = [asyncio.create_task(intake.faces(SentPhoto(server.probe(i), f"{i}"))) for i in range(1, 41)]
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, intake.close)
        return await asyncio.gather(*asked)

    answers = asyncio.run(ask_and_close())
    assert [photo.name for photo, _ in answers] == [f"{i}" for i in range(1, 41)]
    assert sum(rows[0].vector is not None for _, rows in answers) > 35
    with pytest.raises(QueueFull):
        asyncio.run(intake.faces(SentPhoto(server.probe(1), "late")))


def photo(color: int, side: int) -> bytes:
    with io.BytesIO() as out:
        Image.new("RGB", (side, side), (color, 0, 0)).save(out, "PNG")
        return out.getvalue()


@pytest.fixture
def intake(server, monkeypatch):
    for name, folder in (("FACEGALLERY_DATA", server.root), ("FACEGALLERY_INDEXES", server.indexes)):
        monkeypatch.setenv(name, str(folder))
    with open_index("att") as searcher:
        found = Intake(searcher, Settings(("att",), photo_pixels=300 * 300), lambda size: None)
    yield found
    found.close()


def test_a_photo_that_can_never_fit_is_too_large_and_one_at_the_limit_is_answered(intake):
    """Whatever waits already: the room is as large as several photos at the limit."""

    async def ask():
        sides = [300, 301, 300, 5000] * 5
        return [
            photo.outcome
            for photo, _ in await asyncio.gather(
                *(intake.faces(SentPhoto(photo(i, side), f"{i}")) for i, side in enumerate(sides))
            )
        ]

    assert asyncio.run(ask()) == ["no_face", "too_large", "no_face", "too_large"] * 5


def test_photos_that_wait_for_room_are_decoded_once(intake, monkeypatch):
    """The networks take nothing for a second: what is decoded then waits, and the others are not decoded."""
    decoded, submit, find, most = [], intake._decoder.submit_bytes, intake._faces_of, [0]

    def counted(name, data):
        decoded.append(name)
        return submit(name, data)

    def slowly(photos):
        most[0] = max(most[0], intake._pixels)
        time.sleep(0.3)
        return find(photos)

    monkeypatch.setattr(intake._decoder, "submit_bytes", counted)
    monkeypatch.setattr(intake, "_faces_of", slowly)

    async def ask():
        asked = [asyncio.create_task(intake.faces(SentPhoto(photo(i, 300), f"{i}"))) for i in range(30)]
        await asyncio.sleep(0.2)
        early = len(decoded)
        return early, [photo.name for photo, _ in await asyncio.gather(*asked)]

    early, names = asyncio.run(ask())
    assert names == [f"{i}" for i in range(30)] and sorted(decoded, key=int) == names
    assert early < 30 and most[0] <= 4 * 300 * 300 and (intake._pixels, len(intake)) == (0, 0)


def test_an_end_waits_for_no_decoder_that_hangs(intake):
    async def ask_and_close():
        while len(intake._decoder._running) < WORKERS:
            await intake.faces(SentPhoto(photo(0, 50), "first"))
        for process in intake._decoder._running:
            os.kill(process.pid, signal.SIGSTOP)
        asked = asyncio.create_task(intake.faces(SentPhoto(photo(1, 50), "second")))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await asyncio.get_running_loop().run_in_executor(None, intake.close, 0.5)
        seconds = time.monotonic() - began
        with pytest.raises(QueueFull):
            await asked
        return seconds

    assert asyncio.run(ask_and_close()) < 10
