"""A site's records with the site column that the terms ask for: read from its file, and the site's id put beside.

Never takes from a file whose a record is: the id is that of the one who reads.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.study import Study

from .api import Domain, Table


def read_site(path: Path, study: Study, domain: Domain, site: str, *, drop_invalid: bool = False) -> Table:
    """Return the records of a site's file with the released columns, and the unit of each.

    Args:
        path: the file or folder.
        study: the terms.
        domain: reads the file.
        site: the id that every record gets where the terms name a site column.
        drop_invalid: whether records that do not fit are left out and counted.

    Raises:
        ConfigError: the file cannot be read, or the roster does not list the site.
        DataError: it does not fit the terms, or has a column of the site column's name; never shows a value.
    """
    privacy = study.privacy
    table = domain.read(
        path,
        study.columns,
        unit=privacy.unit,
        records_per_unit=privacy.records_per_unit,
        drop_invalid=drop_invalid,
    )
    return table if study.site_column is None else at_site(path, table, study.site_column, study.cohort.roster, site)


def at_site(path: Path, table: Table, column: str, roster: Sequence[str], site: str) -> Table:
    """Return a site's records with one more place, last: the site's index in the sorted roster.

    Args:
        path: the file they were read from, for an error.
        table: what it holds.
        column: the site column's name.
        roster: all sites in sorted order.
        site: whose records they are.

    Raises:
        ConfigError: the roster does not list the site.
        DataError: the file has a column of that name.
    """
    if site not in roster:
        raise ConfigError(f"the roster does not list site {site!r}, so column {column!r} cannot hold it", where="study")
    if column in table.names:
        raise DataError(
            f"{path}: has a column {column!r}, which is the study's site_column: the site that reads a file says whose "
            "the records are; take the column out of the file"
        )
    own = np.full((len(table.records), 1), roster.index(site), dtype=np.float64)
    return dataclasses.replace(table, records=np.hstack([table.records, own]))
