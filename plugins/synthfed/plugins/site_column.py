"""A site's records with the site column that the terms ask for: read from its file, and the site's id put beside.

Never takes from a file whose a record is: the id is that of the one who reads.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.study import Study

from .api import Domain, Keep, KeepingDomain, Table


def read_site(
    path: Path, study: Study, domain: Domain, site: str, *, keep: Keep | None = None, drop_invalid: bool = False
) -> Table:
    """Return the records of a site's file with the released columns, and the unit of each.

    Args:
        path: the file or folder.
        study: the terms.
        domain: reads the file.
        site: the id that every record gets where the terms name a site column.
        keep: which records are kept; None for all.
        drop_invalid: whether records that do not fit are left out and counted.

    Raises:
        ConfigError: the file cannot be read, the roster does not list the site, or the domain cannot leave records out.
        DataError: it does not fit the terms, or has a column of the site column's name; never shows a value.
    """
    privacy = study.privacy
    how: dict[str, Any] = {
        "unit": privacy.unit,
        "records_per_unit": privacy.records_per_unit,
        "drop_invalid": drop_invalid,
    }
    if keep is None:
        table = domain.read(path, study.columns, **how)
    elif isinstance(domain, KeepingDomain):
        table = domain.read_kept(path, study.columns, keep=keep, **how)
    else:
        raise ConfigError(
            f"domain {study.domain!r} cannot leave records out by column {keep.column!r}; give a file that holds none "
            "but those that may be used, without this rule",
            where="policy.consent",
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
