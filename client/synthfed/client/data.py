"""A site's records, encoded and grouped by privacy unit: what steps are computed from.

Never leaves the agent; only the site's own operator is told a number of units, where there are too many.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from synthfed.plugins.api import Array, Domain, PrivatePart, Table
from synthfed.plugins.site_column import read_site
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.sampling import Indices, poisson_sample, secret_subset, uniform_below
from synthfed.protocols.study import Study


@dataclass(frozen=True, slots=True)
class UnitData:
    """Encoded records, those of one unit next to each other.

    Attributes:
        encoded: one row per record, shape ``(rows, width)``.
        starts: each unit's first row, shape ``(units,)``.
        counts: each unit's number of records, shape ``(units,)``.
    """

    encoded: Array
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    def draw(self, stream: KeyStream, sample_rate: float, slots: int) -> Array:
        """Return one uniformly drawn record of each Poisson-sampled unit, shape ``(at most slots, width)``."""
        chosen = poisson_sample(stream, len(self.starts), sample_rate)
        chosen = secret_subset(stream, chosen, slots)
        return self.encoded[self._record_of(stream, chosen)]

    def _record_of(self, stream: KeyStream, chosen: Indices) -> Indices:
        return self.starts[chosen] + uniform_below(stream, self.counts[chosen])


def load_units(path: Path, study: Study, domain: Domain, private: PrivatePart, site: str) -> UnitData:
    """Return a site's data file as encoded, grouped records, with its id where the terms ask for it.

    Raises:
        ConfigError: the file cannot be read, or is a folder with links that lead out of it.
        DataError: it does not fit the study; names columns and numbers of rows, never a value.
    """
    table = read_table(path, study, domain, site)
    order = np.argsort(table.units, kind="stable")
    _, starts, counts = np.unique(table.units[order], return_index=True, return_counts=True)
    return UnitData(private.encode(table.records[order]), starts.astype(np.int64), counts.astype(np.int64))


def read_table(path: Path, study: Study, domain: Domain, site: str) -> Table:
    """Return the records, with the released columns, and units of a site's data file.

    Raises:
        ConfigError, DataError: as `load_units`.
    """
    check_links(path)
    table = read_site(path, study, domain, site)
    units = len(np.unique(table.units))
    if units > study.privacy.units_per_site:
        raise DataError(
            f"{path}: {units} units, but the study declares at most privacy.units_per_site = "
            f"{study.privacy.units_per_site}; agree on a higher bound or give fewer records"
        )
    return table


def check_links(path: Path) -> None:
    """Refuse a data folder with symbolic links that lead out of it: the node loses sight of the folder alone.

    Raises:
        ConfigError: telling how many; their names could tell of a record.
    """
    root = Path(os.path.realpath(path))
    count = 0
    for folder, folders, files in os.walk(root):  # does not follow links
        links = [each for each in (Path(folder) / name for name in (*folders, *files)) if each.is_symlink()]
        count += sum(not Path(os.path.realpath(link)).is_relative_to(root) for link in links)
    if count:
        raise ConfigError(
            f"{count} symbolic link(s) in this folder lead outside it, where the node, in which a coordinator can run "
            "code, would read what they point to; put the files themselves here (`find -type l` lists the links)",
            where=str(path),
        )
