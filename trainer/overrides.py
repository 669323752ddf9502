"""Read keys of a recipe that are set for one run, such as `stage.2.epochs=3`, and put them into the recipe's values.

A key is that of the recipe's file: KEY, augmentation.KEY, or stage.N.KEY with stages counted from 1. A value is one of
TOML, but quotes and the brackets of a list may be left out: `teacher=sface,itself`.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from facegallery.embedder.errors import InputError

EXAMPLES = "pull_back, augmentation.mirror or stage.2.epochs"


def parse(given: Sequence[str]) -> dict[str, Any]:
    """Read texts KEY=VALUE; raise InputError for another form, or a key that is given twice."""
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals and value):
            raise InputError(f"expected KEY=VALUE such as stage.2.epochs=3, received {text!r}: give both")
        if key in found:
            raise InputError(f"expected each key of the recipe once, received {key} twice: leave one out")
        found[key] = _value(value)
    return found


def _value(text: str) -> Any:
    """Return a value of TOML; else a list of those between commas, else the text."""
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        parts = [part.strip() for part in text.split(",")]
        return [_value(part) for part in parts] if len(parts) > 1 else text
    return found["value"] if len(found) == 1 else text


def applied(values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's values with some replaced; raise InputError for a key that leads nowhere.

    A single value becomes a list where the recipe has one. Whether keys and values are those of a recipe is checked
    after this.
    """
    changed = copy.deepcopy(values)
    for key, value in overrides.items():
        table, name = _place(changed, key)
        is_alone = isinstance(table.get(name), list) and not isinstance(value, (list, tuple))
        table[name] = [value] if is_alone else list(value) if isinstance(value, tuple) else value
    return changed


def _place(values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Return the table that a key leads to, and its name there."""
    table, _, name = key.rpartition(".")
    if not table and not isinstance(values.get(name), dict) and name != "stages":
        return values, name
    if table == "augmentation":
        return values[table], name
    if found := re.fullmatch(r"stage\.(0|[1-9]\d{0,5})", table, re.ASCII):
        number, stages = int(found[1]), values["stages"]
        if 1 <= number <= len(stages):
            return stages[number - 1], name
        raise InputError(
            f"expected a stage of 1 to {len(stages)}, received {key!r}: the recipe has no stage {number}, give another"
        )
    raise InputError(f"expected a key of a recipe such as {EXAMPLES}, received {key!r}: correct the key")
