"""Tables in CSV files: reading a site's records by the schema, and writing synthetic ones.

Never shows a value of a private table: an error names file, column and number of rows.
"""

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

import numpy as np
import numpy.typing as npt

from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import Categorical, Column, Integer, Real, Records, Scalar

from ..api import Table
from ..files import write_whole
from .draft import draft_columns
from .encoding import OneHotEncoder, scalars
from .lines import csv_bytes

Strings = Sequence[str]

MISSING: Final = ""


class TableDomain:
    """The domain of tables with one record per line: what the entry point ``table`` names."""

    suffix = ".csv"

    def check(self, columns: Sequence[Column]) -> None:
        """Refuse array columns: a cell holds one value."""
        scalars(columns, "domain 'table'")

    def read(self, path: Path, columns: Sequence[Column], *, unit: str | None, records_per_unit: int) -> Table:
        """Return a site's table; see `read_csv`."""
        return read_csv(path, columns, unit=unit, records_per_unit=records_per_unit)

    def write(self, path: Path, columns: Sequence[Column], chunks: Iterable[Records]) -> None:
        """Write synthetic records as the schema types them; a missing value is an empty cell.

        Raises:
            ConfigError: the file cannot be written.
        """
        write_whole(path, csv_bytes(scalars(columns, "domain 'table'"), chunks))

    def picture(self, columns: Sequence[Column], records: Records, across: int) -> bytes | None:  # noqa: ARG002
        """Return None: rows are read, not looked at."""
        return None

    def draft(self, path: Path, *, exclude: Collection[str] = ()) -> tuple[Column, ...]:
        """Return a schema drafted from a public file; see `draft_columns`."""
        header, cells = read_cells(path)
        return draft_columns(path, dict(zip(header, cells, strict=True)), exclude=exclude)

    def encoder(self, columns: Sequence[Column], bins: int = 24) -> OneHotEncoder:
        """Return the one-hot encoder of a schema."""
        return OneHotEncoder(scalars(columns, "domain 'table'"), bins)


def read_csv(path: Path, columns: Sequence[Column], *, unit: str | None, records_per_unit: int) -> Table:
    """Return the records and privacy units of a ``.csv`` or ``.csv.gz`` file; further columns are ignored.

    Args:
        path: the file; UTF-8, first line the column names, an empty cell is a missing value.
        columns: the schema.
        unit: the column that names each record's person or account; None if every record is a unit.
        records_per_unit: how many records one unit may have.

    Raises:
        ConfigError: the file cannot be read.
        DataError: its content does not fit; names the column and the number of rows, never a value.
    """
    names = [column.name for column in columns] + ([] if unit is None else [unit])
    header, cells = read_cells(path, names)
    by_name = dict(zip(header, cells, strict=True))
    parsed = [_parse(column, by_name[column.name]) for column in scalars(columns, "domain 'table'")]
    found = zip(columns, parsed, strict=True)
    problems = [f"column {column.name!r} {problem}" for column, (_, problem) in found if problem]
    groups, problem = _units(by_name[unit], records_per_unit) if unit is not None else (np.arange(len(cells[0])), "")
    problems += [f"unit column {unit!r} {problem}"] if problem else []
    if problems:
        more = f" ({len(problems) - 1} further column(s) have problems)" if len(problems) > 1 else ""
        raise DataError(f"{path}: {problems[0]}{more}")
    if len(groups) < records_per_unit:
        raise DataError(
            f"{path}: the site is smaller than its contribution bound ({len(groups)} rows, records_per_unit is "
            f"{records_per_unit}); add records or lower the bound in the study"
        )
    return Table(np.stack([values for values, _ in parsed], axis=1), groups)


def read_cells(path: Path, names: Collection[str] | None = None) -> tuple[list[str], list[Strings]]:
    """Return the names and cells of a file's columns, or of those in ``names`` only, in the file's order.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is not a table with these columns, each once, and at least one row.
    """
    with _opened(path) as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        _check_header(path, header, header if names is None else names)
        kept = [i for i, name in enumerate(header) if names is None or name in names]
        rows = list(_nonempty(reader))
    ragged = sum(len(row) != len(header) for row in rows)
    if ragged:
        raise DataError(
            f"{path}: {ragged} row(s) have more or fewer cells than the header's {len(header)}; mend these rows"
        )
    if not rows:
        raise DataError(f"{path}: has no rows below its header; give a file with records")
    return [header[i] for i in kept], [[row[i] for row in rows] for i in kept]


def _nonempty(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    return (row for row in rows if row)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Open a file as text; turn every way in which that fails into an error that says what to do."""
    where = str(path)
    if not path.exists():
        raise ConfigError("does not exist; check the path", where=where)
    if not path.is_file():
        raise ConfigError("is not a regular file; give the path of a .csv or .csv.gz file", where=where)
    try:
        with path.open("rb") as raw:
            plain = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            with io.TextIOWrapper(plain, encoding="utf-8-sig", newline="") as text:
                yield text
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text; save it with that encoding") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise ConfigError("is not a complete gzip file; copy it again", where=where) from None
    except csv.Error:
        raise DataError(f"{path}: is not valid CSV (a quote, a NUL or a huge cell); export it again") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}; check its permissions", where=where) from None


def _check_header(path: Path, header: Sequence[str], names: Collection[str]) -> None:
    if not header:
        raise DataError(f"{path}: is empty; give a file with a header line and records")
    missing = [name for name in names if name not in header]
    if missing:
        more = f" and {len(missing) - 1} further column(s)" if len(missing) > 1 else ""
        raise DataError(f"{path}: lacks column {missing[0]!r}{more}; add it, or check the header's spelling")
    counts = Counter(header)
    twice = [name for name in names if counts[name] > 1]
    if twice:
        raise DataError(f"{path}: names column {twice[0]!r} twice in its header; keep one")


def _parse(column: Scalar, cells: Strings) -> tuple[Records, str]:
    """Return a column's values and what is wrong with them, empty if nothing."""
    values, unreadable = _categories(column, cells) if isinstance(column, Categorical) else _numbers(cells)
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


def _numbers(cells: Strings) -> tuple[Records, int]:
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


def _units(cells: Strings, records_per_unit: int) -> tuple[npt.NDArray[np.int64], str]:
    """Return each record's unit, numbered in order of appearance, and what is wrong, empty if nothing."""
    numbers: dict[str, int] = {}
    units = np.array([numbers.setdefault(cell, len(numbers)) for cell in cells], dtype=np.int64)
    empty = sum(cell == MISSING for cell in cells)
    if empty:
        return units, f"has {empty} row(s) with an empty cell; name every record's unit"
    large = int(np.sum(np.bincount(units) > records_per_unit))
    if large:
        return units, (
            f"has {large} unit(s) with more than {records_per_unit} rows; remove rows, "
            "or raise records_per_unit in the study"
        )
    return units, ""
