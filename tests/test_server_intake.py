import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedder.compute import Compute
from embedder.errors import ModelError
from embedder.spec import FaceSpec
from server.batches import Full
from server.intake import PAIR, Elastic, Intake
from server.settings import Settings
from workflows import open_index


class Network:
    """Answers with its number, once it may."""

    def __init__(self, number: int, error: Exception | None = None):
        self.spec, self.compute, self.number, self.error = FaceSpec(), Compute(), number, error
        self.may = threading.Event()

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        assert self.may.wait(10)
        if self.error:
            raise self.error
        return np.full(len(crops), self.number)


def crops(n: int) -> np.ndarray:
    return np.zeros((n, 160, 160, 3), np.uint8)


def test_the_network_for_many_answers_once_it_is_ready_and_an_end_waits_for_it():
    few, many = Network(1), Network(2)
    few.may.set()
    network = Elastic(few, many, pytest.fail)
    assert network(crops(PAIR)).tolist() == [1] * (PAIR)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(network.close)
        with pytest.raises(TimeoutError):
            ended.result(0.1)
        many.may.set()
        ended.result(10)
    assert network(crops(PAIR)).tolist() == [2] * (PAIR) and network(crops(1)).tolist() == [1]


def test_where_the_network_for_many_cannot_be_loaded_the_other_goes_on():
    said: list[str] = []
    few, many = Network(1), Network(2, ModelError("expected weights, received none: fetch them"))
    few.may.set(), many.may.set()
    network = Elastic(few, many, said.append)
    network.close()
    assert network(crops(PAIR)).tolist() == [1] * (PAIR) and said == ["expected weights, received none: fetch them"]


def test_an_intake_that_is_closed_answers_what_is_in_it(server, monkeypatch):
    for name, folder in (("FACEDB_DATA", server.root), ("FACEDB_INDEXES", server.indexes)):
        monkeypatch.setenv(name, str(folder))
    with open_index("att") as searcher:
        intake = Intake(searcher, Settings(("att",)), lambda line: None, lambda size: None)

    async def ask_and_close():
        asked = [asyncio.create_task(intake.faces(server.probe(i), f"{i}")) for i in range(1, 41)]
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, intake.close)
        return await asyncio.gather(*asked)

    answers = asyncio.run(ask_and_close())
    assert [photo.name for photo, _ in answers] == [f"{i}" for i in range(1, 41)]
    assert sum(rows[0].vector is not None for _, rows in answers) > 35
    with pytest.raises(Full):
        asyncio.run(intake.faces(server.probe(1), "late"))
