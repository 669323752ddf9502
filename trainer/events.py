"""Write the epochs of a training as events of TensorBoard: DIR/NUMBER-NETWORK/events.out.tfevents.*.RUN.facegallery."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from facegallery.embedder.errors import DataError, SystemFault, reason
from facegallery.embedder.files import make_folder
from facegallery.trainer import history
from facegallery.trainer.history import Measure, NetworkHistory
from facegallery.trainer.recipe import Recipe


class EventLog:
    """The events of one run; a new one writes the run's events anew, so that a resumed run has no epoch twice.

    The step of an event is the number of the epoch over all stages; 0 is before training.
    """

    def __init__(self, folder: Path, networks: Sequence[str], recipe: Recipe, run: str):
        """networks: names, in the order of `write`. run: hex digits that tell runs apart.

        Raise DataError where a folder holds another run's events.
        """
        self._folder, self._measures = folder, history.all_of(recipe)
        self._metadata = {measure.tag: _metadata(measure) for measure in self._measures}
        self._written = [-1] * len(networks)  # the last step
        folders = [folder / f"{number}-{_file_name(name)}" for number, name in enumerate(networks, 1)]
        ours = f".{run}.facegallery"
        for one in folders:
            _check_alone(one, ours)
        with _faults(folder):
            self._writers = [_writer(one, ours) for one in folders]

    def write(self, networks: Sequence[NetworkHistory]) -> None:
        """Write the epochs that are not written yet, of the first networks or all."""
        for number, network in enumerate(networks):
            for step in range(self._written[number] + 1, len(network.lines) + 1):
                self._write_step(number, step, _figures(network, step, self._measures))
            self._written[number] = len(network.lines)

    def _write_step(self, number: int, step: int, figures: Mapping[str, float]) -> None:
        with _faults(self._folder), self._writers[number].as_default(step):
            for tag, value in figures.items():
                tf.summary.write(tag, tf.constant(value, tf.float32), metadata=self._metadata[tag])
            self._writers[number].flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers:
            writer.close()


def _figures(network: NetworkHistory, step: int, measures: Sequence[Measure]) -> dict[str, float]:
    """Return the values of one step by tag."""
    if step == 0:
        return {measure.tag: network.before[measure.before] for measure in measures if measure.before in network.before}
    line = network.lines[step - 1]
    return {measure.tag: line[measure.key] for measure in measures if measure.key in line}


def _metadata(measure: Measure) -> tf.compat.v1.SummaryMetadata:
    """Return what tells TensorBoard that the numbers are scalars."""
    metadata = tf.compat.v1.SummaryMetadata(display_name=measure.tag, summary_description=measure.label)
    metadata.plugin_data.plugin_name = "scalars"
    metadata.data_class = 1  # DATA_CLASS_SCALAR
    return metadata


def _file_name(name: str) -> str:
    return re.sub(r"[^\w+-]", "_", name, flags=re.ASCII)[:64]


def _check_alone(folder: Path, ours: str) -> None:
    """Delete this run's own events in a folder; raise DataError for another run's, and delete nothing."""
    found = list(folder.glob("*tfevents*"))
    if others := [path for path in found if not path.name.endswith(ours)]:
        raise DataError(
            f"expected --log-dir without the events of another run, {others[0]} is there: choose another folder"
        )
    for path in found:
        path.unlink(missing_ok=True)


def _writer(folder: Path, suffix: str) -> tf.summary.SummaryWriter:
    return tf.summary.create_file_writer(str(make_folder(folder)), filename_suffix=suffix)


@contextmanager
def _faults(place: Path) -> Iterator[None]:
    try:
        yield
    except tf.errors.OpError as error:
        raise SystemFault(
            f"expected to write events into {place}, received {reason(error)}: choose another --log-dir"
        ) from None
