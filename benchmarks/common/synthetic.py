"""Make faces at any scale, with scores like those of real ones: `faces`, `blocks` and `probes`.

A photo's vector is the unit-length sum of three parts: the mean face, the person's part and the photo's part. The
last two are independent along the principal axes of real vectors and have the variances measured there. They are
skewed: a few marked features, shared by a few people, make the lookalikes that decide identification among many. The
strength of the photo's part varies from photo to photo, and in a few photos it hides the person. The axes are then
turned at random into d dimensions.

synthetic.json holds the numbers for `msceleb`, `casia` and `duo`; `benchmarks/accuracy/synthetic_fit.py` fits and
checks them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from facegallery.embedder.errors import InputError

PROFILES = Path(__file__).with_name("synthetic.json")
BLOCK = 256  # rows made from one random state, so that any row can be made without those before it
PIECE = 64 * BLOCK  # rows at once: 32 MiB of 512-d vectors
STRANGERS = 1 << 40  # people from this number on are never among `faces`
PEOPLE, PHOTOS, PROBES, COUNTS, TURN = range(5)  # streams of random numbers
BAD = 3.0  # how much stronger the photo's own part is in a bad photo


@dataclass(frozen=True)
class Profile:
    """Describe a model's vectors along each of r principal axes, and per photo."""

    d: int  # of the model itself
    mean: np.ndarray  # float64 (r,)
    between: np.ndarray  # float64 (r,): variance from person to person
    within: np.ndarray  # float64 (r,): variance from photo to photo of one person
    skew: float  # 0: symmetric; the third moment of a feature grows with it
    bound: float  # features beyond this many standard deviations are cut there: how far lookalikes go
    quality: float  # standard deviation of the log of the strength of a photo's own part
    bad: float  # share of photos where that strength is BAD times as much


@lru_cache
def profile(like: str) -> Profile:
    """Return the fitted numbers of a model."""
    known = json.loads(PROFILES.read_text())
    if like not in known:
        raise InputError(
            f"expected a fitted model ({', '.join(sorted(known))}), received {like!r}: choose one, or run `fit`"
        )
    values: dict[str, Any] = {
        key: np.asarray(value) if isinstance(value, list) else value for key, value in known[like].items()
    }
    return Profile(**values)


def faces(
    n: int, like: str = "casia", d: int | None = None, per_person: float = 2.0, seed: int = 0, start: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Make photos start ... start + n - 1 of an endless set: unit float32 (n, d), and their people, int64 (n,).

    A row depends only on its number and on like, d, per_person and seed; on one machine it always has the same bits.
    People are numbered from 0 in the order of their photos, which stand together. The number of photos of a person is
    geometric with mean `per_person` (1: exactly one each; 2: never more than about 20). d is the model's own unless
    given: with more dimensions the scores stay as they are (real vectors fill 62 to 141 of theirs), with fewer only the
    strongest axes are kept.
    """
    d = _checked(like, d, seed, n=n, start=start, per_person=per_person)
    vectors, people = np.empty((n, d), np.float32), np.empty(n, np.int64)
    for i, (x, who) in enumerate(blocks(n, like, d, per_person, seed, start)):
        vectors[i * PIECE : i * PIECE + len(x)], people[i * PIECE : i * PIECE + len(x)] = x, who
    return vectors, people


def blocks(
    n: int,
    like: str = "casia",
    d: int | None = None,
    per_person: float = 2.0,
    seed: int = 0,
    start: int = 0,
    size: int = PIECE,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what `faces` returns, in pieces of `size` rows; the last may be shorter. Memory holds one piece.

    Multiples of BLOCK are fastest.
    """
    d = _checked(like, d, seed, n=n, start=start, per_person=per_person, size=size)
    p = profile(like)
    for first in range(start, start + n, size):
        last = min(first + size, start + n)
        rows = np.arange(first // BLOCK * BLOCK, -(-last // BLOCK) * BLOCK)
        people = _people(rows, per_person, seed)
        x = _turned(_photos(p, people, _normals(seed, PHOTOS, rows, len(p.mean) + 2), seed), d, seed)
        yield x[first - rows[0] : last - rows[0]], people[first - rows[0] : last - rows[0]]


def probes(people: np.ndarray, like: str = "casia", d: int | None = None, seed: int = 0, take: int = 0) -> np.ndarray:
    """Make another photo of each of these people, in this order: unit float32 (len(people), d), never one of `faces`.

    like, d and seed as given to `faces`; another `take` is another photo. People whom `faces` did not reach are
    strangers from the same world: those from STRANGERS on always are, as in probes(STRANGERS + np.arange(1000)).
    """
    people, d = np.asarray(people, np.int64), _checked(like, d, seed, take=take)
    if people.ndim != 1 or (people < 0).any():
        raise InputError(
            f"expected people (m,), none below 0, received {people.shape}, {(people < 0).sum()} below: fix the call"
        )
    p = profile(like)
    return _turned(_photos(p, people, _normals(seed, PROBES, people, len(p.mean) + 2, take), seed), d, seed)


def _checked(like: str, d: int | None, seed: int, per_person: float = 1.0, size: int = 1, **whole: int) -> int:
    """Check all arguments and return the dimension of the vectors."""
    d = profile(like).d if d is None else d
    for name, value, least in [
        ("d", d, 1),
        ("size", size, 1),
        ("seed", seed, 0),
        *((name, value, 0) for name, value in whole.items()),
    ]:
        if value < least:
            raise InputError(f"expected {name} of at least {least}, received {value}: give a larger one")
    if not 1 <= per_person <= BLOCK:
        raise InputError(f"expected per_person of 1 to {BLOCK} photos, received {per_person}: choose one between")
    return d


def _people(rows: np.ndarray, per_person: float, seed: int) -> np.ndarray:
    """Return the person of each row, int64; rows are whole blocks, each with the same number of people."""
    count = round(BLOCK / per_person)
    people = np.zeros((len(rows) // BLOCK, BLOCK), np.int64)
    for block, line in zip(rows[::BLOCK] // BLOCK, people, strict=True):
        cuts = np.random.default_rng([seed, COUNTS, block]).choice(BLOCK - 1, count - 1, replace=False)
        line[cuts + 1] = 1  # uniform cuts are what geometric counts of a given sum look like
        line[0] = block * count
    return people.cumsum(axis=1).ravel()


def _normals(seed: int, stream: int, index: np.ndarray, width: int, take: int = 0) -> np.ndarray:
    """Draw normal float32 (len(index), width): row i depends on the number index[i] alone."""
    out, order = np.empty((len(index), width), np.float32), np.argsort(index, kind="stable")
    numbers, begins = np.unique(index[order] // BLOCK, return_index=True)
    for number, rows in zip(numbers, np.split(order, begins[1:]), strict=True) if len(index) else ():
        drawn = np.random.default_rng([seed, stream, take, number]).standard_normal((BLOCK, width), dtype=np.float32)
        out[rows] = drawn[index[rows] % BLOCK]
    return out


def _photos(p: Profile, people: np.ndarray, own: np.ndarray, seed: int) -> np.ndarray:
    """Make unit float32 (n, r) along the principal axes.

    own (n, r + 2) is normal: each photo's part, its quality, and whether it is a bad photo.
    """
    r = len(p.mean)
    strength = np.exp(p.quality * own[:, r]) * np.where(own[:, r + 1] < NormalDist().inv_cdf(p.bad), np.float32(BAD), 1)
    x = _features(p, own[:, :r], p.within) * strength[:, None]
    x += _features(p, _normals(seed, PEOPLE, people, r), p.between)
    x += p.mean.astype(np.float32)
    x /= np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
    return x


def _features(p: Profile, g: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Cut normal g (n, r) at the bound and bend it by a parabola: float32, mean 0, the given variance (r,)."""
    normal, a = NormalDist(), p.bound
    inside, edge, outside = 2 * normal.cdf(a) - 1, 2 * a * normal.pdf(a), 2 * normal.cdf(-a)
    second = inside - edge + a**2 * outside  # moments of g once it is cut
    fourth = 3 * (inside - edge) - a**2 * edge + a**4 * outside
    scale = np.sqrt(variance / (second + p.skew**2 * (fourth - second**2))).astype(np.float32)
    cut = g.clip(-a, a)
    return (cut + np.float32(p.skew) * (cut * cut - np.float32(second))) * scale


def _turned(x: np.ndarray, d: int, seed: int) -> np.ndarray:
    """Turn unit x (n, r) into d dimensions, by an orthonormal turn that is the same for a whole set."""
    n, r = x.shape
    if r > d:
        x, r = x[:, :d] / np.linalg.norm(x[:, :d], axis=1, keepdims=True), d
    whole = np.zeros((-(-n // BLOCK) * BLOCK, r), np.float32)
    whole[:n] = x
    turned = whole.reshape(-1, BLOCK, r) @ _turn(r, d, seed)  # products of one shape: the same bits whatever n is
    return turned.reshape(-1, d)[:n]


@lru_cache(8)
def _turn(r: int, d: int, seed: int) -> np.ndarray:
    """Return float32 (r, d) with orthonormal rows."""
    return np.linalg.qr(np.random.default_rng([seed, TURN]).standard_normal((d, r)))[0].T.astype(np.float32)


def twin(p: Profile, people: np.ndarray, seed: int = 0) -> np.ndarray:
    """Make vectors (n, r) of as many people with as many photos, along the principal axes."""
    return _photos(p, people, _normals(seed, PHOTOS, np.arange(len(people)), len(p.mean) + 2), seed)
