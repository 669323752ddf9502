"""Run TensorFlow's functions line by line: tracing a graph takes most of the time of a test with few channels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

EAGER = "ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """tf.data's own functions are traced all the same, and say so."""
    for item in items:
        if "/trainer/" in item.nodeid and not traced(item):
            item.add_marker(pytest.mark.filterwarnings(EAGER))


def traced(item: pytest.Item) -> bool:
    """Whether a test traces its functions, as `train` does: the full doses, and those with the mark."""
    return any(item.get_closest_marker(mark) for mark in ("slow", "traced"))


@pytest.fixture(autouse=True)
def eagerly(request) -> Iterator[None]:
    if traced(request.node):
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
