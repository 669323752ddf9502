"""Give each person's name one spelling, and warn where two names look alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from facegallery.embedder.errors import DataError, InputError

SHOWN = 3  # pairs that a warning shows
MOST_CHARACTERS = 500
JOINERS = "\u200c\u200d"  # zero-width non-joiner and joiner
BLANK = "\u2800"  # an empty Braille cell, which Unicode does not count as white space
# Unicode's Default_Ignorable_Code_Point without the joiners and the variation selectors
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff]"
)
SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# Cc without the white space: tab, line feed, ..., next line
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
SURROGATE = re.compile("[\ud800-\udfff]")


def spelling(name: str) -> str:
    """Return the one spelling of a name; '' where no character of it is visible.

    Never raises, and `spelling(spelling(n)) == spelling(n)`. The spelling is in NFC; runs of white space become one
    space, none is left at the ends; invisible characters are removed. Joiners and variation selectors stay where a
    script needs them, as in Persian, Malayalam and Japanese names.
    """
    if name.isascii() and name.isprintable():
        return " ".join(name.split())
    before, text = None, name
    while text != before:  # a removed character may have separated two that NFC reorders
        before, text = text, _cleaned(text)
    return text


def _cleaned(name: str) -> str:
    text = INVISIBLE.sub("", unicodedata.normalize("NFC", name).replace(BLANK, " "))
    return " ".join(unicodedata.normalize("NFC", _without_stray_marks(text)).split())


def person_name(name: str, where: str = "") -> str:
    """Return the `spelling` of a name under which a person is to be enrolled.

    where: the place that an error names, such as 'line 3 of list.csv'. Raise DataError for a name that is blank, longer
    than `MOST_CHARACTERS`, or holds control characters; InputError for bytes that are not valid text.
    """
    clean, place = spelling(name), f" in {where}" if where else ""
    if not clean:
        raise DataError(
            f"expected a person's name{place}, received {name[:40]!r}, which has no visible character: give one"
        )
    if len(clean) > MOST_CHARACTERS:
        raise DataError(
            f"expected a name of at most {MOST_CHARACTERS} characters{place}, received {len(clean):,}: shorten it"
        )
    if SURROGATE.search(clean):
        raise InputError(f"expected text{place}, received {clean[:40]!r}, which is not valid UTF-8: spell it in UTF-8")
    if CONTROL.search(clean):
        raise DataError(
            f"expected a person's name without control characters{place}, received {clean[:40]!r}: change it"
        )
    return clean


def name_or_none(name: str | None) -> str | None:
    """Return the `person_name`; None where there is no name, or the name breaks the rule."""
    try:
        return person_name(name) if name else None
    except (DataError, InputError):
        return None


def _without_stray_marks(text: str) -> str:
    """Remove joiners and variation selectors that change nothing visible."""
    if not any(mark in text for mark in JOINERS) and not SELECTORS.search(text):
        return text
    kept: list[str] = []
    for i, character in enumerate(text):
        before = kept[-1] if kept else ""
        if character in JOINERS and not _joins(kept, text[i + 1 :]):
            continue
        if SELECTORS.match(character) and unicodedata.category(before or " ") not in (
            "Lo",
            "So",
            "Sm",
            "Sk",
            "Nd",
            "Po",
        ):
            continue
        kept.append(character)
    return "".join(kept)


def _joins(before: list[str], after: str) -> bool:
    """Whether a joiner between two texts is visible.

    A joiner is visible after a virama, between two letters of a script such as Arabic or Syriac, and in an emoji
    sequence.
    """
    if not before:
        return False
    if (
        unicodedata.combining(before[-1]) == 9
        or SELECTORS.match(before[-1])
        or unicodedata.category(before[-1]) in ("So", "Sk")
    ):
        return True
    letter = next((c for c in reversed(before) if not unicodedata.combining(c)), " ")
    following = next((c for c in after if c not in JOINERS and not SELECTORS.match(c)), " ")
    return (
        unicodedata.bidirectional(letter) == "AL" == unicodedata.bidirectional(following) and before[-1] not in JOINERS
    )


def spelt_otherwise(names: Iterable[str], enrolled: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of names that differ only by case or by compatible characters: likely one person.

    names: new names, each compared with `enrolled`; enrolled names are compared with each other, too.
    """
    by_key: dict[str, list[str]] = {}
    for name in enrolled:
        by_key.setdefault(_folded(name), []).append(name)
    twins = [(others[0], other) for others in by_key.values() for other in others[1:]]
    return twins + [
        (name, other) for name in dict.fromkeys(names) for other in by_key.get(_folded(name), [])[:1] if other != name
    ]


def spelling_notes(names: Iterable[str], enrolled: Iterable[str]) -> list[str]:
    """Return the pairs of `spelt_otherwise` as one line for the user; an empty list where there are none."""
    if not (twins := spelt_otherwise(names, enrolled)):
        return []
    shown = ", ".join(f"{a!r} and {b!r}" for a, b in twins[:SHOWN])
    return [
        f"{len(twins)} names differ only by case or form and count as different people, such as {shown}: "
        "give both one name if they are one person (in an index: `merge`)"
    ]


def _folded(name: str) -> str:
    return spelling(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", spelling(name)).casefold()))
