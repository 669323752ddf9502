"""Quantise a model to int8: ranges and shifts from some crops, the gate from others."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facegallery.embedder.compute import Compute
from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.errors import DataError
from facegallery.embedder.faces.picture import FacePicture, read, seen_by
from facegallery.embedder.network import int8, sface_int8
from facegallery.embedder.network.engines import choose, core
from facegallery.embedder.network.int8 import Gate, Quantisation
from facegallery.embedder.network.openvino_network import STEPS, build_measuring
from facegallery.embedder.network.preprocess import seen, unit
from facegallery.embedder.network.runtime import BATCH, on_openvino
from facegallery.embedder.network.sface_layers import folded
from facegallery.embedder.network.sface_network import measuring
from facegallery.embedder.spec import FACENET
from facegallery.embedder.weights.store import Model

log = logging.getLogger(__name__)

LEAST_CROPS = 64
FOR_RANGES, FOR_GATE = 512, 4096  # most crops
LEAST_PEOPLE = 20  # people with two crops that a meaningful top-1 needs
PIXELS = 150  # that are sampled of each layer and batch of SFace, all channels
SAMPLES = 4096  # values that are sampled of each layer and batch


def quantise(model: Model, crops: Path) -> list[dict[str, Any]]:
    """Measure every network of a model in int8, keep the results beside its weights, and return the gate of each.

    Raise InputError on a CPU without VNNI and for ONNX networks, DataError where there are too few crops.
    """
    model.check_ours("quantise")
    choose(Compute("cpu", "int8"))
    data = DataSet(crops)
    model.spec.check_turned(data.spec.detector)
    some, others = split(people := read_people(data))
    first, second = read_pictures(data, some), read_pictures(data, others)
    found = []
    for i, part in enumerate(model.spec.parts):
        arrays = model.arrays(i)
        images, asked = (seen_by(part, faces, data.spec.crop) for faces in (first, second))
        log.info("%s: ranges of %d crops, then %d others in float32 and int8", part.name, len(images), len(asked))
        quantisation = CALIBRATIONS[part.network](arrays, seen(images, part))
        exact = unit(on_openvino(arrays, part, "f32")(asked))
        fast = unit(on_openvino(arrays, part, "int8", quantisation)(asked))
        gate = measure(exact, fast, [people[face] for face in others])
        int8.write(part, quantisation, gate)
        found.append(
            {"name": part.name, "weights": part.sha256, "passed": gate.passed, "text": gate.text, **asdict(gate)}
        )
    return found


def read_people(data: DataSet) -> dict[str, str | None]:
    """Return the identity of each usable face of a data set by face_id; raise DataError where there are few."""
    people: dict[str, str | None] = {}
    for table in data.shards(["face_id", "identity", "outcome"]):
        people |= {row["face_id"]: row["identity"] for row in table.to_pylist() if row["outcome"] == "ok"}
    if len(people) < LEAST_CROPS:
        raise DataError(
            f"expected {LEAST_CROPS} crops or more to quantise with, {data.folder} has {len(people)}: align more photos"
        )
    return people


def split(people: Mapping[str, str | None]) -> tuple[list[str], list[str]]:
    """Split faces into those for the ranges and those for the gate, by hash.

    People with one face go to the ranges first, people with several to the gate.
    """
    count = Counter(people.values())

    def order(face: str) -> tuple[bool, str, str]:
        identity = people[face]
        return identity is not None and count[identity] > 1, hashlib.sha256((identity or "").encode()).hexdigest(), face

    ordered = sorted(people, key=order)
    n = min(FOR_RANGES, len(people) // 2)
    return ordered[:n], ordered[n:][-FOR_GATE:]


def read_pictures(data: DataSet, faces: Sequence[str]) -> list[FacePicture]:
    """Return the pictures of faces; raise DataError where the crops were not kept."""
    place, found = {face: i for i, face in enumerate(faces)}, {}
    for table in data.shards(["face_id", "crop", "box", "landmarks"]):
        for row in table.filter(pc.is_in(table["face_id"], pa.array(faces))).to_pylist():
            if row["crop"] is None:
                raise DataError(
                    f"expected crops in {data.folder}, they were not kept: run `align`, or `embed` without --no-crops"
                )
            owner = f"face {row['face_id']}"
            found[place[row["face_id"]]] = read(row["crop"], row["box"], row["landmarks"], data.spec.crop, owner)
    return [found[i] for i in range(len(faces))]


def calibrate(arrays: Mapping[str, np.ndarray], x: np.ndarray) -> Quantisation:
    """Measure ranges and shifts on standardised crops float32 (n, 160, 160, 3).

    Crops beyond the last full batch are left out.
    """
    graph = build_measuring(arrays, BATCH)
    network = core().compile_model(graph.graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    draw = np.random.default_rng(0)
    samples: dict[str, list[np.ndarray]] = defaultdict(list)
    moves: dict[str, list[np.ndarray]] = defaultdict(list)
    for i in range(0, len(x) - BATCH + 1, BATCH):
        given = list(network([x[i : i + BATCH]]).values())
        for layer, values in zip(graph.layers, given, strict=False):
            flat = values.reshape(-1)
            samples[layer].append(flat[draw.integers(0, len(flat), SAMPLES)])
        for name, move in zip(graph.convolutions, given[len(graph.layers) :], strict=True):
            moves[name].append(move)
    alike = {layer: sorted(group) for group in graph.joined for layer in group}
    ranges = {
        layer: best_range(np.concatenate([s for name in alike.get(layer, [layer]) for s in samples[name]]))
        for layer in graph.layers
    }
    return Quantisation(
        ranges, {name: np.round(-np.mean(m, axis=0, dtype=np.float64), 6).tolist() for name, m in moves.items()}
    )


def calibrate_sface(arrays: Mapping[str, np.ndarray], x: np.ndarray) -> Quantisation:
    """Measure ranges, spans and shifts on float32 RGB of 0 to 255, (n, 112, 112, 3).

    Faces beyond the last full batch are left out.
    """
    layers = sface_int8.measured(folded(arrays)[0])
    network = core().compile_model(measuring(arrays, BATCH, layers), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    draw = np.random.default_rng(0)
    samples: dict[str, list[np.ndarray]] = defaultdict(list)
    for i in range(0, len(x) - BATCH + 1, BATCH):
        for layer, values in zip(layers, network([x[i : i + BATCH]]).values(), strict=True):
            pixels = values.transpose(0, 2, 3, 1).reshape(-1, values.shape[1])
            samples[layer.name].append(pixels[draw.integers(0, len(pixels), PIXELS)])
    ranges, spans, shifts = {}, {}, {}
    for layer in layers:
        values = np.concatenate(samples[layer.name]).astype(np.float64)
        low, high = sface_int8.spans_of(values)
        inside = np.abs(sface_int8.scaled(layer, values, low, high)).ravel()
        ranges[layer.name] = best_range(inside, sface_int8.STEPS)
        spans[layer.name] = [low.tolist(), high.tolist()]
        shifts[layer.name] = sface_int8.shifts(layer, values, low, high).tolist()
    return Quantisation(ranges, shifts, spans)


CALIBRATIONS: Mapping[str, Callable[[Mapping[str, np.ndarray], np.ndarray], Quantisation]] = {
    FACENET: calibrate,
    "sface": calibrate_sface,
}


def best_range(values: np.ndarray, steps: int = STEPS) -> float:
    """Return the range with the least squared error of rounding and clipping values (n,), which are >= 0.

    steps: between 0 and the range. The candidates are 80 ranges up to the largest value.
    """
    values = np.sort(values[values > 0]).astype(np.float64)
    if not len(values):
        return 1.0

    def error(most: float) -> float:
        inside = np.searchsorted(values, most)
        return inside * (most / steps) ** 2 / 12 + float(((values[inside:] - most) ** 2).sum())

    return float(min(values[-1] * np.linspace(0.2, 1, 80), key=error))


def measure(exact: np.ndarray, fast: np.ndarray, identities: Sequence[str | None]) -> Gate:
    """Compute the gate's figures from unit vectors (n, d) in float32 and int8, and the identities (n,)."""
    cosines = np.einsum("ij,ij->i", exact, fast)
    count = Counter(identity for identity in identities if identity is not None)
    asked = np.array([identity is not None and count[identity] > 1 for identity in identities])
    if sum(n > 1 for n in count.values()) < LEAST_PEOPLE:
        asked[:] = False
    names = np.array([identity or "" for identity in identities])
    right = [int((names[nearest_other(x)] == names)[asked].sum()) for x in (exact, fast)]
    return Gate(len(exact), float(cosines.mean()), float(cosines.min()), int(asked.sum()), *right)


def nearest_other(x: np.ndarray) -> np.ndarray:
    """Return the nearest other row of each row of unit vectors (n, d): int (n,)."""
    scores = x @ x.T
    np.fill_diagonal(scores, -np.inf)
    return scores.argmax(axis=1)
