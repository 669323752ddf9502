import threading
import time

import pytest

from facegallery.server.batches import Batcher, BatchOptions, QueueFull


def squares(items):
    return [x * x for x in items]


def test_every_item_gets_its_own_answer_in_batches_of_at_most_so_many():
    sizes: list[int] = []
    batches = Batcher(lambda: squares, BatchOptions(2, size=8, wait=0.01, observe=sizes.append))
    futures = [batches.submit(x) for x in range(100)]
    assert [future.result(10) for future in futures] == [x * x for x in range(100)]
    batches.close()
    assert sum(sizes) == 100 and max(sizes) <= 8 and min(sizes) >= 1


def test_what_comes_while_a_batch_runs_goes_together():
    begun, go = threading.Event(), threading.Event()

    def slow(items):
        begun.set()
        go.wait(10)
        return list(items)

    sizes: list[int] = []
    batches = Batcher(lambda: slow, BatchOptions(1, size=16, observe=sizes.append))
    first = batches.submit(0)
    assert begun.wait(10)
    rest = [batches.submit(x) for x in range(1, 11)]
    assert len(batches) == 10
    go.set()
    assert first.result(10) == 0 and [f.result(10) for f in rest] == list(range(1, 11))
    batches.close()
    assert sizes == [1, 10]


def test_a_lone_item_waits_no_longer_than_the_limit():
    batches = Batcher(lambda: squares, BatchOptions(1, size=8, wait=0.05))
    began = time.monotonic()
    assert batches.submit(3).result(10) == 9
    assert 0.045 < time.monotonic() - began < 1
    batches.close()


def test_nothing_is_waited_for_where_nothing_is_expected():
    coming = [True]
    batches = Batcher(lambda: squares, BatchOptions(1, size=8, wait=10, expects=lambda: bool(coming)))
    first = batches.submit(3)
    time.sleep(0.1)
    assert not first.done()
    coming.clear()
    assert batches.submit(4).result(5) == 16 and first.result(5) == 9
    batches.close()


def test_beyond_the_room_nothing_is_taken():
    go = threading.Event()

    def slow(items):
        go.wait(10)
        return list(items)

    batches = Batcher(lambda: slow, BatchOptions(1, size=1, room=3))
    first = batches.submit(0)
    while len(batches):
        time.sleep(0.001)
    waiting = [batches.submit(x) for x in (1, 2, 3)]
    with pytest.raises(QueueFull):
        batches.submit(4)
    go.set()
    assert [f.result(10) for f in (first, *waiting)] == [0, 1, 2, 3]
    batches.close()
    with pytest.raises(QueueFull):
        batches.submit(5)


def test_a_whole_batch_gets_an_error_and_the_function_is_made_again():
    made = []

    def make():
        made.append(1)

        def run(items):
            if 13 in items:
                raise ValueError("unlucky")
            return list(items)

        return run

    batches = Batcher(make, BatchOptions(1, size=4))
    assert batches.submit(1).result(10) == 1
    with pytest.raises(ValueError, match="unlucky"):
        batches.submit(13).result(10)
    assert batches.submit(2).result(10) == 2 and len(made) == 2
    batches.close()


def test_a_cancelled_item_is_skipped():
    begun, go, seen = threading.Event(), threading.Event(), []

    def slow(items):
        begun.set()
        go.wait(10)
        seen.extend(items)
        return list(items)

    batches = Batcher(lambda: slow, BatchOptions(1, size=1))
    first = batches.submit(0)
    begun.wait(10)
    second, third = batches.submit(1), batches.submit(2)
    assert second.cancel()
    go.set()
    assert first.result(10) == 0 and third.result(10) == 2
    batches.close()
    assert seen == [0, 2]
