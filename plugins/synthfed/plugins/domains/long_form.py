"""Series in a CSV file of long form, one row for each time step of a record: reading by the schema, and drafting.

Never shows a value of a private file: an error names file, column and number of rows or records.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import ArrayColumn, Categorical, Column

from ..api import Table
from .array_draft import draft_labels, draft_numbers
from .array_file import parse_numbers
from .cells import as_table, every_record, parse_cells, parse_units
from .csv_files import read_cells, read_header
from .draft import check_dropped
from .parts import MISSING, Strings, numbers_of

RECORD: Final = "record"
"""The column that tells records apart; what it holds goes no further."""
STEP: Final = "step"
"""The column that numbers a record's rows, from 0."""

_LEAD: Final = re.compile(r"(.+)\.([1-9]\d*)")
_FORM: Final = "name the leads NAME.1, NAME.2 and so on, or a single one NAME, and drop what else changes with time"
Cells = Mapping[str, Strings]
Order = npt.NDArray[np.int64]
"""The file's row of each step of each record, shape ``(records, steps)``; records in order of appearance."""


def read_long(
    path: Path, columns: Sequence[Column], *, unit: str | None, records_per_unit: int, drop_invalid: bool = False
) -> Table:
    """Return the records and privacy units of a CSV file with a row per time step; further columns are ignored.

    Args:
        path: the file, with columns ``record``, ``step``, one per lead (`lead_names`), per label and for the unit.
        columns: the schema, one array column of shape ``(leads, steps)`` and categorical ones.
        unit: the column that names each record's person or account; None if every record is a unit.
        records_per_unit: how many records one unit may have.
        drop_invalid: whether records that do not fit are left out, and counted; else they are an error.

    Raises:
        ConfigError: the file cannot be read.
        DataError: its content does not fit; names the column and the number of rows or records, never a value.
    """
    series = next(column for column in columns if isinstance(column, ArrayColumn))
    names = [column.name for column in columns if column is not series] + ([] if unit is None else [unit])
    header, found = read_cells(path, [RECORD, STEP, *lead_names(series), *names])
    cells = dict(zip(header, found, strict=True))
    order = _order(path, cells, series.shape[1])
    own = {name: _constant(path, name, cells[name], order) for name in names}
    parsed = [
        parse_cells(column, own[column.name])
        if isinstance(column, Categorical)
        else parse_numbers(path, series, _leads(cells, lead_names(series), order))
        for column in columns
    ]
    units = every_record(len(order)) if unit is None else parse_units(unit, [own[unit]])
    return as_table(path, parsed, units, records_per_unit, read_header(path), drop_invalid=drop_invalid)


def lead_names(series: ArrayColumn) -> list[str]:
    """Return the names of the columns that hold a series' leads.

    >>> lead_names(ArrayColumn(name="ecg", shape=(2, 8), lower=-1, upper=1))
    ['ecg.1', 'ecg.2']
    """
    return [series.name] if series.shape[0] == 1 else [f"{series.name}.{i + 1}" for i in range(series.shape[0])]


def draft_long(path: Path, *, exclude: Collection[str]) -> tuple[Column, ...]:
    """Return an array column and categorical ones for a public CSV file's columns but those in ``exclude``.

    Raises:
        ConfigError: naming a column that cannot be learnt, or saying that the leads cannot be told.
        DataError: the records have not the same steps.
    """
    header, found = read_cells(path)
    cells = dict(zip(header, found, strict=True))
    check_dropped(path, header, exclude)
    if RECORD not in cells or STEP not in cells:
        raise ConfigError(f"lacks column {RECORD!r} or {STEP!r}; add what tells records and steps", where=str(path))
    order = _order(path, cells, cells[RECORD].count(cells[RECORD][0]))
    kept = [name for name in header if name not in (RECORD, STEP, *exclude)]
    name, leads = _find_leads(path, [each for each in kept if _LEAD.fullmatch(each)] or _moving(cells, kept, order))
    shape = (len(leads), order.shape[1])
    array = draft_numbers(path, name, shape, _leads(cells, leads, order))
    labels = [name for name in kept if name not in leads]
    return (array, *(draft_labels(path, each, _constant(path, each, cells[each], order)) for each in labels))


def _order(path: Path, cells: Cells, steps: int) -> Order:
    """Return where in the file every step of every record is; DataError unless each is there once."""
    empty = sum(cell == MISSING for cell in cells[RECORD])
    if empty:
        raise DataError(f"{path}: column {RECORD!r} has {empty} row(s) with an empty cell; name every row's record")
    index: dict[str, int] = {}
    record = np.array([index.setdefault(cell, len(index)) for cell in cells[RECORD]], dtype=np.int64)
    step = numbers_of(cells[STEP]).values
    wrong = int(np.sum(~np.isin(step, np.arange(steps))))
    if wrong:
        raise DataError(
            f"{path}: column {STEP!r} has {wrong} row(s) without a whole number from 0 to {steps - 1}; number each "
            "record's rows from 0, or mend the schema"
        )
    pairs = np.unique(np.stack([record, step.astype(np.int64)]), axis=1)
    unlike = (np.bincount(record) != steps) | (np.bincount(pairs[0]) != steps)
    if unlike.any():
        raise DataError(
            f"{path}: {int(unlike.sum())} record(s) lack a step or have one twice; give each record {steps} rows"
        )
    return np.lexsort((step, record)).reshape(-1, steps)


def _constant(path: Path, name: str, texts: Strings, order: Order) -> Strings:
    """Return each record's text; DataError where a record has several."""
    changing = sum(len({texts[row] for row in rows}) > 1 for rows in order.tolist())
    if changing:
        raise DataError(f"{path}: column {name!r} changes within {changing} record(s); give each record one value")
    return [texts[row] for row in order[:, 0].tolist()]


def _leads(cells: Cells, names: Sequence[str], order: Order) -> npt.NDArray[Any]:
    """Return the series, shape ``(records, leads, steps)``, NaN where a cell is no number."""
    return np.stack([numbers_of(cells[name]).values[order] for name in names], axis=1)


def _moving(cells: Cells, names: Sequence[str], order: Order) -> list[str]:
    """Return the names of the columns that change within a record."""
    rows = order.tolist()
    return [name for name in names if any(len({cells[name][row] for row in each}) > 1 for each in rows)]


def _find_leads(path: Path, found: Sequence[str]) -> tuple[str, list[str]]:
    """Return the series' name and its columns in the order of leads; ConfigError if they are not of one series."""
    if len(found) == 1 and not _LEAD.fullmatch(found[0]):
        return found[0], list(found)
    parts = [match.groups() for name in found if (match := _LEAD.fullmatch(name))]
    bases, numbers = {base for base, _ in parts}, sorted(int(number) for _, number in parts)
    if len(bases) != 1 or len(parts) != len(found) or numbers != list(range(1, len(found) + 1)) or len(found) == 1:
        raise ConfigError(f"has not the leads of one series; {_FORM}", where=str(path))
    base = bases.pop()
    return base, [f"{base}.{number}" for number in numbers]
