"""What every source of a table gives: its columns as numbers or texts, some rows at a time.

Never holds more than the columns that were asked for, and never shows what a cell says.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Final, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from synthfed.protocols.errors import DataError

from ..api import Keep

MISSING: Final = ""
"""The text of a cell without a value."""

Strings = Sequence[str]

Form = Literal["number", "text", "unit"]
"""How a column is wanted: as numbers, as texts of categories, or as texts that tell units apart."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column's numbers, a category's being its index.

    Attributes:
        values: shape ``(rows,)``, NaN where a cell is empty or unreadable.
        unreadable: the rows whose cell has a content that is no number, or no category of the column.
    """

    values: npt.NDArray[np.float64]
    unreadable: tuple[int, ...] = ()


Cells = Numbers | Strings


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a table: the cells of each column that was asked for, and how many further rows were of no use."""

    cells: Sequence[Cells]
    unlike: int = 0


class Source(Protocol):
    """An open table, of a file or of a database."""

    @property
    def names(self) -> Sequence[str]:
        """The names of all its columns, whether they are asked for or not."""
        ...

    def parts(self, wanted: Mapping[str, Form]) -> Iterator[Part]:
        """Yield the table's rows in parts, of the columns wanted only, in their order.

        Raises:
            ConfigError: the table can be read no further.
            DataError: a column is not there, or of a type that has no such form.
        """
        ...


def numbers_of(cells: Strings) -> Numbers:
    """Return the numbers that texts write."""
    try:
        values = np.fromiter(map(float, cells), dtype=np.float64, count=len(cells))
    except ValueError:
        values = np.fromiter(map(_number, cells), dtype=np.float64, count=len(cells))
    return finite(values, lambda row: cells[row] == MISSING)


def finite(values: npt.NDArray[np.float64], is_missing: Callable[[int], bool]) -> Numbers:
    """Return numbers of which those that are not finite are missing, or else unreadable."""
    odd = ~np.isfinite(values)
    if not odd.any():
        return Numbers(values)
    values = np.where(odd, np.nan, values)
    return Numbers(values, tuple(row for row in np.flatnonzero(odd).tolist() if not is_missing(row)))


def _number(cell: str) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return np.nan


def joined(parts: Sequence[Numbers]) -> Numbers:
    """Return the numbers of consecutive parts as one column's.

    >>> one = joined([numbers_of(["1", "x"]), numbers_of(["", "2"]), numbers_of(["inf"])])
    >>> one.values.tolist(), one.unreadable
    ([1.0, nan, nan, 2.0, nan], (1, 4))
    """
    starts = np.cumsum([0, *(len(part.values) for part in parts)]).tolist()
    unreadable = [start + row for start, part in zip(starts, parts, strict=False) for row in part.unreadable]
    return Numbers(np.concatenate([part.values for part in parts]), tuple(unreadable))


def accepts(keep: Keep, cells: Strings) -> npt.NDArray[np.bool_]:
    """Return which rows are kept, from the cells of the column that says so."""
    return np.array([cell.strip() in keep.accepted for cell in cells], dtype=np.bool_)


def kept(cells: Cells, which: npt.NDArray[np.bool_]) -> Cells:
    """Return the cells of some rows.

    >>> kept(numbers_of(["1", "x", "y", "2"]), np.array([True, False, True, True]))
    Numbers(values=array([ 1., nan,  2.]), unreadable=(1,))
    """
    if not isinstance(cells, Numbers):
        return list(compress(cells, which))
    places = np.cumsum(which) - 1
    unreadable = tuple(int(places[row]) for row in cells.unreadable if which[row])
    return Numbers(cells.values[which], unreadable)


def none_kept(path: Path, keep: Keep) -> DataError:
    """Return what it means that no row may be used."""
    return DataError(
        f"{path}: column {keep.column!r} has no row with an accepted value; look at `accepted` in the site's "
        "settings, or give a file with records that may be used"
    )


def check_names(where: str, header: Sequence[str], names: Sequence[str]) -> None:
    """Raise DataError unless a table has every named column once."""
    missing = [name for name in names if name not in header]
    if missing:
        more = f" and {len(missing) - 1} further column(s)" if len(missing) > 1 else ""
        raise DataError(f"{where}: lacks column {missing[0]!r}{more}; add it, or check the header's spelling")
    twice = [name for name in names if list(header).count(name) > 1]
    if twice:
        raise DataError(f"{where}: names column {twice[0]!r} twice in its header; keep one")


def whole_texts(path: Path, source: Source, names: Sequence[str]) -> list[Strings]:
    """Return the cells of some columns as texts; DataError where there is no row, or one that is none of the table."""
    columns: list[list[str]] = [[] for _ in names]
    unlike = 0
    for part in source.parts(dict.fromkeys(names, "text")):
        unlike += part.unlike
        for column, cells in zip(columns, part.cells, strict=True):
            column.extend(cast("Strings", cells))
    if unlike:
        raise DataError(f"{path}: {unlike_rows(unlike, source)}")
    if not columns[0]:
        raise no_rows(path)
    return list(columns)


def unlike_rows(count: int, source: Source) -> str:
    """Return that rows have not the header's length."""
    return f"{count} row(s) have more or fewer cells than the header's {len(source.names)}; mend these rows"


def no_rows(path: Path) -> DataError:
    """Return what it means that a table has a header alone."""
    return DataError(f"{path}: has no rows below its header; give a file with records")


def unfit_type(path: Path, name: str, found: str, form: Form) -> DataError:
    """Return what it means that a typed column cannot be turned into what the schema says."""
    wanted = {
        "number": "the schema has a number; give numbers there, such as days since a date",
        "text": "the schema has categories; give texts, whole numbers, booleans or dates there",
        "unit": "it names units; give texts or whole numbers there",
    }
    return DataError(f"{path}: column {name!r} is of type {found}, but {wanted[form]}")


def number_text(value: float) -> str:
    """Return how a number that stands for a category is written: a whole one without decimals.

    >>> number_text(2.0), number_text(0.5)
    ('2', '0.5')
    """
    return str(int(value)) if value.is_integer() else repr(value)
