"""Choose which splits of a data set train, and say in one line how many crops are used and left out, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.errors import DataError, InputError

ALL = "all"
USUAL = ("train", "gallery")  # the first that is there trains where nothing is chosen


def present(data: DataSet) -> set[str | None]:
    """Return the splits of a data set's rows; None stands for rows without one."""
    return {split for table in data.shards(["split"]) for split in pc.unique(table["split"]).to_pylist()}


def training(splits: Collection[str | None], wanted: Sequence[str], folder: Path) -> tuple[str | None, ...]:
    """Return the splits that train, of those that are there.

    wanted: names, or 'all', which takes rows without a split too. Without any name it is `train`, else `gallery`, else
    the rows of a data set without splits. Raise InputError for a name that is not there, DataError where there is
    none to take.
    """
    named = sorted(s for s in splits if s is not None)
    if ALL in wanted:
        return (*named, *([None] if None in splits else []))
    if unknown := [name for name in wanted if name not in named]:
        raise InputError(
            f"expected splits of {folder} ({', '.join([*named, ALL])}), received {unknown[0]!r}: name one that is there"
        )
    if wanted:
        return tuple(sorted(set(wanted)))
    for split in USUAL:
        if split in named:
            return (split,)
    if named:
        raise DataError(
            f"expected a split train or gallery, or none at all, {folder} has {', '.join(named)}: "
            "name the splits to train on, or `all`"
        )
    return (None,)


def used_and_left_out(data: DataSet, chosen: Sequence[str | None], used: Mapping[str | None, int]) -> str:
    """Return one line about how many crops a run uses, of which splits, and how many it leaves out for which reason.

    used: the number of crops that train, by their split.
    """
    left, total = Counter[str](), sum(used.values())
    for row in _rows(data):
        if row["split"] not in chosen:
            left[_of(row["split"])] += 1
        elif row["outcome"] != "ok":
            left[row["outcome"]] += 1
        elif row["identity"] is None:
            left["without an identity"] += 1
        else:
            left["twice or without a crop"] += 1
    left["twice or without a crop"] -= total
    taken = f"{total:,} crops are used"
    if len(chosen) > 1:
        taken += f": {_counted(Counter({_of(split): n for split, n in used.items()}))}"
    elif chosen and chosen[0]:
        taken = f"{total:,} crops of split {chosen[0]} are used"
    return f"{taken}; left out: {_counted(left) or 'none'}"


def _rows(data: DataSet) -> Iterable[dict[str, Any]]:
    for number in sorted(data.marks):
        yield from data.shard(number, ["identity", "split", "outcome"]).to_pylist()


def _of(split: str | None) -> str:
    return f"of split {split}" if split else "without a split"


def _counted(numbers: Mapping[str, int]) -> str:
    """Return the positive numbers with their words, the largest first: '6 of split probe, 1 no_face'."""
    ranked = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n:,} {words}" for words, n in ranked if n > 0)
