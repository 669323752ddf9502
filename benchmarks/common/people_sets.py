"""Embed sets of people, listed in CSVs `image,identity,split,kind`, and read their vectors back.

A model's vector is the weighted unit vectors of its networks, joined (`embedder/spec.py`). So each network embeds each
photo once, through the project's own pipeline, and models that share networks are joined from these. Data sets stay in
a work folder, by the network's fingerprint and the set's name: a second run embeds only what is new.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.row import vectors_of
from facegallery.embedder.errors import DataError
from facegallery.embedder.spec import FaceSpec
from facegallery.embedder.weights.store import Model, open_model
from facegallery.workflows.photos import ANYWHERE as AUTO
from facegallery.workflows.photos import EmbedOptions, embed, load_embedder

COLUMNS = ("image", "identity", "split", "kind")
LFW = "lfw"


@dataclass(frozen=True)
class PeopleSet:
    """Rows of one CSV, in its order; each array str (n,). Splits are `gallery`, `probe` and, in LFW, `stranger`."""

    name: str
    file: Path
    images: np.ndarray
    people: np.ndarray
    splits: np.ndarray
    kinds: np.ndarray  # '' where the CSV has none; LFW's role of the person


@dataclass(frozen=True)
class SetVectors:
    """What a model makes of a set: unit vectors float32 (n, d), and whether each photo has one, bool (n,)."""

    people: PeopleSet
    vectors: np.ndarray  # zeros where there is no face
    found: np.ndarray

    def of(self, split: str) -> np.ndarray:
        """Return the rows of a split, int (m,)."""
        return np.flatnonzero(self.people.splits == split)


# sets -----------------------------------------------------------------------


def read_set(file: Path) -> PeopleSet:
    """Read a CSV; raise DataError for one without the columns, or with other than one gallery photo a person."""
    with open(file, encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or not set(COLUMNS) <= rows[0].keys():
        raise DataError(f"expected a CSV {','.join(COLUMNS)}, received {file}: check the file")
    enrolled = Counter(row["identity"] for row in rows if row["split"] == "gallery")
    if wrong := [name for name, photos in enrolled.items() if photos != 1]:
        raise DataError(f"expected one photo of {wrong[0]} in the split gallery of {file}, found several: check it")
    columns = (np.array([row[column] or "" for row in rows]) for column in COLUMNS)
    return PeopleSet(file.stem, file, *columns)


def read_sets(folder: Path, names: list[str] | None = None) -> list[PeopleSet]:
    """Read the CSVs of a folder that have the columns of a set, or those named."""
    if names:
        return [read_set(folder / f"{name}.csv") for name in names]
    return [read_set(file) for file in sorted(folder.glob("*.csv")) if _is_set(file)]


def _is_set(file: Path) -> bool:
    with open(file, encoding="utf-8") as lines:
        return set(COLUMNS) <= set(lines.readline().strip().split(","))


def lfw_set(photos: Path, one_shot: Path, roles: Path, work: Path) -> PeopleSet:
    """Write LFW as a set into a work folder, with links to (or copies of) its photos.

    photos: LFW's folder. one_shot: `identity,split,image`, images relative to `photos`. roles: `identity,role`; the
    role is the kind. People of the folder who are not in `one_shot` and have one photo are in the split stranger.
    """
    with open(one_shot, encoding="utf-8", newline="") as lines:
        asked = [(row["image"], row["identity"], row["split"]) for row in csv.DictReader(lines)]
    with open(roles, encoding="utf-8", newline="") as lines:
        role = {row["identity"]: row["role"] for row in csv.DictReader(lines)}
    known = {identity for _, identity, _ in asked}
    for folder in sorted(p for p in photos.iterdir() if p.is_dir() and p.name not in known):
        if len(files := list(folder.iterdir())) == 1:
            asked.append((f"{folder.name}/{files[0].name}", folder.name, "stranger"))
    root = work / "photos"
    for image, *_ in asked:
        _link(photos / image, root / image)
    file = root / f"{LFW}.csv"
    with open(file, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        writer.writerows((image, name, split, role.get(name, "")) for image, name, split in asked)
    return read_set(file)


def _link(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copy2(source, target)


# vectors --------------------------------------------------------------------


def vectors(reference: str, people: PeopleSet, work: Path) -> SetVectors:
    """Embed a set by the model REFERENCE or REFERENCE@VIEWS, or read what an earlier run made of it."""
    made = [(weight, in_order(_embedded(network, people, work), people)) for weight, network in networks(reference)]
    joined = np.concatenate([weight * x for weight, x in made], axis=1)
    length = np.linalg.norm(joined, axis=1, keepdims=True)
    found_one = length[:, 0] > 0
    return SetVectors(people, (joined / np.where(length > 0, length, 1)).astype(np.float32), found_one)


def in_order(found: dict[str, np.ndarray], people: PeopleSet) -> np.ndarray:
    """Return the vectors of a set's photos, float32 (n, d), zeros for photos without one."""
    nothing = np.zeros_like(next(iter(found.values())))
    return np.stack([found.get(image, nothing) for image in people.images])


def networks(reference: str) -> Iterator[tuple[float, Model]]:
    """Yield (weight, network as a model of its own) of a model."""
    name, _, views = reference.partition("@")
    model = open_model(name).with_views(views or "plain")
    for part, file in zip(model.spec.parts, model.files, strict=True):
        yield part.weight, Model(FaceSpec.of(replace(part, weight=1.0)).with_views(views or "plain"), (file,))


def _embedded(network: Model, people: PeopleSet, work: Path) -> dict[str, np.ndarray]:
    """Return the vector of each photo that has a face."""
    out = work / "vectors" / f"{network.spec.parts[0].name}-{network.spec.fingerprint}" / people.name
    embed(people.file, out, load_embedder(network, AUTO), EmbedOptions(keep_crops=False))
    return read_vectors(out)


def read_vectors(folder: Path) -> dict[str, np.ndarray]:
    """Return the vector of each photo of a data set that has a face."""
    data = DataSet(folder)
    table = data.table(["image", "vector"])
    table = table.filter(table["vector"].is_valid())
    return dict(zip(table["image"].to_pylist(), vectors_of(table, data.spec.dimension), strict=True))
