"""Where a table comes from: a CSV or Parquet file, or a table or query of a database, opened alike.

Never reads a column but those that are asked for; a draft asks for all, of a public table.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .csv_files import open_csv
from .parts import Source, Strings, check_names, whole_texts

DATABASE: Final = ".toml"
"""How the name of a file ends that says where in a database a table is."""


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a table by the end of its name: ``.parquet``, ``.toml`` for one of a database, else CSV.

    Raises:
        ConfigError: it cannot be read, or what reads it is not installed.
        DataError: it is no table.
    """
    if path.suffix == ".parquet":
        from .parquet_files import open_parquet

        with open_parquet(path) as file:
            yield file
    elif path.suffix == DATABASE:
        from .databases import open_database

        with open_database(path) as database:
            yield database
    else:
        with open_csv(path) as text:
            yield text


def read_texts(path: Path) -> dict[str, Strings]:
    """Return all columns of a public table as texts, by their names.

    Raises:
        ConfigError, DataError: as `open_source`; or it is not a table with columns of one name each and rows.
    """
    with open_source(path) as source:
        names = list(source.names)
        check_names(str(path), names, names)
        return dict(zip(names, whole_texts(path, source, names), strict=True))
