"""Train on several GPUs: each holds the network and takes a share of every batch; gradients are added up.

This is tf.distribute.MirroredStrategy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from facegallery.trainer.recipe import Recipe


def devices(device: str, recipe: Recipe) -> list[str]:
    """Return all devices of the kind of 'CPU:0' or 'GPU:0', but no more than the smallest batch has photos.

    With live batch norm, return that device alone, since each device would move its statistics for itself.
    """
    if recipe.live_batch_norm:
        return [device]
    all_of_kind = tf.config.list_logical_devices(device.partition(":")[0])
    return [d.name.removeprefix("/device:") for d in all_of_kind][: min(stage.batch for stage in recipe.stages)]


@contextmanager
def placed(names: list[str]) -> Iterator[None]:
    """Create the variables of the block on these devices, a copy on each, and run its computations there."""
    if len(names) == 1:
        with tf.device(names[0]):
            yield
    else:
        with tf.distribute.MirroredStrategy(names).scope():
            yield


def shares(n: int, most: int, devices: int) -> list[list[slice]]:
    """Split n photos, at least as many as devices, into rounds of one slice a device, each of at most `most` photos."""
    if devices == 1:
        return [[slice(i, min(i + most, n))] for i in range(0, n, most)]
    rounds = -(-n // (most * devices))
    bounds = np.linspace(0, n, rounds * devices + 1).astype(int).tolist()
    slices = [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
    return [slices[i : i + devices] for i in range(0, len(slices), devices)]


def spread(values: list[tf.Tensor]) -> tf.Tensor:
    """Distribute one value to each device of the current strategy."""
    strategy = tf.distribute.get_strategy()
    return strategy.experimental_distribute_values_from_function(
        lambda context: values[context.replica_id_in_sync_group]
    )


def summed(values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Return the sums of values over all devices; to be called on each device."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)
