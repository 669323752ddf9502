"""Which faces a question is about: conditions on columns, as one SQL condition over the gallery's faces.

A column is compared as what it holds (`facegallery.indexer.store.kinds`): numbers as numbers, dates as dates, text as text. `number(age)>=30` compares only
the values that are numbers, `date(...)` those that are dates, `text(...)` all values as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from facegallery.embedder.errors import InputError
from facegallery.indexer.store.kinds import DATE, KINDS, NUMBER, TEXT, comparison, number_of, period_of
from facegallery.indexer.store.reader import Faces

OWN = {
    "identity": "name",
    "image": "image",
    "split": "split",
    "face": "face",
    "face_id": "face_id",
    "confidence": "confidence",
    "sharpness": "sharpness",
}
OWN_KINDS = dict.fromkeys(OWN, TEXT) | dict.fromkeys(("face", "confidence", "sharpness"), NUMBER)
SPELLING = re.compile(r"([^<>=!:\"]+)(>=|<=|!=|=|>|<|:)(.*)", re.S)  # spaces are left to strip(): this one is linear
CAST = re.compile(rf"({'|'.join(KINDS)})\((.+)\)", re.S)
ORDERED = ("<", "<=", ">", ">=")
MISTAKEN = {"=>": ">=", "=<": "<=", "<>": "!=", "==": "=", "=!": "!=", ">=": ">=", "<=": "<="}  # `> =` is one, too
REMEMBERED = 1 << 16  # values of a column whose comparison is kept


@dataclass(frozen=True)
class Condition:
    """A column, one of = != < <= > >= or : (has the word, in a list separated by `;`), and a value."""

    column: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """'year>=1999' -> its parts; raises InputError where it is none."""
        found = SPELLING.fullmatch(text)
        column, operator, value = map(str.strip, found.groups()) if found else ("", "", "")
        if not column:
            raise InputError(
                f"expected a filter such as year>=1999, tag=beach or tags:beach, received {text!r}: correct it"
            )
        _check_operator(text, operator, value)
        return cls(column, operator, value)


def _check_operator(text: str, operator: str, value: str) -> None:
    """Raise InputError for an operator that there is not, and for no value: `x!=` alone means any value."""
    if operator != ":" and (value[:1] in ("<", "=", ">") or operator + value[:1] == "=!"):
        meant = MISTAKEN.get(operator + value[:1])
        raise InputError(
            f"expected one of = != < <= > >= : in a filter, received {text!r}: write {meant or 'one of these'}"
        )
    if not value and operator != "!=":
        raise InputError(f"expected a value after {operator} in a filter, received {text!r}: write one")


@dataclass(frozen=True)
class Comparison:
    """A condition on a column of a gallery, and the kind that its values are compared as."""

    column: str
    kind: str
    operator: str
    value: str

    @property
    def sql(self) -> tuple[str, str | float] | None:
        """The condition as SQL and what it binds, where SQLite compares as we do, in a fifth of the time; else None."""
        if self.operator == ":" or self.kind != OWN_KINDS.get(self.column):
            return None
        number = number_of(self.value)
        if self.kind == NUMBER and number is None:
            return None
        return f"{OWN[self.column]} {self.operator} ?", self.value if number is None or self.kind == TEXT else float(
            number
        )

    @property
    def keeps(self) -> Callable[[str], bool]:
        """A function that says whether a value, which is not missing, meets the condition."""
        if self.operator != ":":
            return comparison(self.kind, self.operator, self.value)
        word = f";{self.value};"
        return lambda value: word in f";{value.replace('; ', ';').replace(' ;', ';')};"


def parse(where: Sequence[str]) -> list[Condition]:
    """One condition for each text; raises InputError for one that cannot be read."""
    return [Condition.parse(text) for text in where]


def resolve(store: Faces, conditions: Sequence[Condition]) -> list[Comparison]:
    """How the columns of a gallery are compared.

    Raises InputError for a column that no face has, for a column of numbers or dates and a value of another kind, and for `<`, `<=`, `>` or
    `>=` between text and a number or a date.
    """
    return [_resolved(store, condition) for condition in conditions]


def _resolved(store: Faces, condition: Condition) -> Comparison:
    known = {*OWN, *store.columns}
    column, cast = condition.column, None
    if column not in known and (found := CAST.fullmatch(column)) and found[2].strip() in known:
        cast, column = found[1], found[2].strip()
    if column not in known:
        raise InputError(
            f"expected a column of {store.folder.name} ({', '.join(sorted(known))}), received {column!r}: correct --where"
        )
    kind = cast or OWN_KINDS.get(column) or store.kinds.kind(column)
    value = store.spelled(condition.value) if column == "identity" else condition.value
    if condition.operator != ":":
        _check_kind(store, column, kind, cast, condition)
    return Comparison(column, kind, condition.operator, value)


def _check_kind(store: Faces, column: str, kind: str, cast: str | None, condition: Condition) -> None:
    """Raise InputError where a column of numbers or dates is compared with another kind, or one of text ordered by a number or a date."""
    operator, value = condition.operator, condition.value
    wanted = NUMBER if number_of(value) is not None else DATE if period_of(value) is not None else TEXT
    if operator in ORDERED and kind == TEXT and wanted != TEXT and cast is None:
        raise InputError(
            f"expected a column of {wanted}s for {column}{operator}{value}, {column} holds {_texts(store, column, wanted)}: write "
            f"{wanted}({column}){operator}{value} to compare the rows that are {wanted}s, or text({column}){operator}{value} for the order "
            "of letters"
        )
    if value and kind != TEXT and kind != wanted and not (kind == DATE and period_of(value) is not None):
        raise InputError(
            f"expected a {kind} to compare {column} with, since it {'is compared as' if cast else 'holds'} {kind}s, received {value!r}: "
            f"give one, or compare text({column})"
        )


def _texts(store: Faces, column: str, wanted: str) -> str:
    """What a column holds that is not `wanted`, in words: an example, and how many rows."""
    counts = store.kinds.columns.get(column)
    if not counts:
        return "text"
    example = store.example(column, lambda kind: kind != wanted)
    others = sum(n for kind, n in counts.items() if kind != wanted)
    return f"other values, such as {example!r}, in {others} of {sum(counts.values())} rows"


def kept_ids(store: Faces, conditions: Sequence[Condition]) -> str:
    """JSON list of the ids of the faces that meet all conditions; those of one column with `=` are alternatives.

    A face whose value in a column is missing or blank meets no condition on it.
    """
    groups: dict[object, list[Comparison]] = {}
    for i, one in enumerate(resolve(store, conditions)):
        groups.setdefault(one.column if one.operator == "=" else i, []).append(one)
    clauses: list[str] = []
    bindings: list[Any] = []
    for number, group in enumerate(groups.values()):
        sql, values = _any_of(store, group, f"meets_{number}")
        clauses.append(sql)
        bindings += values
    sql = f"SELECT json_group_array(faces.id) FROM faces JOIN people ON people.id = person WHERE {_joined(clauses, 'AND')}"
    return store.execute(sql, bindings)[0][0]


def _any_of(store: Faces, group: Sequence[Comparison], name: str) -> tuple[str, list[Any]]:
    """SQL that keeps a face which meets one of the conditions on a column, and what it binds; `name` is free for a function."""
    native = [found for one in group if (found := one.sql)]
    if len(native) == len(group):
        return _joined([sql for sql, _ in native], "OR"), [value for _, value in native]
    store.define(name, _meets([one.keeps for one in group]))
    if (column := group[0].column) in OWN:
        return f"{name}({OWN[column]})", []
    return f"{name}(json_extract(extra, ?))", [f"$.{json.dumps(column, ensure_ascii=False)}"]


def _meets(conditions: Sequence[Callable[[str], bool]]) -> Callable[[Any], bool]:
    """A function for SQL that says whether a value meets one of the conditions; a missing or blank one does not."""
    known: dict[str, bool] = {}

    def meets(value: Any) -> bool:
        text = value if isinstance(value, str) else "" if value is None else str(value)
        if (found := known.get(text)) is None:
            found = bool(text.strip()) and any(keeps(text) for keeps in conditions)
            if len(known) < REMEMBERED:
                known[text] = found
        return found

    return meets


def _joined(clauses: Sequence[str], word: str) -> str:
    """As a tree: SQLite takes any number of conditions, but none that is 1000 deep."""
    if len(clauses) == 1:
        return clauses[0]
    half = len(clauses) // 2
    return f"({_joined(clauses[:half], word)} {word} {_joined(clauses[half:], word)})"
