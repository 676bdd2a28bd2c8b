"""Texts and numbers of a site's data as a column's values, by the schema, and what is wrong with them.

Never shows a value of a private file: a problem names a column and a number of rows.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from synthfed.protocols.errors import DataError
from synthfed.protocols.schema import Categorical, Integer, Real, Records, Scalar

from ..api import Table
from .parts import MISSING, Cells, Numbers, Strings, numbers_of

_AT_ONCE: Final = 1024  # rows
_NONE: Final = -1.0  # the index of no category

Rows = npt.NDArray[np.bool_] | Sequence[int]
"""Which rows something is true of, as a mask or as places."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of problem with a column.

    Attributes:
        problem: what is wrong, and what can be done.
        rows: shape ``(count,)``, the rows that have it.
        is_of_rows: whether the rows may be left out for it; not where it is found by looking at all of them.
    """

    problem: str
    rows: npt.NDArray[np.int64]
    is_of_rows: bool = True


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file says of one column.

    Attributes:
        what: the column in words, for an error.
        values: shape ``(rows,)``, or of an array column ``(rows, numbers)`` and of any numeric type.
        faults: what is wrong, each kind once.
    """

    what: str
    values: npt.NDArray[Any]
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class Units:
    """Each record's unit as a number from 0, in order of appearance, shape ``(rows,)``, and what is wrong.

    Names are by number; where each record is a unit of its own there are none.
    """

    numbers: npt.NDArray[np.int64]
    faults: tuple[Fault, ...] = ()
    what: str = ""
    names: tuple[str, ...] = ()


def faults_of(found: Iterable[tuple[Rows, str]]) -> tuple[Fault, ...]:
    """Return those problems that some row has, from the rows that have each."""
    faults = (Fault(problem, np.flatnonzero(rows) if isinstance(rows, np.ndarray) else np.array(rows, dtype=np.int64))
              for rows, problem in found)  # fmt: skip
    return tuple(fault for fault in faults if len(fault.rows))


def as_table(
    path: Path,
    columns: Sequence[Parsed],
    units: Units,
    records_per_unit: int,
    names: Iterable[str],
    *,
    drop_invalid: bool = False,
    unlike: tuple[int, str] = (0, ""),
) -> Table:
    """Return the records that a file's columns make up.

    Args:
        path: the file, for an error.
        columns: the schema's.
        units: of all rows.
        records_per_unit: how many records one unit may have.
        names: of all columns that the file has.
        drop_invalid: whether rows with a problem are left out; else any problem is an error.
        unlike: how many further rows the file has that are none of this table, and what is wrong with them.

    Raises:
        DataError: there is a problem, with all kinds of them at once, or there are too few records.
    """
    found = [(each.what, fault) for each in columns for fault in each.faults]
    found += [(units.what, fault) for fault in units.faults]
    kept = np.ones(len(units.numbers), dtype=np.bool_)
    for _, fault in found:
        if drop_invalid and fault.is_of_rows:
            kept[fault.rows] = False
    told = [f"{what} has {len(fault.rows)} row(s) with {fault.problem}" for what, fault in found]
    told += [unlike[1]] if unlike[0] else []
    stuck = [text for text, (_, fault) in zip(told, found, strict=False) if not fault.is_of_rows]
    stuck = [*(stuck if drop_invalid else told), *_crowded(units, kept, records_per_unit)]
    if stuck:
        more = "".join(f"\n  {text}" for text in stuck)
        raise DataError(f"{path}: {stuck[0]}" if len(stuck) == 1 else f"{path}: {len(stuck)} problems:{more}")
    rows = int(kept.sum())
    if rows < records_per_unit:
        raise DataError(
            f"{path}: the site is smaller than its contribution bound ({rows} rows, records_per_unit is "
            f"{records_per_unit}); add records or lower the bound in the study"
        )
    dropped = len(kept) - rows
    numbers, unit_names = units.numbers, units.names
    if dropped:
        left, numbers = np.unique(numbers[kept], return_inverse=True)
        unit_names = tuple(unit_names[each] for each in left) if unit_names else ()
    records = _side_by_side([each.values[kept] if dropped else each.values for each in columns])
    return Table(
        records,
        numbers,
        frozenset(names),
        dropped=dropped + unlike[0],
        problems=tuple(told),
        unit_names=unit_names,
    )


def _side_by_side(columns: Sequence[npt.NDArray[Any]]) -> Records:
    """Return columns, each of one place or of several, as records; some rows at a time, which stay in the cache."""
    flat = [each.reshape(len(each), -1) for each in columns]
    records = np.empty((len(flat[0]), sum(each.shape[1] for each in flat)))
    for start in range(0, len(records), _AT_ONCE):
        rows, place = slice(start, start + _AT_ONCE), 0
        for each in flat:
            records[rows, place : place + each.shape[1]] = each[rows]
            place += each.shape[1]
    return records


def _crowded(units: Units, kept: npt.NDArray[np.bool_], records_per_unit: int) -> Iterator[str]:
    """Yield that units have too many of the rows that are kept and name a unit."""
    named = kept.copy()
    for fault in units.faults:
        named[fault.rows] = False
    large = int(np.sum(np.bincount(units.numbers[named]) > records_per_unit))
    if large:
        too_many = f"{units.what} has {large} unit(s) with more than {records_per_unit} rows"
        yield f"{too_many}; remove rows, or raise records_per_unit in the study"


def every_record(rows: int) -> Units:
    """Return units for records that are each a unit of its own."""
    return Units(np.arange(rows))


def parse_units(name: str, parts: Iterable[Strings]) -> Units:
    """Return the unit of every record from the unit column's cells; blanks around a name make no other unit of it."""
    index: dict[str, int] = {}
    found = [np.array([index.setdefault(cell.strip(), len(index)) for cell in cells], np.int64) for cells in parts]
    numbers = np.concatenate(found)
    empty = numbers == index.get(MISSING, -1)
    faults = faults_of([(empty, "an empty cell; name every record's unit")])
    return Units(numbers, faults, f"unit column {name!r}", tuple(index))


def parse_cells(column: Scalar, cells: Strings) -> Parsed:
    """Return a column's values and what is wrong with them."""
    return check(column, coder(column)(cells))


def coder(column: Scalar, group: Callable[[str], str] | None = None) -> Callable[[Cells], Numbers]:
    """Return the function from a column's cells to its numbers.

    Args:
        column: of the schema.
        group: from a text that is no category to one, such as a group of codes; without it there are none.
    """
    if not isinstance(column, Categorical):
        return lambda cells: cells if isinstance(cells, Numbers) else numbers_of(cells)
    index = {value: float(i) for i, value in enumerate(column.values)}
    return lambda cells: _categories(index, group, cast("Strings", cells))


def _categories(index: Mapping[str, float], group: Callable[[str], str] | None, cells: Strings) -> Numbers:
    own = {text: index.get(group(text), _NONE) for text in set(cells)} if group else index
    values = np.fromiter(map(own.get, cells, repeat(_NONE)), dtype=np.float64, count=len(cells))
    odd = values == _NONE
    if not odd.any():
        return Numbers(values)
    return Numbers(np.where(odd, np.nan, values), tuple(i for i in np.flatnonzero(odd).tolist() if cells[i] != MISSING))


def check(column: Scalar, numbers: Numbers) -> Parsed:
    """Return a column's values and every kind of problem with them, in one look at all of them."""
    return Parsed(f"column {column.name!r}", numbers.values, faults_of(_problems(column, numbers)))


def _problems(column: Scalar, numbers: Numbers) -> Iterator[tuple[Rows, str]]:
    values = numbers.values
    if not column.missing:
        empty = np.isnan(values)
        empty[list(numbers.unreadable)] = False
        yield empty, "an empty cell; fill it, or set `missing = true` in the schema"
    if isinstance(column, Categorical):
        yield numbers.unreadable, "a value that is not among its categories; mend it, or add it to the schema"
        return
    yield numbers.unreadable, "a cell that is not a number; mend it"
    yield from _number_problems(column, values)


def _number_problems(column: Integer | Real, values: npt.NDArray[np.float64]) -> Iterator[tuple[Rows, str]]:
    if isinstance(column, Integer):
        uneven = (values != np.rint(values)) & ~np.isnan(values)
        yield uneven, 'a number that is not whole; round it, or use kind = "real"'
    for outside, side in ((values < column.lower, "below"), (values > column.upper, "above")):
        yield outside, f"a value out of bounds ({side} them); mend it, or widen the bounds in the schema"


def of_the_file(parsed: Parsed) -> Parsed:
    """Return a column whose problems no leaving out of rows mends."""
    faults = tuple(dataclasses.replace(fault, is_of_rows=False) for fault in parsed.faults)
    return dataclasses.replace(parsed, faults=faults)
