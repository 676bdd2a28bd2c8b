"""Tables in files and databases: reading a site's records by the schema, and writing synthetic ones.

Never shows a value of a private table: an error names file, column and number of rows.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

from synthfed.protocols.schema import Categorical, Column, Records, Scalar

from ..api import Keep, Table
from ..files import write_whole
from .cells import Parsed, as_table, check, coder, every_record, parse_units
from .draft import draft_columns
from .encoding import OneHotEncoder, scalars
from .lines import csv_bytes
from .parts import Cells, Form, Numbers, Strings, accepts, joined, kept, no_rows, none_kept, unlike_rows
from .sources import open_source, read_texts


@dataclass(frozen=True, slots=True)
class Rules:
    """How a domain reads a column.

    Attributes:
        coder: returns the function from the cells of some rows to numbers; see `cells.coder`.
        check: from the numbers of all rows to values and what is wrong with them; see `cells.check`.
    """

    coder: Callable[[Scalar], Callable[[Cells], Numbers]]
    check: Callable[[Scalar, Numbers], Parsed]


PLAIN: Final = Rules(coder, check)


class TableDomain:
    """The domain of tables with one record per line: what the entry point ``table`` names."""

    suffix = ".csv"

    def check(self, columns: Sequence[Column]) -> None:
        """Refuse array columns: a cell holds one value."""
        scalars(columns, "domain 'table'")

    def read(
        self,
        path: Path,
        columns: Sequence[Column],
        *,
        unit: str | None,
        records_per_unit: int,
        drop_invalid: bool = False,
    ) -> Table:
        """Return a site's table; see `read_table`."""
        return read_table(path, columns, unit=unit, records_per_unit=records_per_unit, drop_invalid=drop_invalid)

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
        """Return those records of a site's table that are to be kept; see `read_table`."""
        return read_table(
            path, columns, unit=unit, records_per_unit=records_per_unit, drop_invalid=drop_invalid, keep=keep
        )

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
        return draft_columns(path, read_texts(path), exclude=exclude)

    def encoder(self, columns: Sequence[Column], bins: int = 24) -> OneHotEncoder:
        """Return the one-hot encoder of a schema."""
        return OneHotEncoder(scalars(columns, "domain 'table'"), bins)


def read_table(
    path: Path,
    columns: Sequence[Column],
    *,
    unit: str | None,
    records_per_unit: int,
    drop_invalid: bool = False,
    keep: Keep | None = None,
    rules: Rules = PLAIN,
) -> Table:
    """Return the records and privacy units of a table; only the schema's columns and the unit are read.

    Args:
        path: the file, or what says where in a database the table is; see `open_source`.
        columns: the schema.
        unit: the column that names each record's person or account; None if every record is a unit.
        records_per_unit: how many records one unit may have.
        drop_invalid: whether rows that do not fit are left out, and counted; else they are an error.
        keep: which rows are kept; of the others nothing but that column is looked at.
        rules: how cells become values.

    Raises:
        ConfigError: the table cannot be read.
        DataError: its content does not fit; names every column with the number of rows, never a value.
    """
    wanted = scalars(columns, "domain 'table'")
    forms: dict[str, Form] = {each.name: "text" if isinstance(each, Categorical) else "number" for each in wanted}
    forms |= {} if unit is None else {unit: "unit"}
    forms |= {} if keep is None else _form_of(keep, forms)
    coders = [rules.coder(column) for column in wanted]
    found: list[list[Numbers]] = [[] for _ in wanted]
    named: list[Strings] = []
    unlike = left_out = 0
    with open_source(path) as source:
        names, places = source.names, {name: place for place, name in enumerate(forms)}
        for part in source.parts(forms):
            cells = part.cells
            if keep is not None:
                is_kept = accepts(keep, cast("Strings", cells[places[keep.column]]))
                cells, left_out = [kept(each, is_kept) for each in cells], left_out + int((~is_kept).sum())
            for coder, each, numbers in zip(coders, cells, found, strict=False):
                numbers.append(coder(each))
            named += [cast("Strings", cells[places[unit]])] if unit is not None else []
            unlike += part.unlike
    rows = sum(len(each.values) for each in found[0])
    if keep is not None and left_out and not rows:
        raise none_kept(path, keep)
    if not rows and not unlike:
        raise no_rows(path)
    # A column's parts go as soon as it is whole: all of them and all columns are twice the memory.
    parsed = [rules.check(column, joined(found.pop(0))) for column in wanted]
    units = every_record(rows) if unit is None else parse_units(unit, named)
    odd = unlike_rows(unlike, source)
    table = as_table(path, parsed, units, records_per_unit, names, drop_invalid=drop_invalid, unlike=(unlike, odd))
    return replace(table, left_out=left_out)


def _form_of(keep: Keep, forms: Mapping[str, Form]) -> dict[str, Form]:
    """Return the form of the column that says which rows are kept: texts, from which numbers can be read, too."""
    return {keep.column: "unit" if forms.get(keep.column) == "unit" else "text"}
