"""Tables in CSV files: reading a site's records by the schema, and writing synthetic ones.

Never shows a value of a private table: an error names file, column and number of rows.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path

from synthfed.protocols.errors import DataError
from synthfed.protocols.schema import Column, Records, Scalar

from ..api import Keep, Table
from ..files import write_whole
from .cells import Parsed, as_table, every_record, parse_cells, parse_units
from .csv_files import Strings, read_cells, read_header
from .draft import draft_columns
from .encoding import OneHotEncoder, scalars
from .lines import csv_bytes

Parse = Callable[[Scalar, Strings], tuple[Records, str]]
"""From a column's cells to its values and what is wrong with them, empty if nothing."""


class TableDomain:
    """The domain of tables with one record per line: what the entry point ``table`` names."""

    suffix = ".csv"

    def check(self, columns: Sequence[Column]) -> None:
        """Refuse array columns: a cell holds one value."""
        scalars(columns, "domain 'table'")

    def read(self, path: Path, columns: Sequence[Column], *, unit: str | None, records_per_unit: int) -> Table:
        """Return a site's table; see `read_csv`."""
        return read_csv(path, columns, unit=unit, records_per_unit=records_per_unit)

    def read_kept(
        self, path: Path, columns: Sequence[Column], *, unit: str | None, records_per_unit: int, keep: Keep
    ) -> Table:
        """Return those records of a site's table that are to be kept; see `read_csv`."""
        return read_csv(path, columns, unit=unit, records_per_unit=records_per_unit, keep=keep)

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


def read_csv(
    path: Path,
    columns: Sequence[Column],
    *,
    unit: str | None,
    records_per_unit: int,
    parse: Parse = parse_cells,
    keep: Keep | None = None,
) -> Table:
    """Return the records and privacy units of a ``.csv`` or ``.csv.gz`` file; further columns are ignored.

    Args:
        path: the file; UTF-8, first line the column names, an empty cell is a missing value.
        columns: the schema.
        unit: the column that names each record's person or account; None if every record is a unit.
        records_per_unit: how many records one unit may have.
        parse: how cells become values.
        keep: which rows are kept; of the others nothing but that column is looked at.

    Raises:
        ConfigError: the file cannot be read.
        DataError: its content does not fit; names the column and the number of rows, never a value.
    """
    names = [column.name for column in columns] + ([] if unit is None else [unit])
    header, cells = read_cells(path, names if keep is None else [*names, keep.column])
    by_name, left_out = dict(zip(header, cells, strict=True)), 0
    if keep is not None:
        by_name, left_out = _kept(path, by_name, keep)
    parsed = [
        Parsed(f"column {column.name!r}", *parse(column, by_name[column.name]))
        for column in scalars(columns, "domain 'table'")
    ]
    units = (
        every_record(len(by_name[header[0]])) if unit is None else parse_units(unit, by_name[unit], records_per_unit)
    )
    table = as_table(path, parsed, units, records_per_unit, read_header(path))
    return replace(table, left_out=left_out)


def _kept(path: Path, cells: Mapping[str, Strings], keep: Keep) -> tuple[dict[str, Strings], int]:
    """Return the cells of the rows that are to be kept, and how many rows are not."""
    is_kept = [cell.strip() in keep.accepted for cell in cells[keep.column]]
    if not any(is_kept):
        raise DataError(
            f"{path}: column {keep.column!r} has no row with an accepted value; look at `accepted` in the site's "
            "settings, or give a file with records that may be used"
        )
    return {name: list(compress(column, is_kept)) for name, column in cells.items()}, is_kept.count(False)
