"""Read recipes: what is trained, in which stages, with which numbers.

Every key is required, and no other is allowed.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from facegallery.embedder.errors import InputError, reason
from facegallery.trainer.overrides import applied

SHIPPED = Path(__file__).parent / "recipes"
VARIANTS = ("original", "gamma", "stretch", "noise")  # gamma and noise are followed by a number
WITH_NUMBER = {"gamma": (0.01, 100.0), "noise": (0.0, 25600.0)}


def whole(low: int, high: int) -> Any:
    """Declare a key with a whole number."""
    return field(metadata={"kind": int, "low": low, "high": high, "text": f"a whole number of {low} to {high}"})


def number(low: float, high: float) -> Any:
    """Declare a key with a number."""
    return field(metadata={"kind": float, "low": low, "high": high, "text": f"a number of {low:g} to {high:g}"})


def pair(low: float, high: float) -> Any:
    """Declare a key with two numbers, the second not below the first."""
    return field(
        metadata={"kind": tuple, "low": low, "high": high, "text": f"[from, to], rising, of {low:g} to {high:g}"}
    )


def choice(*values: str) -> Any:
    """Declare a key with one of some words."""
    return field(metadata={"kind": str, "values": values, "text": "one of " + ", ".join(values)})


def yes_no() -> Any:
    """Declare a key with true or false."""
    return field(metadata={"kind": bool, "text": "true or false"})


def checked_later(kind: type, text: str) -> Any:
    """Declare a key with a value that is checked further."""
    return field(metadata={"kind": kind, "text": text})


@dataclass(frozen=True)
class Augmentation:
    """How a photo is changed: variants are fixed copies, each also mirrored; the rest is drawn anew each time."""

    variants: tuple[str, ...] = checked_later(list, "a list of 'original', 'gamma 2', 'stretch', 'noise 500'")
    mirror: float = number(0, 1)  # chance
    gamma: tuple[float, float] = pair(0.1, 10)  # exponent; its logarithm is drawn evenly
    contrast: tuple[float, float] = pair(0.1, 10)  # factor around the crop's mean
    noise: int = whole(0, 25600)  # most white pixels
    shift: float = number(0, 80)  # pixels; needs crops with a border
    scale: tuple[float, float] = pair(0.5, 2)  # side of the visible part over 160; needs crops with a border

    @property
    def copies(self) -> int:
        """How many samples one photo makes."""
        return max(1, 2 * len(self.variants))


@dataclass(frozen=True)
class Stage:
    """What trains, by which loss, for how long."""

    trains: str = choice("head", "bottleneck", "upper", "all")
    epochs: int = whole(0, 100_000)
    steps: int = whole(0, 1_000_000)  # batches of an epoch; 0 is one pass over the samples
    batch: int = whole(1, 100_000)
    micro_batch: int = whole(1, 100_000)
    views: int = whole(1, 1000)
    optimiser: str = choice("adagrad", "adam", "sgd")
    learning_rate: float = number(1e-12, 100)
    decay: float = number(1e-6, 1)
    decay_epochs: int = whole(1, 100_000)
    keep: float = number(0.01, 1)
    weight_decay: float = number(0, 10)
    center_loss: float = number(0, 1000)
    center_alpha: float = number(0, 1)
    center_update: str = choice("homework", "wen")
    average: float = number(0, 0.999999)


@dataclass(frozen=True)
class Recipe:
    """A whole training: the augmentation and the stages.

    overrides: what was set for this run, by key; the other fields hold it already.
    """

    name: str
    live_batch_norm: bool = yes_no()
    delivered: str = choice("raw", "average")
    pull_back: float = number(0, 1)
    scale: float = number(0, 1000)
    margin: float = number(0, 1)
    teacher: tuple[str, ...] = checked_later(list, "a list of 'itself' and models, or an empty one")
    augmentation: Augmentation = checked_later(dict, "a table [augmentation]")
    stages: tuple[Stage, ...] = checked_later(list, "tables [[stages]]")
    overrides: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def values(self) -> dict[str, Any]:
        """Return the recipe as its file has it, with lists for tuples."""
        written: dict[str, Any] = json.loads(json.dumps(asdict(replace(self, overrides={}))))
        return {key: value for key, value in written.items() if key not in ("name", "overrides")}

    def with_overrides(self, overrides: Mapping[str, Any]) -> Recipe:
        """Return the recipe with some keys replaced, such as {"stage.2.epochs": 3}, under the rules of a file.

        Raise InputError for an unknown key or stage, or a value that does not fit.
        """
        if not overrides:
            return self
        origin = f"{self.name} with {', '.join(map(repr, overrides))} set"
        changed = _recipe(applied(self.values(), overrides), self.name, origin)
        return replace(changed, overrides=json.loads(json.dumps(dict(overrides), default=str)))

    def with_epochs(self, epochs: tuple[int, ...] | None) -> Recipe:
        """Return the recipe with other numbers of epochs, one for each stage; raise InputError for another count."""
        if epochs is None:
            return self
        if len(epochs) != len(self.stages) or any(e < 0 for e in epochs):
            raise InputError(
                f"expected {len(self.stages)} numbers of epochs, one a stage of {self.name}, received {list(epochs)}: "
                "give one for each stage, 0 skips a stage"
            )
        if twice := [key for key in self.overrides if re.fullmatch(r"stage\.\d+\.epochs", key)]:
            raise InputError(f"expected epochs once, received them for all stages and {twice[0]}: leave one out")
        return replace(self, stages=tuple(replace(s, epochs=e) for s, e in zip(self.stages, epochs, strict=True)))


def read(reference: str | Path) -> Recipe:
    """Read a shipped recipe by its name, or a user's by its path; raise InputError that names the key and the file."""
    path = SHIPPED / f"{reference}.toml"
    if Path(reference).name != str(reference) or not path.is_file():
        path = Path(reference)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.toml")))
        raise InputError(
            f"expected a recipe ({names}) or a .toml file, received {str(reference)!r}: check the name"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected a recipe in TOML, {path} is not ({reason(error)}): correct the file") from None
    return _recipe(values, path.stem, str(path))


def _recipe(values: dict[str, Any], name: str, path: str) -> Recipe:
    """Check a recipe's values. path: where they come from, for messages."""
    checked = _checked(Recipe, values, path, "")
    checked["teacher"] = tuple(map(str, checked["teacher"]))
    if checked["teacher"] and checked["live_batch_norm"]:
        raise _wrong("live_batch_norm", path, "false where there is a teacher", received=True)
    if checked["margin"] and not checked["scale"]:
        raise _wrong("margin", path, "0 where scale is 0, which leaves lengths in the logits", checked["margin"])
    checked["augmentation"] = _augmentation(checked["augmentation"], path)
    if not checked["stages"] or not all(isinstance(s, dict) for s in checked["stages"]):
        raise _wrong("stages", path, "at least one table [[stages]]", checked["stages"])
    checked["stages"] = tuple(
        Stage(**_checked(Stage, s, path, f"stages {i}: ")) for i, s in enumerate(checked["stages"], 1)
    )
    for i, stage in enumerate(stages := checked["stages"]):
        allowed = _trainable(stages[:i], live=checked["live_batch_norm"], teacher=bool(checked["teacher"]))
        if stage.trains not in allowed:
            raise _wrong(f"stages {i + 1}: trains", path, " or ".join(allowed) + " here", stage.trains)
    return Recipe(name=name, **checked)


def _trainable(earlier: Sequence[Stage], *, live: bool, teacher: bool) -> list[str]:
    """Return what a stage may train after `earlier` ones.

    A teacher's first stage solves the bottleneck. The upper layers train from maps of lower layers that have not moved.
    """
    if live:
        return ["head", "all"]
    if teacher and not earlier:
        return ["head"]
    upper = [] if any(stage.trains == "all" for stage in earlier) else ["upper"]
    return [*([] if teacher else ["head", "bottleneck"]), *upper, "all"]


def _augmentation(values: dict[str, Any], path: str) -> Augmentation:
    checked = _checked(Augmentation, values, path, "augmentation: ")
    for variant in checked["variants"]:
        if not _is_variant(variant):
            raise _wrong(
                "augmentation: variants", path, "'original', 'gamma NUMBER', 'stretch' or 'noise PIXELS'", variant
            )
    return Augmentation(**{**checked, "variants": tuple(checked["variants"])})


def _is_variant(text: Any) -> bool:
    kind, value = split_variant(text) if isinstance(text, str) else ("", None)
    if kind not in WITH_NUMBER:
        return kind in VARIANTS and value is None
    low, high = WITH_NUMBER[kind]
    return value is not None and low <= value <= high


def split_variant(text: str) -> tuple[str, float | None]:
    """Parse a variant: 'gamma 2' -> ('gamma', 2.0), 'stretch' -> ('stretch', None); nan for other text."""
    kind, _, value = text.partition(" ")
    try:
        return kind, float(value) if value else None
    except ValueError:
        return kind, math.nan


def _checked(cls: type, values: dict[str, Any], path: str, where: str) -> dict[str, Any]:
    """Return the values of a table; raise InputError where one is missing, unknown, or of another type or range."""
    known = {f.name: f for f in fields(cls) if f.metadata}
    if unknown := sorted(values.keys() - known.keys()):
        raise InputError(
            f"expected the keys of a recipe, {path} has {where}{unknown[0]!r}: "
            f"remove the key, or correct its spelling ({', '.join(known)})"
        )
    if missing := [name for name in known if name not in values]:
        raise InputError(
            f"expected {where}{missing[0]!r} in {path}, it is missing: add it ({known[missing[0]].metadata['text']})"
        )
    return {name: _value(values[name], known[name].metadata, f"{where}{name}", path) for name in known}


def _value(value: Any, rule: Any, key: str, path: str) -> Any:
    """Return `value` if it fits `rule`; a whole number is also a number."""
    kind, low, high = rule["kind"], rule.get("low"), rule.get("high")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is tuple:
        fits = (
            isinstance(value, list)
            and len(value) == 2
            and all(type(v) in (int, float) for v in value)
            and low <= value[0] <= value[1] <= high
        )
        value = tuple(map(float, value)) if fits else value
    else:
        fits = (
            type(value) is kind
            and (low is None or low <= value <= high)
            and ("values" not in rule or value in rule["values"])
        )
    if not fits:
        raise _wrong(key, path, rule["text"], value)
    return value


def _wrong(key: str, path: str, expected: str, received: Any) -> InputError:
    shown = str(received)[:60]
    return InputError(f"expected {key} in {path} to be {expected}, received {shown!r}: correct the recipe")
