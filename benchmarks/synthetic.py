"""Made-up faces at any scale, whose scores are those of real ones: `faces`, `blocks` and `probes` are what benchmarks use.

A photo's vector is the unit-length sum of the mean face, what is the person's own, and what is that photo's alone. Both parts are
independent along the principal axes of real vectors, with the variances measured there, and skewed: a few marked features, shared by a few
people, make the lookalikes that decide identification among many. How strong a photo's own part is varies from photo to photo, and
in a few it drowns the person. The axes are then turned at random into d dimensions. synthetic.json holds the numbers for `msceleb`, `casia`
and `duo`: `python benchmarks/synthetic.py fit VECTORS` makes them from half of a data set's people, `check` compares with the other half.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist

import click
import numpy as np

from embedder.errors import DataError, FaceDBError, InputError
from embedder.table import DataSet

PROFILES = Path(__file__).with_name("synthetic.json")
BLOCK = 256  # rows made from one random state, so that any row can be made without those before it
PIECE = 64 * BLOCK  # rows at once: 32 MiB of 512-d vectors
STRANGERS = 1 << 40  # people from this number on are never among `faces`
PEOPLE, PHOTOS, PROBES, COUNTS, TURN = range(5)  # streams of random numbers
BAD = 3.0  # how much stronger the photo's own part is in a bad photo

# fit and check
KEPT = 0.999  # share of the variance whose axes are kept
PER_PERSON = 10  # photos of one person that count: LFW has 530 of one man
SIMULATED = 16_384  # people whose two photos measure a profile's moments
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
    skew: float  # 0: normal; the third moment of a feature grows with it
    quality: float  # standard deviation of the log of the strength of a photo's own part
    bad: float  # share of photos where that strength is BAD times as much


@lru_cache
def profile(like: str) -> Profile:
    """The fitted numbers of a model."""
    known = json.loads(PROFILES.read_text())
    if like not in known:
        raise InputError(f"expected a fitted model ({', '.join(sorted(known))}), received {like!r}: choose one, or run `fit`")
    return Profile(**{key: np.asarray(value) if isinstance(value, list) else value for key, value in known[like].items()})


def faces(
    n: int, like: str = "casia", d: int | None = None, per_person: float = 2.0, seed: int = 0, start: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Photos start ... start + n - 1 of an endless set: float32 (n, d) of unit length, and whose they are, int64 (n,).

    A row depends on nothing but its number and the arguments like, d, per_person and seed; on one machine it has the same bits
    however it is asked for. People are numbered from 0 in the order of their photos, which stand together; how many one has is geometric
    with mean `per_person` (1: exactly one each), about ten at most. d is the model's own unless given: with more dimensions the scores
    stay as they are (real vectors fill 62 to 141 of theirs), with fewer than those only the strongest axes are kept.
    """
    d = d or profile(like).d
    vectors, people = np.empty((max(n, 0), d), np.float32), np.empty(max(n, 0), np.int64)
    done = 0
    for x, who in blocks(n, like, d, per_person, seed, start):
        vectors[done : done + len(x)], people[done : done + len(x)] = x, who
        done += len(x)
    return vectors, people


def blocks(
    n: int, like: str = "casia", d: int | None = None, per_person: float = 2.0, seed: int = 0, start: int = 0, size: int = PIECE
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What `faces` returns, in pieces of `size` rows (the last may be shorter); memory holds one. Fastest in multiples of BLOCK."""
    if n < 0 or start < 0 or seed < 0 or size < 1 or (d is not None and d < 1) or not 1 <= per_person <= BLOCK:
        received = f"n={n}, start={start}, seed={seed}, size={size}, d={d}, per_person={per_person}"
        raise InputError(f"expected n, start, seed >= 0, size, d >= 1 and per_person of 1 to {BLOCK}, received {received}: mend the call")
    p = profile(like)
    for first in range(start, start + n, size):
        last = min(first + size, start + n)
        rows = np.arange(first // BLOCK * BLOCK, -(-last // BLOCK) * BLOCK)
        people = _people(rows, per_person, seed)
        x = _turned(_photos(p, people, _normals(seed, PHOTOS, rows, len(p.mean) + 2), seed), d or p.d, seed)
        yield x[first - rows[0] : last - rows[0]], people[first - rows[0] : last - rows[0]]


def probes(people: np.ndarray, like: str = "casia", d: int | None = None, seed: int = 0, take: int = 0) -> np.ndarray:
    """Another photo of each of these people, in this order: float32 (len(people), d) of unit length, never one of `faces`.

    like, d and seed as given to `faces`; another `take` is another photo. People whom `faces` did not reach are strangers from the
    same world: those from STRANGERS on always are, as in probes(STRANGERS + np.arange(1000)).
    """
    people = np.asarray(people, np.int64)
    if people.ndim != 1 or seed < 0 or take < 0 or (d is not None and d < 1) or (len(people) and people.min() < 0):
        raise InputError(f"expected people (m,) and seed, take >= 0, received {people.shape}, {seed}, {take}: mend the call")
    p = profile(like)
    return _turned(_photos(p, people, _normals(seed, PROBES, people, len(p.mean) + 2, take), seed), d or p.d, seed)


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
    x = _skewed(own[:, :r], p.skew, p.within) * strength[:, None]
    x += _skewed(_normals(seed, PEOPLE, people, r), p.skew, p.between)
    x += p.mean.astype(np.float32)
    x /= np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
    return x


def _skewed(g: np.ndarray, skew: float, variance: np.ndarray) -> np.ndarray:
    """Normal g (n, r) bent by a parabola: mean 0 and the given variance (r,)."""
    return (g + np.float32(skew) * (g * g - 1)) * np.sqrt(variance / (1 + 2 * skew * skew)).astype(np.float32)


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
        parts.append({(row["identity"], row["image"]): row["vector"] for row in rows if row["identity"] and row["vector"]})
        names += [part.name for part in data.spec.parts]
    keys = sorted(set.intersection(*map(set, parts)))
    people = np.unique([identity for identity, _ in keys], return_inverse=True)[1]
    first = np.searchsorted(people, people)
    keep = np.flatnonzero(np.arange(len(keys)) - first < PER_PERSON)
    xb = np.concatenate([np.asarray([part[keys[i]] for i in keep], np.float32) for part in parts], axis=1)
    return xb / np.linalg.norm(xb, axis=1, keepdims=True), people[keep], names[0] if len(names) == 1 else "duo"


def half(xb: np.ndarray, people: np.ndarray, odd: bool) -> tuple[np.ndarray, np.ndarray]:
    """Every second person: even ones to fit, odd ones to check."""
    keep = people % 2 == odd
    return xb[keep], people[keep]


def statistics(xb: np.ndarray, people: np.ndarray) -> dict[str, float]:
    """What search depends on, of unit xb (n, d) and people (n,) in order; holds n x n scores, so for some 20,000 rows at most.

    The one-shot gallery holds the first photo of everyone with two or more, the probes are their second photos, everyone else is a stranger.
    """
    scores, same, upper = xb @ xb.T, people[:, None] == people, np.triu(np.ones((len(xb), len(xb)), bool), 1)
    genuine, impostor = scores[same & upper], scores[~same & upper]
    first = np.flatnonzero(np.r_[True, people[1:] != people[:-1]])
    several = first[np.isin(first + 1, first, invert=True) & (first + 1 < len(xb))]
    strangers = np.setdiff1d(first, several)
    if not len(several) or not len(strangers):
        raise DataError(f"expected people with one photo and people with more, received {len(strangers)} and {len(several)}: add some")
    best = scores[np.ix_(strangers, several)].max(axis=1)
    found = scores[np.ix_(several + 1, several)]
    hits = found.argmax(axis=1) == np.arange(len(several))
    values = _spread("genuine", genuine, GENUINE)
    values |= _spread("impostor", impostor, ()) | {f"impostor, top {q:g}": float(np.quantile(impostor, 1 - q)) for q in IMPOSTOR}
    values |= _spread(f"stranger's best of {len(several)}", best, BEST)
    values |= crowd(xb, people)
    values |= {f"top-1 of {len(several)}": hits.mean(), "found at FPIR 1 %": (hits & (found.max(axis=1) > np.quantile(best, 0.99))).mean()}
    return values | spectrum(xb)


def crowd(xb: np.ndarray, people: np.ndarray) -> dict[str, float]:
    """The best score of each person's first photo over everyone else's, and one-shot identification among all of them."""
    first = np.flatnonzero(np.r_[True, people[1:] != people[:-1]])
    second = np.setdiff1d(np.minimum(first + 1, len(xb) - 1), first)
    scores = xb[first] @ xb[first].T
    np.fill_diagonal(scores, -1)
    right = people[first][(xb[second] @ xb[first].T).argmax(axis=1)] == people[second]
    return _spread(f"stranger's best of {len(first) - 1}", scores.max(axis=1), BEST) | {f"top-1 of {len(first)}": right.mean()}


def spectrum(xb: np.ndarray) -> dict[str, float]:
    """How many dimensions the vectors fill."""
    variance = np.linalg.eigvalsh(np.cov(xb.T))[::-1].clip(0)
    share = np.cumsum(variance) / variance.sum()
    values = {"|mean|^2": float((xb.mean(axis=0) ** 2).sum()), "participation ratio": variance.sum() ** 2 / (variance**2).sum()}
    return values | {f"dimensions for {s:.0%}": float(np.searchsorted(share, s) + 1) for s in (0.5, 0.9, 0.99)}


def _spread(name: str, scores: np.ndarray, quantiles: tuple[float, ...]) -> dict[str, float]:
    values = {f"{name}, mean": float(scores.mean()), f"{name}, sd": float(scores.std())}
    return values | {f"{name}, {q:.1%}": float(np.quantile(scores, q)) for q in quantiles}


def moments(xb: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """mean (d,), covariance (d, d) of photos and of pairs of one person's photos (each pair counts once), halved; float64."""
    counts = np.bincount(people)
    means = np.zeros((len(counts), xb.shape[1]))
    np.add.at(means, people, xb / counts[people, None])
    apart = (xb - means[people]) * np.sqrt(counts[people, None])  # sum over a person's pairs = n x sum about the mean
    return xb.mean(axis=0, dtype=np.float64), np.cov(xb.T.astype(np.float64)), apart.T @ apart / (counts * (counts - 1) / 2).sum() / 2


def twin(p: Profile, people: np.ndarray, seed: int = 0) -> np.ndarray:
    """Made-up vectors (n, r) of as many people with as many photos, along the principal axes."""
    return _photos(p, people, _normals(seed, PHOTOS, np.arange(len(people)), len(p.mean) + 2), seed)


def matched(p: Profile, mean: np.ndarray, between: np.ndarray, within: np.ndarray, rounds: int) -> Profile:
    """p with the variances that, once photos are bent and made unit length, come out as these (r,)."""
    people = np.repeat(np.arange(SIMULATED), 2)
    for _ in range(rounds):
        x = twin(p, people, seed=1).astype(np.float64)
        inside = ((x[::2] - x[1::2]) ** 2).mean(axis=0) / 2
        outside = (x.var(axis=0) - inside).clip(1e-9)
        p = replace(
            p,
            mean=p.mean + mean - x.mean(axis=0),
            between=p.between * (between / outside).clip(0.5, 2),
            within=p.within * (within / inside).clip(0.5, 2),
        )
    return p


def misfit(p: Profile, real: dict[str, float], people: np.ndarray) -> float:
    """Root mean square difference of the scores' statistics."""
    made = statistics(twin(p, people), people)
    return float(
        np.sqrt(np.mean([(made[key] - real[key]) ** 2 for key in real if key.startswith(("genuine", "impostor", "stranger", "top"))]))
    )


def fitted(xb: np.ndarray, people: np.ndarray) -> Profile:
    """The profile of unit xb (n, d), people (n,) in order: variances by moments, the three numbers of shape by a search on `misfit`."""
    people = np.unique(people, return_inverse=True)[1]
    real, d = statistics(xb, people), xb.shape[1]
    variance, axes = np.linalg.eigh(moments(xb, people)[1])
    variance, axes = variance[::-1], axes[:, ::-1]
    x = xb @ axes[:, : int(np.searchsorted(np.cumsum(variance) / variance.sum(), KEPT)) + 1]
    mean, total, within = moments(x / np.linalg.norm(x, axis=1, keepdims=True), people)
    within = np.minimum(np.diag(within), 0.99 * np.diag(total))
    targets = mean, np.diag(total) - within, within
    best = matched(Profile(d, *targets, skew=0.5, quality=0.15, bad=0.01), *targets, rounds=4)
    error, steps = misfit(best, real, people), {"skew": 0.1, "quality": 0.08, "bad": 0.006}
    for _ in range(4):
        for name, step in steps.items():
            for change in (step, -step):
                other = replace(best, **{name: max(getattr(best, name) + change, 1e-6)})
                other = matched(other, *targets, rounds=2)
                if (now := misfit(other, real, people)) < error:
                    best, error = other, now
                    break
        steps = {name: step * 0.6 for name, step in steps.items()}
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
        key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in asdict(fitted(*half(xb, people, False))).items()
    }
    known = json.loads(PROFILES.read_text()) if PROFILES.exists() else {}
    rounded = {key: [float(f"{v:.4g}") for v in value] if isinstance(value, list) else round(value, 4) for key, value in values.items()}
    text = json.dumps(dict(sorted((known | {name: rounded}).items())), indent=1)
    PROFILES.write_text(text.replace(",\n   ", ", ").replace("[\n   ", "[").replace("\n  ]", "]") + "\n")
    click.echo(f"{name}: {rounded}")


@main.command()
@click.argument("vectors", nargs=-1, required=True)
def check(vectors: tuple[str, ...]) -> None:
    """Print real and made-up numbers side by side: the half that was fitted, the other half, the same number of made-up people."""
    xb, people, name = read(vectors)
    fit_half, (x, y) = half(xb, people, False), half(xb, people, True)
    table = [statistics(*fit_half), statistics(x, y), statistics(twin(profile(name), y), y)]
    click.echo(f"{name:32} {'fit half':>10} {'check half':>10} {'synthetic':>10}")
    for key, a, b, c in zip(table[1], *(t.values() for t in table), strict=True):
        click.echo(f"{key:32} {a:10.4f} {b:10.4f} {c:10.4f}")
    click.echo("everyone")
    for (key, b), c in zip(crowd(xb, people).items(), crowd(twin(profile(name), people), people).values(), strict=True):
        click.echo(f"{key:32} {'':10} {b:10.4f} {c:10.4f}")


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except (FaceDBError, click.ClickException) as error:
        raise SystemExit(f"error: {error}") from None
