"""Choose crops of people to train on and to validate with, and stream the training crops in seeded batches.

The stream is endless. The sample at its position p is number p % N of pass p // N, N = photos x copies, so that the
position is all that a resumed run must know.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.errors import DataError
from facegallery.embedder.names import spelling
from facegallery.embedder.spec import INPUT_SIZE, FaceSpec
from facegallery.trainer import augment, splits
from facegallery.trainer.faces import TrainingCrops, TrainingFaces
from facegallery.trainer.recipe import Augmentation

LEAST_PEOPLE = 20  # people that a meaningful validation needs
PLAIN_BATCH = 32


@dataclass(frozen=True)
class Data:
    """Faces to train on and to validate with.

    why: one line about the people of the validation, or why there are none. splits: those that train; None stands for
    rows without one. chosen: one line about how many crops are used, and how many are left out and why.
    """

    spec: FaceSpec
    train: TrainingFaces
    validation: TrainingFaces | None
    why: str
    splits: tuple[str | None, ...] = ()
    chosen: str = ""


# choosing rows --------------------------------------------------------------


def read(crops: Path, validate: Path | None = None, seed: int = 0, split: Sequence[str] = ()) -> Data:
    """Choose the crops of a data set for training and validation.

    validate: a data set of other people to validate with. split: the splits that train, as `splits.training` says; a
    split `val` that does not train validates. Raise InputError for a split that is not there, DataError where there are
    too few people, or the crops do not fit.
    """
    data = DataSet(crops)
    _check_spec(data.spec, crops)
    present = splits.present(data)
    training = splits.training(present, split, crops)
    train = _rows(data, training)
    chosen = splits.used_and_left_out(data, training, Counter(row["split"] for row in train))
    if validate is not None:
        held, why = _given(validate, data.spec), f"validation: the people of {validate}"
    elif "val" in present - {*training} and _pairs(rows := _rows(data, ("val",))):
        held, why = _pairs(rows), "validation: split val"
    else:
        train, held = _hold_out(train, seed)
        why = f"validation: {len({r['identity'] for r in held})} people held out from training"
    if not held:
        why = f"no validation: fewer than {LEAST_PEOPLE} people can be spared that have two photos"
    if len(people := {row["identity"] for row in train}) < 2:
        raise DataError(
            f"expected crops of two people or more to train on, {crops} has {len(people)}: "
            "align more photos, with crops"
        )
    rule = data.spec.crop
    held_rule = DataSet(validate).spec.crop if validate else rule
    held_out = TrainingFaces.of_rows(held, held_rule) if held else None
    return Data(data.spec, TrainingFaces.of_rows(train, rule), held_out, why, training, chosen)


def _check_spec(spec: FaceSpec, folder: Path) -> None:
    if (spec.crop.size, spec.colour) != (INPUT_SIZE, "RGB"):
        raise DataError(
            f"expected RGB crops of {INPUT_SIZE} pixels, {folder} has {spec.colour} of {spec.crop.size}: "
            "align the photos again"
        )


def _rows(data: DataSet, wanted_splits: Collection[str | None] | None) -> list[dict[str, Any]]:
    """Return the usable rows of some splits, or of all for None, each face of a person once.

    Crops are read only of shards that have usable rows.
    """
    columns = ["face_id", "identity", "split", "outcome"]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for number in sorted(data.marks):
        wanted = [
            i
            for i, r in enumerate(data.shard(number, columns).to_pylist())
            if r["outcome"] == "ok"
            and r["identity"] is not None
            and (wanted_splits is None or r["split"] in wanted_splits)
        ]
        if wanted:
            for row in data.shard(number, [*columns, "crop", "box", "landmarks"]).take(wanted).to_pylist():
                row["identity"] = spelling(row["identity"])
                if row["crop"] is not None and row["identity"]:
                    rows.setdefault((row["face_id"], row["identity"]), row)
    return list(rows.values())


def _pairs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows if they are of two people or more and somebody has two crops; else [].

    With fewer, there would be nothing to retrieve, or nobody else to mistake.
    """
    counts = Counter(r["identity"] for r in rows)
    return rows if len(counts) > 1 and max(counts.values()) > 1 else []


def _given(folder: Path, spec: FaceSpec) -> list[dict[str, Any]]:
    data = DataSet(folder)
    _check_spec(data.spec, folder)
    if data.spec.crop.margin != spec.crop.margin:
        raise DataError(
            f"expected validation crops of margin {spec.crop.margin}, {folder} has {data.spec.crop.margin}: "
            "align them alike"
        )
    if not _pairs(rows := _rows(data, None)):
        raise DataError(
            f"expected two people or more to validate with, somebody with two photos among them, {folder} has "
            f"{len(rows)} usable crops of {len({r['identity'] for r in rows})}: "
            "give more photos, or leave --validate out"
        )
    return rows


def _hold_out(rows: list[dict[str, Any]], seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split rows into (training, held out): a tenth of the people with two photos, 20 or more, by hash.

    Nobody is held out where that would be more than half of all people.
    """
    counts = Counter(row["identity"] for row in rows)
    several = [name for name, count in counts.items() if count > 1]
    number = max(LEAST_PEOPLE, math.ceil(len(several) / 10))
    if number > len(several) or number > len(counts) // 2:
        return rows, []
    held = set(sorted(several, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())[:number])
    return [r for r in rows if r["identity"] not in held], [r for r in rows if r["identity"] in held]


# the stream -----------------------------------------------------------------


@lru_cache(4)
def _permutation(seed: int, turn: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, turn]).permutation(n)


def samples(seed: int, n: int, start: int, count: int) -> np.ndarray:
    """Return which of n samples stand at positions start, start + 1, ... of the stream: int64 (count,)."""
    positions = np.arange(start, start + count)
    return np.array([_permutation(seed, int(p // n), n)[p % n] for p in positions], np.int64)


@dataclass(frozen=True)
class Stream:
    """Augmented crops, decoded as they are needed."""

    photos: TrainingCrops
    rule: Augmentation
    seed: int

    def __len__(self) -> int:
        """The number of samples in one pass."""
        return len(self.photos) * self.rule.copies

    def batches(self, start: int, batch: int, steps: int) -> Iterator[tuple[tf.Tensor, np.ndarray]]:
        """Yield `steps` batches uint8 (batch, size, size, 3) and int32 (batch,) from position `start`."""
        chosen = samples(self.seed, len(self), start, batch * steps)
        positions = np.arange(start, start + batch * steps)
        labels = self.photos.labels[chosen // self.rule.copies]
        for i, crops in enumerate(_decoded(self.photos, chosen, positions, self.rule, self.seed, batch)):
            yield crops, labels[i * batch : (i + 1) * batch]

    def view(self, number: int) -> Iterator[tf.Tensor]:
        """Yield one pass over all samples in order, in batches of 32.

        View 0 has the plain crops and their variants, other views augmented ones.
        """
        order = np.arange(len(self))
        rule = plain(self.rule) if number == 0 else self.rule
        yield from _decoded(self.photos, order, order + number * len(self), rule, self.seed, PLAIN_BATCH)


def plain(rule: Augmentation) -> Augmentation:
    """Return the rule's variants, without what is drawn anew."""
    return Augmentation(rule.variants, 0.0, (1.0, 1.0), (1.0, 1.0), 0, 0.0, (1.0, 1.0))


NOTHING = Augmentation((), 0.0, (1.0, 1.0), (1.0, 1.0), 0, 0.0, (1.0, 1.0))


def plain_crops(photos: TrainingCrops) -> Iterator[tf.Tensor]:
    """Yield every photo's plain crop, in order: uint8 (up to 32, size, size, 3)."""
    order = np.arange(len(photos))
    yield from _decoded(photos, order, order, NOTHING, 0, PLAIN_BATCH)


def _decoded(
    photos: TrainingCrops, chosen: np.ndarray, positions: np.ndarray, rule: Augmentation, seed: int, batch: int
) -> Iterator[tf.Tensor]:
    side, rule = photos.side, augment.for_size(rule, photos.size)

    def load(sample: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        canvas = tf.io.decode_png(photos.pngs[sample // rule.copies], channels=3)
        return augment.augment(tf.ensure_shape(canvas, (side, side, 3)), photos.border, rule, seed, sample, position)

    stream = tf.data.Dataset.from_tensor_slices((chosen.astype(np.int64), positions.astype(np.int64)))
    stream = stream.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).batch(batch).prefetch(1)
    with _damage_named():
        yield from stream


@contextmanager
def _damage_named() -> Iterator[None]:
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        reason = str(error.message).splitlines()[0][:100]
        raise DataError(
            f"expected crops that can be decoded, one is damaged ({reason}): align the photos again"
        ) from None
