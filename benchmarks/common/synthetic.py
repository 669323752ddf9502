"""Made-up faces at any scale, whose scores are those of real ones: `faces`, `blocks` and `probes` are what benchmarks use.

A photo's vector is the unit-length sum of the mean face, what is the person's own, and what is that photo's alone. Both parts are
independent along the principal axes of real vectors, with the variances measured there, and skewed: a few marked features, shared by a few
people, make the lookalikes that decide identification among many. How strong a photo's own part is varies from photo to photo, and
in a few it drowns the person. The axes are then turned at random into d dimensions. synthetic.json holds the numbers for `msceleb`, `casia`
and `duo`: `python benchmarks/common/synthetic.py fit VECTORS` makes them from half of a data set's people, `check` compares with the other half.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from facegallery.embedder.dataset.dataset import DataSet  # noqa: E402
from facegallery.embedder.errors import DataError, FaceGalleryError, InputError  # noqa: E402

PROFILES = Path(__file__).with_name("synthetic.json")
BLOCK = 256  # rows made from one random state, so that any row can be made without those before it
PIECE = 64 * BLOCK  # rows at once: 32 MiB of 512-d vectors
STRANGERS = 1 << 40  # people from this number on are never among `faces`
PEOPLE, PHOTOS, PROBES, COUNTS, TURN = range(5)  # streams of random numbers
BAD = 3.0  # how much stronger the photo's own part is in a bad photo

# fit and check
KEPT = 0.999  # share of the variance whose axes are kept
PER_PERSON = 10  # photos of one person that count: LFW has 530 of one man
SEEDS = range(5)  # the made-up sets that a fit looks at
ROUNDS = 3  # towards the variances that come out right
GENUINE = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
IMPOSTOR = (0.1, 1e-2, 1e-3, 1e-4, 1e-5)  # shares of pairs above
BEST = (0.05, 0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Profile:
    """How a model's vectors lie: along each of r principal axes, and per photo."""

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
    """The fitted numbers of a model."""
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
    """Photos start ... start + n - 1 of an endless set: float32 (n, d) of unit length, and whose they are, int64 (n,).

    A row depends on nothing but its number and the arguments like, d, per_person and seed; on one machine it has the same bits
    however it is asked for. People are numbered from 0 in the order of their photos, which stand together; how many one has is
    geometric with mean `per_person` (1: exactly one each; 2: never more than about 20). d is the model's own unless given: with more
    dimensions the scores stay as they are (real vectors fill 62 to 141 of theirs), with fewer only the strongest axes are kept.
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
    """What `faces` returns, in pieces of `size` rows (the last may be shorter); memory holds one. Fastest in multiples of BLOCK."""
    d = _checked(like, d, seed, n=n, start=start, per_person=per_person, size=size)
    p = profile(like)
    for first in range(start, start + n, size):
        last = min(first + size, start + n)
        rows = np.arange(first // BLOCK * BLOCK, -(-last // BLOCK) * BLOCK)
        people = _people(rows, per_person, seed)
        x = _turned(_photos(p, people, _normals(seed, PHOTOS, rows, len(p.mean) + 2), seed), d, seed)
        yield x[first - rows[0] : last - rows[0]], people[first - rows[0] : last - rows[0]]


def probes(people: np.ndarray, like: str = "casia", d: int | None = None, seed: int = 0, take: int = 0) -> np.ndarray:
    """Another photo of each of these people, in this order: float32 (len(people), d) of unit length, never one of `faces`.

    like, d and seed as given to `faces`; another `take` is another photo. People whom `faces` did not reach are strangers from the
    same world: those from STRANGERS on always are, as in probes(STRANGERS + np.arange(1000)).
    """
    people, d = np.asarray(people, np.int64), _checked(like, d, seed, take=take)
    if people.ndim != 1 or (people < 0).any():
        raise InputError(
            f"expected people (m,), none below 0, received {people.shape}, {(people < 0).sum()} below: mend the call"
        )
    p = profile(like)
    return _turned(_photos(p, people, _normals(seed, PROBES, people, len(p.mean) + 2, take), seed), d, seed)


def _checked(like: str, d: int | None, seed: int, per_person: float = 1.0, size: int = 1, **whole: int) -> int:
    """The dimension of the vectors, once all arguments hold."""
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
    """int64: the person of each row; rows are whole blocks. Each block is cut at random into the same number of people."""
    count = round(BLOCK / per_person)
    people = np.zeros((len(rows) // BLOCK, BLOCK), np.int64)
    for block, line in zip(rows[::BLOCK] // BLOCK, people, strict=True):
        cuts = np.random.default_rng([seed, COUNTS, block]).choice(BLOCK - 1, count - 1, replace=False)
        line[cuts + 1] = 1  # uniform cuts are what geometric counts of a given sum look like
        line[0] = block * count
    return people.cumsum(axis=1).ravel()


def _normals(seed: int, stream: int, index: np.ndarray, width: int, take: int = 0) -> np.ndarray:
    """Normal float32 (len(index), width): row i depends on the number index[i] alone."""
    out, order = np.empty((len(index), width), np.float32), np.argsort(index, kind="stable")
    numbers, begins = np.unique(index[order] // BLOCK, return_index=True)
    for number, rows in zip(numbers, np.split(order, begins[1:]), strict=True) if len(index) else ():
        drawn = np.random.default_rng([seed, stream, take, number]).standard_normal((BLOCK, width), dtype=np.float32)
        out[rows] = drawn[index[rows] % BLOCK]
    return out


def _photos(p: Profile, people: np.ndarray, own: np.ndarray, seed: int) -> np.ndarray:
    """Unit float32 (n, r) along the principal axes; own (n, r + 2) is normal: each photo's own part, its quality, its luck."""
    r = len(p.mean)
    strength = np.exp(p.quality * own[:, r]) * np.where(own[:, r + 1] < NormalDist().inv_cdf(p.bad), np.float32(BAD), 1)
    x = _features(p, own[:, :r], p.within) * strength[:, None]
    x += _features(p, _normals(seed, PEOPLE, people, r), p.between)
    x += p.mean.astype(np.float32)
    x /= np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
    return x


def _features(p: Profile, g: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Normal g (n, r), cut at the bound and bent by a parabola: float32 with mean 0 and the given variance (r,)."""
    normal, a = NormalDist(), p.bound
    inside, edge, outside = 2 * normal.cdf(a) - 1, 2 * a * normal.pdf(a), 2 * normal.cdf(-a)
    second = inside - edge + a**2 * outside  # moments of g once it is cut
    fourth = 3 * (inside - edge) - a**2 * edge + a**4 * outside
    scale = np.sqrt(variance / (second + p.skew**2 * (fourth - second**2))).astype(np.float32)
    cut = g.clip(-a, a)
    return (cut + np.float32(p.skew) * (cut * cut - np.float32(second))) * scale


def _turned(x: np.ndarray, d: int, seed: int) -> np.ndarray:
    """Unit x (n, r) in d dimensions, by an orthonormal turn that is the same for a whole set."""
    n, r = x.shape
    if r > d:
        x, r = x[:, :d] / np.linalg.norm(x[:, :d], axis=1, keepdims=True), d
    whole = np.zeros((-(-n // BLOCK) * BLOCK, r), np.float32)
    whole[:n] = x
    turned = whole.reshape(-1, BLOCK, r) @ _turn(r, d, seed)  # products of one shape: the same bits whatever n is
    return turned.reshape(-1, d)[:n]


@lru_cache(8)
def _turn(r: int, d: int, seed: int) -> np.ndarray:
    """float32 (r, d), orthonormal rows."""
    return np.linalg.qr(np.random.default_rng([seed, TURN]).standard_normal((d, r)))[0].T.astype(np.float32)


def read(folders: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, str]:
    """float32 (n, d), people int64 (n,) in order, the model's name; several folders of the same photos are the parts of a `duo`."""
    parts, names = [], []
    for folder in folders:
        data = DataSet(folder)
        rows = data.table(["image", "identity", "vector"]).to_pylist()
        parts.append(
            {(row["identity"], row["image"]): row["vector"] for row in rows if row["identity"] and row["vector"]}
        )
        names += [part.name for part in data.spec.parts]
    keys = sorted(set.intersection(*map(set, parts)))
    people = np.unique([identity for identity, _ in keys], return_inverse=True)[1]
    first = np.searchsorted(people, people)
    keep = np.flatnonzero(np.arange(len(keys)) - first < PER_PERSON)
    xb = np.concatenate([np.asarray([part[keys[i]] for i in keep], np.float32) for part in parts], axis=1)
    return xb / np.linalg.norm(xb, axis=1, keepdims=True), people[keep], names[0] if len(names) == 1 else "duo"


def half(xb: np.ndarray, people: np.ndarray, odd: bool) -> tuple[np.ndarray, np.ndarray]:
    """Every second person of those with one photo and of those with more: even ones to fit, odd ones to check."""
    several = np.bincount(people) > 1
    number = np.where(several, np.cumsum(several), np.cumsum(~several))
    keep = number[people] % 2 == odd
    return xb[keep], np.unique(people[keep], return_inverse=True)[1]


def statistics(xb: np.ndarray, people: np.ndarray) -> dict[str, float]:
    """What search depends on, of unit xb (n, d) and people (n,) in order; holds n x n scores, so for some 20,000 rows at most.

    The one-shot gallery holds the first photo of everyone with two or more, the probes are their second ones, everyone else is a stranger.
    """
    scores, same, upper = xb @ xb.T, people[:, None] == people, np.triu(np.ones((len(xb), len(xb)), bool), 1)
    genuine, impostor = scores[same & upper], scores[~same & upper]
    first = np.flatnonzero(np.r_[True, people[1:] != people[:-1]])
    several = first[np.isin(first + 1, first, invert=True) & (first + 1 < len(xb))]
    strangers = np.setdiff1d(first, several)
    if not len(several) or not len(strangers):
        raise DataError(
            f"expected people with one photo and people with more, received {len(strangers)} and {len(several)}: add some"
        )
    best = scores[np.ix_(strangers, several)].max(axis=1)
    found = scores[np.ix_(several + 1, several)]
    hits = found.argmax(axis=1) == np.arange(len(several))
    values = _spread("genuine", genuine, GENUINE) | _spread("impostor", impostor, ())
    values |= {
        f"impostor, top {q:g}": v
        for q, v in zip(IMPOSTOR, np.quantile(impostor, 1 - np.asarray(IMPOSTOR)), strict=True)
    }
    values |= _spread(f"stranger's best of {len(several)}", best, BEST)
    values |= crowd(xb, people)
    values |= {
        f"top-1 of {len(several)}": hits.mean(),
        "found at FPIR 1 %": (hits & (found.max(axis=1) > np.quantile(best, 0.99))).mean(),
    }
    return values | spectrum(xb)


def crowd(xb: np.ndarray, people: np.ndarray) -> dict[str, float]:
    """The best score of each person's first photo over everyone else's, and one-shot identification among all of them."""
    first = np.flatnonzero(np.r_[True, people[1:] != people[:-1]])
    second = np.setdiff1d(np.minimum(first + 1, len(xb) - 1), first)
    scores = xb[first] @ xb[first].T
    np.fill_diagonal(scores, -1)
    right = people[first][(xb[second] @ xb[first].T).argmax(axis=1)] == people[second]
    return _spread(f"stranger's best of {len(first) - 1}", scores.max(axis=1), BEST) | {
        f"top-1 of {len(first)}": right.mean()
    }


def spectrum(xb: np.ndarray) -> dict[str, float]:
    """How many dimensions the vectors fill."""
    variance = np.linalg.eigvalsh(np.cov(xb.T))[::-1].clip(0)
    share = np.cumsum(variance) / variance.sum()
    values = {
        "|mean|^2": float((xb.mean(axis=0) ** 2).sum()),
        "participation ratio": variance.sum() ** 2 / (variance**2).sum(),
    }
    return values | {f"dimensions for {s:.0%}": float(np.searchsorted(share, s) + 1) for s in (0.5, 0.9, 0.99)}


def _spread(name: str, scores: np.ndarray, quantiles: tuple[float, ...]) -> dict[str, float]:
    values = {f"{name}, mean": float(scores.mean()), f"{name}, sd": float(scores.std())}
    return values | {
        f"{name}, {q:.1%}": float(v) for q, v in zip(quantiles, np.quantile(scores, quantiles), strict=True)
    }


def moments(xb: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Principal axes (d, d) in columns, strongest first, and along each the variance (d,) of all photos and of one person's photos."""
    counts, x = np.bincount(people), xb.astype(np.float64)
    means = np.zeros((len(counts), x.shape[1]))
    np.add.at(means, people, x / counts[people, None])
    apart = (x - means[people]) * np.sqrt(
        counts[people, None]
    )  # so that its squares sum up over a person's pairs of photos
    variance, axes = np.linalg.eigh(np.cov(x.T))
    axes = axes[:, ::-1]
    return axes, variance[::-1].clip(0), ((apart @ axes) ** 2).sum(axis=0) / (counts * (counts - 1)).sum()


def twin(p: Profile, people: np.ndarray, seed: int = 0) -> np.ndarray:
    """Made-up vectors (n, r) of as many people with as many photos, along the principal axes."""
    return _photos(p, people, _normals(seed, PHOTOS, np.arange(len(people)), len(p.mean) + 2), seed)


def matched(p: Profile, people: np.ndarray) -> Profile:
    """p with the mean and variances that, once photos are bent and made unit length, look like p's own: seen as the real ones are."""
    total, length, made = p.between + p.within, np.linalg.norm(p.mean), p
    for _ in range(ROUNDS):
        sets = [twin(made, people, seed) for seed in SEEDS]
        all_photos, one_person = np.mean([moments(x, people)[1:] for x in sets], axis=0)
        mean = made.mean * length / np.mean([np.linalg.norm(x.mean(axis=0)) for x in sets])
        between = made.between * (p.between / (all_photos - one_person).clip(1e-9)).clip(0.5, 2)
        within = made.within * (p.within / one_person).clip(0.5, 2)
        whole = (mean**2 + between + within).sum() / (
            p.mean**2 + total
        ).sum()  # only proportions matter: keep the scale
        made = replace(made, mean=mean / np.sqrt(whole), between=between / whole, within=within / whole)
    return made


def averaged(p: Profile, people: np.ndarray, seeds: range = SEEDS) -> dict[str, float]:
    """The statistics of made-up vectors, averaged over several sets."""
    tables = [statistics(twin(p, people, seed), people) for seed in seeds]
    return {key: float(np.mean([table[key] for table in tables])) for key in tables[0]}


def misfit(made: dict[str, float], real: dict[str, float]) -> float:
    """Root mean square difference of the scores and of the top-1 rates, which weigh three times.

    One genuine pair in 1,000 is LFW's wrong labels, and not counted.
    """
    weights = {
        key: 3 if key.startswith("top") else 1
        for key in real
        if key.startswith(("genuine", "impostor", "stranger", "top"))
    }
    del weights["genuine, 0.1%"]
    return float(np.sqrt(sum(w * (made[key] - real[key]) ** 2 for key, w in weights.items()) / sum(weights.values())))


def fitted(xb: np.ndarray, people: np.ndarray) -> Profile:
    """The profile of unit xb (n, d), people (n,) in order: variances by moments, the four numbers of shape by a search on `misfit`."""
    real, (axes, total, _) = statistics(xb, people), moments(xb, people)
    x = xb @ axes[:, : int(np.searchsorted(np.cumsum(total) / total.sum(), KEPT)) + 1]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    axes, total, within = moments(x, people)
    within, mean = np.minimum(within, 0.99 * total), x.mean(axis=0) @ axes
    raw = Profile(xb.shape[1], mean, total - within, within, skew=0.7, bound=2.0, quality=0.2, bad=0.01)
    best = matched(raw, people)
    error, steps = misfit(averaged(best, people), real), {"skew": 0.2, "bound": 0.5, "quality": 0.1, "bad": 0.008}
    for _ in range(6):
        for name, step in list(steps.items()):
            for change in (step, -step):
                shape = {key: getattr(best, key) for key in steps} | {name: max(getattr(best, name) + change, 1e-4)}
                other = matched(replace(raw, **shape), people)
                if (now := misfit(averaged(other, people), real)) < error:
                    best, error, steps[name] = other, now, change * 1.5
                    break
            else:
                steps[name] = step / 2
    return best


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("vectors", nargs=-1, required=True)
def fit(vectors: tuple[str, ...]) -> None:
    """Fit a profile to half of the people of a data set (two of them: the parts of `duo`) and write it to synthetic.json."""
    xb, people, name = read(vectors)
    values = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in asdict(fitted(*half(xb, people, False))).items()
    }
    known = json.loads(PROFILES.read_text()) if PROFILES.exists() else {}
    rounded = {
        key: [float(f"{v:.4g}") for v in value] if isinstance(value, list) else round(value, 4)
        for key, value in values.items()
    }
    text = json.dumps(dict(sorted((known | {name: rounded}).items())), indent=1)
    PROFILES.write_text(text.replace(",\n   ", ", ").replace("[\n   ", "[").replace("\n  ]", "]") + "\n")
    click.echo(f"{name}: {rounded}")


@main.command()
@click.argument("vectors", nargs=-1, required=True)
def check(vectors: tuple[str, ...]) -> None:
    """Print real and made-up numbers side by side: the half that was fitted, the other half, as many made-up people."""
    xb, people, name = read(vectors)
    (a, ya), (b, yb), p = half(xb, people, False), half(xb, people, True), profile(name)
    real, other, made = statistics(a, ya), statistics(b, yb), averaged(p, yb, range(10, 14))
    click.echo(f"{name:32} {'fit half':>10} {'check half':>10} {'synthetic':>10}")
    for key in other:
        click.echo(f"{key:32} {real[key]:10.4f} {other[key]:10.4f} {made[key]:10.4f}")
    click.echo(f"{'misfit to the check half':32} {misfit(real, other):10.4f} {'':10} {misfit(made, other):10.4f}")
    other, made = crowd(xb, people), crowd(twin(p, people), people)
    for key in other:
        click.echo(f"{'everyone: ' + key:43} {other[key]:10.4f} {made[key]:10.4f}")


if __name__ == "__main__":
    try:
        main()
    except FaceGalleryError as error:
        raise SystemExit(f"error: {error}") from None
