"""What all results share: documents, tables and the metadata of their fields."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from facegallery.embedder.errors import SystemFault

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


T = TypeVar("T")
Box = tuple[float, float, float, float]
Point = tuple[float, float]
ColumnKind = Literal["number", "date", "text"]

NAME = {"description": "A person's name.", "examples": ["Ada Lovelace"]}
PERSON_ID = {
    "description": "The id of the person, which stays when the name changes; null in a gallery of an earlier version "
    "until its next change.",
    "examples": ["p3k7q9x2m4w8z1ab"],
}
FACE_ID = {"pattern": r"^[0-9a-f]{32}$", "examples": ["6e6cafb5ab4d2c51c9d3ea2d7ca8ff31"]}
NUMBER = {"description": "The number of a group; it stays, and no other group gets it.", "examples": [12]}
BOX = {
    "description": "x0, y0, x1, y1 in pixels of the photo as it is shown, to a hundredth.",
    "examples": [[14.2, 20.1, 78.9, 102.4]],
}
COMMAND = {"description": "Give it to `undo` to take back this change and no other; null where nothing was changed."}


def box_of(values: Iterable[float] | None) -> Box | None:
    """Round a box x0, y0, x1, y1 to a hundredth of a pixel, as results hold it."""
    if values is None:
        return None
    x0, y0, x1, y1 = (round(float(value), 2) for value in values)
    return x0, y0, x1, y1


def as_document(result: Any) -> Any:
    """Return a result, or a list of results, as JSON holds it.

    Dataclasses become dicts, sequences lists; pixels and vectors are left out.
    """
    if isinstance(result, Mapping):
        return {key: as_document(value) for key, value in result.items()}
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        shown = [one for one in dataclasses.fields(result) if not one.metadata.get("binary")]
        return {one.name: as_document(getattr(result, one.name)) for one in shown}
    if isinstance(result, list | tuple):
        return [as_document(value) for value in result]
    return result


class ResultList(Sequence[T]):
    """A sequence of results that is a table, too. `==` compares two of them; a slice is a plain tuple."""

    @property
    @abstractmethod
    def _items(self) -> Sequence[T]:
        """The results in order."""

    @abstractmethod
    def _columns(self) -> dict[str, str]:
        """The columns of the table: name -> type, of `_arrow_type`."""

    @abstractmethod
    def _rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the table by column; a column that a row leaves out is null."""

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, at: int) -> T: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[T, ...]: ...

    def __getitem__(self, at: int | slice) -> T | tuple[T, ...]:
        return tuple(self._items[at]) if isinstance(at, slice) else self._items[at]

    def to_arrow(self) -> pa.Table:
        """Return the table as `pyarrow.Table`; the columns are those that the class names."""
        import pyarrow as pa

        schema = pa.schema([(name, _arrow_type(kind)) for name, kind in self._columns().items()])
        return pa.Table.from_pylist(list(self._rows()), schema)

    def to_pandas(self) -> pd.DataFrame:
        """Return the table as `pandas.DataFrame`. Raises SystemFault where pandas is not installed."""
        try:
            import pandas  # noqa: F401
        except ModuleNotFoundError:
            raise SystemFault(
                "expected pandas for to_pandas(), it is not installed: run `pip install pandas`"
            ) from None
        return self.to_arrow().to_pandas()


def _arrow_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    lists = {"floats": pa.list_(pa.float64()), "vector": pa.list_(pa.float32())}
    return lists[kind] if kind in lists else pa.type_for_alias(kind)


def fields_of(result: Any, but: Sequence[str] = ()) -> dict[str, Any]:
    """Return the fields of a result by name, without some of them."""
    return {one.name: getattr(result, one.name) for one in dataclasses.fields(result) if one.name not in but}
