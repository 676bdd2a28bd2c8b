"""Texts and arrays of a site's file as a column's values, by the schema, and what is wrong with them.

Never shows a value of a private file: a problem names a column and a number of rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from synthfed.protocols.errors import DataError
from synthfed.protocols.schema import Categorical, Integer, Real, Records, Scalar

from ..api import Table
from .csv_files import Strings

MISSING: Final = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file says of one column.

    Attributes:
        what: the column in words, for an error.
        values: shape ``(rows,)``, or of an array column ``(rows, numbers)`` and of any numeric type.
        problem: what is wrong, empty if nothing.
    """

    what: str
    values: npt.NDArray[Any]
    problem: str


@dataclass(frozen=True, slots=True)
class Units:
    """Each record's unit as a number from 0, in order of appearance, shape ``(rows,)``, and what is wrong."""

    numbers: npt.NDArray[np.int64]
    problem: str = ""
    what: str = ""


def as_table(path: Path, columns: Sequence[Parsed], units: Units, records_per_unit: int, names: Iterable[str]) -> Table:
    """Return the records that a file's columns make up; ``names`` are those of all that the file has.

    Raises:
        DataError: there is a problem with a column or with the units, or there are too few records.
    """
    problems = [f"{each.what} {each.problem}" for each in columns if each.problem]
    problems += [f"{units.what} {units.problem}"] if units.problem else []
    if problems:
        more = f" ({len(problems) - 1} further column(s) have problems)" if len(problems) > 1 else ""
        raise DataError(f"{path}: {problems[0]}{more}")
    rows = len(units.numbers)
    if rows < records_per_unit:
        raise DataError(
            f"{path}: the site is smaller than its contribution bound ({rows} rows, records_per_unit is "
            f"{records_per_unit}); add records or lower the bound in the study"
        )
    records = np.column_stack([each.values for each in columns]).astype(np.float64, copy=False)
    return Table(records, units.numbers, frozenset(names))


def every_record(rows: int) -> Units:
    """Return units for records that are each a unit of its own."""
    return Units(np.arange(rows))


def parse_units(name: str, cells: Strings, records_per_unit: int) -> Units:
    """Return the unit of every record from the unit column's cells; blanks around a name make no other unit of it."""
    numbers: dict[str, int] = {}
    names = [cell.strip() for cell in cells]
    units = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
    return Units(units, _unit_problem(names, units, records_per_unit), f"unit column {name!r}")


def _unit_problem(cells: Strings, units: npt.NDArray[np.int64], records_per_unit: int) -> str:
    empty = sum(cell == MISSING for cell in cells)
    if empty:
        return f"has {empty} row(s) with an empty cell; name every record's unit"
    large = int(np.sum(np.bincount(units) > records_per_unit))
    too_many = f"has {large} unit(s) with more than {records_per_unit} rows"
    return f"{too_many}; remove rows, or raise records_per_unit in the study" if large else ""


def parse_cells(column: Scalar, cells: Strings) -> tuple[Records, str]:
    """Return a column's values and what is wrong with them, empty if nothing."""
    values, unreadable = _categories(column, cells) if isinstance(column, Categorical) else numbers_of(cells)
    checks: list[tuple[int, str]] = []
    if not column.missing:
        empty = sum(cell == MISSING for cell in cells)
        checks.append((empty, "an empty cell; fill it, or set `missing = true` in the schema"))
    if isinstance(column, Categorical):
        checks.append((unreadable, "a value that is not among its categories; mend it, or add it to the schema"))
    else:
        checks += [(unreadable, "a cell that is not a number; mend it"), *_number_checks(column, values)]
    return values, next((f"has {count} row(s) with {what}" for count, what in checks if count), "")


def _number_checks(column: Integer | Real, values: Records) -> Iterator[tuple[int, str]]:
    if isinstance(column, Integer):
        known = values[~np.isnan(values)]
        yield int(np.sum(known != np.rint(known))), 'a number that is not whole; round it, or use kind = "real"'
    outside = int(np.sum((values < column.lower) | (values > column.upper)))
    yield outside, "a value out of bounds; mend it, or widen the bounds in the schema"


def _categories(column: Categorical, cells: Strings) -> tuple[Records, int]:
    index = {value: float(i) for i, value in enumerate(column.values)}
    index[MISSING] = np.nan
    values = np.array([index.get(cell, -1.0) for cell in cells])
    return values, int(np.sum(values == -1.0))


def numbers_of(cells: Strings) -> tuple[Records, int]:
    """Return the numbers, NaN where a cell is empty or unreadable, and how many are unreadable."""
    try:
        values = np.array([float(cell or "nan") for cell in cells])
    except ValueError:
        values = np.array([_number(cell) for cell in cells])
    values[np.isinf(values)] = np.nan
    return values, int(np.isnan(values).sum()) - sum(cell == MISSING for cell in cells)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan
