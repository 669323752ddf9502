"""Do made-up faces score like real ones? Fit the numbers of `benchmarks/common/synthetic.py`, and check them.

    python benchmarks/accuracy/synthetic_fit.py fit VECTORS
    python benchmarks/accuracy/synthetic_fit.py check VECTORS

VECTORS is a data set that `embed` made. `fit` uses half of its people and writes synthetic.json; `check` compares the
made-up faces with the other half.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import synthetic  # noqa: E402
from benchmarks.common.synthetic import Profile, profile, twin  # noqa: E402
from facegallery.embedder.dataset.dataset import DataSet  # noqa: E402
from facegallery.embedder.errors import DataError, FaceGalleryError  # noqa: E402

KEPT = 0.999  # share of the variance whose axes are kept
PER_PERSON = 10  # photos of one person that count: LFW has 530 of one man
SEEDS = range(5)  # the made-up sets that a fit looks at
ROUNDS = 3  # towards the variances that come out right
GENUINE = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
IMPOSTOR = (0.1, 1e-2, 1e-3, 1e-4, 1e-5)  # shares of pairs above
BEST = (0.05, 0.5, 0.95, 0.99)


def read(folders: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, str]:
    """Read data sets: float32 (n, d), people int64 (n,) in order, the model's name.

    Several folders of the same photos are the parts of a `duo`.
    """
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


def half(xb: np.ndarray, people: np.ndarray, *, odd: bool) -> tuple[np.ndarray, np.ndarray]:
    """Take every second person of those with one photo and of those with more: even ones to fit, odd ones to check."""
    several = np.bincount(people) > 1
    number = np.where(several, np.cumsum(several), np.cumsum(~several))
    keep = number[people] % 2 == odd
    return xb[keep], np.unique(people[keep], return_inverse=True)[1]


def statistics(xb: np.ndarray, people: np.ndarray) -> dict[str, float]:
    """Measure what search depends on, of unit xb (n, d) and people (n,) in order.

    Holds n x n scores: give it 20,000 rows at most. The one-shot gallery holds the first photo of everyone with two or
    more, the probes are their second photos, everyone else is a stranger.
    """
    scores, same, upper = xb @ xb.T, people[:, None] == people, np.triu(np.ones((len(xb), len(xb)), bool), 1)
    genuine, impostor = scores[same & upper], scores[~same & upper]
    first = np.flatnonzero(np.r_[True, people[1:] != people[:-1]])
    several = first[np.isin(first + 1, first, invert=True) & (first + 1 < len(xb))]
    strangers = np.setdiff1d(first, several)
    if not len(several) or not len(strangers):
        raise DataError(
            f"expected people with one photo and people with more, received {len(strangers)} and {len(several)}: "
            "add some"
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
    """Measure the best score of each person's first photo over everyone else's, and one-shot identification."""
    first = np.flatnonzero(np.r_[True, people[1:] != people[:-1]])
    second = np.setdiff1d(np.minimum(first + 1, len(xb) - 1), first)
    scores = xb[first] @ xb[first].T
    np.fill_diagonal(scores, -1)
    right = people[first][(xb[second] @ xb[first].T).argmax(axis=1)] == people[second]
    return _spread(f"stranger's best of {len(first) - 1}", scores.max(axis=1), BEST) | {
        f"top-1 of {len(first)}": right.mean()
    }


def spectrum(xb: np.ndarray) -> dict[str, float]:
    """Measure how many dimensions the vectors fill."""
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
    """Return the principal axes (d, d) in columns, strongest first, and two variances (d,) along them.

    The first is of all photos, the second of one person's photos.
    """
    counts, x = np.bincount(people), xb.astype(np.float64)
    means = np.zeros((len(counts), x.shape[1]))
    np.add.at(means, people, x / counts[people, None])
    apart = (x - means[people]) * np.sqrt(
        counts[people, None]
    )  # so that its squares sum up over a person's pairs of photos
    variance, axes = np.linalg.eigh(np.cov(x.T))
    axes = axes[:, ::-1]
    return axes, variance[::-1].clip(0), ((apart @ axes) ** 2).sum(axis=0) / (counts * (counts - 1)).sum()


def matched(p: Profile, people: np.ndarray) -> Profile:
    """Return p with a mean and variances that look like p's own once photos are bent and made unit length."""
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
    """Average the statistics of several sets of made-up vectors."""
    tables = [statistics(twin(p, people, seed), people) for seed in seeds]
    return {key: float(np.mean([table[key] for table in tables])) for key in tables[0]}


def misfit(made: dict[str, float], real: dict[str, float]) -> float:
    """Return the root mean square difference of the scores and of the top-1 rates, which weigh three times.

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
    """Fit the profile of unit xb (n, d) and people (n,) in order.

    Variances come from moments, the four numbers of shape from a search on `misfit`.
    """
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
    """Fit a profile to half of the people of a data set (or of two, the parts of `duo`); write it to synthetic.json."""
    xb, people, name = read(vectors)
    values = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in asdict(fitted(*half(xb, people, odd=False))).items()
    }
    known = json.loads(synthetic.PROFILES.read_text()) if synthetic.PROFILES.exists() else {}
    rounded = {
        key: [float(f"{v:.4g}") for v in value] if isinstance(value, list) else round(value, 4)
        for key, value in values.items()
    }
    text = json.dumps(dict(sorted((known | {name: rounded}).items())), indent=1)
    synthetic.PROFILES.write_text(text.replace(",\n   ", ", ").replace("[\n   ", "[").replace("\n  ]", "]") + "\n")
    click.echo(f"{name}: {rounded}")


@main.command()
@click.argument("vectors", nargs=-1, required=True)
def check(vectors: tuple[str, ...]) -> None:
    """Print real and made-up numbers side by side: the half that was fitted, the other half, as many made-up people."""
    xb, people, name = read(vectors)
    (a, ya), (b, yb), p = half(xb, people, odd=False), half(xb, people, odd=True), profile(name)
    real, other, made = statistics(a, ya), statistics(b, yb), averaged(p, yb, range(10, 14))
    real = dict(zip(other, real.values(), strict=True))  # some names tell how many people there are, one more or less
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
