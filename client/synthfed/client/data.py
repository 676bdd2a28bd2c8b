"""A site's records, encoded and grouped by privacy unit: what steps are computed from.

Never leaves the agent; only the site's own operator is told a number of units, where there are too many.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from synthfed.plugins.api import Array, Domain, Keep, PrivatePart, Table
from synthfed.plugins.site_column import read_site
from synthfed.protocols.errors import ConfigError, DataError, UnsupportedMechanism
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.sampling import Indices, poisson_sample, secret_subset, uniform_below
from synthfed.protocols.schema import Records
from synthfed.protocols.study import Study

Encoded = npt.NDArray[np.float64 | np.uint8]
"""Encoded records, as bytes where each number is the very one that a byte stands for."""

_LOG: Final = logging.getLogger(__name__)

AT_ONCE: Final = 8192
"""Records that are encoded at a time: all of them in double precision may take more memory than all the rest."""


@dataclass(frozen=True, slots=True)
class UnitData:
    """Encoded records, those of one unit next to each other.

    Attributes:
        encoded: one row per record, shape ``(rows, width)``.
        starts: each unit's first row, shape ``(units,)``.
        counts: each unit's number of records, shape ``(units,)``.
        left_out: how many further records the file holds that may not be used.
    """

    encoded: Encoded
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    left_out: int = 0

    def draw(self, stream: KeyStream, sample_rate: float, slots: int) -> Encoded:
        """Return one uniformly drawn record of each Poisson-sampled unit, shape ``(at most slots, width)``."""
        chosen = poisson_sample(stream, len(self.starts), sample_rate)
        chosen = secret_subset(stream, chosen, slots)
        return self.encoded[self._record_of(stream, chosen)]

    def _record_of(self, stream: KeyStream, chosen: Indices) -> Indices:
        return self.starts[chosen] + uniform_below(stream, self.counts[chosen])


def load_units(
    path: Path,
    study: Study,
    domain: Domain,
    private: PrivatePart,
    site: str,
    *,
    keep: Keep | None = None,
    drop_invalid: bool = False,
    admit: Callable[[Table], object] = bool,
) -> UnitData:
    """Return a site's data file as encoded, grouped records, with its id where the terms ask for it.

    Of a unit with some records that are not to be kept the others are. ``admit`` is given what was read, and raises
    where nothing may be spent on it.

    Raises:
        ConfigError: the file cannot be read, or is a folder with links that lead out of it.
        DataError: it does not fit the study; names columns and numbers of rows, never a value.
    """
    table = read_table(path, study, domain, site, keep=keep, drop_invalid=drop_invalid)
    if table.dropped:
        _LOG.info("data: %s", drops(table))
    admit(table)
    return group_units(table, private)


def drops(table: Table) -> str:
    """Return, for the site's own operator, how many rows were left out and what was wrong with them."""
    rows = table.dropped + len(table.records)
    return f"{table.dropped:,} of {rows:,} row(s) left out:" + "".join(f"\n  {each}" for each in table.problems)


def group_units(table: Table, private: PrivatePart) -> UnitData:
    """Return records as the plugin encodes them, those of one unit next to each other."""
    order = np.argsort(table.units, kind="stable")
    _, starts, counts = np.unique(table.units[order], return_index=True, return_counts=True)
    encoded = encode(private, table.records[order])
    return UnitData(encoded, starts.astype(np.int64), counts.astype(np.int64), table.left_out)


def encode(private: PrivatePart, records: Records) -> Encoded:
    """Return records as the plugin encodes them, shape ``(rows, width)``: one-hot ones in an eighth of the memory.

    Sums are formed in double precision all the same, and nothing outside the agent shows how its records are kept.

    Raises:
        UnsupportedMechanism: the plugin has not one vector, all of one length, for each record.
    """
    first = private.encode(records[:AT_ONCE])
    kept: Encoded = np.empty((len(records), first.shape[-1]), dtype=np.uint8)
    for start in range(0, len(records), AT_ONCE):
        part = private.encode(records[start : start + AT_ONCE]) if start else first
        if part.shape != kept[start : start + AT_ONCE].shape:  # one vector of several records would reach all of them
            raise UnsupportedMechanism("the encoding has not one vector for each record, all of one length")
        if kept.dtype == np.uint8 and not _are_bytes(part):
            kept = kept.astype(np.float64)
        kept[start : start + AT_ONCE] = part
    return kept


def _are_bytes(numbers: Array) -> bool:
    """Return whether all numbers are those of bytes, bit for bit: a negative zero is not."""
    return bool(((numbers >= 0) & (numbers <= 255) & (numbers == np.rint(numbers)) & ~np.signbit(numbers)).all())


def read_table(
    path: Path, study: Study, domain: Domain, site: str, *, keep: Keep | None = None, drop_invalid: bool = False
) -> Table:
    """Return the records, with the released columns, and units of a site's data file.

    With ``drop_invalid`` rows that do not fit are left out, else they are an error.

    Raises:
        ConfigError, DataError: as `load_units`.
    """
    check_links(path)
    table = read_site(path, study, domain, site, keep=keep, drop_invalid=drop_invalid)
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
