"""People's names that a reader would take for one: a warning for whoever counts people by name."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

SHOWN = 3  # pairs of a warning


def spelt_otherwise(names: Iterable[str], enrolled: Iterable[str]) -> list[tuple[str, str]]:
    """Names and enrolled ones that differ only by case or by compatible characters: likely one person, counted as two."""
    by_key: dict[str, list[str]] = {}
    for name in enrolled:
        by_key.setdefault(_folded(name), []).append(name)
    twins = [(others[0], other) for others in by_key.values() for other in others[1:]]
    return twins + [(name, other) for name in dict.fromkeys(names) for other in by_key.get(_folded(name), [])[:1] if other != name]


def spelling_notes(names: Iterable[str], enrolled: Iterable[str]) -> list[str]:
    """`spelt_otherwise` as one line for the user; empty where there is nothing to tell."""
    if not (twins := spelt_otherwise(names, enrolled)):
        return []
    shown = ", ".join(f"{a!r} and {b!r}" for a, b in twins[:SHOWN])
    return [
        f"{len(twins)} names differ only by case or form and count as different people, such as {shown}: "
        "give both one name if they are one person (in an index: `merge`)"
    ]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
