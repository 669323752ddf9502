"""Which faces a question is about: conditions on columns, as one SQL condition over the gallery's faces."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from embedder.errors import InputError
from indexer.faces import Faces, normal

OWN = {
    "identity": "name", "image": "image", "split": "split", "face": "face", "face_id": "face_id", "confidence": "confidence",
    "sharpness": "sharpness",
}  # fmt: skip
SPELLING = re.compile(r"([^<>=!:\"]+)(>=|<=|!=|=|>|<|:)(.*)", re.S)  # spaces are left to strip(): this one is linear
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


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
            raise InputError(f"expected a filter such as year>=1999, tag=beach or tags:beach, received {text!r}: mend it")
        return cls(column, operator, normal(value) if column == "identity" else value)

    def sql(self) -> tuple[str, list[str]]:
        """The condition and what it binds. Values are compared as numbers where both are numbers (as JSON writes them), else as text."""
        x, bindings = self._column()
        if self.operator == ":":
            return f"instr(';' || replace(replace({x}, '; ', ';'), ' ;', ';') || ';', ';' || ? || ';') > 0", [*bindings, self.value]
        as_text = f"CAST({x} AS TEXT) {self.operator} ?"
        if not NUMBER.fullmatch(self.value):
            return as_text, [*bindings, self.value]
        number = f"CASE WHEN json_valid({x}) THEN json_type({x}) IN ('integer', 'real') ELSE 0 END"
        sql = f"CASE WHEN {number} THEN CAST({x} AS REAL) {self.operator} CAST(? AS REAL) ELSE {as_text} END"
        return sql, [*bindings * 3, self.value, *bindings, self.value]

    def _column(self) -> tuple[str, list[str]]:
        return (
            (OWN[self.column], [])
            if self.column in OWN
            else ("json_extract(extra, ?)", [f"$.{json.dumps(self.column, ensure_ascii=False)}"])
        )


def parse(where: Sequence[str]) -> list[Condition]:
    """One condition for each text; raises InputError for one that cannot be read."""
    return [Condition.parse(text) for text in where]


def check(gallery: Faces, conditions: Sequence[Condition]) -> None:
    """Raises InputError for a column that no face has."""
    known = {*OWN, *gallery.columns}
    for condition in conditions:
        if condition.column not in known:
            raise InputError(
                f"expected a column of {gallery.folder.name} ({', '.join(sorted(known))}), received {condition.column!r}: mend --where"
            )


def kept_ids(gallery: Faces, conditions: Sequence[Condition]) -> str:
    """JSON list of the ids of the faces that meet all conditions; those of one column with `=` are alternatives.

    A face that has no value in a column meets no condition on it.
    """
    check(gallery, conditions)
    groups: dict[object, list[Condition]] = {}
    for i, condition in enumerate(conditions):
        groups.setdefault(condition.column if condition.operator == "=" else i, []).append(condition)
    clauses, bindings = [], []
    for group in groups.values():
        parts = [condition.sql() for condition in group]
        clauses.append(_joined([sql for sql, _ in parts], "OR"))
        bindings += [value for _, values in parts for value in values]
    sql = f"SELECT json_group_array(faces.id) FROM faces JOIN people ON people.id = person WHERE {_joined(clauses, 'AND')}"
    return gallery.execute(sql, bindings)[0][0]


def _joined(clauses: Sequence[str], word: str) -> str:
    """As a tree: SQLite takes any number of conditions, but none that is 1000 deep."""
    if len(clauses) == 1:
        return clauses[0]
    half = len(clauses) // 2
    return f"({_joined(clauses[:half], word)} {word} {_joined(clauses[half:], word)})"
