"""Health records: tables with codes of diseases, and measurements between clinical bounds.

Never takes a bound, a code or a group from private records, and never guesses what a wrong value was.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Categorical, Column, Integer, Real, Records, Scalar

from ..api import Keep, Table
from .cells import Parsed, check, coder, of_the_file
from .codes import draft_codes, groups_of, problem_of
from .draft import check_dropped, draft_columns, is_long_tailed
from .encoding import scalars
from .parts import Cells, Numbers, Strings, numbers_of
from .sources import read_texts
from .table import Rules, TableDomain, read_table
from .vitals import bounds_for, decimals_of

_MOST_IMPLAUSIBLE: Final = 0.05
"""Share of a column's numbers that may lie out of bounds and read as missing: more is another unit, or a mistake."""


class EhrDomain:
    """The domain of health records, one per line: what the entry point ``ehr`` names.

    A file is a table, with three rules of its own, each a function of one record and the schema:

    - A categorical column may list groups of codes, such as ``E11*``, ``I00-I99*`` and ``*``; a code
      reads as the narrowest category that takes it (see `groups_of`), so that a rare disease never
      stands alone.
    - In a column that may be missing, a number out of bounds is no measurement and reads as missing:
      a zero below the lower bound, as many tables mark what was not measured, always; any other
      where at most 5 % of the site's numbers are such, else the file is refused. Where a column may
      not be missing, any number out of bounds is refused.
    - Missing is a value of its own. Where sites differ in what they measure, a column that names
      the site (a categorical one, the same at all rows of a site) lets a model learn which site
      lacks what, and synthetic rows keep it.
    """

    def __init__(self) -> None:
        """Take what a table and a health record share from the domain of tables."""
        self._table = TableDomain()
        self.suffix = self._table.suffix

    def check(self, columns: Sequence[Column]) -> None:
        """Refuse array columns, and groups of codes that are none."""
        for column in scalars(columns, "domain 'ehr'"):
            if isinstance(column, Categorical) and (problem := problem_of(column)):
                raise ConfigError(f"column {column.name!r} {problem}", where="columns")

    def read(
        self,
        path: Path,
        columns: Sequence[Column],
        *,
        unit: str | None,
        records_per_unit: int,
        drop_invalid: bool = False,
    ) -> Table:
        """Return a site's records; see `read_table` and the class."""
        return read_table(
            path,
            columns,
            unit=unit,
            records_per_unit=records_per_unit,
            drop_invalid=drop_invalid,
            rules=Rules(_coder, _check),
        )

    def read_kept(
        self,
        path: Path,
        columns: Sequence[Column],
        *,
        unit: str | None,
        records_per_unit: int,
        keep: Keep,
        drop_invalid: bool = False,
    ) -> Table:
        """Return those of a site's records that are to be kept; see `read_table` and the class."""
        return read_table(
            path,
            columns,
            unit=unit,
            records_per_unit=records_per_unit,
            drop_invalid=drop_invalid,
            keep=keep,
            rules=Rules(_coder, _check),
        )

    def write(self, path: Path, columns: Sequence[Column], chunks: Iterable[Records]) -> None:
        """Write synthetic records as a table; a group of codes is written as the schema names it."""
        self._table.write(path, columns, chunks)

    def picture(self, columns: Sequence[Column], records: Records, across: int) -> bytes | None:
        """Return None, as for any table."""
        return self._table.picture(columns, records, across)

    def draft(self, path: Path, *, exclude: Collection[str] = ()) -> tuple[Column, ...]:
        """Return a schema drafted from a public file: codes in public groups, measurements by public bounds.

        Measurements are known by their names (see `bounds_for`); they and codes may be missing, for
        some site will lack them. All other columns are drafted as a table's.
        """
        by_name = read_texts(path)
        check_dropped(path, by_name, exclude)
        clinical = {name: _draft(name, cells) for name, cells in by_name.items() if name not in exclude}
        known = {name for name, column in clinical.items() if column is not None}
        plain = {name: each for name, each in by_name.items() if name not in known and name not in exclude}
        others = (
            {column.name: column for column in draft_columns(path, plain, exclude=())} if plain or not known else {}
        )
        return tuple(clinical[name] or others[name] for name in by_name if name not in exclude)


def _coder(column: Scalar) -> Callable[[Cells], Numbers]:
    groups = groups_of(column) if isinstance(column, Categorical) else None
    return coder(column, None if groups is None else groups.of)


def _check(column: Scalar, numbers: Numbers) -> Parsed:
    """Return a column's values, NaN where a number is no measurement; none is left out where too many would be."""
    if isinstance(column, Categorical) or not column.missing:
        return check(column, numbers)
    values = numbers.values
    outside = (values < column.lower) | (values > column.upper)
    unmeasured = outside & (values == 0)
    others = outside & ~unmeasured
    measured = np.isfinite(values).sum() - unmeasured.sum()
    if others.sum() <= _MOST_IMPLAUSIBLE * measured:
        return check(column, Numbers(np.where(outside, np.nan, values), numbers.unreadable))
    # To leave rows out here, and to read them as missing there, would let one record decide on all the others.
    return of_the_file(check(column, Numbers(np.where(unmeasured, np.nan, values), numbers.unreadable)))


def _draft(name: str, cells: Strings) -> Scalar | None:
    """Return a column of codes or of a measurement, or None if it is neither."""
    if (codes := draft_codes(name, cells)) is not None:
        return codes
    numbers = numbers_of(cells)
    measured = numbers.values[np.isfinite(numbers.values) & (numbers.values != 0)]
    bounds = (
        None if numbers.unreadable or not len(measured) else bounds_for(name, measured.tolist(), 1 - _MOST_IMPLAUSIBLE)
    )
    if bounds is None:
        return None
    lower, upper = bounds
    scale: Literal["linear", "log"] = (
        "log" if measured.min() < measured.max() and is_long_tailed(measured) else "linear"
    )
    if np.all(measured == np.rint(measured)):
        return Integer(name=name, lower=math.floor(lower), upper=math.ceil(upper), scale=scale, missing=True)
    decimals = decimals_of([cell for cell in cells if cell])
    return Real(name=name, lower=lower, upper=upper, scale=scale, decimals=decimals, missing=True)
