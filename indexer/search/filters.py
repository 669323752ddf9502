"""Filters: conditions on columns, as one SQL condition over the gallery's faces.

A column is compared by the kind of its values (`facegallery.indexer.store.kinds`): numbers as numbers, dates as dates,
text as text. `number(age)>=30` compares only the values that are numbers, `date(...)` those that are dates, and
`text(...)` all values as text. `person.born>=1990` compares
metadata of persons instead of columns of faces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from facegallery.embedder.errors import InputError
from facegallery.indexer.store.kinds import DATE, KINDS, NUMBER, TEXT, Counts, comparison, number_of, period_of
from facegallery.indexer.store.persons import Persons

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
SPELLING = re.compile(r"([^<>=!:\"]+)(>=|<=|!=|=|>|<|:)(.*)", re.S)  # linear, since strip() removes the spaces
CAST = re.compile(rf"({'|'.join(KINDS)})\((.+)\)", re.S)
ORDERED = ("<", "<=", ">", ">=")
MISTAKEN = {"=>": ">=", "=<": "<=", "<>": "!=", "==": "=", "=!": "!=", ">=": ">=", "<=": "<="}  # also `> =`
OF_PERSON = "person."  # before a key of persons' metadata
REMEMBERED = 1 << 16  # values of a column that a comparison remembers, at most


@dataclass(frozen=True)
class Condition:
    """A column, an operator and a value; `:` means that a list separated by `;` contains the value."""

    column: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parse a text such as 'year>=1999'; raises InputError where it is not a filter."""
        found = SPELLING.fullmatch(text)
        column, operator, value = map(str.strip, found.groups()) if found else ("", "", "")
        if not column:
            raise InputError(
                f"expected a filter such as year>=1999, tag=beach or tags:beach, received {text!r}: correct it"
            )
        _check_operator(text, operator, value)
        return cls(column, operator, value)


def _check_operator(text: str, operator: str, value: str) -> None:
    """Raise InputError for an unknown operator or a missing value; `x!=` alone means any value."""
    if operator != ":" and (value[:1] in ("<", "=", ">") or operator + value[:1] == "=!"):
        meant = MISTAKEN.get(operator + value[:1])
        raise InputError(
            f"expected one of = != < <= > >= : in a filter, received {text!r}: write {meant or 'one of these'}"
        )
    if not value and operator != "!=":
        raise InputError(f"expected a value after {operator} in a filter, received {text!r}: write one")


@dataclass(frozen=True)
class Comparison:
    """A condition on a column of a gallery, and the kind by which its values are compared."""

    column: str
    kind: str
    operator: str
    value: str

    @property
    def sql(self) -> tuple[str, str | float] | None:
        """The condition as SQL and its binding where SQLite compares as `keeps` does, five times faster; else None."""
        if self.operator == ":" or self.kind != OWN_KINDS.get(self.column):
            return None
        number = number_of(self.value)
        if self.kind == NUMBER and number is None:
            return None
        value = self.value if number is None or self.kind == TEXT else float(number)
        return f"{OWN[self.column]} {self.operator} ?", value

    @property
    def keeps(self) -> Callable[[str], bool]:
        """A function that tells whether a value, which is not missing, meets the condition."""
        if self.operator != ":":
            return comparison(self.kind, self.operator, self.value)
        word = f";{self.value};"
        return lambda value: word in f";{value.replace('; ', ';').replace(' ;', ';')};"


def parse(where: Sequence[str]) -> list[Condition]:
    """Parse one condition for each text; raises InputError for one that is not a filter."""
    return [Condition.parse(text) for text in where]


def resolve(store: Persons, conditions: Sequence[Condition]) -> list[Comparison]:
    """Return how the columns of a gallery are compared.

    Raises InputError for a column that no face has, and for a value of another kind than a column of numbers or dates.
    Also for `<`, `<=`, `>` or `>=` between a column of text and a number or a date.
    """
    return [_resolved(store, condition) for condition in conditions]


def _resolved(store: Persons, condition: Condition) -> Comparison:
    known = {*OWN, *store.columns}
    if OF_PERSON in condition.column:
        known |= {OF_PERSON + key for key in store.person_kinds.columns}
    column, cast = condition.column, None
    if column not in known and (found := CAST.fullmatch(column)) and found[2].strip() in known:
        cast, column = found[1], found[2].strip()
    if column not in known:
        raise InputError(
            f"expected a column of {store.folder.name} ({', '.join(sorted(known))}), received {column!r}: "
            "correct --where"
        )
    kind = cast or OWN_KINDS.get(column) or _kind(store, column)
    value = store.spelled(condition.value) if column == "identity" else condition.value
    if condition.operator != ":":
        _check_kind(store, column, kind, cast, condition)
    return Comparison(column, kind, condition.operator, value)


def is_of_person(store: Persons, column: str) -> bool:
    """Return whether a column is metadata of persons; a column of faces may have the same name, and comes first."""
    return column.startswith(OF_PERSON) and column not in store.columns


def _kind(store: Persons, column: str) -> str:
    key = column.removeprefix(OF_PERSON) if is_of_person(store, column) else column
    return _kinds(store, column).kind(key)


def _kinds(store: Persons, column: str) -> Counts:
    return store.person_kinds if is_of_person(store, column) else store.kinds


def _check_kind(store: Persons, column: str, kind: str, cast: str | None, condition: Condition) -> None:
    """Raise InputError where a column and the value of a condition cannot be compared."""
    operator, value = condition.operator, condition.value
    wanted = NUMBER if number_of(value) is not None else DATE if period_of(value) is not None else TEXT
    if operator in ORDERED and kind == TEXT and wanted != TEXT and cast is None:
        raise InputError(
            f"expected a column of {wanted}s for {column}{operator}{value}, "
            f"{column} holds {_texts(store, column, wanted)}: "
            f"write {wanted}({column}){operator}{value} to compare the rows that are {wanted}s, "
            f"or text({column}){operator}{value} for the order of letters"
        )
    if value and kind != TEXT and kind != wanted and not (kind == DATE and period_of(value) is not None):
        raise InputError(
            f"expected a {kind} to compare {column} with, since it {'is compared as' if cast else 'holds'} {kind}s, "
            f"received {value!r}: give a {kind}, or compare text({column})"
        )


def _texts(store: Persons, column: str, wanted: str) -> str:
    """Return, in words, what a column holds that is not `wanted`: an example, and how many rows."""
    of_person = is_of_person(store, column)
    counts = _kinds(store, column).columns.get(column.removeprefix(OF_PERSON) if of_person else column)
    if not counts:
        return "text"
    if of_person:
        return f"other values in {sum(n for kind, n in counts.items() if kind != wanted)} people's metadata"
    example = store.example(column, lambda kind: kind != wanted)
    others = sum(n for kind, n in counts.items() if kind != wanted)
    return f"other values, such as {example!r}, in {others} of {sum(counts.values())} rows"


def kept_ids(store: Persons, conditions: Sequence[Condition]) -> str:
    """Return a JSON list of the ids of the faces that meet all conditions.

    Conditions on one column with `=` are alternatives. A face with a missing or blank value in a column meets no
    condition on it.
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
    persons = "LEFT JOIN persons ON persons.id = person " if store.has_persons else ""
    sql = f"SELECT json_group_array(faces.id) FROM faces JOIN people ON people.id = person {persons}WHERE "
    return store.execute(sql + _joined(clauses, "AND"), bindings)[0][0]


def _any_of(store: Persons, group: Sequence[Comparison], name: str) -> tuple[str, list[Any]]:
    """Return SQL that keeps a face which meets one of the conditions on a column, and its bindings.

    name: free for an SQL function.
    """
    native = [found for one in group if (found := one.sql)]
    if len(native) == len(group):
        return _joined([sql for sql, _ in native], "OR"), [value for _, value in native]
    store.define(name, _meets([one.keeps for one in group]))
    if (column := group[0].column) in OWN:
        return f"{name}({OWN[column]})", []
    table = "persons" if is_of_person(store, column) else "faces"
    key = column.removeprefix(OF_PERSON) if table == "persons" else column
    return f"{name}(json_extract({table}.extra, ?))", [f"$.{json.dumps(key, ensure_ascii=False)}"]


def _meets(conditions: Sequence[Callable[[str], bool]]) -> Callable[[Any], bool]:
    """Return an SQL function that tells whether a value meets one of the conditions; a missing one does not."""
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
    """Join the clauses as a tree: SQLite takes any number of conditions, but none nested 1000 deep."""
    if len(clauses) == 1:
        return clauses[0]
    half = len(clauses) // 2
    return f"({_joined(clauses[:half], word)} {word} {_joined(clauses[half:], word)})"
